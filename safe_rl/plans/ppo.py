"""PPO as a plan (arXiv 1707.06347); its loss is in ``safe_rl.algorithms.ppo``."""

from __future__ import annotations

from safe_rl.algorithms.ppo import PPOLearner
from safe_rl.flow import LocalIterator
from safe_rl.flow.operators import BroadcastWeights, TrainOneStep, Update, rollouts
from safe_rl.plans.parts import Parts


def ppo(parts: Parts[PPOLearner]) -> LocalIterator[Update]:
    """Rounds: all workers sample with the newest weights, then the learner takes some epochs over what they brought."""
    return (
        rollouts(parts.workers)
        .batch_across_shards()
        .for_each(TrainOneStep(parts.learner.learn))
        .for_each(BroadcastWeights(parts.weights))
    )
