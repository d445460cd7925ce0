"""The operators of sharded streams, the same on both backends."""

from __future__ import annotations

import time

import numpy as np
import pytest
from flow_toys import Counter, Holder, Picky, explode, is_even, label, shout

from safe_rl.errors import UserError
from safe_rl.flow import ActorGroup, ActorOptions, Backend, FlowError, union

Counters = ActorGroup[Counter]


def counts(counters: Counters) -> list[int]:
    """How many items each actor made; whatever it was asked for before this is done then."""
    return [handle.call(Counter.get_count).get(30) for handle in counters.handles]


def test_nothing_runs_before_it_is_pulled(counters: Counters) -> None:
    stream = counters.iterate(Counter.sample).for_each(shout)
    union(stream.gather_sync(), stream.gather_async(2)).for_each(str)
    stream.batch_across_shards().batch(2)
    assert counts(counters) == [0, 0, 0]


def test_gather_sync_gives_rounds_in_the_order_of_the_actors(counters: Counters) -> None:
    stream = counters.iterate(Counter.sample).gather_sync()
    assert list(stream.take(7)) == ["a0", "b0", "c0", "a1", "b1", "c1", "a2"]


def test_gather_sync_is_a_barrier(counters: Counters) -> None:
    """No actor begins the next round before the consumer is done with this one, and its messages arrive before."""
    stream = counters.iterate(Counter.sample_versioned).gather_sync()
    first = [next(stream) for _ in range(3)]
    assert first == [("a0", -1), ("b0", -1), ("c0", -1)]
    assert counts(counters) == [1, 1, 1]
    counters.broadcast(Counter.set_weights, None, 7)
    assert [next(stream) for _ in range(3)] == [("a1", 7), ("b1", 7), ("c1", 7)]


def test_batch_across_shards(counters: Counters) -> None:
    rounds = counters.iterate(Counter.sample).for_each(shout).batch_across_shards()
    assert list(rounds.take(2)) == [["A0", "B0", "C0"], ["A1", "B1", "C1"]]


@pytest.mark.parametrize("num_async", [1, 2, 4])
def test_gather_async_keeps_each_shards_order_and_bounds_what_is_under_way(counters: Counters, num_async: int) -> None:
    stream = counters.iterate(Counter.sample).gather_async(num_async)
    items = [next(stream)]
    counts(counters)  # all have answered once this is answered: a busy machine may keep one of them waiting
    items += [next(stream) for _ in range(99)]
    for position, name in enumerate("abc"):
        mine = [item for item in items if item[0] == name]
        assert mine == [f"{name}{number}" for number in range(len(mine))]
        assert len(mine) <= counts(counters)[position] <= len(mine) + num_async
        assert len(mine) > 0  # nobody starves


def test_gather_async_does_not_wait_for_the_slow_one(counters: Counters) -> None:
    stream = counters.iterate(Counter.sample_slowly).gather_async()
    names = [next(stream)[0] for _ in range(9)]
    if counters.context is not None and type(counters.engine).__name__ == "_RayEngine":
        assert names.count("a") <= 1
    else:  # in one process they take turns
        assert names == list("abcabcabc")


def test_gather_async_gives_all_that_wait_a_turn(counters: Counters) -> None:
    stream = counters.iterate(Counter.sample).gather_async(2)
    counts(counters)
    names = [next(stream)[0]]
    for _ in range(100):  # Ray may pass over one of those that have an answer, again and again
        counts(counters)  # whatever was asked for is done once this is answered
        names.append(next(stream)[0])
    assert min(map(names.count, "abc")) > 10


def test_stages_run_on_the_actor_in_their_order(counters: Counters) -> None:
    stream = counters.iterate(Counter.sample).filter(is_even).for_each(shout).for_each(label, with_actor=True)
    assert list(stream.gather_sync().take(4)) == ["A0 of a", "B0 of b", "C0 of c", "A2 of a"]


def test_streams_that_start_from_one_do_not_change_it(counters: Counters) -> None:
    stream = counters.iterate(Counter.sample)
    loud = stream.for_each(shout)
    assert list(stream.gather_sync().take(1)) == ["a0"]
    assert list(loud.gather_sync().take(1)) == ["A1"]


def test_two_streams_of_the_same_actors_take_turns(counters: Counters) -> None:
    plain = counters.iterate(Counter.sample).gather_sync()
    loud = counters.iterate(Counter.sample).for_each(shout).gather_sync()
    together = [next(stream) for _ in range(2) for stream in (plain, plain, plain, loud, loud, loud)]
    assert together == ["a0", "b0", "c0", "A1", "B1", "C1", "a2", "b2", "c2", "A3", "B3", "C3"]


