"""Asks whoever stands beside the robot, on the terminal."""

from __future__ import annotations

import select
import sys


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
        try:
            import termios

            termios.tcflush(sys.stdin, termios.TCIFLUSH)
        except (ImportError, OSError, ValueError):  # no terminal
            return

    def _readable(self) -> bool:
        try:
            return bool(select.select([sys.stdin], [], [], 0)[0])
        except (OSError, ValueError, TypeError):  # closed, or replaced by something without a descriptor
            return False
