"""Real faults: processes that are killed, disks that are full."""

from __future__ import annotations

import csv
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from safe_rl.checkpoint import list_checkpoints, load_newest, save_checkpoint
from safe_rl.errors import UserError

TOYS = Path(__file__).parents[1] / "safe_rl"
sys.path.insert(0, str(TOYS))

import toys  # noqa: E402

from safe_rl.cli.main import main  # noqa: E402

SMALL = [
    "--preset", "none", "--sac.hidden-sizes", "8", "8", "--batch-size", "16", "--replay-capacity", "500",
    "--device", "cpu", "--log-every", "10",
]  # fmt: skip
RISK = ["--risk.hidden-sizes", "8", "8", "--risk.pretrain-steps", "10", "--recovery.hidden-sizes", "8", "8"]


def train(output: Path, *more: object, method: str = "unconstrained", data: Path | None = None) -> list[str]:
    risk = [*RISK, "--dataset", str(data)] if data else []
    words = ["train", method, "--env", "toys:Corridor", "--output", str(output), *SMALL, *risk]
    return [*words, *map(str, more)]


def process(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(TOYS), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "safe_rl.cli.main", *arguments],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip


def trace(run: Path) -> tuple:
    """What a run has written that does not depend on the clock."""
    with (run / "episodes.csv").open(newline="") as file:
        episodes = [{k: v for k, v in row.items() if k != "wall_time_sec"} for row in csv.DictReader(file)]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]
    return episodes, metrics, load_newest(run / "checkpoints")["agent"]


def assert_equal(first, second, name="") -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key], f"{name}/{key}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), name
    else:
        assert first == second, name


@pytest.mark.parametrize("method", ["recovery-rl", "unconstrained"])
def test_a_training_killed_in_the_middle_of_an_episode_ends_like_one_that_was_not(tmp_path, method):
    data = toys.collect_corridor(tmp_path / "data", 300) if method == "recovery-rl" else None
    options = ["--episodes", 5, "--checkpoint-every", 2, "--seed", 4]
    whole, cut = (train(tmp_path / name, *options, method=method, data=data) for name in ("whole", "cut"))
    assert main(whole) == 0
    episodes = trace(tmp_path / "whole")[0]
    last = sum(int(row["steps"]) for row in episodes[:3]) + 2  # in the fourth episode; the checkpoint is of the second
    killed = process(cut, TOYS_KILL_AT=str(last))
    assert killed.returncode == -signal.SIGKILL
    with (tmp_path / "cut" / "episodes.csv").open() as file:
        assert len(file.readlines()) == 1 + 3
    assert load_newest(tmp_path / "cut" / "checkpoints")["runner"]["rollout"]["num_finished"] == 2
    assert main([*cut, "--resume"]) == 0
    for one, two in zip(trace(tmp_path / "whole"), trace(tmp_path / "cut"), strict=True):
        assert_equal({"": one}, {"": two})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_signal_saves_and_exits_with_130(tmp_path, number):
    command = train(tmp_path / "run", "--episodes", 100_000, "--checkpoint-every", 100_000)
    paths = os.pathsep.join([str(TOYS), os.environ.get("PYTHONPATH", "")])
    running = subprocess.Popen(
        [sys.executable, "-m", "safe_rl.cli.main", *command],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    path = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (path.exists() and path.stat().st_size) and time.monotonic() < deadline:
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(number)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "Traceback" not in err
    assert "interrupted" in err
    state = load_newest(tmp_path / "run" / "checkpoints")
    assert state["runner"]["num_steps"] == state["agent"]["counters"]["num_observed"] >= 10


# ------------------------------------------------------------------------------------------ killed while saving


def _save_for_ever(folder: Path, report: int) -> None:
    number = 0
    while True:
        number += 1
        save_checkpoint(folder, 7, {"number": number, "weights": torch.full((5000,), float(number))})
        os.write(report, number.to_bytes(4, "big"))


def test_killed_at_any_moment_of_saving_the_newest_checkpoint_loads(tmp_path):
    """The same step over and over, so that there is never a second copy to fall back to."""
    rng = np.random.default_rng(0)
    for _ in range(25):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            try:
                _save_for_ever(tmp_path, writing)
            finally:
                os._exit(1)
        os.close(writing)
        reported = [os.read(reading, 4) for _ in range(2)]
        time.sleep(rng.uniform(0, 0.004))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while last := os.read(reading, 4):
            reported.append(last)
        os.close(reading)
        state = load_newest(tmp_path)
        last_number = int.from_bytes(reported[-1], "big")
        assert state["number"] in (last_number, last_number + 1)
        assert state["weights"].unique().tolist() == [state["number"]]
    save_checkpoint(tmp_path, 7, {"number": 0})
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000007"]


# --------------------------------------------------------------------------------------------------- full disks


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_former_one(small_disk):
    save_checkpoint(small_disk, 1, {"weights": torch.ones(50_000)})
    for step in (2, 1):  # a new one, and one that would replace the former
        with pytest.raises(UserError, match="No space left on device; the former version is kept") as caught:
            save_checkpoint(small_disk, step, {"weights": torch.zeros(300_000)})
        assert "\n" not in str(caught.value)
        assert load_newest(small_disk)["weights"].sum() == 50_000
        assert [path.name for path in small_disk.iterdir()] == ["step_000000001"]
    save_checkpoint(small_disk, 2, {"weights": torch.zeros(50_000)})  # what was staged takes no room any more
    assert load_newest(small_disk)["weights"].sum() == 0


def test_a_file_that_may_not_grow_leaves_the_former_checkpoint(tmp_path):
    save_checkpoint(tmp_path, 1, {"weights": torch.ones(1000)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match="the former version is kept"):
            save_checkpoint(tmp_path, 2, {"weights": torch.zeros(300_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_newest(tmp_path)["weights"].sum() == 1000
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000001"]


@pytest.mark.parametrize("step", [6, 33], ids=["before the first checkpoint", "later"])
def test_a_disk_that_fills_up_while_training_costs_no_more_than_the_way_since_the_checkpoint(
    small_disk, tmp_path, capsys, step
):
    options = ["--episodes", 4, "--checkpoint-every", 1, "--seed", 2]
    assert main(train(tmp_path / "whole", *options)) == 0
    cut = train(small_disk / "run", *options)
    toys.Corridor.on_step = toys.faults_at(step, lambda: _fill(small_disk / "filler"))
    capsys.readouterr()
    try:
        assert main(cut) == 2
    finally:
        toys.Corridor.on_step = None
    err = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(err) == 1
    assert "No space left" in err[0] or "the disk is full" in err[0]
    for path in list_checkpoints(small_disk / "run" / "checkpoints"):
        assert not path.name.startswith(".")
    capsys.readouterr()
    assert main([*cut, "--resume"]) == 2  # still full: an error of one line, and nothing is lost by trying
    assert "Traceback" not in capsys.readouterr().err
    (small_disk / "filler").unlink()
    assert main([*cut, "--resume"]) == 0
    for one, two in zip(trace(tmp_path / "whole"), trace(small_disk / "run"), strict=True):
        assert_equal({"": one}, {"": two})
