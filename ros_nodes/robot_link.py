"""What an environment needs of whoever carries its messages to a robot. Without ROS."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from ros_nodes.sources import Now

FloatArray = npt.NDArray[np.float32]


class Call(Protocol):
    """A service that was called."""

    waits_for: str
    """In words, such as "service /reset"."""

    def answer(self) -> str | None:
        """None while there is no answer; empty where the service did it; otherwise why not."""
        ...


class RobotLink(Protocol):
    """What carries messages between the environment and a robot."""

    def now(self) -> Now:
        """The two clocks."""
        ...

    def poll(self) -> None:
        """Takes what has come, without waiting."""
        ...

    def wait(self, seconds: float) -> None:
        """Takes what comes next, or returns after ``seconds``; it may return at any time before."""
        ...

    def send(self, action: FloatArray) -> None:
        """Sends a command (act_dim,)."""
        ...

    def is_shared(self) -> bool:
        """Whether somebody else publishes commands."""
        ...

    def call_reset(self) -> Call:
        """Calls the reset service."""
        ...

    def hint(self, reason: str) -> str:
        """What a person should know of a fault: who publishes the topic in question, or does not."""
        ...

    def close(self) -> None:
        """Gives everything back; commands that were sent before still arrive."""
        ...


class Guard(Protocol):
    """See ``ros_nodes.watchdog.Watchdog``."""

    def feed(self) -> bool:
        """Whether the driver was in time."""
        ...

    def rest(self) -> None:
        """Nobody drives."""
        ...

    def close(self) -> None:
        """It is over."""
        ...