def test_a_method_that_stops_ends_its_shard(counters: Counters) -> None:
    counters.handles[1].call(Counter.sample).get(30)
    stream = counters.iterate(Counter.sample_three)
    assert list(stream.gather_sync()) == ["a0", "b1", "c0", "a1", "b2", "c1", "a2", "c2"]
    assert list(stream.gather_async()) == []


def test_weights_reach_an_actor_before_its_next_item(counters: Counters) -> None:
    stream = counters.iterate(Counter.sample_versioned).zip_with_source_actor().gather_async()
    versions: dict[str, list[int]] = {name: [] for name in "abc"}
    for version in range(100):
        (item, seen), handle = next(stream)
        assert item[0] == "abc"[handle.index]
        versions[item[0]].append(seen)
        handle.call(Counter.set_weights, None, version)
        versions[item[0]].append(version)
    for seen in versions.values():
        assert seen[0] == -1
        assert all(sent == received for sent, received in zip(seen[1:-1:2], seen[2::2], strict=True))


def test_zip_comes_last(counters: Counters) -> None:
    with pytest.raises(FlowError, match="last before a gather"):
        counters.iterate(Counter.sample).zip_with_source_actor().for_each(shout)
    with pytest.raises(FlowError, match="num_async must be at least 1, not 0"):
        counters.iterate(Counter.sample).gather_async(0)


def test_items_by_reference(counters: Counters, backend: Backend) -> None:
    (holder,) = backend.actors(Holder, 1, options=ActorOptions(num_cpus=0.1)).handles
    stream = counters.iterate(Counter.sample_array).gather_sync(by_reference=True)
    refs = [next(stream) for _ in range(6)]
    assert [holder.call(Holder.keep, ref).get(30) for ref in refs] == [0, 0, 0, 1, 1, 1]
    assert holder.call(Holder.keep, array=refs[-1]).get(30) == 1
    np.testing.assert_array_equal(refs[3].get(), np.ones(50_000))
    resolved = counters.iterate(Counter.sample_array).gather_async(by_reference=True).resolve()
    values = [array[0] for array in resolved.take(3)]
    assert values[0] == 2  # whoever answers first; a slower actor may be overtaken after that
    assert all(value >= 2 for value in values)


def test_by_reference_with_filter_and_actor(counters: Counters) -> None:
    stream = counters.iterate(Counter.sample).filter(is_even).zip_with_source_actor().gather_async(by_reference=True)
    found = [(ref.get(), handle.index) for ref, handle in stream.take(9)]
    assert all("abc".index(item[0]) == index and is_even(item) for item, index in found)


def test_a_broadcast_is_one_put_a_version(counters: Counters, backend: Backend) -> None:
    before = backend.context.counter("flow/puts")
    for version in range(3):
        counters.broadcast(Counter.set_weights, backend.put({"w": np.full(3, version)}), version)
    assert backend.context.counter("flow/puts") - before == 3
    for handle in counters.handles:
        assert handle.call(Counter.get_weights).get(30)["w"].tolist() == [2, 2, 2]


def test_what_was_put_does_not_change_later(counters: Counters, backend: Backend) -> None:
    weights = np.zeros(3)
    ref = backend.put(weights)
    weights += 1
    assert counters.handles[0].call(lambda counter, value: value.tolist(), ref).get(30) == [0, 0, 0]


def test_what_a_constructor_is_given_is_a_copy(backend: Backend) -> None:
    given = [1]
    group = backend.actors(Holder, 1, given, options=ActorOptions(num_cpus=0.1))
    given.append(2)
    assert group.handles[0].call(lambda holder: holder.given).get(30) == [1]
    by_reference = backend.actors(Holder, 1, given=backend.put("value"), options=ActorOptions(num_cpus=0.1))
    assert by_reference.handles[0].call(lambda holder: holder.given).get(30) == "value"


def test_union_of_two_streams_of_actors(counters: Counters) -> None:
    even = counters.iterate(Counter.sample).gather_async()
    loud = counters.iterate(Counter.sample).for_each(shout).gather_async()
    items = list(union(even, loud).take(100))
    for name in "abc":
        for of_stream in (str.islower, str.isupper):
            mine = [int(item[1:]) for item in items if item[0].lower() == name and of_stream(item)]
            assert mine == sorted(mine)
            assert mine


def test_round_robin_waits_for_the_slow_one(counters: Counters) -> None:
    slow = counters.iterate(Counter.sample_slowly).filter(lambda item: item[0] == "a").gather_async()
    loud = counters.iterate(Counter.sample).for_each(shout).gather_async()
    items = list(union(slow, loud, mode="round_robin").take(4))
    assert [item.islower() for item in items] == [True, False, True, False]


