"""Streams sharded over actors, and how they become one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from safe_rl.flow.engine import Ref
from safe_rl.flow.errors import FlowError
from safe_rl.flow.host import Stage, Stream
from safe_rl.flow.local_iterator import LocalIterator
from safe_rl.flow.puller import Puller
from safe_rl.flow.source import IN_FLIGHT, Nothing

if TYPE_CHECKING:
    from safe_rl.flow.actors import ActorGroup, ActorHandle

T = TypeVar("T")
U = TypeVar("U")


class ParallelIterator(Generic[T]):
    """A stream of which every actor of a group makes a part, its shard. Lazy: nothing runs before a gather is pulled.

    ::

        actor 0:  a0  a1  a2 ...
        actor 1:  b0  b1  b2 ...      each shard in its own order
        actor 2:  c0  c1  c2 ...

    Every operator returns a new stream and leaves this one as it is, so several streams can start from one.
    """

    def __init__(self, group: ActorGroup[Any], stream: Stream, *, zipped: bool = False) -> None:
        self._group, self._stream, self._zipped = group, stream, zipped

    @overload
    def for_each(
        self, function: Callable[[Any, T], U], *, with_actor: Literal[True], name: str = ...
    ) -> ParallelIterator[U]: ...

    @overload
    def for_each(
        self, function: Callable[[T], U], *, with_actor: Literal[False] = ..., name: str = ...
    ) -> ParallelIterator[U]: ...

    def for_each(self, function: Callable[..., U], *, with_actor: bool = False, name: str = "") -> ParallelIterator[U]:
        """Applies a function to each item, on the actor that made it.

        ::

            actor 0:  a0 ─> f(a0)   a1 ─> f(a1)
            actor 1:  b0 ─> f(b0)   b1 ─> f(b1)

        Args:
            function: ``f(item)``. It is sent to the actors once, so what it holds is a copy there.
            with_actor: Call it as ``f(actor_object, item)``.
            name: What an error calls the stage, in place of the function's name.
        """
        return self._then(Stage("for_each", function, with_actor, name))

    def filter(self, predicate: Callable[[T], object], *, name: str = "") -> ParallelIterator[T]:
        """Keeps the items for which a predicate holds; the others never leave their actor.

        ::

            actor 0:  a0   a1   a2           a0        a2
                      yes  no   yes   ───>
        """
        return self._then(Stage("filter", predicate, name=name))

    def zip_with_source_actor(self) -> ParallelIterator[tuple[T, ActorHandle[Any]]]:
        """Keeps beside each item the actor it came from, to send it messages. Comes last before a gather.

        ::

            actor 0:  a0  a1  ...   ─── gather ──>   (a0, actor 0)  (b0, actor 1)  ...
        """
        return ParallelIterator(self._group, self._stream, zipped=True)

    @overload
    def gather_sync(self, *, by_reference: Literal[False] = ...) -> LocalIterator[T]: ...

    @overload
    def gather_sync(self, *, by_reference: Literal[True]) -> LocalIterator[Ref[T]]: ...

    def gather_sync(self, *, by_reference: bool = False) -> LocalIterator[Any]:
        """One item of every shard in the order of the actors, then a barrier, then the next round.

        ::

            actor 0:  a0 ┐             ┌ a1 ┐
            actor 1:  b0 ┼─> a0 b0 c0  ┤ b1 ┼─> a1 b1 c1
            actor 2:  c0 ┘      │      └ c1 ┘
                                └ the next round begins when the consumer asks for more than this one has

        What the consumer does with a round, such as sending new weights, is done before the actors go on. An actor that
        dies is waited for until it is back, or dropped.
        """

        def items(puller: Puller) -> Iterator[Any]:
            for found in _rounds(puller, self._zipped):
                if isinstance(found, Nothing):
                    yield found
                else:
                    yield from found

        return self._gathered(items, by_reference)

    def batch_across_shards(self) -> LocalIterator[list[T]]:
        """The same rounds as ``gather_sync``, each as a list.

        ::

            actor 0:  a0 ┐
            actor 1:  b0 ┼─> [a0, b0, c0] ─> [a1, b1, c1]
            actor 2:  c0 ┘
        """
        return self._gathered(lambda puller: _rounds(puller, self._zipped), False)

    @overload
    def gather_async(self, num_async: int = ..., *, by_reference: Literal[False] = ...) -> LocalIterator[T]: ...

    @overload
    def gather_async(self, num_async: int = ..., *, by_reference: Literal[True]) -> LocalIterator[Ref[T]]: ...

    def gather_async(self, num_async: int = 1, *, by_reference: bool = False) -> LocalIterator[Any]:
        """Whatever is ready; no actor waits for another.

        ::

            actor 0:  a0─────┐  a1───┐
            actor 1:  b0─┐   │ b1─┐  │         b0 a0 b1 a1 ...
            actor 2:  c0─┼───┼────┼──┼──c0     in the order of their ends

        An actor is asked for its next item when the consumer comes back for more. A message sent meanwhile therefore
        reaches the actor before its next item with ``num_async=1``, and ``num_async - 1`` items later otherwise.

        Args:
            num_async: At most so many items of a shard are under way. With 1 an actor rests while its item is consumed;
                2 keep it busy.
            by_reference: Give ``Ref`` in place of the items, which stay where they are.
        """
        if num_async < 1:
            raise FlowError(f"num_async must be at least 1, not {num_async}")
        zipped = self._zipped
        return self._gathered(lambda puller: _as_ready(puller, num_async, zipped), by_reference)

    def _gathered(self, items: Callable[[Puller], Iterator[Any]], by_reference: bool) -> LocalIterator[Any]:
        puller = Puller(self._group, self._stream, by_reference=by_reference)

        def pulled() -> Iterator[Any]:
            puller.start()
            try:
                yield from items(puller)
            finally:
                puller.close()

        return LocalIterator(pulled, puller, self._group.context)

    def _then(self, stage: Stage) -> ParallelIterator[Any]:
        if self._zipped:
            raise FlowError(f"{stage.name} cannot follow zip_with_source_actor, which comes last before a gather")
        return ParallelIterator(
            self._group, dataclasses.replace(self._stream, stages=(*self._stream.stages, stage)), zipped=False
        )


def _as_ready(puller: Puller, num_async: int, zipped: bool) -> Iterator[Any]:
    for _ in range(num_async):
        for handle in puller.shards():
            puller.ask(handle)
    while True:
        found = puller.collect()
        if not found:
            if puller.idle:
                return
            yield IN_FLIGHT
        for handle, item in found:
            yield (item, handle) if zipped else item
            puller.ask(handle)


def _rounds(puller: Puller, zipped: bool) -> Iterator[Any]:
    """Lists of a round's items, in the order of the actors."""
    while True:
        for handle in puller.shards():
            puller.ask(handle)
        came: dict[int, Any] = {}
        while not puller.idle:
            found = puller.collect()
            if not found and not puller.idle:
                yield IN_FLIGHT
            for handle, item in found:
                came[handle.index] = (item, handle) if zipped else item
        if not came:
            return
        yield [came[index] for index in sorted(came)]
