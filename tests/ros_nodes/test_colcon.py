"""The package as colcon builds it for a workspace: where executables, launch files and the package's name end up."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="the extra `ros` brings it")

ROOT = Path(__file__).parents[2]
COLCON = shutil.which("colcon") or str(ROOT / ".venv-colcon/bin/colcon")
"""A robot's own, or the one that `.ci/run` sets up."""
PACKAGES = ("safe_rl", "sim", "ros_nodes")
FILES = ("setup.py", "setup.cfg", "package.xml", "pyproject.toml", "README.md", "LICENSE", "resource", "launch")

pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(not Path(COLCON).exists(), reason="colcon is not installed: see .ci/run"),
]


@pytest.fixture(scope="module")
def install(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The install space of a workspace with this package alone."""
    workspace = tmp_path_factory.mktemp("workspace")
    source = workspace / "src/safe_rl"
    source.mkdir(parents=True)
    for name in (*PACKAGES, *FILES):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    built = subprocess.run(
        [COLCON, "build"],
        cwd=workspace,
        env={**os.environ, "COLCON_HOME": str(workspace / "home")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    return workspace / "install/safe_rl"


def test_every_node_is_an_executable_of_the_package(install: Path):
    """`ros2 run` looks there."""
    wanted = set(re.findall(r'"(\w+) = ros_nodes\.', (ROOT / "setup.py").read_text(encoding="utf-8")))
    assert wanted
    assert wanted <= {path.name for path in (install / "lib/safe_rl").iterdir() if os.access(path, os.X_OK)}


def test_an_executable_runs_from_the_install_space(install: Path):
    site = next(install.glob("lib/python3*/site-packages"))
    process = subprocess.run(
        [sys.executable, install / "lib/safe_rl/shield_node", "--ros-args", "-p", "autostart:=true"],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=install,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 2
    assert process.stderr.strip().startswith("shield_node: error: no parameter observation.sources")


def test_launch_files_examples_and_the_index_are_installed(install: Path):
    share = install / "share"
    assert (share / "ament_index/resource_index/packages/safe_rl").exists()
    assert (share / "safe_rl/package.xml").exists()
    for pattern, place in (("*.launch.py", "launch"), ("config/*.yaml", "launch/config")):
        names = {path.name for path in (ROOT / "launch").glob(pattern)}
        assert names
        assert names == {path.name for path in (share / "safe_rl" / place).iterdir() if path.is_file()}
