"""A ROS domain for this test process, and a bundle that the robots of the tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Read when a context is made, and inherited by the nodes that tests start. Test processes that run side by side, of
# this suite or another, do not hear each other.
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["FASTDDS_BUILTIN_TRANSPORTS"] = "UDPv4"  # killed processes leave no shared memory behind

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "safe_rl")]


@pytest.fixture(scope="session")
def ros() -> Iterator[None]:
    """A ROS context in this process; Ctrl-C stays pytest's."""
    rclpy = pytest.importorskip("rclpy")
    from rclpy.signals import SignalHandlerOptions

    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    yield
    rclpy.try_shutdown()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with tiny random networks: three numbers in, two within [-1, 1] out."""
    from robot_bundles import write

    return write(tmp_path_factory.mktemp("bundles") / "robot")
