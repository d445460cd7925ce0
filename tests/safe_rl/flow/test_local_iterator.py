"""Streams in the driver: orders by hand, and what holds for any items."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from flow_toys import Counter
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_rl.flow import (
    NOT_READY,
    FlowError,
    LocalBackend,
    LocalIterator,
    Metrics,
    concurrently,
    current_metrics,
    union,
)

ITEMS = st.lists(st.integers(), max_size=30)
NONE_NOW = st.lists(st.one_of(st.integers(), st.just(NOT_READY)), max_size=30)
"""Items with pauses between them."""


def of(*items: object) -> LocalIterator:
    return LocalIterator.of(items)


def ready(items: list) -> list:
    return [item for item in items if item is not NOT_READY]


def test_operators_by_hand() -> None:
    assert list(of(1, 2, 3).for_each(lambda x: x * x)) == [1, 4, 9]
    assert list(of(1, 2, 3, 4).filter(lambda x: x % 2 == 0)) == [2, 4]
    assert list(of(0, 3, 1).combine(lambda x: range(x))) == [0, 1, 2, 0]
    assert list(of(1, 2, 3, 4, 5).batch(2)) == [[1, 2], [3, 4], [5]]
    assert list(of(1, 2, 3).take(2)) == [1, 2]
    assert list(of(1, 2).take(5)) == [1, 2]
    assert list(of(1, 2).take(0)) == []


def test_a_stream_is_lazy() -> None:
    pulled = []

    def numbers() -> Iterator[int]:
        for number in itertools.count():
            pulled.append(number)
            yield number

    stream = LocalIterator.of(numbers()).for_each(lambda x: -x).batch(2).take(2)
    assert pulled == []
    assert next(stream) == [0, -1]
    assert pulled == [0, 1]
    assert list(stream) == [[-2, -3]]
    assert pulled == [0, 1, 2, 3]


def test_gather_async_by_hand() -> None:
    """In one process the longest asked comes first."""
    with LocalBackend() as backend:
        workers = backend.actors(Counter, 2)
        assert list(workers.iterate(Counter.sample).gather_async(2).take(6)) == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_no_actors_asked_for_means_one_in_this_process() -> None:
    with LocalBackend() as backend:
        assert list(backend.actors(Counter, 0).iterate(Counter.sample).gather_sync().take(2)) == ["a0", "a1"]


def test_round_robin_by_hand() -> None:
    assert list(union(of(1, 2, 3), of(10), of(100, 200), mode="round_robin")) == [1, 10, 100, 2, 200, 3]
    assert list(union(of(1, 2, 3, 4), of(10, 20), mode="round_robin", weights=[2, 1])) == [1, 2, 10, 3, 4, 20]


def test_who_has_nothing_loses_its_turn() -> None:
    for mode in ("round_robin", "async"):
        streams = of(NOT_READY, NOT_READY, 1, 2), of(10, 20, 30)
        assert list(union(*streams, mode=mode)) == [10, 20, 1, 30, 2]
        weighted = of(1, NOT_READY, 2, 3), of(10, 20, 30)
        assert list(union(*weighted, mode=mode, weights=[3, 1])) == [1, 10, 2, 3, 20, 30]


def test_some_streams_run_for_what_they_do_alone() -> None:
    done = []
    silent = LocalIterator.of(itertools.count()).for_each(done.append)
    assert list(concurrently(silent, of("x", "y", "z"), mode="round_robin", output_indexes=[1])) == ["x", "y", "z"]
    assert done == [0, 1, 2, 3]  # it had its turn before the other ended


def test_a_replay_that_waits_for_the_first_items() -> None:
    """The plan of DQN: store and replay by turns, where the replay has nothing at first."""
    stored: list[int] = []

    def replay() -> Iterator[object]:
        while True:
            yield sum(stored) if len(stored) >= 2 else NOT_READY

    store = of(1, 2, 3, 4).for_each(stored.append)
    plan = concurrently(store, LocalIterator.of(replay()), mode="round_robin", output_indexes=[1])
    assert list(plan.take(3)) == [3, 6, 10]


def test_a_union_of_unions() -> None:
    with LocalBackend() as backend:
        workers = backend.actors(Counter, 2)
        inner = union(workers.iterate(Counter.sample).gather_sync(), of(1, 2), mode="round_robin")
        outer = union(inner, of("x", "y"))
        found = list(outer.take(8))
        assert [item for item in found if item in ("x", "y")] == ["x", "y"]
        assert [item for item in found if isinstance(item, int)] == [1, 2]
        assert [item for item in found if item not in ("x", "y", 1, 2)] == ["a0", "b0", "a1", "b1"]


def test_duplicates_by_hand() -> None:
    fast, slow = of(1, 2, 3).duplicate()
    assert list(fast.take(2)) == [1, 2]
    assert list(slow) == [1, 2, 3]
    assert list(of(1, 2).duplicate(1)[0]) == [1, 2]


def test_a_duplicate_that_falls_behind_ends_the_plan() -> None:
    fast, _ = LocalIterator.of(itertools.count()).duplicate(2, max_buffered=3)
    assert [next(fast) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(FlowError, match=r"stream 1 of duplicate\(2\) is 3 items behind stream 0"):
        next(fast)


def test_a_stream_has_one_consumer() -> None:
    stream = of(1, 2)
    stream.for_each(str)
    with pytest.raises(FlowError, match=r"goes to for_each\(str\) was given to batch\(2\), too: duplicate\(2\)"):
        stream.batch(2)
    with pytest.raises(FlowError, match="was given to a loop"):
        next(stream)


def test_bad_numbers_are_named() -> None:
    for build, message in (
        (lambda: of(1).batch(0), "at least 1, not 0"),
        (lambda: of(1).duplicate(0), "at least 1 stream, not 0"),
        (lambda: union(), "at least one stream"),
        (lambda: union(of(1), mode="often"), "not 'often'"),
        (lambda: union(of(1), of(2), weights=[1]), r"2 numbers of at least 1, not \[1\]"),
        (lambda: union(of(1), weights=[0]), r"1 numbers of at least 1, not \[0\]"),
        (lambda: union(of(1), output_indexes=[1]), r"not \[1\]"),
        (lambda: union(of(1), output_indexes=[]), r"not \[\]"),
    ):
        with pytest.raises(FlowError, match=message):
            build()


def test_streams_that_meet_share_their_metrics() -> None:
    def count(item: int) -> int:
        current_metrics().count("seen")
        return item

    first, second, third = (of(1, 2).for_each(count) for _ in range(3))
    before = first.context
    before.count("seen", 10)
    plan = union(union(first, second), third)
    assert len(list(plan)) == 6
    assert plan.context.counter("seen") == before.counter("seen") == third.context.counter("seen") == 16


def test_metrics_by_hand() -> None:
    metrics = Metrics()
    metrics.count("steps", 3)
    metrics.count("steps")
    metrics.gauge("queue/in", 4)
    metrics.gauge("queue/in", 2)
    with metrics.timer("time/learn"):
        pass
    values = metrics.snapshot()
    assert values["steps"] == 4
    assert values["queue/in"] == 2
    assert 0 <= values["time/learn"] < 1
    assert metrics.dirty
    assert metrics.drain().counters == {"steps": 4}
    assert metrics.snapshot() == {}
    assert not metrics.dirty
    current_metrics().count("outside of any plan")


@given(st.lists(NONE_NOW, min_size=1, max_size=5), st.sampled_from(["round_robin", "async"]), st.data())
@settings(max_examples=80, deadline=None)
def test_a_union_keeps_every_item_and_each_order(lists: list[list], mode, data) -> None:
    weights = data.draw(st.lists(st.integers(1, 3), min_size=len(lists), max_size=len(lists)))
    tagged = [
        LocalIterator.of([item if item is NOT_READY else (number, item) for item in items])
        for number, items in enumerate(lists)
    ]
    found = list(union(*tagged, mode=mode, weights=weights))
    for number, items in enumerate(lists):
        assert [item for origin, item in found if origin == number] == ready(items)


@given(st.lists(ITEMS, min_size=1, max_size=4))
def test_round_robin_is_a_transposition(lists: list[list[int]]) -> None:
    absent = object()
    rows = itertools.zip_longest(*lists, fillvalue=absent)
    expected = [item for row in rows for item in row if item is not absent]
    assert list(union(*map(LocalIterator.of, lists), mode="round_robin")) == expected


@given(NONE_NOW, st.integers(1, 4), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_duplicates_are_equal_however_they_are_pulled(items: list, num: int, random) -> None:
    streams = LocalIterator.of(items).duplicate(num)
    found: list[list] = [[] for _ in streams]
    open_streams = list(range(num))
    while open_streams:
        index = random.choice(open_streams)
        try:
            found[index].append(next(streams[index]))
        except StopIteration:
            open_streams.remove(index)
    assert found == [ready(items)] * num


@given(NONE_NOW, st.integers(1, 7))
@settings(deadline=None)
def test_batches_are_the_items_again(items: list, size: int) -> None:
    batches = list(LocalIterator.of(items).batch(size))
    assert [item for batch in batches for item in batch] == ready(items)
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(1 <= len(batch) <= size for batch in batches)


@given(NONE_NOW, st.integers(0, 40))
@settings(deadline=None)
def test_operators_are_those_of_lists(items: list, num: int) -> None:
    expected = [x + 1 for x in ready(items) if x % 3]
    stream = LocalIterator.of(items).filter(lambda x: x % 3).for_each(lambda x: x + 1)
    assert list(stream.take(num)) == expected[:num]
