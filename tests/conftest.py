"""What all tests share: one thread each, and the option that hides the optional packages."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator

import hypothesis
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; the tests run side by side
os.environ.setdefault("MPLBACKEND", "agg")

# How long an example takes says how busy the machine is; a test that hangs meets its time-out.
hypothesis.settings.register_profile("busy", deadline=None)
hypothesis.settings.load_profile("busy")

EXTRAS = ("pybullet", "pybullet_data", "cv2", "ray", "rclpy", "onnx", "onnxruntime")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--without-extras", action="store_true", help=f"run as if {', '.join(EXTRAS)} were not installed")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in the background by a shell: tests press Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--without-extras"):
        for name in EXTRAS:
            sys.modules[name] = None  # type: ignore[assignment]  # importing it raises ModuleNotFoundError


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A display that answers, and no more: for tests that replace what would draw on it."""
    number = 1000 + os.getpid()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(f"\0/tmp/.X11-unix/X{number}")
        server.listen()
        monkeypatch.setenv("DISPLAY", f":{number}")
        yield f":{number}"
