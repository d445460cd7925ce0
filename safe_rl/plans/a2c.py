"""A2C as a plan (arXiv 1602.01783); its loss is in ``safe_rl.algorithms.a2c``."""

from __future__ import annotations

from safe_rl.algorithms.a2c import A2CLearner
from safe_rl.flow import LocalIterator
from safe_rl.flow.operators import BroadcastWeights, TrainOneStep, Update, rollouts
from safe_rl.plans.parts import Parts


def a2c(parts: Parts[A2CLearner]) -> LocalIterator[Update]:
    """Rounds as in PPO, with a single gradient step each."""
    return (
        rollouts(parts.workers)
        .batch_across_shards()
        .for_each(TrainOneStep(parts.learner.learn))
        .for_each(BroadcastWeights(parts.weights))
    )
