"""What is done before Ray starts: whether a cluster answers, and what a Ray of our own inherits."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from safe_rl.errors import UserError

_PROBE = "import ray, sys; ray.init(address=sys.argv[1], logging_level='ERROR', log_to_driver=False)"


def require_cluster(address: str, timeout_sec: float) -> None:
    """Raises ``UserError`` where no cluster answers in time. Ray itself would wait for minutes, deaf to Ctrl-C."""
    if address.startswith("ray://"):
        raise UserError(f"{address}: Ray Client is not supported; run on a machine of the cluster with --address auto")
    cure = "start one with ray start --head, or leave --address out"
    host, _, port = address.rpartition(":")
    if address != "auto":
        if not (host and port.isdigit() and int(port) < 65536):
            raise UserError(f"address {address!r} is neither auto nor host:port, such as 10.0.0.1:6379")
        try:
            socket.create_connection((host, int(port)), timeout=timeout_sec).close()
        except OSError as error:
            raise UserError(f"no Ray cluster answers at {address} ({error}): {cure}") from error
    try:
        probe = subprocess.run(  # noqa: S603 (this interpreter, and an address as an argument of its own)
            [sys.executable, "-c", _PROBE, address], capture_output=True, text=True, timeout=timeout_sec, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"no Ray cluster answers at {address} within {timeout_sec:g} s: {cure}") from error
    if probe.returncode != 0:
        lines = probe.stderr.strip().splitlines() or ["no reason given"]
        raise UserError(f"no Ray cluster can be joined at {address}: {lines[-1].strip()}; {cure}")


@contextmanager
def module_path_for_workers() -> Iterator[None]:
    """Lets the workers of a Ray that starts now find what this process finds, such as an environment's module."""
    before = os.environ.pop("PYTHONPATH", None)
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        os.environ.update({} if before is None else {"PYTHONPATH": before})
