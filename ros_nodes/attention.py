"""Notices Ctrl-C where its handler only takes a note."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Attention:
    """Notes Ctrl-C and SIGTERM on their way to whoever handles them, since nobody else looks while a robot moves."""

    def __init__(self) -> None:
        self.requested = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Attention:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        handler = self._former[number]
        if handler == signal.SIG_IGN:
            return
        self.requested = True
        if callable(handler):
            handler(number, frame)
        elif handler == signal.SIG_DFL:
            raise KeyboardInterrupt
