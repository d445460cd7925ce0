"""IMPACT as a plan (arXiv 1912.00167); its loss is in ``safe_rl.algorithms.impact``."""

from __future__ import annotations

from safe_rl.algorithms.circular_buffer import CircularBuffer
from safe_rl.algorithms.impact import ImpactBatch, IMPACTLearner
from safe_rl.flow import LocalIterator, concurrently
from safe_rl.flow.operators import StoreToBuffer, TrainOneStep, Update, UpdateWorkerWeights, replay, rollouts
from safe_rl.plans.parts import Parts


def impact(parts: Parts[IMPACTLearner]) -> LocalIterator[Update]:
    """Asynchronous workers fill the circular buffer; the learner passes over it, again while they are slow."""
    learner, config = parts.learner, parts.learner.config
    buffer: CircularBuffer[ImpactBatch] = CircularBuffer(config.num_slots, config.max_uses)
    store = (
        rollouts(parts.workers)
        .zip_with_source_actor()
        .gather_async(num_async=2)
        .for_each(UpdateWorkerWeights(parts.weights))
        .for_each(StoreToBuffer(buffer, learner.prepare))
    )
    train = replay(buffer).for_each(TrainOneStep(learner.learn))
    return concurrently(store, train, mode="async", weights=[1, config.max_uses])
