"""Recovery RL as a plan (arXiv 2010.15920); its loss is in ``safe_rl.algorithms.recovery_rl``."""

from __future__ import annotations

from safe_rl.algorithms.fragment import Fragment
from safe_rl.algorithms.off_policy_learner import OffPolicyLearner
from safe_rl.algorithms.risk_aware import RiskAwareAgent
from safe_rl.flow import LocalIterator, concurrently
from safe_rl.flow.operators import StoreToBuffer, TrainOneStep, Update, UpdateWorkerWeights, replay, rollouts
from safe_rl.plans.parts import Parts


def recovery_rl(parts: Parts[OffPolicyLearner[RiskAwareAgent]]) -> LocalIterator[Update]:
    """Workers act with the composite policy; the task's and the risk's learner run concurrently on one replay."""
    learner, agent = parts.learner, parts.learner.agent
    store = (
        rollouts(parts.workers)
        .zip_with_source_actor()
        .gather_async(num_async=2)
        .for_each(UpdateWorkerWeights(parts.weights))
        .for_each(StoreToBuffer[Fragment](learner))
    )
    task = replay(learner.due()).for_each(TrainOneStep(lambda _: agent.update_task()), name="task")
    risk = replay(learner.due()).for_each(TrainOneStep(lambda _: agent.update_risk()), name="risk")
    turns = learner.updates_a_turn
    return concurrently(store, task, risk, mode="async", weights=[1, turns, turns])
