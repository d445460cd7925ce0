"""Action limits, rate limits and the stop command: the last thing between a decision and the robot."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from safe_rl.shield.observation import Box, ObservationError, is_finite
from safe_rl.shield.spec import LARGEST_FLOAT32, LimitSpec, StopSpec

FloatArray = npt.NDArray[np.float32]


class Limiter:
    """Keeps actions within their limits and near the one before.

    The limits hold in float32: they are rounded towards the inside.
    """

    def __init__(self, limits: LimitSpec, stop: StopSpec) -> None:
        """Takes the bundle's limits and what STOP means."""
        self.act_dim = len(limits.low)
        self._low = _round_inward(limits.low, np.inf)
        # Where no float32 lies between the two limits there is but one choice.
        self._high = np.maximum(_round_inward(limits.high, -np.inf), self._low)
        self._box = Box((self.act_dim,), np.dtype(np.float32))
        self._step: FloatArray | None = None
        self._period_sec = limits.control_period_sec or 0.0
        if limits.max_rate is not None and limits.control_period_sec is not None:
            steps = [rate * limits.control_period_sec for rate in limits.max_rate]
            self._step = np.array([min(step, LARGEST_FLOAT32) for step in steps], dtype=np.float32)
        self._holds = stop.kind == "hold"
        self._rest = self._clip(np.array(stop.action or np.zeros(self.act_dim), dtype=np.float32))
        self._last: FloatArray | None = None
        self.reset()

    def reset(self) -> None:
        """Forgets the last action.

        A robot whose STOP is a fixed command starts from that one; one that holds may start anywhere.
        """
        self._last = None if self._holds else self._rest

    def read(self, proposal: Any, out: FloatArray) -> None:
        """Checks another stack's command and writes it, clipped to the limits, into ``out`` (act_dim,).

        Raises:
            ObservationError: Wrong shape or dtype, NaN or infinity.
        """
        try:
            self._box.write(proposal, out)
        except ObservationError as error:
            raise ObservationError(str(error).replace("observation", "proposal")) from error
        if not is_finite(out):
            raise ObservationError("proposal_not_finite")
        np.minimum(np.maximum(out, self._low, out=out), self._high, out=out)

    def limit(self, action: FloatArray, elapsed_sec: float | None = None) -> FloatArray:
        """Returns a finite ``action`` (act_dim,) within the limits, and within the rate limits from the last one.

        Args:
            action: (act_dim,) what is wanted.
            elapsed_sec: Time since the last one; None is a control period, and more counts as one.
        """
        if self._step is not None and self._last is not None:
            step = self._step
            if elapsed_sec is not None and elapsed_sec < self._period_sec:
                step = step * np.float32(max(elapsed_sec, 0.0) / self._period_sec)
            action = np.minimum(np.maximum(action, self._last - step), self._last + step)
        self._last = self._clip(action)
        return self._last.copy()

    def stop(self) -> FloatArray:
        """The stop command (act_dim,), at once: within the action limits, whatever the rate limits say."""
        if not self._holds:
            self._last = self._rest
        # Where there is nothing to hold, the robot is not at rest's place: the next action is not counted from there.
        return (self._rest if self._last is None else self._last).copy()

    def _clip(self, action: FloatArray) -> FloatArray:
        clipped: FloatArray = np.minimum(np.maximum(action, self._low), self._high)
        return clipped


def _round_inward(limits: tuple[float, ...], towards: float) -> FloatArray:
    """To float32, and one step on where rounding left the limits."""
    exact = np.array(limits, dtype=np.float64)
    rounded = exact.astype(np.float32)
    outside = rounded < exact if towards > 0 else rounded > exact
    return np.where(outside, np.nextafter(rounded, np.float32(towards)), rounded)
