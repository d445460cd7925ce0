"""Bounded queues to and from threads, and the thread of a learner."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

from safe_rl.flow.errors import FlowError, stage_error, stage_name
from safe_rl.flow.local_iterator import LocalIterator
from safe_rl.flow.metrics import CURRENT, Metrics
from safe_rl.flow.source import NOT_READY, Nothing, PolledSource

T = TypeVar("T")
U = TypeVar("U")
logger = logging.getLogger(__name__)


class QueueClosed(Exception):  # noqa: N818 (an end, like StopIteration)
    """Nothing more goes in; or nothing more comes out, since all has been taken."""


class Queue(Generic[T]):
    """A bounded queue between threads. Who puts into a full one waits: that is the back-pressure.

    ::

        stream.enqueue(queue)                              dequeue(queue)
        a b c d ───────────────>  [ d c b ]  ───────────────> a ...
                 waits while full            NOT_READY while empty

    Args:
        maxsize: Most items in it.
        name: What metrics (``queue/<name>``: how many are in it) and errors call it.
    """

    def __init__(self, maxsize: int, name: str = "queue") -> None:
        if maxsize < 1:
            raise FlowError(f"maxsize of queue {name} must be at least 1, not {maxsize}")
        self.maxsize, self.name = maxsize, name
        self.context = Metrics()
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._error: FlowError | None = None

    def __len__(self) -> int:
        return len(self._items)

    @property
    def full(self) -> bool:
        """Whether it takes no more now."""
        return len(self._items) >= self.maxsize

    @property
    def closed(self) -> bool:
        """Whether it takes no more at all."""
        return self._closed

    def put(self, item: T, timeout_sec: float | None = None) -> bool:
        """Appends an item once there is room; False where there was none within ``timeout_sec``.

        Raises:
            QueueClosed: The queue is closed.
            FlowError: Who takes from the queue has failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self.full, timeout_sec)
            self._raise_error()
            if self._closed:
                raise QueueClosed(self.name)
            if self.full:
                return False
            self._items.append(item)
            self._note_change()
            return True

    def get(self, timeout_sec: float | None = None) -> T | Nothing:
        """Returns the oldest item; ``NOT_READY`` where there is none within ``timeout_sec``.

        Raises:
            QueueClosed: The queue is closed and empty.
            FlowError: Who puts into the queue has failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._items), timeout_sec)
            self._raise_error()
            if self._items:
                item = self._items.popleft()
                self._note_change()
                return item
            if self._closed:
                raise QueueClosed(self.name)
            return NOT_READY

    def close(self, error: FlowError | None = None) -> None:
        """Ends the queue: what is in it can still be taken. With an error, that is raised at both ends instead."""
        with self._changed:
            self._closed, self._error = True, self._error or error
            self._changed.notify_all()

    def enqueued(self, stream: LocalIterator[T]) -> LocalIterator[T]:
        """What ``stream.enqueue(queue)`` returns."""
        upstream = stream._claim(f"enqueue({self.name})")
        held: list[T] = []
        self.context.join(stream.context)

        def items() -> Iterator[T | Nothing]:
            for item in upstream:
                if isinstance(item, Nothing):
                    yield item
                    continue
                held.append(item)
                try:
                    while not self.put(item, timeout_sec=0.0):
                        yield NOT_READY
                except QueueClosed:
                    return
                held.clear()
                yield item

        source = PolledSource([stream._source], blocked=lambda: bool(held))
        return LocalIterator(items, source, stream.context)

    def _note_change(self) -> None:
        self.context.gauge(f"queue/{self.name}", len(self._items))
        self._changed.notify_all()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error


def dequeue(queue: Queue[T]) -> LocalIterator[T]:
    """A stream of what another thread puts into a queue; it ends when the queue is closed and empty.

    ::

        another thread ─> queue ─> a b c
    """

    def items() -> Iterator[T | Nothing]:
        while True:
            try:
                yield queue.get(timeout_sec=0.0)
            except QueueClosed:
                return

    return LocalIterator(items, PolledSource(), queue.context)


class LearnerThread(Generic[T, U]):
    """A thread that takes items from one queue and puts what it makes of them into another.

    ::

        rollouts ─> inputs ─> [ step(item) ] ─> outputs ─> metrics
                               idle() while nothing comes: an old batch once more

    It ends when ``inputs`` is closed and empty, or when ``stop`` is called. What ``step`` raises closes both queues, so
    that the plan ends with the stage's name.

    Args:
        step: Called with each item; its result goes to ``outputs``, where it is not None.
        inputs: Where items come from.
        outputs: Where results go; waited for while full. None: results are thrown away.
        idle: Called where ``inputs`` is empty, its result used as that of ``step``; None to wait instead.
    """

    def __init__(
        self,
        step: Callable[[T], U | None],
        inputs: Queue[T],
        outputs: Queue[U] | None = None,
        *,
        idle: Callable[[], U | None] | None = None,
    ) -> None:
        self._step, self._idle, self.inputs, self.outputs = step, idle, inputs, outputs
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="learner", daemon=True)

    def __enter__(self) -> LearnerThread[T, U]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the thread; ``with learner:`` does it, too."""
        self._thread.start()

    def stop(self, timeout_sec: float = 10.0) -> None:
        """Ends the thread after the step it is in, and closes the queues."""
        self._stopping.set()
        self._close(None)
        if self._thread.is_alive():
            self._thread.join(timeout_sec)
            if self._thread.is_alive():
                logger.warning("the learner is still in its step after %g s", timeout_sec)

    def _run(self) -> None:
        stage: Any = self._step
        try:
            while not self._stopping.is_set():
                CURRENT.set(self.inputs.context)
                item = self.inputs.get(None if self._idle is None else 0.0)
                if isinstance(item, Nothing):
                    stage = self._idle
                    result = self._idle() if self._idle is not None else None
                    if result is None:
                        self._stopping.wait(0.001)
                else:
                    stage = self._step
                    result = self._step(item)
                if result is not None and self.outputs is not None:
                    self.outputs.put(result)
        except QueueClosed:
            self._close(None)
        except FlowError as error:
            self._close(error)
        except Exception as error:
            failed = stage_error(stage_name("learner", stage), error)
            failed.__cause__ = error
            self._close(failed)

    def _close(self, error: FlowError | None) -> None:
        for queue in (self.inputs, self.outputs):
            if queue is not None:
                queue.close(error)
