"""DQN as a plan (arXiv 1509.06461); its loss is in ``safe_rl.algorithms.dqn``."""

from __future__ import annotations

from safe_rl.algorithms.dqn import DQNLearner
from safe_rl.algorithms.fragment import Fragment
from safe_rl.flow import LocalIterator, concurrently
from safe_rl.flow.operators import StoreToBuffer, TrainOneStep, Update, UpdateWorkerWeights, replay, rollouts
from safe_rl.plans.parts import Parts

UPDATES_A_TURN = 10_000
"""At most; fewer where fewer are due."""


def dqn(parts: Parts[DQNLearner]) -> LocalIterator[Update]:
    """Workers act epsilon-greedily; the learner keeps the replay and takes the gradient steps that are due."""
    learner = parts.learner
    store = (
        rollouts(parts.workers)
        .zip_with_source_actor()
        .gather_async(num_async=2)
        .for_each(UpdateWorkerWeights(parts.weights))
        .for_each(StoreToBuffer[Fragment](learner))
    )
    train = replay(learner).for_each(TrainOneStep(learner.learn))
    return concurrently(store, train, mode="async", weights=[1, UPDATES_A_TURN])
