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
        self.gap = 0
        """Calls since a batch of the present content was last met for the first time."""

    @rule()
    def add(self) -> None:
        if len(self.held) == self.buffer.num_slots:
            del self.held[min(self.held)]
        self.held[len(self.uses)] = 0
        self.buffer.add(len(self.uses))
        self.uses.append(0)

    @rule()
    def next(self) -> None:
        item = self.buffer.next()
        if not self.held:
            assert item is None
            return
        assert item in self.held
        self.uses[item] += 1
        self.held[item] += 1
        if self.held[item] == self.buffer.max_uses:
            del self.held[item]

    @rule()
    def a_round_meets_everyone_once(self) -> None:
        before = dict(self.held)
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
    buffer: CircularBuffer[str] = CircularBuffer(2, 3)
    buffer.add("a")
    assert buffer.next() == "a"
    buffer.add("b")
    assert [buffer.next() for _ in range(5)] == ["b", "a", "b", "a", "b"]
    assert buffer.next() is None
    assert (buffer.num_replays, buffer.num_dropped) == (4, 0)


def test_fast_workers_overwrite_the_oldest() -> None:
    buffer: CircularBuffer[str] = CircularBuffer(2, 3)
    for item in "abcd":
        buffer.add(item)
    assert {buffer.next(), buffer.next()} == {"c", "d"}
    assert buffer.num_dropped == buffer.num_unused == 2


@pytest.mark.parametrize(("num_slots", "max_uses"), [(1, 1), (2, 4), (4, 8), (4, 2), (8, 3)])
def test_a_learner_in_step_with_its_source_fills_the_buffer_and_drops_little(num_slots: int, max_uses: int) -> None:
    buffer: CircularBuffer[int] = CircularBuffer(num_slots, max_uses)
    for item in range(100):
        buffer.add(item)
        for _ in range(buffer.num_due):
            assert buffer.next() is not None
    assert buffer.num_uses / buffer.num_added == pytest.approx(max_uses, rel=0.1)


@pytest.mark.parametrize(("num_slots", "max_uses"), [(0, 1), (1, 0)])
def test_sizes_are_positive(num_slots: int, max_uses: int) -> None:
    with pytest.raises(ValueError, match=f"num_slots={num_slots} and max_uses={max_uses}"):
        CircularBuffer(num_slots, max_uses)
