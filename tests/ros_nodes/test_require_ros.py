"""Nodes where ROS is not installed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXECUTABLES = sorted(set(re.findall(r'= (ros_nodes\.\w+):main"', (ROOT / "setup.py").read_text(encoding="utf-8"))))
WITHOUT = """
import importlib.util, runpy, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {hidden!r} else find(name, *rest)
runpy.run_module({module!r}, run_name="__main__")
"""


def run_without(module: str, *hidden: str) -> subprocess.CompletedProcess[str]:
    code = WITHOUT.format(hidden=hidden, module=module)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)


@pytest.mark.parametrize("module", [*EXECUTABLES, "ros_nodes.watch"])
def test_without_ros_every_node_says_what_brings_it(module: str):
    process = run_without(module, "rclpy", "std_msgs")
    assert process.returncode == 2
    (line,) = process.stderr.strip().splitlines()
    assert "apt-get install ros-jazzy-ros-base" in line
    assert "pip install 'safe_rl[ros]'" in line


def test_a_package_of_messages_that_is_missing_is_named():
    pytest.importorskip("rclpy", reason="the extra `ros` brings it")
    process = run_without("ros_nodes.shield_node", "trajectory_msgs")
    assert process.returncode == 2
    assert "apt-get install ros-$ROS_DISTRO-trajectory-msgs," in process.stderr
