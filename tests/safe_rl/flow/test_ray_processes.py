"""Whole processes and nodes: what stays behind, and what goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SCRIPT = Path(__file__).parent / "flow_processes.py"


def run(name: str) -> Any:
    pytest.importorskip("ray")
    done = subprocess.run([sys.executable, str(SCRIPT), name], capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_shutdown_leaves_no_process_behind() -> None:
    found = run("closes")
    assert found["during"] >= 4  # Ray's own and the workers
    assert found["after"] == {}
    assert found["ray"] is False  # closing the stream afterwards did not start it anew


def test_a_driver_that_is_killed_leaves_no_worker_behind() -> None:
    """Ray's two agents look for their dead server for a minute (a constant of Ray's) before they end, too."""
    pytest.importorskip("ray")
    with subprocess.Popen([sys.executable, str(SCRIPT), "is_killed"], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        started = next(line for line in driver.stdout if line.startswith('{"'))
        family = {int(process): name for process, name in json.loads(started).items()}
        assert sum(name.startswith("ray::RayHost") for name in family.values()) == 2
        os.kill(driver.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    rest = [process for process, name in family.items() if not name.startswith(("ray::Dashboard", "ray::RuntimeEnv"))]
    assert len(rest) >= len(family) - 2
    while (left := [family[process] for process in rest if alive(process)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def alive(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] != "Z"


def test_a_node_that_leaves_takes_only_its_workers() -> None:
    found = run("nodes_leave")
    moved, dropped = found["seen"]
    assert moved["moved"]  # to the node that was free
    assert moved["left"] == 2
    assert moved["others"] > 0
    assert not dropped["moved"]  # no node is left for it
    assert dropped["left"] == 1
    assert dropped["others"] > 0
    assert found["goes_on"] == [1]
    assert found["counted"]["faults/restarts"] == 1
    assert found["counted"]["faults/dropped_actors"] == 1
    assert 2 <= found["counted"]["faults/lost_items"] <= 4


def test_a_full_object_store_does_not_end_the_plan() -> None:
    found = run("store_is_full")
    assert found["kept"] == 16
    assert set(found["means"]) <= {1.0, 2.0}