@pytest.mark.parametrize(
    ("make", "stage"),
    [
        (lambda counters: counters.iterate(Counter.fail).gather_sync(), "iterate(Counter.fail) on Counter [012]"),
        (lambda counters: counters.iterate(Counter.fail).gather_async(2), "iterate(Counter.fail) on Counter [012]"),
        (
            lambda counters: counters.iterate(Counter.sample).for_each(explode).batch_across_shards(),
            "for_each(explode) on Counter [012]",
        ),
        (
            lambda counters: counters.iterate(Counter.sample).filter(explode, name="keep good").gather_async(),
            "keep good on Counter [012]",
        ),
        (lambda counters: counters.iterate(Counter.sample).gather_sync().for_each(explode), "for_each(explode)"),
        (lambda counters: counters.iterate(Counter.sample).gather_sync().filter(explode), "filter(explode)"),
        (lambda counters: counters.iterate(Counter.sample).gather_sync().combine(explode), "combine(explode)"),
    ],
)
def test_a_stage_that_raises_is_named(counters: Counters, make, stage: str) -> None:
    pattern = stage.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(FlowError, match=f"^stage {pattern}: ValueError: (no luck|cannot use .0)$") as caught:
        list(make(counters))
    assert isinstance(caught.value.__cause__, ValueError)
    assert not isinstance(caught.value, UserError)


def test_the_traceback_of_the_actor_comes_along(counters: Counters) -> None:
    import traceback

    with pytest.raises(FlowError) as caught:
        next(counters.iterate(Counter.fail).gather_sync())
    assert "in fail" in "".join(traceback.format_exception(caught.value))


def test_a_users_mistake_in_a_stage_stays_one(counters: Counters) -> None:
    with pytest.raises(UserError, match=r"stage iterate\(Counter.fail_plainly\) on Counter \d: turn it on$") as caught:
        next(counters.iterate(Counter.fail_plainly).gather_async())
    assert isinstance(caught.value, FlowError)


def test_an_actor_survives_its_errors(counters: Counters) -> None:
    with pytest.raises(FlowError):
        next(counters.iterate(Counter.fail).gather_sync())
    assert next(counters.iterate(Counter.sample).gather_sync()) == "a0"


def test_the_error_of_a_call_is_raised_by_get(counters: Counters) -> None:
    future = counters.handles[1].call(Counter.fail)
    with pytest.raises(FlowError, match=r"call\(fail\) on Counter 1: ValueError: no luck"):
        future.get(30)
    assert list(counters.iterate(Counter.sample).gather_sync().take(2)) == ["a0", "b0"]  # it has been read


def test_an_error_that_nobody_read_comes_with_the_next_item(counters: Counters) -> None:
    counters.broadcast(Counter.fail)
    with pytest.raises(FlowError, match=r"call\(fail\) on Counter \d: ValueError: no luck"):
        list(counters.iterate(Counter.sample).gather_sync().take(3))


def test_a_constructor_that_raises(backend: Backend) -> None:
    with pytest.raises(UserError, match=r"Picky\(index=[01]\) on Picky [01]: no environment for [01]$"):
        backend.actors(Picky, 2, options=ActorOptions(num_cpus=0.1))


def test_metrics_of_actors_and_driver_come_together(counters: Counters, backend: Backend) -> None:
    from safe_rl.flow import current_metrics

    def note(item: str) -> str:
        current_metrics().count("toy/noted")
        return item

    before = [backend.context.counter(name) for name in ("toy/samples", "toy/noted")]
    stream = counters.iterate(Counter.sample_counted).gather_sync().for_each(note)
    list(stream.take(6))
    assert stream.context.counter("toy/samples") - before[0] == 6
    assert stream.context.counter("toy/noted") - before[1] == 6


def test_a_stream_is_forgotten_when_it_is_closed(counters: Counters) -> None:
    stream = counters.iterate(Counter.sample).gather_sync()
    list(stream.take(2))
    time.sleep(0)
    assert list(counters.iterate(Counter.sample).gather_sync().take(1)) == ["a1"]


def test_an_argument_that_cannot_be_sent_is_named(backend: Backend) -> None:
    import threading

    with pytest.raises(UserError, match=r"argument given \(lock\) cannot be .*make it"):
        backend.actors(Holder, 1, given=threading.Lock())
    with pytest.raises(UserError, match=r"argument 0 \(lock\) cannot be .*make it"):
        backend.actors(Holder, 1, threading.Lock())
    with pytest.raises(UserError, match=r"value \(lock\) cannot be .*make it"):
        backend.put(threading.Lock())


@pytest.mark.parametrize("field", ["num_cpus", "num_gpus", "timeout_sec", "start_timeout_sec", "restart_timeout_sec"])
def test_options_name_the_field_and_the_value(field: str) -> None:
    with pytest.raises(UserError, match=rf"{field} must be .*, not -2"):
        ActorOptions(**{field: -2})
    with pytest.raises(UserError, match=r"max_restarts must be .*, not -2"):
        ActorOptions(max_restarts=-2)
    assert ActorOptions(timeout_sec=None).timeout_sec is None
