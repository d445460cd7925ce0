"""RL operators: what the plans of ``safe_rl.plans`` do with streams of fragments, batches and gradients.

Each is a function, or an object that is called with an item: ``rollouts.for_each(TrainOneStep(learner))``. Two kinds of
messages exist: data that flows along the stream, and calls to actors, which operators make (arXiv 2011.12719).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from safe_rl.algorithms.fragment import EpisodeSummary, Fragment
from safe_rl.flow.actors import ActorGroup, ActorHandle
from safe_rl.flow.backend import Backend
from safe_rl.flow.engine import Ref
from safe_rl.flow.local_iterator import LocalIterator
from safe_rl.flow.metrics import current_metrics
from safe_rl.flow.parallel import ParallelIterator
from safe_rl.flow.rollout_worker import RolloutWorker
from safe_rl.flow.source import NOT_READY, Nothing

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)
Worker = ActorHandle[RolloutWorker]
RESTART_STRIDE = 10**9
"""More fragments than a worker samples between two deaths."""


@dataclass
class Update:
    """What a plan tells of one of its steps; a plan is a stream of these."""

    episodes: tuple[EpisodeSummary, ...] = ()
    """Training episodes that ended."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """The learner's latest metrics: numbers, or scalar tensors that are read when they are logged."""


class Versioned(Protocol):
    """A learner as far as its weights go."""

    @property
    def version(self) -> int:
        """Rises with each change of the weights."""
        ...

    def weights(self) -> npt.NDArray[np.float32]:
        """The weights for workers, one flat array."""
        ...


class Supply(Protocol[T_co]):
    """What batches come from."""

    def next(self) -> T_co | None:
        """The next item to learn from; None where there is none now."""
        ...


class Store(Protocol[T_contra]):
    """What items are kept in."""

    def add(self, item: T_contra) -> None:
        """Takes an item in."""
        ...

    def metrics(self) -> dict[str, float]:
        """How full it is, or what became of the items."""
        ...


class WorkerWeights:
    """Sends a learner's weights to workers, each version put once however many take it."""

    def __init__(self, backend: Backend, workers: ActorGroup[RolloutWorker], learner: Versioned) -> None:
        self._backend, self._workers, self._learner = backend, workers, learner
        self._version = -1
        self._ref: Ref[Any] | None = None
        workers.on_restart(self._welcome)

    def send(self, worker: Worker) -> None:
        """Sends the newest weights to one worker."""
        worker.call(RolloutWorker.set_weights, *self._newest())

    def send_all(self) -> None:
        """Sends the newest weights to every worker."""
        self._workers.broadcast(RolloutWorker.set_weights, *self._newest())

    def _welcome(self, worker: Worker) -> None:
        """Gives a worker that was restarted numbers that it did not draw before, and the newest weights."""
        worker.call(RolloutWorker.load_state_dict, {"num_sampled": RESTART_STRIDE * worker.generation})
        self.send(worker)

    def _newest(self) -> tuple[Any, int]:
        if self._version != self._learner.version:
            self._version, self._ref = self._learner.version, self._backend.put(self._learner.weights())
        return self._ref, self._version


def rollouts(workers: ActorGroup[RolloutWorker]) -> ParallelIterator[Fragment]:
    """The workers' fragments, sampled without end."""
    return workers.iterate(RolloutWorker.sample)


class UpdateWorkerWeights:
    """Gives whoever handed in work the newest weights, and passes the work on."""

    def __init__(self, weights: WorkerWeights) -> None:
        self._weights = weights

    def __call__(self, pair: tuple[T, Worker]) -> T:
        """Takes an item with its worker; returns the item."""
        item, worker = pair
        self._weights.send(worker)
        return item


class BroadcastWeights:
    """Gives all workers the newest weights, after a round that they all waited for."""

    def __init__(self, weights: WorkerWeights) -> None:
        self._weights = weights

    def __call__(self, item: T) -> T:
        """Returns the item."""
        self._weights.send_all()
        return item


class ConcatBatches:
    """Gathers fragments until they hold ``min_steps`` environment steps (``combine``)."""

    def __init__(self, min_steps: int) -> None:
        self._min_steps = min_steps
        self._fragments: list[Fragment] = []

    def __call__(self, fragment: Fragment) -> list[list[Fragment]]:
        """Returns a list of one list of fragments where there are enough, else an empty one."""
        self._fragments.append(fragment)
        if sum(held.num_steps for held in self._fragments) < self._min_steps:
            return []
        full, self._fragments = self._fragments, []
        return [full]


class StandardizeFields:
    """Shifts and scales fields of a batch, a dictionary of arrays, to mean 0 and deviation 1."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Returns a batch with other arrays; constant fields become 0."""
        scaled = {name: batch[name] - batch[name].mean() for name in self._names}
        return {**batch, **{name: array / (array.std() + 1e-8) for name, array in scaled.items()}}


class TrainOneStep:
    """Lets a learner learn from one item: a list of fragments, or what its buffer holds."""

    def __init__(self, learn: Callable[[Any], Mapping[str, Any]]) -> None:
        self._learn = learn

    def __call__(self, item: Any) -> Update:
        """Returns the metrics; the episodes of fragments are handed on."""
        with current_metrics().timer("time/learn"):
            metrics = self._learn(item)
        return Update(episodes_of(item), metrics)


class StoreToBuffer(Generic[T]):
    """Puts each item into a buffer, after ``prepare``."""

    def __init__(self, buffer: Store[Any], prepare: Callable[[T], Any] = lambda item: item) -> None:
        self._buffer, self._prepare = buffer, prepare

    def __call__(self, item: T) -> Update:
        """Returns the item's episodes, and how full the buffer is."""
        self._buffer.add(self._prepare(item))
        return Update(episodes_of(item), self._buffer.metrics())


def replay(buffer: Supply[T]) -> LocalIterator[T]:
    """A buffer's items, as long as it has some; in a union the others have their turn while it has none."""

    def items() -> Iterator[T | Nothing]:
        while True:
            item = buffer.next()
            yield NOT_READY if item is None else item

    return LocalIterator.of(items())


class UpdateEvery:
    """Calls something each time that so many environment steps went by, such as copying a target network."""

    def __init__(self, interval: int, num_steps: Callable[[], int], action: Callable[[], object]) -> None:
        self._interval, self._num_steps, self._action = interval, num_steps, action
        self._due = interval

    def __call__(self, item: T) -> T:
        """Returns the item."""
        if self._num_steps() >= self._due:
            self._due = self._num_steps() + self._interval
            self._action()
        return item


def episodes_of(item: Any) -> tuple[EpisodeSummary, ...]:
    """The episodes that ended in a fragment, or in several; none of anything else."""
    if isinstance(item, Fragment):
        return item.episodes
    if isinstance(item, Sequence) and item and isinstance(item[0], Fragment):
        return tuple(episode for fragment in item for episode in fragment.episodes)
    return ()
