"""Streams in the driver, and their operators."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from safe_rl.flow.engine import Ref
from safe_rl.flow.errors import FlowError, LostItemError, stage_error, stage_name
from safe_rl.flow.metrics import CURRENT, Metrics
from safe_rl.flow.source import Nothing, PolledSource, Source, wait_for_any

if TYPE_CHECKING:
    from safe_rl.flow.queues import Queue

T = TypeVar("T")
U = TypeVar("U")


class LocalIterator(Generic[T]):
    """A lazy stream in the driver: an ordinary iterator, with operators that return new ones.

    ::

        for result in batches.for_each(train_one_step).take(100):
            ...

    A stream has one consumer. Giving it to two operators raises ``FlowError``: ``duplicate`` it.
    """

    def __init__(self, make: Callable[[], Iterator[T | Nothing]], source: Source, context: Metrics) -> None:
        self._make, self._source, self.context = make, source, context
        self._items: Iterator[T | Nothing] | None = None
        self._consumer = ""

    @staticmethod
    def of(items: Iterable[U | Nothing]) -> LocalIterator[U]:
        """Makes a stream of any iterable, such as a generator that draws from a replay buffer.

        An item ``NOT_READY`` says that there is none now: in a union the others have their turn.
        """
        return LocalIterator(lambda: iter(items), PolledSource(), Metrics())

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._items is None:
            self._items = self._claim("a loop")
        token = CURRENT.set(self.context)
        try:
            while isinstance(item := next(self._items), Nothing):
                wait_for_any(self._source)
            return item
        finally:
            CURRENT.reset(token)

    def for_each(self, function: Callable[[T], U], *, name: str = "") -> LocalIterator[U]:
        """Applies a function to each item, when it is pulled.

        ::

            a  b  c   ───>   f(a)  f(b)  f(c)
        """
        stage = name or stage_name("for_each", function)

        def items(upstream: Iterator[T | Nothing]) -> Iterator[U | Nothing]:
            for item in upstream:
                if item.__class__ is Nothing:
                    yield item
                    continue
                try:
                    result = function(item)  # type: ignore[arg-type]
                except FlowError:
                    raise
                except Exception as error:
                    raise stage_error(stage, error) from error
                yield result

        return self._then(items, stage)

    def filter(self, predicate: Callable[[T], object], *, name: str = "") -> LocalIterator[T]:
        """Keeps the items for which a predicate holds.

        ::

            a  b  c   ───>   a     c
        """
        stage = name or stage_name("filter", predicate)
        return self.combine(lambda item: (item,) if predicate(item) else (), name=stage)

    def combine(self, function: Callable[[T], Iterable[U]], *, name: str = "") -> LocalIterator[U]:
        """Applies a function that gives any number of items for each: also none yet, while it gathers a batch.

        ::

            a  b  c   ───>   f(a) = []   f(b) = [x, y]   f(c) = [z]   ───>   x  y  z
        """
        stage = name or stage_name("combine", function)

        def items(upstream: Iterator[T | Nothing]) -> Iterator[U | Nothing]:
            for item in upstream:
                if item.__class__ is Nothing:
                    yield item
                    continue
                try:
                    results = list(function(item))  # type: ignore[arg-type]
                except FlowError:
                    raise
                except Exception as error:
                    raise stage_error(stage, error) from error
                yield from results

        return self._then(items, stage)

    def batch(self, size: int) -> LocalIterator[list[T]]:
        """Lists of ``size`` items; what is left at the end of the stream is a shorter one.

        ::

            a  b  c  d  e   ── batch(2) ──>   [a, b]  [c, d]  [e]
        """
        if size < 1:
            raise FlowError(f"batch takes a size of at least 1, not {size}")

        def items(upstream: Iterator[T | Nothing]) -> Iterator[list[T] | Nothing]:
            gathered: list[T] = []
            for item in upstream:
                if isinstance(item, Nothing):
                    yield item
                    continue
                gathered.append(item)
                if len(gathered) == size:
                    yield gathered
                    gathered = []
            if gathered:
                yield gathered

        return self._then(items, f"batch({size})")

    def take(self, num: int) -> LocalIterator[T]:
        """The first ``num`` items. No more is pulled.

        ::

            a  b  c  d   ── take(2) ──>   a  b
        """

        def items(upstream: Iterator[T | Nothing]) -> Iterator[T | Nothing]:
            left = num
            while left > 0:
                item = next(upstream, _END)
                if item is _END:
                    return
                left -= not isinstance(item, Nothing)
                yield item
            close(upstream)

        return self._then(items, f"take({num})")

    def duplicate(self, num: int = 2, *, max_buffered: int = 1000) -> tuple[LocalIterator[T], ...]:
        """Gives the same items to several consumers; what one has taken is kept for the others.

        ::

                        ┌─> a b c d        the faster consumer
            a b c d ────┤
                        └─> a b · ·        c and d are kept for the slower one

        Args:
            num: How many streams.
            max_buffered: A consumer that is more items behind ends the plan: it would fill the memory. Pull the streams
                evenly, as ``union`` does.
        """
        splitter = _Splitter(self._claim(f"duplicate({num})"), num, max_buffered)
        return tuple(
            LocalIterator(lambda index=index: splitter.items(index), self._source, self.context)  # type: ignore[misc]
            for index in range(num)
        )

    def union(
        self,
        *others: LocalIterator[T],
        mode: Literal["round_robin", "async"] = "async",
        weights: list[int] | None = None,
    ) -> LocalIterator[T]:
        """One stream of this and others: see ``safe_rl.flow.union``."""
        from safe_rl.flow.concurrency import union

        return union(self, *others, mode=mode, weights=weights)

    def enqueue(self, queue: Queue[T]) -> LocalIterator[T]:
        """Puts each item into a queue, and passes it on. While the queue is full, no more is pulled.

        ::

            a b c ──┬──────────> a b c
                    └─> queue ─> another thread
        """
        return queue.enqueued(self)

    def resolve(self: LocalIterator[Ref[U]]) -> LocalIterator[U]:
        """Fetches what references stand for; what was lost with its node is counted and left out.

        ::

            Ref(a)  Ref(b)  Ref(c)   ───>   a     c        b was lost: faults/lost_items
        """
        context = self.context

        def fetch(ref: Ref[U]) -> list[U]:
            try:
                return [ref.get()]
            except LostItemError:
                context.count("faults/lost_items")
                return []

        return self.combine(fetch, name="resolve")

    def _then(self, items: Callable[[Iterator[T | Nothing]], Iterator[U | Nothing]], stage: str) -> LocalIterator[U]:
        upstream = self._claim(stage)
        return LocalIterator(lambda: items(upstream), self._source, self.context)

    def _claim(self, consumer: str) -> Iterator[T | Nothing]:
        if self._consumer:
            raise FlowError(
                f"a stream that goes to {self._consumer} was given to {consumer}, too: duplicate(2) gives one to each"
            )
        self._consumer = consumer
        return self._make()


_END: Any = object()


def close(items: Iterator[Any]) -> None:
    """Ends a stream's iterator early, where it is one that can be ended."""
    close = getattr(items, "close", None)
    if close is not None:
        close()


class _Splitter(Generic[T]):
    def __init__(self, items: Iterator[T | Nothing], num: int, max_buffered: int) -> None:
        if num < 1:
            raise FlowError(f"duplicate takes at least 1 stream, not {num}")
        self._upstream, self._max = items, max_buffered
        self._kept: list[deque[T]] = [deque() for _ in range(num)]

    def items(self, index: int) -> Iterator[T | Nothing]:
        mine = self._kept[index]
        others = [(number, kept) for number, kept in enumerate(self._kept) if number != index]
        for _ in itertools.count():
            if mine:
                yield mine.popleft()
                continue
            item = next(self._upstream, _END)
            if item is _END:
                return
            if not isinstance(item, Nothing):
                for number, kept in others:
                    if len(kept) >= self._max:
                        raise FlowError(
                            f"stream {number} of duplicate({len(self._kept)}) is {self._max} items behind stream "
                            f"{index}: pull them evenly, or allow more with max_buffered"
                        )
                    kept.append(item)
            yield item
