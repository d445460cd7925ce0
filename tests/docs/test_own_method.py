"""The page that adds a method, run as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/how-to/own_method.md"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    found = re.search(r'^```python title="barrier.py"\n(.*?)^```', PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert found
    (tmp_path / "barrier.py").write_text(found[1])
    return tmp_path / "barrier.py"


def safe_rl(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "safe_rl.cli.main", *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_the_method_is_short(program: Path) -> None:
    assert len(program.read_text().splitlines()) < 80


def test_the_method_of_the_page_trains_and_is_evaluated(program: Path) -> None:
    folder, env = program.parent, "safe_rl/Navigation2-v0"
    collected = safe_rl(folder, "collect", "--env", env, "--transitions", 300, "--output", "data")
    assert collected.returncode == 0, collected.stderr
    small = ("--risk.pretrain-steps", 5, "--task-pretrain-steps", 5, "--episodes", 2, "--device", "cpu")
    trained = safe_rl(
        folder,
        "train",
        "barrier:METHOD",
        "--env",
        env,
        "--dataset",
        "data",
        "--weight",
        2000,
        "--output",
        "run",
        *small,
    )
    assert trained.returncode == 0, trained.stderr
    config = json.loads((folder / "run/config.json").read_text())
    assert (config["method"], config["weight"]) == ("barrier:METHOD", 2000)
    evaluated = safe_rl(folder, "evaluate", "run", "--episodes", 1)
    assert evaluated.returncode == 0, evaluated.stderr


def test_mistakes_in_a_methods_name(program: Path) -> None:
    for name, words in [
        ("barrier:NONE", "module 'barrier' has no method 'NONE'"),
        ("barier:METHOD", "cannot import 'barier' of method 'barier:METHOD'"),
        ("barrier:BarrierAgent", "it must be a safe_rl.methods.Method"),
        ("barrier:", "no method 'barrier:'"),
    ]:
        done = safe_rl(program.parent, "train", name, "--env", "safe_rl/Navigation2-v0", "--output", "run")
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
