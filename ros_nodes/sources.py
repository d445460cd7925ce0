"""Sources of observations and commands: the last messages of a topic, and whether they may still be believed."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ros_nodes.mapping import SourceSpec
from ros_nodes.readers import SourceError, read_message


@dataclass(frozen=True)
class Now:
    """The two clocks of one moment."""

    monotonic_sec: float
    """For ages by arrival: never jumps."""
    ros_sec: float
    """For header stamps: the node's clock, simulated if ``use_sim_time``."""


@dataclass(frozen=True)
class Arrival:
    """A message and when it came."""

    message: Any
    received_sec: float
    """By the monotonic clock."""
    stamp_sec: float | None
    """Its header's stamp; None where its type has none."""


class StaleError(Exception):
    """A source that cannot be used now; ``reason`` is machine-readable."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Source:
    """The last messages of one topic, and whether they may still be believed."""

    def __init__(self, name: str, spec: SourceSpec) -> None:
        self.name = name
        self.spec = spec
        self._last: deque[Arrival] = deque(maxlen=spec.stack)
        self._went_back = False
        self._stamp_changed_sec = math.inf
        self.is_news = False
        """Whether something came since a decision was made; whoever decides sets it back."""

    def receive(self, arrival: Arrival) -> None:
        """Takes a message."""
        step = math.inf
        if self._last and arrival.stamp_sec is not None and self._last[-1].stamp_sec is not None:
            step = arrival.stamp_sec - self._last[-1].stamp_sec
        self._went_back = step < 0
        if step != 0:
            self._stamp_changed_sec = arrival.received_sec
        self._last.append(arrival)
        self.is_news = True

    def forget(self) -> None:
        """Drops all messages: what comes next must be fresh."""
        self._last.clear()

    @property
    def newest(self) -> Any:
        """The last message; ``has_spoken`` says whether there is one."""
        return self._last[-1].message

    @property
    def has_spoken(self) -> bool:
        """Whether there is any message."""
        return bool(self._last)

    def age_sec(self, now: Now) -> float:
        """Time since the last arrival; infinite where there was none."""
        return now.monotonic_sec - self._last[-1].received_sec if self._last else math.inf

    def require_fresh(self, now: Now) -> None:
        """Checks the last message by both clocks.

        A repeated stamp is no news: it counts as silence, not as a fault, since simulated clocks tick slower than some
        sensors. A stamp that goes back is a fault until one goes forward.

        Raises:
            StaleError: It never came, came too long ago, or its stamp stands still, is too old, in the future, or
                before its predecessor's.
        """
        if not self._last:
            raise StaleError(f"{self.name}_never_seen")
        if self.age_sec(now) > self.spec.timeout_sec:
            raise StaleError(f"{self.name}_silent")
        stamp = self._last[-1].stamp_sec
        if stamp is None:
            return
        too_old = now.ros_sec - stamp > self.spec.timeout_sec
        frozen = self._last[-1].received_sec > self._stamp_changed_sec
        if frozen and (too_old or now.monotonic_sec - self._stamp_changed_sec > self.spec.timeout_sec):
            raise StaleError(f"{self.name}_stamp_frozen")
        if too_old:
            raise StaleError(f"{self.name}_stamp_too_old")
        if self._went_back:
            raise StaleError(f"{self.name}_stamp_went_back")
        if stamp - now.ros_sec > self.spec.max_future_sec:
            raise StaleError(f"{self.name}_stamp_in_the_future")

    def read(self) -> npt.NDArray[Any]:
        """The numbers (n,) or the picture (height, width, channels) of the last ``stack`` messages.

        Raises:
            StaleError: There are fewer than ``stack`` messages, or one cannot be read.
        """
        if len(self._last) < self.spec.stack:
            raise StaleError(f"{self.name}_too_few_messages")
        try:
            values = [read_message(arrival.message, self.spec) for arrival in self._last]
        except SourceError as error:
            raise StaleError(f"{self.name}_{error.reason}") from error
        return values[0] if len(values) == 1 else np.concatenate(values, axis=-1)
