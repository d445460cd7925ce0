"""Algorithms as dataflow over long-lived actors (RLlib Flow, arXiv 2011.12719), in this process or on Ray.

The names below are imported when they are first used; ``RayBackend`` alone needs Ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safe_rl.flow.actors import ActorGroup, ActorHandle, Future
    from safe_rl.flow.backend import Backend
    from safe_rl.flow.concurrency import concurrently, union
    from safe_rl.flow.engine import ActorOptions, Ref
    from safe_rl.flow.errors import FlowError, FlowUserError, LostItemError
    from safe_rl.flow.local_backend import LocalBackend
    from safe_rl.flow.local_iterator import LocalIterator
    from safe_rl.flow.metrics import Metrics, current_metrics
    from safe_rl.flow.parallel import ParallelIterator
    from safe_rl.flow.queues import LearnerThread, Queue, QueueClosed, dequeue
    from safe_rl.flow.ray_backend import RayBackend
    from safe_rl.flow.source import NOT_READY

_EXPORTS = {
    "NOT_READY": "safe_rl.flow.source",
    "ActorGroup": "safe_rl.flow.actors",
    "ActorHandle": "safe_rl.flow.actors",
    "ActorOptions": "safe_rl.flow.engine",
    "Backend": "safe_rl.flow.backend",
    "FlowError": "safe_rl.flow.errors",
    "FlowUserError": "safe_rl.flow.errors",
    "Future": "safe_rl.flow.actors",
    "LearnerThread": "safe_rl.flow.queues",
    "LocalBackend": "safe_rl.flow.local_backend",
    "LocalIterator": "safe_rl.flow.local_iterator",
    "LostItemError": "safe_rl.flow.errors",
    "Metrics": "safe_rl.flow.metrics",
    "ParallelIterator": "safe_rl.flow.parallel",
    "Queue": "safe_rl.flow.queues",
    "QueueClosed": "safe_rl.flow.queues",
    "RayBackend": "safe_rl.flow.ray_backend",
    "Ref": "safe_rl.flow.engine",
    "concurrently": "safe_rl.flow.concurrency",
    "current_metrics": "safe_rl.flow.metrics",
    "dequeue": "safe_rl.flow.queues",
    "union": "safe_rl.flow.concurrency",
}
"""Public name -> the module that defines it."""

__all__ = [
    "NOT_READY",
    "ActorGroup",
    "ActorHandle",
    "ActorOptions",
    "Backend",
    "FlowError",
    "FlowUserError",
    "Future",
    "LearnerThread",
    "LocalBackend",
    "LocalIterator",
    "LostItemError",
    "Metrics",
    "ParallelIterator",
    "Queue",
    "QueueClosed",
    "RayBackend",
    "Ref",
    "concurrently",
    "current_metrics",
    "dequeue",
    "union",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'safe_rl.flow' has no attribute {name!r}")
    module = importlib.import_module(_EXPORTS[name])
    value = getattr(module, name)
    globals()[name] = value
    return value
