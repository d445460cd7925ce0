"""Workers that are killed, hang, or cannot come back: with real processes."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import Counter as Tally
from pathlib import Path
from typing import Any

import pytest
from flow_toys import Counter, Holder, Mortal

from safe_rl.errors import UserError
from safe_rl.flow import ActorGroup, ActorOptions, Backend, FlowError, LostItemError

pytestmark = pytest.mark.ray

OPTIONS = ActorOptions(num_cpus=0.1)


class Faults:
    """What was counted since it was made."""

    def __init__(self, backend: Backend) -> None:
        self._context = backend.context
        self._before = {name: self._context.counter(f"faults/{name}") for name in self.names}

    names = ("lost_items", "restarts", "hangs", "dropped_actors")

    def __getattr__(self, name: str) -> float:
        return self._context.counter(f"faults/{name}") - self._before[name]


@pytest.fixture
def faults(ray_backend: Backend) -> Faults:
    return Faults(ray_backend)


def mortals(backend: Backend, num: int, *args: Any, options: ActorOptions = OPTIONS) -> ActorGroup[Mortal]:
    group = backend.actors(Mortal, num, 42, *args, options=options)
    group.on_restart(lambda handle: handle.call(Mortal.set_version, 7))
    group.broadcast(Mortal.set_version, 0)
    return group


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)


def processes(group: ActorGroup[Mortal]) -> list[int]:
    return [handle.hello.process for handle in group.handles]


def test_a_worker_that_is_killed_comes_back(ray_backend: Backend, faults: Faults) -> None:
    group = mortals(ray_backend, 2)
    first, second = processes(group)
    stream = group.iterate(Mortal.sample).gather_async(2)
    assert {next(stream)[0] for _ in range(6)} == {0, 1}
    kill(first)
    seen = []
    while not (seen and seen[-1][0] == 0 and seen[-1][1] != first):
        seen.append(next(stream))
    come_back = seen.pop()
    assert come_back[2:] == (42, 7)  # the constructor's arguments, and the newest weights before the first item
    assert processes(group) == [come_back[1], second]
    others = [item for item in seen if item[0] == 1]
    assert len(others) > 2  # the other one went on meanwhile
    assert set(others) == {(1, second, 42, 0)}  # undisturbed: it was not sent what the one that came back was
    assert {next(stream)[:2] for _ in range(10)} == {(0, come_back[1]), (1, second)}
    assert (faults.restarts, faults.dropped_actors, faults.hangs) == (1, 0, 0)
    assert 1 <= faults.lost_items <= 2
    group.close()


def test_a_round_is_whole_although_a_worker_is_killed(ray_backend: Backend, faults: Faults) -> None:
    group = mortals(ray_backend, 2)
    stream = group.iterate(Mortal.sample).batch_across_shards()
    first = next(stream)
    kill(first[1][1])
    # Nothing was under way: whoever is asked next notices.
    second = next(stream)
    assert [item[0] for item in second] == [0, 1]
    assert second[1][1] != first[1][1]
    assert processes(group) == [item[1] for item in second]
    assert [item[3] for item in second] == [0, 7]
    assert faults.restarts == 1
    assert faults.lost_items <= 1
    group.close()


def test_a_worker_that_hangs_is_replaced(ray_backend: Backend, faults: Faults) -> None:
    group = mortals(ray_backend, 2, options=ActorOptions(num_cpus=0.1, timeout_sec=1.5))
    stream = group.iterate(Mortal.sample_or_hang).gather_async()
    seen: Tally[int] = Tally()
    for item in stream:
        seen[item[0]] += 1
        if item[0] == 0:
            break
    assert item[2:] == (42, 7)
    assert seen[1] > 5
    assert (faults.hangs, faults.restarts, faults.lost_items) == (1, 1, 1)
    group.close()


def test_who_cannot_come_back_is_dropped(ray_backend: Backend, faults: Faults, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    group = mortals(ray_backend, 2, str(broken))
    first, second = processes(group)
    stream = group.iterate(Mortal.sample).gather_async()
    next(stream)
    broken.touch()
    kill(first)
    while faults.dropped_actors == 0:
        next(stream)
    assert len(group) == 1
    assert [next(stream)[0] for _ in range(3)] == [1, 1, 1]
    kill(second)
    with pytest.raises(FlowError, match=r"none of the 2 Mortal actors is left; the last: .*cannot start any more"):
        for _ in stream:
            pass
    assert faults.restarts == 0


def test_no_restarts_allowed(ray_backend: Backend, faults: Faults) -> None:
    group = mortals(ray_backend, 1, options=ActorOptions(num_cpus=0.1, max_restarts=0))
    stream = group.iterate(Mortal.sample).gather_sync()
    next(stream)
    kill(processes(group)[0])
    with pytest.raises(FlowError, match="none of the 1 Mortal actors is left"):
        next(stream)
    assert (faults.lost_items, faults.dropped_actors, faults.restarts) == (1, 1, 0)


def test_a_call_that_dies_with_its_worker(ray_backend: Backend, faults: Faults) -> None:
    group = mortals(ray_backend, 1)
    handle = group.handles[0]
    future = handle.call(Mortal.sample_or_hang)
    with pytest.raises(FlowError, match=r"sample_or_hang on Mortal 0 gave no answer within 0.2 s"):
        future.get(0.2)
    kill(processes(group)[0])
    with pytest.raises(LostItemError, match="sample_or_hang on Mortal 0 was lost"):
        future.get(30)
    assert next(group.iterate(Mortal.sample).gather_sync())[2:] == (42, 7)
    assert faults.restarts == 1
    group.close()


def test_more_than_there_are_cpus_share_them(ray_backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        group = ray_backend.actors(Holder, 2, options=ActorOptions(num_cpus=3.0))
    assert (
        "2 actors of 3 CPUs are more than the 4 CPUs of 1 nodes have room for: they share them, 1 each" in caplog.text
    )
    assert len(group) == 2
    group.close()


def test_no_place_at_all(ray_backend: Backend) -> None:
    with pytest.raises(UserError, match=r"only 0 of 1 Holder actors started within 1 s: ask for fewer"):
        ray_backend.actors(Holder, 1, options=ActorOptions(num_cpus=0.1, num_gpus=1, start_timeout_sec=1.0))
    with pytest.raises(UserError, match="at least 1 actor, not 0: for 0, use LocalBackend"):
        ray_backend.actors(Holder, 0)


def test_what_cannot_be_sent_is_named(ray_backend: Backend) -> None:
    lock = threading.Lock()

    class Locked:
        def __init__(self, *, index: int) -> None:
            self.lock = lock

    with pytest.raises(
        UserError, match=r"class Locked \(type\) cannot be sent to a worker: .*lock.*; pass what it is made"
    ):
        ray_backend.actors(Locked, 1)
    group = ray_backend.actors(Counter, 1, options=OPTIONS)
    stream = group.iterate(Counter.sample).for_each(lambda item: (item, lock), name="with a lock")
    with pytest.raises(UserError, match=r"stage with a lock \(function\) cannot be sent to a worker: .*lock"):
        stream.gather_sync()
    with pytest.raises(FlowError, match=r"^stage sending an item on Counter 0: TypeError: .*lock"):
        next(group.iterate(Counter.unsendable).gather_sync())
    assert next(group.iterate(Counter.sample).gather_sync()) == "a0"
    group.close()


@pytest.mark.slow  # a process with an environment of its own takes a while
def test_a_node_with_another_numpy_is_refused(ray_backend: Backend, tmp_path: Path) -> None:
    metadata = tmp_path / "numpy-1.2.3.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.2.3\n")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent), str(Path(__file__).parents[3])])
    options = ActorOptions(num_cpus=0.1, env_vars={"PYTHONPATH": path})
    with pytest.raises(UserError, match=r"^node \S+ has numpy 1.2.3 where this machine has \S+: install the same"):
        ray_backend.actors(Holder, 1, options=options)
