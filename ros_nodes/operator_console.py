"""Asks whoever stands beside the robot, on the terminal."""

from __future__ import annotations

import select
import sys
import termios


class OperatorConsole:
    """Says a line on stderr and waits for Enter on stdin, where there is one."""

    def ask(self, line: str) -> None:
        """Says the line; an Enter from before does not count."""
        self._forget()
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def pressed(self) -> bool:
        """Whether Enter was pressed since."""
        return self._readable() and sys.stdin.readline() != ""

    def _forget(self) -> None:
        if sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty():
            termios.tcflush(sys.stdin, termios.TCIFLUSH)

    def _readable(self) -> bool:
        try:
            return bool(select.select([sys.stdin], [], [], 0)[0])
        except (OSError, ValueError, TypeError):  # closed, or replaced by something without a descriptor
            return False
