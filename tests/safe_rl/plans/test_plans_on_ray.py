"""Plans over processes of their own: workers that are killed, and a driver that is."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="the extra `ray` brings it")

sys.path.insert(0, str(Path(__file__).parent))

from train_processes import TrainProcess, family

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]
PATIENCE_SEC = 90.0


class Training(TrainProcess):
    """`safe-rl train impact` with two workers."""

    def __init__(self, output: Path, *flags: str) -> None:
        often = ["--log-every-sec", "0.2", "--checkpoint-every-sec", "0.5"]
        line = ["--env", "CartPole-v1", "--workers", "2", *often, *flags]
        super().__init__("impact", output, *line, patience_sec=PATIENCE_SEC)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def start(tmp_path: Path):
    trainings: list[Training] = []

    def make(name: str, *flags: str) -> Training:
        trainings.append(Training(tmp_path / name, *flags))
        return trainings[-1]

    yield make
    for training in trainings:
        training.end()


def test_a_killed_worker_is_replaced_and_ctrl_c_leaves_no_process(start: Callable[..., Training]):
    training = start("run", "--steps", "1000000000")
    training.wait(lambda: training.last["step"] > 0, "the first row")
    training.wait(lambda: len(training.workers()) == 2, "two workers")
    started = family(training.process.pid)
    os.kill(training.workers()[0], signal.SIGKILL)
    training.wait(lambda: training.last.get("faults/restarts", 0) >= 1, "the restart")
    after = training.last["step"]
    training.wait(lambda: training.last["step"] > after + 5_000, "the training's going on")
    assert training.last["faults/lost_items"] >= 1
    training.process.send_signal(signal.SIGINT)
    training.wait(lambda: training.process.poll() is not None, "the end")
    assert training.process.returncode == 130
    assert "Traceback" not in training.text
    training.wait(lambda: not any(map(is_alive, started)), "the workers' end")


def test_a_killed_driver_leaves_no_worker_and_goes_on_from_its_checkpoint(start: Callable[..., Training]):
    killed = start("run", "--steps", "1000000000")
    killed.wait(lambda: list(killed.output.glob("checkpoints/step_*/state.json")), "a checkpoint")
    workers = killed.workers()
    killed.process.send_signal(signal.SIGKILL)
    killed.wait(lambda: not any(map(is_alive, workers)), "the workers' end")
    saved = int(max(killed.output.glob("checkpoints/step_*")).name.removeprefix("step_"))
    resumed = start("run", "--resume", "--steps", str(saved + 5_000))
    resumed.wait(lambda: resumed.process.poll() is not None, "the end")
    assert resumed.process.returncode == 0, resumed.text
    assert resumed.last["step"] >= saved + 5_000
    episodes = (resumed.output / "episodes.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in episodes] == list(range(len(episodes)))
