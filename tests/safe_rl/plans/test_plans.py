"""Plans as `safe-rl train` runs them: in this process, where every order is repeatable."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safe_rl.cli.main import main
from safe_rl.errors import UserError
from safe_rl.flow import FlowError
from safe_rl.plans.config import PlanRunConfig
from safe_rl.plans.methods import PLAN_METHODS
from safe_rl.plans.train import train_plan
from safe_rl.runs import load_run

ENV = "CartPole-v1"
ON_POLICY = ("impact", "ppo", "impala", "a2c", "a3c")


def run_config(output: Path, **changes: Any) -> PlanRunConfig:
    settings = {"envs_per_worker": 8, "fragment_length": 16, "steps": 1_000, "checkpoint_every_sec": 1e6}
    return PlanRunConfig(ENV, output, **{**settings, **changes})


def settings(method: str, **changes: Any) -> Any:
    return PLAN_METHODS[method].config(**changes)


def episodes(folder: Path) -> list[dict[str, str]]:
    with (folder / "episodes.csv").open() as file:
        return list(csv.DictReader(file))


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", ON_POLICY)
def test_every_plan_trains_and_leaves_a_run_folder(tmp_path: Path, method: str):
    runner = train_plan(method, run_config(tmp_path / "run"), settings(method))
    assert runner.learner.num_steps >= 1_000
    assert runner.learner.version > 0  # it learned
    rows = episodes(tmp_path / "run")
    assert len(rows) == runner.num_episodes > 0
    assert all(float(row["return"]) == float(row["steps"]) for row in rows)  # CartPole gives 1 a step
    last = metrics(tmp_path / "run")[-1]
    assert last["step"] == runner.learner.num_steps
    assert last["train/grad_norm"] > 0
    decision = load_run(tmp_path / "run").make_agent().act(np.zeros((3, 4), np.float32), explore=False)
    assert decision.action.shape == (3,)


@pytest.mark.parametrize("method", ON_POLICY)
def test_a_run_goes_on_where_it_stood(tmp_path: Path, method: str):
    first = train_plan(method, run_config(tmp_path / "run"), settings(method))
    second = train_plan(method, run_config(tmp_path / "run", steps=2_000, resume=True), settings(method))
    assert second.learner.num_steps >= 2_000
    assert second.learner.version > first.learner.version
    rows = episodes(tmp_path / "run")
    assert [int(row["episode"]) for row in rows] == list(range(second.num_episodes))
    assert second.num_episodes > first.num_episodes
    assert float(rows[-1]["wall_time_sec"]) > float(rows[first.num_episodes - 1]["wall_time_sec"])


def test_the_same_seed_is_the_same_training_and_another_is_not(tmp_path: Path):
    def weights(name: str, seed: int) -> np.ndarray:
        return train_plan("ppo", run_config(tmp_path / name, seed=seed), settings("ppo")).learner.weights()

    np.testing.assert_array_equal(weights("a", 1), weights("b", 1))
    assert not np.array_equal(weights("c", 2), weights("a2", 1))


def test_a_resumed_run_draws_other_numbers_than_it_began_with(tmp_path: Path):
    """Its workers begin anew; were they to draw the same, the same episodes would be learned from twice."""
    train_plan("a2c", run_config(tmp_path / "run"), settings("a2c", learning_rate=1e-12))
    train_plan("a2c", run_config(tmp_path / "run", steps=2_000, resume=True), settings("a2c", learning_rate=1e-12))
    steps = [row["steps"] for row in episodes(tmp_path / "run")]
    half = len(steps) // 2
    assert steps[: half - 8] != steps[half : 2 * half - 8]


def test_it_stops_at_a_return(tmp_path: Path):
    runner = train_plan("ppo", run_config(tmp_path / "run", steps=10**9, stop_at_return=15.0), settings("ppo"))
    assert len(runner.recent) == 100
    assert runner.return_mean >= 15.0


def test_a_stage_that_fails_is_named_and_the_run_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from safe_rl.algorithms.ppo import PPOLearner

    learn, calls = PPOLearner.learn, []

    def fails(self: PPOLearner, fragments: Any) -> Any:
        calls.append(1)
        if len(calls) > 2:
            raise ZeroDivisionError("nothing to divide by")
        return learn(self, fragments)

    monkeypatch.setattr(PPOLearner, "learn", fails)
    with pytest.raises(FlowError, match=r"TrainOneStep.*nothing to divide by"):
        train_plan("ppo", run_config(tmp_path / "run"), settings("ppo"))
    monkeypatch.setattr(PPOLearner, "learn", learn)
    done = metrics(tmp_path / "run")[-1]["step"]
    assert 0 < done <= 2 * 8 * 16  # rows that only reset are no steps
    runner = train_plan("ppo", run_config(tmp_path / "run", resume=True), settings("ppo"))
    assert runner.learner.num_steps >= 1_000


def test_a_killed_training_goes_on_from_its_checkpoint(tmp_path: Path):
    output = tmp_path / "run"
    line = [sys.executable, "-m", "safe_rl.cli.main", "train", "impact", "--env", ENV, "--output", str(output)]
    process = subprocess.Popen([*line, "--steps", "100000000", "--checkpoint-every-sec", "0.3"])
    try:
        deadline = time.monotonic() + 60
        while not list(output.glob("checkpoints/step_*/state.json")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    saved = int(sorted(output.glob("checkpoints/step_*"))[-1].name.removeprefix("step_"))
    assert main(["train", "--resume", "--output", str(output), "--steps", str(saved + 2_000)]) == 0
    rows = episodes(output)
    assert [int(row["episode"]) for row in rows] == list(range(len(rows)))
    assert metrics(output)[-1]["step"] >= saved + 2_000


@pytest.mark.slow
def test_impact_learns_to_balance(tmp_path: Path):
    preset = PLAN_METHODS["impact"].preset(ENV, "tuned")
    run = PlanRunConfig(
        ENV, tmp_path / "run", envs_per_worker=preset.num_envs, fragment_length=preset.fragment_length,
        steps=400_000, stop_at_return=400.0,
    )  # fmt: skip
    assert train_plan("impact", run, preset.settings).return_mean >= 400.0


# ------------------------------------------------------------------ command line


def test_from_the_command_line_to_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output = str(tmp_path / "run")
    assert main(["train", "ppo", "--env", ENV, "--output", output, "--steps", "2000", "--clip", "0.3"]) == 0
    assert "ppo: " in capsys.readouterr().out
    assert load_run(output).config["clip"] == 0.3
    assert main(["evaluate", output, "--episodes", "2"]) == 0
    assert main(["train", "--resume", "--output", output, "--steps", "3000"]) == 0
    assert load_run(output).config["clip"] == 0.3


def test_help_names_the_plans(capsys: pytest.CaptureFixture[str]):
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(method in text for method in PLAN_METHODS)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workers", "-1"], "--workers is -1"),
        (["--address", "auto"], "--address is auto: it must be left out with --workers 0"),
        (["--envs-per-worker", "0"], "--envs-per-worker is 0"),
        (["--preset", "paper"], "--preset is paper: choose tuned or none"),
        (["--env", "Nowhere-v0"], "Nowhere-v0"),
        (["--num-slots", "0"], "--num-slots is 0"),
    ],
)
def test_what_cannot_be_is_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
):
    assert main(["train", "impact", "--env", ENV, "--output", str(tmp_path / "run"), *flags]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_method_is_not_gone_on_with(tmp_path: Path):
    train_plan("ppo", run_config(tmp_path / "run"), settings("ppo"))
    with pytest.raises(UserError, match="method = ppo, not a2c"):
        train_plan("a2c", run_config(tmp_path / "run", resume=True), settings("a2c"))
