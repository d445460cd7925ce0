"""Queues and the learner's thread."""

from __future__ import annotations

import itertools
import threading
import time

import pytest
from flow_toys import explode

from safe_rl.flow import (
    NOT_READY,
    FlowError,
    LearnerThread,
    LocalIterator,
    Queue,
    QueueClosed,
    concurrently,
    current_metrics,
    dequeue,
    union,
)


def test_a_queue_by_hand() -> None:
    queue: Queue[int] = Queue(2, "batches")
    assert queue.get(timeout_sec=0.0) is NOT_READY
    assert queue.put(1)
    assert queue.put(2)
    assert queue.full
    assert not queue.put(3, timeout_sec=0.0)
    assert queue.context.snapshot() == {"queue/batches": 2}
    assert [queue.get(), queue.get()] == [1, 2]
    queue.put(4)
    queue.close()
    assert queue.closed
    assert queue.get() == 4
    with pytest.raises(QueueClosed):
        queue.get()
    with pytest.raises(QueueClosed):
        queue.put(5)
    with pytest.raises(FlowError, match="maxsize of queue q must be at least 1, not 0"):
        Queue(0, "q")


def test_a_full_queue_holds_the_stream_back() -> None:
    """In a union the others go on meanwhile; no item is lost or pulled twice."""
    pulled = []

    def note(item: int) -> int:
        pulled.append(item)
        return item

    queue: Queue[int] = Queue(2)
    plan = union(
        LocalIterator.of(range(5)).for_each(note).enqueue(queue), LocalIterator.of("vwxyz"), mode="round_robin"
    )
    assert list(plan.take(7)) == [0, "v", 1, "w", "x", "y", "z"]
    assert pulled == [0, 1, 2]  # the third waits for room
    assert queue.get() == 0
    queue.close()
    assert list(dequeue(queue)) == [1]


def test_a_waiting_put_goes_on_when_there_is_room() -> None:
    queue: Queue[int] = Queue(1)
    queue.put(0)
    done = threading.Event()

    def put() -> None:
        queue.put(1)
        done.set()

    threading.Thread(target=put).start()
    assert not done.wait(0.05)
    assert queue.get() == 0
    assert done.wait(5)
    assert queue.get() == 1


def test_a_learner_between_two_queues() -> None:
    inputs: Queue[int] = Queue(2, "in")
    outputs: Queue[int] = Queue(2, "out")

    def square(item: int) -> int:
        current_metrics().count("learned")
        return item * item

    with LearnerThread(square, inputs, outputs):
        plan = concurrently(
            LocalIterator.of(range(50)).enqueue(inputs), dequeue(outputs), mode="async", output_indexes=[1]
        )
        assert list(plan.take(50)) == [number * number for number in range(50)]
        assert plan.context.counter("learned") == 50
    assert inputs.closed
    assert outputs.closed


def test_what_the_learner_raises_ends_the_plan_and_names_it() -> None:
    inputs: Queue[int] = Queue(1)
    outputs: Queue[int] = Queue(1)
    with LearnerThread(explode, inputs, outputs):
        plan = concurrently(LocalIterator.of(itertools.count()).enqueue(inputs), dequeue(outputs), mode="async")
        with pytest.raises(FlowError, match=r"^stage learner\(explode\): ValueError: cannot use 0$") as caught:
            for _ in plan:
                pass
        assert isinstance(caught.value.__cause__, ValueError)


def test_an_idle_learner_replays() -> None:
    inputs: Queue[int] = Queue(4)
    outputs: Queue[str] = Queue(4)
    inputs.put(1)
    with LearnerThread(lambda item: f"new {item}", inputs, outputs, idle=lambda: "old"):
        found = list(dequeue(outputs).take(3))
        assert found == ["new 1", "old", "old"]
        inputs.put(2)
        while next_one := outputs.get():
            if next_one == "new 2":
                break


def test_a_learner_ends_when_its_queue_does() -> None:
    inputs: Queue[int] = Queue(4)
    outputs: Queue[int] = Queue(4)
    for item in range(3):
        inputs.put(item)
    inputs.close()
    with LearnerThread(lambda item: item + 1, inputs, outputs):
        assert list(dequeue(outputs)) == [1, 2, 3]


def test_a_learner_that_waits_for_room_can_be_stopped() -> None:
    inputs: Queue[int] = Queue(4)
    outputs: Queue[int] = Queue(1)
    learner: LearnerThread[int, int] = LearnerThread(lambda item: item, inputs, outputs)
    learner.start()
    for item in range(3):
        inputs.put(item)
    began = time.monotonic()
    learner.stop()
    assert time.monotonic() - began < 5
    assert not learner._thread.is_alive()
