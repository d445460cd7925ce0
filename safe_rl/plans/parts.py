"""What every plan is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from safe_rl.flow.actors import ActorGroup
from safe_rl.flow.backend import Backend
from safe_rl.flow.operators import WorkerWeights
from safe_rl.flow.rollout_worker import RolloutWorker

Learner = TypeVar("Learner", bound=Any)


@dataclass
class Parts(Generic[Learner]):
    """Long-lived actors and the learner that a plan connects."""

    backend: Backend
    workers: ActorGroup[RolloutWorker]
    learner: Learner
    weights: WorkerWeights
    """How the learner's weights get to the workers."""
