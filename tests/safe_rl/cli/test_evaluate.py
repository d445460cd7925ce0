from __future__ import annotations

import json
from pathlib import Path

import pytest
import toys

from safe_rl.checkpoint import list_checkpoints
from safe_rl.cli.main import main
from safe_rl.config import RunConfig
from safe_rl.training import train


@pytest.fixture
def run(tmp_path) -> Path:
    config = RunConfig(env="toys:Corridor", output=tmp_path / "run", episodes=1, device="cpu")
    train("unconstrained", config, toys.unconstrained_config())
    return tmp_path / "run"


def evaluation(run: Path, *more: str, path: Path | None = None) -> dict:
    assert main(["evaluate", str(run), "--episodes", "3", *more]) == 0
    return json.loads((path or run / "evaluation.json").read_text())


def test_what_is_printed_and_written(run, capsys):
    made = evaluation(run)
    assert len(made["episodes"]) == 3
    successes = sum(episode["success"] for episode in made["episodes"])
    assert made["summary"]["success_rate"] == pytest.approx(successes / 3)
    out = capsys.readouterr().out
    assert f"{successes} ({successes / 3:.0%})" in out
    assert "evaluation.json" in out


def test_a_seed_decides_the_episodes(run):
    first, again, other = evaluation(run), evaluation(run), evaluation(run, "--seed", "1")
    assert first == again
    assert first["episodes"] != other["episodes"]


def test_the_file_may_go_elsewhere(run, tmp_path):
    path = tmp_path / "results" / "deep" / "it.json"
    assert len(evaluation(run, "--output", str(path), path=path)["episodes"]) == 3
    assert not (run / "evaluation.json").exists()


def test_a_run_is_not_changed_by_evaluating_it(run):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    evaluation(run)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "evaluation.json"} == before


def _fails(capsys, *argv) -> str:
    capsys.readouterr()
    assert main([str(word) for word in argv]) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith("safe-rl: error: ")
    assert "\n" not in err
    return err


def test_mistakes(run, tmp_path, capsys):
    assert "no run at" in _fails(capsys, "evaluate", tmp_path / "nowhere")
    assert "is not a run folder" in _fails(capsys, "evaluate", tmp_path)
    assert "--episodes is 0" in _fails(capsys, "evaluate", run, "--episodes", "0")
    assert "--seed is -2" in _fails(capsys, "evaluate", run, "--seed", "-2")
    assert "--epsiodes" in _fails(capsys, "evaluate", run, "--epsiodes", "3")
    assert "--device is tpu" in _fails(capsys, "evaluate", run, "--device", "tpu")
    victim = list_checkpoints(run / "checkpoints")[-1] / "tensors.safetensors"
    victim.write_bytes(victim.read_bytes()[:-1])
    assert str(victim) in _fails(capsys, "evaluate", run)
    assert not (run / "evaluation.json").exists()


def test_a_file_that_cannot_be_written_is_named(run, capsys):
    (run / "full").mkdir()
    for output in (run / "full", run / "config.json" / "it.json"):
        assert main(["evaluate", str(run), "--episodes", "1", "--output", str(output)]) == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith(f"safe-rl: error: cannot write {run}")
        assert message.endswith("choose another path")


def test_an_environment_that_fails_while_it_is_evaluated(run, capsys):
    def fail():
        raise RuntimeError("rain")

    toys.Corridor.on_step = toys.faults_at(5, fail)
    assert "raised in step: RuntimeError: rain" in _fails(capsys, "evaluate", run)
