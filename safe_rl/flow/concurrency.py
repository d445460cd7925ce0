"""Several streams as one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Generic, Literal, TypeVar

from safe_rl.flow.errors import FlowError
from safe_rl.flow.local_iterator import LocalIterator, close
from safe_rl.flow.source import IN_FLIGHT, NOT_READY, Nothing, Source, wait_for_any

T = TypeVar("T")
Mode = Literal["round_robin", "async"]


def union(
    *streams: LocalIterator[T],
    mode: Mode = "async",
    weights: Sequence[int] | None = None,
    output_indexes: Collection[int] | None = None,
) -> LocalIterator[T]:
    """One stream of the items of several, which are drawn from by turns. Items are handed on, never copied.

    ::

        round_robin:   a0 a1 a2 ─┐                       a waits for its turn, and the others wait for a
                       b0 b1 b2 ─┴─> a0 b0 a1 b1 a2 b2   weights=[2, 1]: a0 a1 b0 a2 a3 b1

        async:         a0 ·  a1 ─┐
                       b0 b1 b2 ─┴─> a0 b0 b1 a1 b2      who has nothing ready loses its turn

    In both modes a stream that says ``NOT_READY``, such as a queue that is empty, loses its turn. The union ends when
    all its streams have, or all those of ``output_indexes``.

    Args:
        *streams: Two or more. They share one metrics context from now on.
        mode: ``round_robin`` is deterministic; ``async`` never waits for one while another has an item.
        weights: How many items each gives at its turn; 1 where left out.
        output_indexes: The streams whose items come out; the others run for what they do. All where left out.
    """
    if not streams:
        raise FlowError("union takes at least one stream")
    if mode not in ("round_robin", "async"):
        raise FlowError(f"mode must be round_robin or async, not {mode!r}")
    weights = [1] * len(streams) if weights is None else list(weights)
    if len(weights) != len(streams) or min(weights) < 1:
        raise FlowError(f"weights must be {len(streams)} numbers of at least 1, not {weights}")
    outputs = set(range(len(streams)) if output_indexes is None else output_indexes)
    if not outputs or not outputs <= set(range(len(streams))):
        raise FlowError(f"output_indexes must name some of the {len(streams)} streams, not {sorted(outputs)}")
    source = Source([stream._source for stream in streams])
    if mode == "async":
        for child in source.children:
            child.set_blocking(False)
    for stream in streams[1:]:
        stream.context.join(streams[0].context)
    turns = _Turns([stream._claim("union") for stream in streams], weights, outputs, source, mode)
    return LocalIterator(turns.items, source, streams[0].context)


def concurrently(
    *streams: LocalIterator[Any],
    mode: Mode,
    weights: Sequence[int] | None = None,
    output_indexes: Collection[int] | None = None,
) -> LocalIterator[Any]:
    """The same as ``union``, by the name that the paper has for the parts of a plan that run side by side."""
    return union(*streams, mode=mode, weights=weights, output_indexes=output_indexes)


class _Turns(Generic[T]):
    def __init__(
        self,
        streams: list[Iterator[T | Nothing]],
        weights: Sequence[int],
        outputs: set[int],
        source: Source,
        mode: Mode,
    ) -> None:
        self._live = list(zip(range(len(streams)), streams, weights, strict=True))
        self._outputs, self._source, self._keep_turns = outputs, source, mode == "round_robin"

    def items(self) -> Iterator[T | Nothing]:
        """All items by turns; ``Nothing`` only where this union must not wait itself."""
        missed_before = False
        while self._live:
            progressed = missed = False
            for turn in list(self._live):
                index, stream, weight = turn
                given = 0
                while given < weight:
                    try:
                        item = next(stream)
                    except StopIteration:
                        self._end(turn)
                        progressed = True
                        break
                    if isinstance(item, Nothing):
                        if item is IN_FLIGHT and self._keep_turns:  # it will come, and its turn waits for it
                            yield from self._rest(IN_FLIGHT)
                            continue
                        missed = True
                        break
                    given += 1
                    progressed = True
                    if index in self._outputs:
                        yield item
                if not self._live:
                    return
            if not progressed:
                yield from self._rest(IN_FLIGHT if self._source.waiting() else NOT_READY)
            elif missed and missed_before and not self._keep_turns and self._source.polled():
                wait_for_any(self._source, look_only=True)  # what the driver makes by itself would go on for ever
            missed_before = missed and progressed

    def _rest(self, nothing: Nothing) -> Iterator[Nothing]:
        if self._source.blocking:
            wait_for_any(self._source)
        else:
            yield nothing

    def _end(self, turn: tuple[int, Any, int]) -> None:
        self._live.remove(turn)
        if not any(index in self._outputs for index, _, _ in self._live):
            for _, stream, _ in self._live:
                close(stream)
            self._live = []
