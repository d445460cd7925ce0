"""Imported first by every node: where ROS 2 is not there, it says in one line what brings it, and ends with code 2."""

from __future__ import annotations

import importlib.util
import sys

PACKAGES = (
    *("rclpy", "rcl_interfaces", "lifecycle_msgs", "builtin_interfaces", "rosgraph_msgs", "std_msgs", "std_srvs"),
    *("sensor_msgs", "geometry_msgs", "nav_msgs", "trajectory_msgs", "diagnostic_msgs", "visualization_msgs"),
)


def missing() -> str:
    """What is missing and what brings it, in one line; empty where all is there."""
    absent = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if not absent:
        return ""
    if "rclpy" in absent:
        return (
            "ROS 2 is not here: source /opt/ros/<distribution>/setup.bash, install it "
            "(apt-get install ros-jazzy-ros-base), or for development pip install 'safe_rl[ros]'"
        )
    packages = " ".join(f"ros-$ROS_DISTRO-{package.replace('_', '-')}" for package in absent)
    return f"ROS 2 packages are missing: apt-get install {packages}, or for development pip install 'safe_rl[ros]'"


if reason := missing():
    sys.stderr.write(f"error: {reason}\n")
    raise SystemExit(2)
