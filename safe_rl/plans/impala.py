"""IMPALA as a plan (arXiv 1802.01561); its loss is in ``safe_rl.algorithms.impala``."""

from __future__ import annotations

from safe_rl.algorithms.impala import IMPALALearner
from safe_rl.flow import LocalIterator
from safe_rl.flow.operators import TrainOneStep, Update, UpdateWorkerWeights, rollouts
from safe_rl.plans.parts import Parts


def impala(parts: Parts[IMPALALearner]) -> LocalIterator[Update]:
    """Asynchronous workers; V-trace makes up for their lag, and each fragment is learned from once."""
    return (
        rollouts(parts.workers)
        .zip_with_source_actor()
        .gather_async(num_async=2)
        .for_each(UpdateWorkerWeights(parts.weights))
        .for_each(lambda fragment: [fragment], name="as_batch")
        .for_each(TrainOneStep(parts.learner.learn))
    )
