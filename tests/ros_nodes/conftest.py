"""A ROS domain for this test process, and a bundle that the robots of the tests share."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest


def free_domain() -> int:
    """A domain that no other test process of this machine is in; it is given back when this one ends."""
    for domain in range(1, 101):
        lock = open(Path(tempfile.gettempdir()) / f"ros_test_domain_{domain}.lock", "w")  # noqa: SIM115
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        LOCKS.append(lock)
        return domain
    raise RuntimeError("all ROS domains are taken")


LOCKS: list[IO[str]] = []
# Read when a context is made, and inherited by the nodes that tests start.
os.environ["ROS_DOMAIN_ID"] = str(free_domain())
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["FASTDDS_BUILTIN_TRANSPORTS"] = "UDPv4"  # killed processes leave no shared memory behind

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "safe_rl")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests over DDS get a second and a third try: on an overloaded machine discovery takes as long as it takes.

    A shield that fails one of them fails three times; a packet that was late does not. ``ONE_TRY=1`` in the environment
    shows what failed the first time.
    """
    if os.environ.get("ONE_TRY"):
        return
    for item in items:
        if item.get_closest_marker("ros"):
            item.add_marker(pytest.mark.flaky(reruns=2))


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
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    from robot_bundles import write

    return write(tmp_path_factory.mktemp("bundles") / "robot")
