"""Spreads the runs of a comparison over a Ray cluster whose machines share the folder of the comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safe_rl.compare.processes import Handle, LocalProcess
from safe_rl.flow import FlowError


class CommandHost:
    """Runs one command at a time on the machine where Ray has put it."""

    def __init__(self, index: int) -> None:
        self._process: LocalProcess | None = None

    def start(self, words: Sequence[str], log: str) -> None:
        """Starts a command."""
        self._process = LocalProcess(words, Path(log))

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return None if self._process is None else self._process.poll()

    def interrupt(self) -> None:
        """Asks it to save and end."""
        if self._process is not None:
            self._process.interrupt()


class _RemoteCommand:
    """A command that a host runs; it has died where its host has."""

    def __init__(self, starter: RayStarter, host: Any) -> None:
        self._starter, self._host = starter, host
        self._code: int | None = None

    def poll(self) -> int | None:
        """See ``Handle``."""
        if self._code is None:
            try:
                self._code = self._host.call(CommandHost.poll).get()
            except FlowError:
                self._code = 1
            if self._code is not None:
                self._starter.idle.append(self._host)
        return self._code

    def interrupt(self) -> None:
        """See ``Handle``."""
        self._host.call(CommandHost.interrupt)


class RayStarter:
    """Starts commands on the hosts of a group, one at a time on each."""

    def __init__(self, hosts: Any) -> None:
        self.idle = list(hosts.handles)
        self.slots = len(self.idle)

    def start(self, words: Sequence[str], log: Path) -> Handle:
        """See ``Starter``."""
        host = self.idle.pop()
        host.call(CommandHost.start, list(words), str(log.resolve())).get()
        return _RemoteCommand(self, host)


@contextmanager
def ray_starter(address: str | None) -> Iterator[RayStarter]:
    """A host for each CPU of the cluster at ``address``, or of a Ray that is started on this machine.

    Raises:
        UserError: Ray is missing, or nobody answers there.
    """
    from safe_rl.flow import RayBackend

    with RayBackend(address=address) as backend:
        yield RayStarter(backend.actors(CommandHost, backend.num_cpus))
