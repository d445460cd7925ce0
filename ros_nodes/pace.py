"""When the steps of an environment that runs in real time end."""

from __future__ import annotations

import math


class Pace:
    """Tells how long a step still lasts, and how much later than planned it ended. Times in s on the steady clock."""

    def __init__(self, period_sec: float, *, by_clock: bool) -> None:
        """Takes the plan.

        Args:
            period_sec: Wanted duration of a step, the learner's time before it included.
            by_clock: Whether steps end on a grid of periods; otherwise with news from all sensors, no earlier than
                three quarters of a period and no later than two periods after the step before.
        """
        self._period_sec = period_sec
        self._by_clock = by_clock
        self.begin_episode()

    def begin_episode(self) -> None:
        """The next step has none before it."""
        self._last_end_sec = math.nan

    def learner_share(self, now_sec: float) -> float:
        """Share of a period that has gone by since the last step ended; NaN before the first."""
        return (now_sec - self._last_end_sec) / self._period_sec

    def begin_step(self, now_sec: float) -> None:
        """Plans the step's end."""
        before_sec = now_sec if math.isnan(self._last_end_sec) else self._last_end_sec
        period_sec = self._period_sec
        self.planned_sec = before_sec + period_sec
        if self._by_clock:
            # After an overrun the grid begins anew: an action that has no time to act teaches nothing.
            self._earliest_sec = self._latest_sec = (
                self.planned_sec if self.planned_sec > now_sec else now_sec + period_sec
            )
        else:
            self._earliest_sec = max(now_sec, before_sec + 0.75 * period_sec)
            self._latest_sec = max(before_sec + 2 * period_sec, now_sec + period_sec)

    def left_sec(self, now_sec: float, *, has_news: bool) -> float:
        """How long to wait at most; zero or less: the step is over."""
        return (self._earliest_sec if has_news else self._latest_sec) - now_sec

    def end_step(self, now_sec: float) -> float:
        """Notes the end; returns the overrun, 0 where the step ended as planned or before."""
        self._last_end_sec = self._latest_sec if self._by_clock else now_sec
        return max(0.0, now_sec - self.planned_sec)
