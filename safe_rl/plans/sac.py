"""SAC with distributed rollouts as a plan; its loss is in ``safe_rl.algorithms.sac`` (arXiv 1812.05905)."""

from __future__ import annotations

from safe_rl.algorithms.fragment import Fragment
from safe_rl.algorithms.off_policy_learner import OffPolicyLearner
from safe_rl.algorithms.sac import SACAgent
from safe_rl.flow import LocalIterator, concurrently
from safe_rl.flow.operators import StoreToBuffer, TrainOneStep, Update, UpdateWorkerWeights, replay, rollouts
from safe_rl.plans.parts import Parts


def sac(parts: Parts[OffPolicyLearner[SACAgent]]) -> LocalIterator[Update]:
    """Asynchronous workers fill the replay; the learner takes the gradient steps that are due for what they did."""
    learner = parts.learner
    store = (
        rollouts(parts.workers)
        .zip_with_source_actor()
        .gather_async(num_async=2)
        .for_each(UpdateWorkerWeights(parts.weights))
        .for_each(StoreToBuffer[Fragment](learner))
    )
    train = replay(learner.due()).for_each(TrainOneStep(lambda _: learner.agent.update()), name="sac")
    return concurrently(store, train, mode="async", weights=[1, learner.updates_a_turn])
