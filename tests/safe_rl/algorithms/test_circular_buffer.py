"""The circular buffer against a plain model of it, and its order by hand."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from safe_rl.algorithms.circular_buffer import CircularBuffer


class AgainstAModel(RuleBasedStateMachine):
    """Items are numbers in the order of their arrival."""

    @initialize(num_slots=st.integers(1, 4), max_uses=st.integers(1, 4))
    def make(self, num_slots: int, max_uses: int) -> None:
        self.buffer: CircularBuffer[int] = CircularBuffer(num_slots, max_uses)
        self.held: dict[int, int] = {}
        """Item and its uses, the oldest first."""
        self.uses: list[int] = []
        """Uses of every item that ever was."""
        self.allowed = 0

    @rule()
    def add(self) -> None:
        if len(self.held) == self.buffer.num_slots:
            del self.held[min(self.held)]
        self.held[len(self.uses)] = 0
        self.buffer.add(len(self.uses))
        self.uses.append(0)
        num_slots, max_uses = self.buffer.num_slots, self.buffer.max_uses
        left = sum(max_uses - uses for uses in self.held.values())
        self.allowed = min(left, self.allowed + max(1, round(max_uses * len(self.held) / num_slots)))

    @rule()
    def next(self) -> None:
        item = self.buffer.next()
        if self.allowed == 0:
            assert item is None
            return
        self.allowed -= 1
        assert item in self.held
        self.uses[item] += 1
        self.held[item] += 1
        if self.held[item] == self.buffer.max_uses:
            del self.held[item]

    @rule()
    def a_round_meets_everyone_once(self) -> None:
        before = dict(self.held)
        if self.allowed < len(before):
            return
        self.allowed -= len(before)
        met = [self.buffer.next() for _ in before]
        assert sorted(met) == sorted(before)
        for item in before:
            self.uses[item] += 1
            self.held[item] += 1
            if self.held[item] == self.buffer.max_uses:
                del self.held[item]

    @invariant()
    def the_counts_agree(self) -> None:
        if not hasattr(self, "buffer"):
            return
        assert len(self.buffer) == len(self.held) <= self.buffer.num_slots
        assert self.buffer.num_added == len(self.uses)
        assert self.buffer.num_uses == sum(self.uses)
        assert self.buffer.num_replays == sum(count - 1 for count in self.uses if count)
        lost = [count for item, count in enumerate(self.uses) if item not in self.held and count < self.buffer.max_uses]
        assert self.buffer.num_dropped == len(lost)
        assert self.buffer.num_unused == lost.count(0)
        assert max(self.uses, default=0) <= self.buffer.max_uses
        assert self.buffer.metrics()["buffer/occupancy"] == len(self.held) / self.buffer.num_slots


TestAgainstAModel = AgainstAModel.TestCase
TestAgainstAModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_slow_workers_old_and_new_batches_mix() -> None:
    buffer: CircularBuffer[str] = CircularBuffer(2, 4)
    buffer.add("a")  # half full: 2 uses
    assert [buffer.next() for _ in range(3)] == ["a", "a", None]
    buffer.add("b")  # full: 4
    assert [buffer.next() for _ in range(5)] == ["b", "a", "b", "a", None]
    buffer.add("c")  # in the place of a, which is used up; b has 2 uses left
    assert [buffer.next() for _ in range(5)] == ["b", "c", "b", "c", None]
    assert (buffer.num_replays, buffer.num_dropped) == (7, 0)


def test_fast_workers_overwrite_the_oldest() -> None:
    buffer: CircularBuffer[str] = CircularBuffer(2, 3)
    for item in "abcd":
        buffer.add(item)
    assert {buffer.next(), buffer.next()} == {"c", "d"}
    assert buffer.num_dropped == buffer.num_unused == 2


@pytest.mark.parametrize(("num_slots", "max_uses"), [(1, 1), (2, 4), (4, 8), (4, 2), (8, 3)])
def test_slow_workers_every_batch_is_used_up_and_the_buffer_stays_filled(num_slots: int, max_uses: int) -> None:
    buffer: CircularBuffer[int] = CircularBuffer(num_slots, max_uses)
    for item in range(100):
        buffer.add(item)
        if item > num_slots:
            assert len(buffer) >= 0.7 * num_slots
        while buffer.next() is not None:
            pass
    assert buffer.num_uses / buffer.num_added == pytest.approx(max_uses, rel=0.1)


@pytest.mark.parametrize(("num_slots", "max_uses"), [(0, 1), (1, 0)])
def test_sizes_are_positive(num_slots: int, max_uses: int) -> None:
    with pytest.raises(ValueError, match=f"num_slots={num_slots} and max_uses={max_uses}"):
        CircularBuffer(num_slots, max_uses)
