"""Puts topics of different rates on one clock and one grid of steps. Times are whole nanoseconds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.int64]
Sync = Literal["nearest", "previous"]
SEC = 1_000_000_000


@dataclass
class Track:
    """The messages of one topic, in the order of receiving."""

    name: str
    """What the mapping calls it."""
    topic: str
    received_ns: Times
    """(n,) when the recorder got each."""
    stamps_ns: Times | None
    """(n,) header stamps; None where the topic has none."""
    contents: Sequence[Any]
    """(n,) what was taken of each."""

    def __len__(self) -> int:
        return len(self.received_ns)


@dataclass
class ClockReport:
    """How a topic's header stamps lie to the receive times."""

    topic: str
    has_stamps: bool
    offset_sec: float = 0.0
    """Median of receive time minus header stamp."""
    drift_sec: float = 0.0
    """By how much the offset grew from the first message to the last."""


def clock_report(track: Track) -> ClockReport:
    """Compares a topic's two clocks."""
    if track.stamps_ns is None or not len(track):
        return ClockReport(track.topic, has_stamps=False)
    offsets = track.received_ns - track.stamps_ns
    return ClockReport(
        track.topic, True, float(np.median(offsets)) / SEC, (int(offsets[-1]) - int(offsets[0])) / SEC
    )  # fmt: skip


def on_clock(track: Track, clock: Literal["header", "receive"], reference: Track | None) -> Times:
    """Returns the times (n,) of a track's messages on the common clock.

    Args:
        track: The messages.
        clock: ``receive``: the recorder's times. ``header``: the header stamps; of a topic without them the receive
            times, moved by how far the reference's two clocks lie apart at that moment.
        reference: A topic with header stamps; None where no topic has them.
    """
    if clock == "receive" or reference is None or reference.stamps_ns is None:
        return track.received_ns
    if track.stamps_ns is not None:
        return track.stamps_ns
    offsets = reference.stamps_ns - reference.received_ns
    since = offsets - offsets[0]  # small numbers, so that floats keep the nanoseconds
    moved = np.interp(
        track.received_ns - reference.received_ns[0], reference.received_ns - reference.received_ns[0], since
    )
    return track.received_ns + offsets[0] + np.rint(moved).astype(np.int64)


@dataclass(frozen=True)
class Cut:
    """A moment of receive time that no episode reaches across."""

    received_ns: int
    reason: str


def find_cuts(
    tracks: Sequence[tuple[Times, Times]], max_gap_ns: int, back_ns: int, marks_ns: Sequence[int] = ()
) -> list[Cut]:
    """Finds where a recording falls into parts.

    Args:
        tracks: Of each topic the receive times and the times on the common clock.
        max_gap_ns: Longest silence of all topics together, and longest leap forward of the clock.
        back_ns: How far a topic's clock may go back without being taken for a jump.
        marks_ns: Receive times of messages that mark a reset.

    Returns:
        The cuts by time; a cut lies at the first message after it.
    """
    cuts = {int(mark): "mark" for mark in marks_ns}
    received = np.concatenate([track[0] for track in tracks])
    times = np.concatenate([track[1] for track in tracks])
    topic = np.repeat(np.arange(len(tracks)), [len(track[0]) for track in tracks])
    order = np.argsort(received, kind="stable")
    received, times, topic = received[order], times[order], topic[order]
    for index in np.flatnonzero(np.diff(received) > max_gap_ns):
        cuts.setdefault(int(received[index + 1]), "gap")
    jumps = [
        (int(own_received[index + 1]), int(own_received[index]))
        for own_received, own_times in tracks
        for index in np.flatnonzero(np.diff(own_times) < -back_ns)
    ]
    for after, before in sorted(jumps):
        if not any(before < cut <= after for cut in cuts):  # else the jump has shown in another topic already
            cuts[after] = "clock_jump"
    starts = [0, *np.searchsorted(received, sorted(cuts)).tolist(), len(received)]
    for start, end in itertools.pairwise(starts):
        if end - start > 1:  # by the newest stamp so far: slow and late topics do not look like leaps
            leaps = np.flatnonzero(np.diff(np.maximum.accumulate(times[start:end])) > max_gap_ns) + start + 1
            for index in leaps:
                if topic[index] in topic[start:index]:  # else it is the topic's first, and the others' were stale
                    cuts.setdefault(int(received[index]), "clock_jump")
    return [Cut(moment, cuts[moment]) for moment in sorted(cuts)]


def sample(times: Times, at: Times, sync: Sync, tolerance_ns: int) -> npt.NDArray[np.int64]:
    """Finds the message for each moment.

    Args:
        times: (n,) sorted times of the messages.
        at: (m,) the moments.
        sync: ``previous``: the last message not after the moment, as a robot would have it. ``nearest``: the closest,
            of two equally close the earlier.
        tolerance_ns: How far away it may be.

    Returns:
        (m,) indices; -1 where there is none.
    """
    if not len(times):
        return np.full(len(at), -1, dtype=np.int64)
    previous = np.searchsorted(times, at, side="right") - 1
    found = previous
    if sync == "nearest":
        following = np.minimum(previous + 1, len(times) - 1)
        before = np.where(previous >= 0, at - times[np.maximum(previous, 0)], np.iinfo(np.int64).max)
        found = np.where(np.abs(times[following] - at) < before, following, previous)
    away = np.abs(at - times[np.maximum(found, 0)])
    return np.where((found >= 0) & (away <= tolerance_ns), found, -1)


def median_rate_hz(times: Times) -> float | None:
    """The rate of a topic: one over the median time between different stamps; None where there are no two."""
    steps = np.diff(np.sort(times))
    steps = steps[steps > 0]  # two publishers may share a stamp
    return None if not len(steps) else SEC / float(np.median(steps))


def grid(start_ns: int, end_ns: int, rate_hz: float) -> Times:
    """The limits (n + 1,) of the n steps from ``start_ns`` until the one that holds ``end_ns``; they do not drift."""
    count = int((end_ns - start_ns) * rate_hz / SEC) + 1
    return start_ns + np.rint(np.arange(count + 1) * (SEC / rate_hz)).astype(np.int64)


def runs(valid: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and end of each unbroken run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], valid, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
