"""Spreads the runs of a comparison over a Ray cluster whose machines share the folder of the comparison."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safe_rl.compare.processes import Handle, LocalProcess
from safe_rl.errors import UserError
from safe_rl.flow import FlowError

ANSWER_SEC = 60.0
LOST = -9
"""The exit code of a command whose host or machine is gone."""


class CommandHost:
    """Runs one command at a time on the machine where Ray has put it."""

    def __init__(self, paths: list[str], folder: str, index: int) -> None:
        self._process: LocalProcess | None = None
        os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, sys.path)])
        if os.path.isdir(folder):
            os.chdir(folder)  # environments of the user's own are looked for there

    def blind_to(self, file: str) -> str | None:
        """The name of this machine where it does not see a file; None where it does."""
        return None if os.path.exists(file) else socket.gethostname()

    def start(self, words: Sequence[str], log: str) -> None:
        """Starts a command."""
        self._process = LocalProcess(words, Path(log))

    def poll(self) -> int | None:
        """Its exit code; None while it runs. One that this host does not know went with the host before it."""
        return LOST if self._process is None else self._process.poll()

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
                self._code = self._host.call(CommandHost.poll).get(ANSWER_SEC)
            except FlowError:
                self._code = LOST
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
        with contextlib.suppress(FlowError):  # the next look finds that it was lost
            host.call(CommandHost.start, list(words), str(log.resolve())).get(ANSWER_SEC)
        return _RemoteCommand(self, host)


@contextmanager
def ray_starter(address: str | None, output: Path) -> Iterator[RayStarter]:
    """A host for each CPU of the cluster at ``address``, or of a Ray that is started on this machine.

    Raises:
        UserError: Ray is missing, nobody answers there, or a machine does not see the folder ``output``.
    """
    from safe_rl.flow import RayBackend

    with RayBackend(address=address) as backend:
        hosts = backend.actors(CommandHost, backend.num_cpus, [path for path in sys.path if path], os.getcwd())
        for host in hosts.handles:
            blind = host.call(CommandHost.blind_to, str(output.resolve())).get(ANSWER_SEC)
            if blind is not None:
                raise UserError(
                    f"--output is {output}, which machine {blind} of the cluster does not see: "
                    "choose a folder on a disk that all of them share"
                )
        yield RayStarter(hosts)
