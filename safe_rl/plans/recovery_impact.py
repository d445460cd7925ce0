"""Recovery IMPACT as a plan; its loss is in ``safe_rl.algorithms.recovery_impact``."""

from __future__ import annotations

from safe_rl.algorithms.circular_buffer import CircularBuffer
from safe_rl.algorithms.impact import ImpactBatch
from safe_rl.algorithms.recovery_impact import RecoveryIMPACTAgent
from safe_rl.flow import LocalIterator, concurrently
from safe_rl.flow.operators import StoreToBuffer, TrainOneStep, Update, UpdateWorkerWeights, replay, rollouts
from safe_rl.plans.parts import Parts

RISK_STEPS_A_TURN = 100
"""At most; fewer where fewer are due."""


def recovery_impact(parts: Parts[RecoveryIMPACTAgent]) -> LocalIterator[Update]:
    """Workers act under the switch; task and risk learners run concurrently, each on a store of its own."""
    agent, config = parts.learner, parts.learner.config.impact
    buffer: CircularBuffer[ImpactBatch] = CircularBuffer(config.num_slots, config.max_uses)
    store = (
        rollouts(parts.workers)
        .zip_with_source_actor()
        .gather_async(num_async=2)
        .for_each(UpdateWorkerWeights(parts.weights))
        .for_each(agent.store)
        .for_each(StoreToBuffer(buffer, agent.task.prepare))
    )
    task = replay(buffer).for_each(TrainOneStep(agent.task.learn))
    risk = replay(agent).for_each(TrainOneStep(agent.learn_risk))
    return concurrently(store, task, risk, mode="async", weights=[1, config.max_uses, RISK_STEPS_A_TURN])
