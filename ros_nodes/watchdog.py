"""Stops a robot whose driver has fallen asleep: a thread that does nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Watchdog:
    """Calls ``bark`` once, from its own thread, when it is not fed in time.

    It cannot help where the whole process stands still or is gone: against that only the robot's own time-out does.
    """

    def __init__(self, limit_sec: float, bark: Callable[[], None]) -> None:
        self._limit_sec = limit_sec
        self._bark = bark
        self._condition = threading.Condition()
        self._deadline: float | None = None
        self._has_barked = self._closed = False
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def feed(self) -> bool:
        """Asks for silence until ``limit_sec`` from now.

        Returns:
            False where it has barked since it was fed the last time. Once this has returned, no late bark comes.
        """
        with self._condition:
            was_asleep, has_barked = self._deadline is None, self._has_barked
            self._deadline, self._has_barked = time.monotonic() + self._limit_sec, False
            if was_asleep:
                self._condition.notify()
            return not has_barked

    def rest(self) -> None:
        """Lets it sleep until it is fed again."""
        with self._condition:
            self._deadline, self._has_barked = None, False

    def close(self) -> None:
        """Ends the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        with self._condition:
            while not self._closed:
                left = None if self._deadline is None else self._deadline - time.monotonic()
                if left is None or left > 0:
                    self._condition.wait(left)
                else:
                    self._deadline, self._has_barked = None, True
                    self._bark()
