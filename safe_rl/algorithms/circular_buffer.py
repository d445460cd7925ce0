"""IMPACT's circular buffer: a few recent batches, each used a few times (arXiv 1912.00167)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class _Slot(Generic[T]):
    item: T
    number: int
    """How many came before it."""
    uses: int = 0


class CircularBuffer(Generic[T]):
    """``num_slots`` batches, each handed out at most ``max_uses`` times.

    A batch that was used up frees its slot. A new one takes a free slot, or the place of the oldest: workers that are
    faster than the learner never wait. The learner passes over the slots in turn, so that old and new batches mix, and
    meets those that are there again while the workers are slow.

    So that there is something to mix, a slow worker's batch is not used up before the next one comes: for each batch
    that comes in, ``max_uses`` uses are allowed where the buffer is full, and proportionally fewer where it is not.
    In the long run that is ``max_uses`` of every batch, and the batches' ages are spread over the buffer's.

    Args:
        num_slots: ``N``: more keeps more of the past, which steadies learning and makes it less on-policy.
        max_uses: ``K``: more learns more of every step, and takes more time for it.
    """

    def __init__(self, num_slots: int, max_uses: int) -> None:
        if num_slots < 1 or max_uses < 1:
            raise ValueError(f"num_slots={num_slots} and max_uses={max_uses} must be at least 1")
        self.num_slots, self.max_uses = num_slots, max_uses
        self._slots: list[_Slot[T] | None] = [None] * num_slots
        self._next = 0
        self._allowed = 0
        self.num_added = 0
        """Batches that came in."""
        self.num_uses = 0
        """Batches handed out."""
        self.num_replays = 0
        """Batches handed out that had been before."""
        self.num_dropped = 0
        """Batches overwritten before they were used up."""
        self.num_unused = 0
        """Batches overwritten before they were used at all."""

    def __len__(self) -> int:
        """Batches that are there."""
        return sum(slot is not None for slot in self._slots)

    def add(self, item: T) -> None:
        """Takes a batch in."""
        index = self._free_slot()
        old = self._slots[index]
        if old is not None:
            self.num_dropped += 1
            self.num_unused += old.uses == 0
        self._slots[index] = _Slot(item, self.num_added)
        self.num_added += 1
        held = [slot for slot in self._slots if slot is not None]
        left = sum(self.max_uses - slot.uses for slot in held)
        self._allowed = min(left, self._allowed + max(1, round(self.max_uses * len(held) / self.num_slots)))

    def _free_slot(self) -> int:
        """The first free slot, or the oldest batch's."""
        oldest = 0
        for index, slot in enumerate(self._slots):
            if slot is None:
                return index
            held = self._slots[oldest]
            if held is not None and slot.number < held.number:
                oldest = index
        return oldest

    def next(self) -> T | None:
        """Hands out the next batch; None where the learner has to wait for new ones."""
        if self._allowed == 0:
            return None
        for offset in range(self.num_slots):
            index = (self._next + offset) % self.num_slots
            slot = self._slots[index]
            if slot is None:
                continue
            self._next = (index + 1) % self.num_slots
            self._allowed -= 1
            self.num_uses += 1
            self.num_replays += slot.uses > 0
            slot.uses += 1
            if slot.uses == self.max_uses:
                self._slots[index] = None
            return slot.item
        return None

    def metrics(self) -> dict[str, float]:
        """Counts since the beginning, and how full it is."""
        return {
            "buffer/occupancy": len(self) / self.num_slots,
            "buffer/replays": float(self.num_replays),
            "buffer/drops": float(self.num_dropped),
            "buffer/drops_unused": float(self.num_unused),
            "buffer/uses_per_batch": self.num_uses / max(self.num_added, 1),
        }
