"""Runs commands of `safe-rl` in processes of their own, one thread each."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

_PR_SET_PDEATHSIG = 1
"""Linux: the signal that a process gets when its parent dies."""
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


class Handle(Protocol):
    """A command that was started."""

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        ...

    def interrupt(self) -> None:
        """Asks it to save and end."""
        ...


class Starter(Protocol):
    """Starts commands, so many side by side."""

    slots: int

    def start(self, words: Sequence[str], log: Path) -> Handle:
        """Starts ``safe-rl`` with these words; what it prints is appended to ``log``."""
        ...


class LocalProcess:
    """A command in a process of this machine, which ends with this one.

    Its session is its own: Ctrl-C in a terminal reaches this process alone, which passes it on once.

    Args:
        words: What follows ``safe-rl``.
        log: What it prints is appended to it.
        inherited: File descriptors that it holds as long as it lives.
    """

    def __init__(self, words: Sequence[str], log: Path, inherited: Sequence[int] = ()) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            self._process = subprocess.Popen(  # noqa: S603 (our own program)
                [sys.executable, "-m", "safe_rl.cli.main", *words],
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                env={**os.environ, **ONE_THREAD}, preexec_fn=_die_with_parent(), start_new_session=True,
                pass_fds=inherited,
            )  # fmt: skip

    def poll(self) -> int | None:
        """See ``Handle``."""
        return self._process.poll()

    def interrupt(self) -> None:
        """See ``Handle``."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)


class LocalStarter:
    """Starts processes on this machine, ``slots`` side by side; for ``inherited`` see ``LocalProcess``."""

    def __init__(self, slots: int, inherited: Sequence[int] = ()) -> None:
        self.slots, self._inherited = slots, inherited

    def start(self, words: Sequence[str], log: Path) -> Handle:
        """See ``Starter``."""
        return LocalProcess(words, log, self._inherited)


def _die_with_parent() -> Callable[[], None] | None:
    """What a child does first: a comparison that is killed must not leave runs behind, beside those of a rerun."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask
