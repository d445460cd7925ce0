"""Training under the switch over worker processes: one that is killed, and runs that go on."""

from __future__ import annotations

import csv
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="the extra `ray` brings it")

sys.path.insert(0, str(Path(__file__).parent))

from train_processes import TrainProcess

from safe_rl.runs import load_run

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]
PATIENCE_SEC = 120.0
TOYS = str(Path(__file__).parents[1])
SMALL = [
    "--preset", "none", "--risk.hidden-sizes", "8", "8", "--recovery.hidden-sizes", "8", "8",
    "--risk.pretrain-steps", "20", "--batch-size", "16", "--replay-capacity", "5000",
]  # fmt: skip


class Command(TrainProcess):
    """`safe-rl train METHOD` in the corridor."""

    def __init__(self, method: str, data: Path, output: Path, *flags: str) -> None:
        line = ["--env", "toys:Corridor", "--dataset", str(data), *SMALL, *flags]
        super().__init__(method, output, *line, patience_sec=PATIENCE_SEC, PYTHONPATH=TOYS)


@pytest.fixture
def start() -> Iterator[Callable[..., Command]]:
    commands: list[Command] = []

    def make(*args: object) -> Command:
        commands.append(Command(*args))  # type: ignore[arg-type]
        return commands[-1]

    yield make
    for command in commands:
        command.end()


def episodes(folder: Path) -> list[dict[str, str]]:
    with (folder / "episodes.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_recovery_impact_goes_on_when_a_worker_is_killed(
    tmp_path: Path, corridor_data: Path, start: Callable[..., Command]
):
    often = ("--log-every-sec", "0.2", "--checkpoint-every-sec", "1", "--envs-per-worker", "4", "--workers", "2")
    command = start("recovery-impact", corridor_data, tmp_path / "run", "--steps", "1000000000", *often)
    command.wait(lambda: command.last["step"] > 0 and len(command.workers()) == 2, "the first row of two workers")
    os.kill(command.workers()[0], signal.SIGKILL)
    command.wait(lambda: command.last.get("faults/restarts", 0) >= 1, "the restart")
    after = command.last["step"]
    command.wait(lambda: command.last["step"] > after + 3_000, "the training's going on")
    assert command.last["faults/lost_items"] >= 1
    assert command.last["risk/loss"] > 0
    command.process.send_signal(signal.SIGINT)
    command.wait(lambda: command.process.poll() is not None, "the end")
    assert command.process.returncode == 130, command.text
    assert "Traceback" not in command.text
    saved, count = command.last["step"], len(episodes(tmp_path / "run"))
    resumed = start(
        "recovery-impact", corridor_data, tmp_path / "run", "--resume", "--steps", str(saved + 1_000), *often
    )
    resumed.finish()
    rows = episodes(tmp_path / "run")
    assert len(rows) > count
    assert [int(row["episode"]) for row in rows] == list(range(len(rows)))
    assert load_run(tmp_path / "run").make_agent().has_risk


def test_recovery_rl_learns_in_this_process_from_two_others(
    tmp_path: Path, corridor_data: Path, start: Callable[..., Command]
):
    output = tmp_path / "run"
    flags = ("--sac.hidden-sizes", "8", "8", "--device", "cpu", "--workers", "2", "--log-every", "50")
    start("recovery-rl", corridor_data, output, "--episodes", "20", *flags).finish()
    first = len(episodes(output))
    assert first >= 20
    start("recovery-rl", corridor_data, output, "--resume", "--episodes", str(first + 10), *flags).finish()
    rows = episodes(output)
    assert [int(row["episode"]) for row in rows] == list(range(len(rows)))
    assert len(rows) >= first + 10
    assert load_run(output).make_agent().num_observed >= sum(int(row["steps"]) for row in rows) // 2
