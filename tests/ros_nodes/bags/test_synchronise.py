"""Clocks, cuts, grids and samples, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ros_nodes.bags.synchronise import (
    SEC,
    Track,
    clock_report,
    find_cuts,
    grid,
    median_rate_hz,
    on_clock,
    runs,
    sample,
)


def ns(*seconds: float) -> np.ndarray:
    return np.array([round(second * SEC) for second in seconds], dtype=np.int64)


def track(received: np.ndarray, stamps: np.ndarray | None) -> Track:
    return Track("t", "/t", received, stamps, [None] * len(received))


class TestSample:
    TIMES = ns(1.0, 2.0, 4.0)

    def test_previous(self) -> None:
        at = ns(0.9, 1.0, 1.9, 2.0, 3.9, 4.5, 4.6)
        assert sample(self.TIMES, at, "previous", SEC // 2).tolist() == [-1, 0, -1, 1, -1, 2, -1]
        assert sample(self.TIMES, at, "previous", 10 * SEC).tolist() == [-1, 0, 0, 1, 1, 2, 2]

    def test_nearest(self) -> None:
        at = ns(0.9, 1.4, 1.5, 1.6, 2.6, 3.5, 9.0)
        assert sample(self.TIMES, at, "nearest", SEC // 2).tolist() == [0, 0, 0, 1, -1, 2, -1]

    def test_of_nothing(self) -> None:
        assert sample(ns(), ns(1.0), "nearest", SEC).tolist() == [-1]

    @given(
        st.lists(st.integers(-1000, 1000), min_size=1, max_size=20),
        st.lists(st.integers(-1000, 1000), min_size=1, max_size=20),
        st.integers(0, 500),
    )
    def test_against_the_definition(self, times: list[int], at: list[int], tolerance: int) -> None:
        times = sorted(times)
        for sync in ("nearest", "previous"):
            found = sample(np.array(times, dtype=np.int64), np.array(at, dtype=np.int64), sync, tolerance)
            for moment, index in zip(at, found.tolist(), strict=True):
                allowed = [
                    abs(t - moment)
                    for t in times
                    if abs(t - moment) <= tolerance and (sync == "nearest" or t <= moment)
                ]
                if not allowed:
                    assert index == -1
                else:
                    assert abs(times[index] - moment) == min(allowed)
                    assert sync == "nearest" or times[index] <= moment


class TestRates:
    def test_median_of_different_stamps(self) -> None:
        assert median_rate_hz(ns(0, 0, 0.1, 0.1, 0.2, 0.3, 5.0)) == pytest.approx(10)

    def test_too_few(self) -> None:
        assert median_rate_hz(ns(1.0, 1.0)) is None

    def test_grid_holds_the_last_command_and_does_not_drift(self) -> None:
        assert grid(100, 100, 10.0).tolist() == [100, 100 + SEC // 10]
        limits = grid(0, 3600 * SEC, 3.0)
        assert limits[-2] <= 3600 * SEC < limits[-1]
        assert limits[3 * 3600] == 3600 * SEC  # a third of a second is no whole number of nanoseconds

    def test_runs(self) -> None:
        assert runs(np.array([1, 1, 0, 1, 0, 0, 1], dtype=np.bool_)) == [(0, 2), (3, 4), (6, 7)]
        assert runs(np.zeros(3, dtype=np.bool_)) == []


class TestClocks:
    def test_offset_and_drift(self) -> None:
        report = clock_report(track(ns(100, 101, 104), ns(1, 2, 3)))
        assert (report.offset_sec, report.drift_sec) == (99, 2)
        assert not clock_report(track(ns(1.0), None)).has_stamps

    def test_stamps_or_receive_times(self) -> None:
        own = track(ns(100, 101), ns(1, 2))
        assert on_clock(own, "header", own).tolist() == ns(1, 2).tolist()
        assert on_clock(own, "receive", own).tolist() == ns(100, 101).tolist()

    def test_without_stamps_it_follows_the_reference_that_runs_at_half_speed(self) -> None:
        epoch = 1_755_872_279
        reference = track(ns(epoch, epoch + 2, epoch + 4), ns(10, 11, 12))
        bare = track(ns(epoch, epoch + 1, epoch + 4), None)
        np.testing.assert_allclose(on_clock(bare, "header", reference), ns(10, 10.5, 12), atol=10)
        assert on_clock(bare, "header", None).tolist() == bare.received_ns.tolist()


class TestCuts:
    def cuts(self, *tracks: tuple[np.ndarray, np.ndarray], marks: tuple[int, ...] = ()) -> list[tuple[float, str]]:
        found = find_cuts(tracks, SEC, SEC // 2, marks)
        return [(cut.received_ns / SEC, cut.reason) for cut in found]

    def test_none(self) -> None:
        times = ns(*np.arange(0, 5, 0.5))
        assert self.cuts((times, times), (ns(0, 4.5), ns(0, 4.5))) == []

    def test_silence_of_all_topics_only(self) -> None:
        slow, fast = ns(0, 3), ns(0, 0.5, 1, 1.5, 2, 2.5, 3)
        assert self.cuts((slow, slow), (fast, fast)) == []
        assert self.cuts((slow, slow), (fast[:2], fast[:2])) == [(3, "gap")]

    def test_clock_that_goes_back(self) -> None:
        received = ns(0, 0.5, 1, 1.5)
        assert self.cuts((received, ns(50, 50.5, 0, 0.5))) == [(1, "clock_jump")]
        assert self.cuts((received, ns(50, 50.5, 50.4, 51))) == []

    def test_a_slow_topic_shows_the_same_jump_later(self) -> None:
        fast, slow = ns(*np.arange(0, 5, 0.5)), ns(0, 4)
        stamps = np.where(fast < SEC, fast + 50 * SEC, fast)
        assert self.cuts((fast, stamps), (slow, ns(50, 4))) == [(1, "clock_jump")]

    def test_clock_that_leaps(self) -> None:
        received = ns(0, 0.5, 1, 1.5)
        assert self.cuts((received, ns(0, 0.5, 9, 9.5))) == [(1, "clock_jump")]

    def test_a_latched_message_from_before_is_no_leap(self) -> None:
        assert self.cuts((ns(0), ns(-6)), (ns(0.1, 0.6), ns(0.1, 0.6))) == []

    def test_marks(self) -> None:
        times = ns(*np.arange(0, 3, 0.5))
        assert self.cuts((times, times), marks=(SEC,)) == [(1, "mark")]
