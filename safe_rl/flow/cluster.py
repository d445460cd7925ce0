"""Whether a Ray cluster answers, asked without Ray's own patience."""

from __future__ import annotations

import socket
import subprocess
import sys

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
