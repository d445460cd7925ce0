"""The screen of the shield's state."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("rclpy", reason="the extra `ros` brings it")

from rich.console import Console
from robots import Robot, write_parameters

from ros_nodes.watch import screen

VALUES = {
    "mode": "RECOVERY",
    "reason": "risk",
    "risk": "0.5",
    "proposed": "1 2",
    "executed": "-1 0",
    "control": "filter",
}


def rendered(values: dict[str, str], age_sec: float = 0.0) -> str:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(screen(values, "/shield", age_sec))
    return console.export_text()


def test_a_state_as_a_screen():
    text = rendered({**VALUES, "age_sec.odom": "0.02"})
    assert "/shield (filter)" in text
    assert "RECOVERY risk" in text
    assert text.count("█") == text.count("░") == 15
    assert "odom" in text
    assert "0.02 s ago" in text


def test_a_risk_that_is_unknown_and_a_state_that_is_old():
    text = rendered({**VALUES, "mode": "STOP", "risk": "nan"}, age_sec=7.2)
    assert "nan" in text
    assert "nothing for 7 s" in text


@pytest.mark.ros
def test_watching_a_shield(ros, tmp_path, bundle):
    robot = Robot("/watched", write_parameters(tmp_path, bundle))
    try:
        robot.wait_state("TASK", "")
        command = [sys.executable, "-m", "ros_nodes.watch", "watched/shield/state", "--once"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        robot.wait(lambda: process.poll() is not None, "the end of the watcher")
        assert process.returncode == 0
        assert "/watched/shield (policy)" in process.stdout.read()
    finally:
        robot.close()


@pytest.mark.ros
def test_nothing_to_watch():
    command = [sys.executable, "-m", "ros_nodes.watch", "nobody/state", "--once"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert process.returncode == 2
    assert "nothing on /nobody/state yet" in process.stdout
