"""`safe-rl view` opens a real window: under Xvfb, by an OpenCV that has windows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("cv2")

import cv2

from sim.drawing import GOAL, MODE_COLOURS, PAPER

PATIENCE_SEC = 120.0
VIEW = [sys.executable, "-m", "safe_rl.cli.main", "view", "--env", "safe_rl/Navigation2-v0", "--policy", "expert"]


def lacking() -> str | None:
    """What a window under Xvfb would need and this machine has not."""
    if shutil.which("Xvfb") is None:
        return "no Xvfb: apt-get install xvfb"
    gui = re.search(r"GUI:\s*(\S+)", cv2.getBuildInformation())
    if gui is None or gui[1] == "NONE":
        return "an OpenCV without windows: opencv-python instead of opencv-python-headless has them"
    return None


class Screen:
    """An X server's screen that lives in a file (X window dump)."""

    def __init__(self, display: str, file: Path) -> None:
        self.display, self.file = display, file

    def picture(self) -> npt.NDArray[np.uint8]:
        """Returns (height, width, 3) uint8 RGB."""
        data = self.file.read_bytes()
        header = np.frombuffer(data, ">u4", 25)
        width, height, line = (int(header[i]) for i in (4, 5, 12))
        start = int(header[0] + 12 * header[19])
        rows = np.frombuffer(data, np.uint8, height * line, start).reshape(height, line // 4, 4)
        return rows[:, :width, 2::-1]

    def share(self, colour: tuple[int, int, int]) -> float:
        return float((self.picture() == colour).all(2).mean())


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Screen]:
    lacks = lacking()
    if lacks is not None:
        pytest.skip(lacks)
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-screen", "0", "800x640x24", "-nolisten", "tcp", "-fbdir", str(tmp_path), "-displayfd", str(write)],
        pass_fds=[write],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    try:
        with os.fdopen(read) as numbers:
            number = numbers.readline().strip()
        assert number, "Xvfb has not started"
        yield Screen(f":{number}", tmp_path / "Xvfb_screen0")
    finally:
        server.terminate()
        server.wait(PATIENCE_SEC)


def test_view_opens_a_window_and_closes_it(screen: Screen) -> None:
    assert screen.share(PAPER) == 0.0
    viewer = subprocess.Popen(
        [*VIEW, "--episodes", "1"],
        env={**os.environ, "DISPLAY": screen.display},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        seen = {"paper": 0.0, "goal": 0.0, "robot": 0.0}
        colours = {"paper": PAPER, "goal": GOAL, "robot": MODE_COLOURS[None]}
        least = {"paper": 0.05, "goal": 1e-5, "robot": 1e-4}
        deadline = time.monotonic() + PATIENCE_SEC
        while any(seen[name] < least[name] for name in seen):
            assert viewer.poll() is None and time.monotonic() < deadline, (seen, viewer.communicate(timeout=5))
            for name, colour in colours.items():
                seen[name] = max(seen[name], screen.share(colour))
            time.sleep(0.02)
        out, errors = viewer.communicate(timeout=PATIENCE_SEC)
    finally:
        viewer.kill()
    assert viewer.returncode == 0, errors
    assert out.startswith("episode 1: success after")
    assert screen.share(PAPER) == 0.0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a screen")
def test_a_screen_that_is_gone_ends_view_with_one_line() -> None:
    """With windows in OpenCV, Qt would end the process instead, and say a dozen lines."""
    done = subprocess.run(
        VIEW, env={**os.environ, "DISPLAY": ":40000"}, capture_output=True, text=True, timeout=PATIENCE_SEC, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "--output" in done.stderr and ":40000" in done.stderr
