"""What all tests share: one thread each, and the option that hides the optional packages."""

from __future__ import annotations

import importlib.abc
import os
import sys
from collections.abc import Sequence
from types import ModuleType

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; the tests run side by side
os.environ.setdefault("MPLBACKEND", "agg")

EXTRAS = ("pybullet", "pybullet_data", "cv2", "ray", "rclpy", "onnx", "onnxruntime")


class _Hidden(importlib.abc.MetaPathFinder):
    """Makes the optional packages look as if they were not installed."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {fullname!r} (hidden by --without-extras)", name=fullname)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--without-extras", action="store_true", help=f"run as if {', '.join(EXTRAS)} were not installed")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--without-extras"):
        sys.meta_path.insert(0, _Hidden())
