"""Images that are kept once, however many transitions show them."""

from __future__ import annotations

import hashlib
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Frame = npt.NDArray[np.uint8]


class FrameStore:
    """Counts who refers to a frame; a frame equal to one that is held gets the place of that one.

    The frame that ends one transition begins the next, and a stack of frames shares all but one with the stack before:
    both show in the content alone, in whatever order transitions of many environments arrive.

    Memory is reserved for ``num_slots`` frames, and on the CPU taken only when a place is first written to.

    Args:
        num_slots: places; more frames at once are an error.
        frame_size: bytes of a frame.
        device: where the frames are kept.
    """

    def __init__(self, num_slots: int, frame_size: int, device: torch.device | str = "cpu") -> None:
        self.frame_size = frame_size
        self.frames = _reserve(num_slots, frame_size, torch.device(device))
        """(num_slots, frame_size)"""
        self._references = np.zeros(num_slots, dtype=np.int32)
        self._place_of: dict[bytes, int] = {}
        self._digests: list[bytes] = []
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._place_of)

    @property
    def num_used(self) -> int:
        """Places that were ever written to; they come first."""
        return len(self._digests)

    @property
    def nbytes(self) -> int:
        """Memory that the frames take."""
        return self.num_used * self.frame_size

    def put(self, frame: Frame) -> int:
        """Refers to a frame (frame_size,) once more; returns its place."""
        digest = _digest(frame)
        place = self._place_of.get(digest)
        if place is None:
            place = self._free.pop() if self._free else self.num_used
            self.frames[place] = torch.from_numpy(frame)
            self._name(place, digest)
        self._references[place] += 1
        return place

    def release(self, place: int) -> None:
        """Takes back one reference; a frame without any is forgotten."""
        self._references[place] -= 1
        if self._references[place] == 0:
            del self._place_of[self._digests[place]]
            self._free.append(place)

    def restore(self, first: int, frames: torch.Tensor, references: npt.NDArray[np.int64]) -> None:
        """Takes the frames that another store held from the place ``first`` on, and who refers to which of all.

        Args:
            first: the places before it are as they were in the other store.
            frames: (n, frame_size) of the places from ``first`` on.
            references: (any length) places, each as often as it is referred to, on top of what is held here.
        """
        if self.num_used != first:
            raise ValueError(f"frames from place {first} on do not fit behind {self.num_used} frames")
        self.frames[first : first + len(frames)].copy_(frames)
        counts = np.bincount(references, minlength=first + len(frames))
        self._references[: len(counts)] += counts.astype(np.int32)
        for number, frame in enumerate(frames.numpy()):
            place = first + number
            if counts[place]:
                self._name(place, _digest(frame))
            else:
                self._digests.append(b"")
                self._free.append(place)

    def _name(self, place: int, digest: bytes) -> None:
        self._place_of[digest] = place
        if place == self.num_used:
            self._digests.append(digest)
        else:
            self._digests[place] = digest


def _digest(frame: Frame) -> bytes:
    return hashlib.blake2b(frame.data, digest_size=16).digest()


def _reserve(num_slots: int, frame_size: int, device: torch.device) -> torch.Tensor:
    if device.type != "cpu" or num_slots * frame_size == 0:
        return torch.empty((num_slots, frame_size), dtype=torch.uint8, device=device)
    options: Any = {}
    if hasattr(mmap, "MAP_ANONYMOUS"):  # not counted as taken before it is written to, however much it is
        options["flags"] = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    memory = mmap.mmap(-1, num_slots * frame_size, **options)
    return torch.frombuffer(memory, dtype=torch.uint8).view(num_slots, frame_size)
