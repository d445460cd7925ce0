"""Every mistake ends with one line that names the thing and the cure, exit code 2, and nothing lost."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

ENV = "corridor:make"
QUICK = "--risk.pretrain-steps 20 --batch-size 32 --start-steps 20 --episodes 4"

MISTAKES = {
    # the words of the command ({made} is the shared folder) -> what its line must name
    "collect --env Nowhere-v0 --output new": ["Nowhere-v0"],
    "collect --env no_such_module:make --output new": ["no_such_module"],
    "collect --env corridor:no_such_factory --output new": ["no_such_factory"],
    "collect --env corridor:not_an_environment --output new": ["not_an_environment", "gymnasium.Env"],
    "collect --env corridor:make --output {made}/data": ["{made}/data", "--overwrite"],
    "collect --env corridor:make --output new --transitions 0": ["--transitions", "0"],
    "collect --env corridor:make --output new --policy brave": ["brave"],
    "collect --env corridor:make --output new --policy expert": ["expert"],
    "inspect nowhere": ["nowhere"],
    "inspect {made}/run": ["{made}/run"],
    "pretrain --env corridor:make --dataset nowhere --output new": ["nowhere"],
    "pretrain --env corridor:make --dataset {made}/harmless --output new": ["{made}/harmless", "violat"],
    "pretrain --env Pendulum-v1 --dataset {made}/data --output new": ["{made}/data", "Pendulum-v1"],
    "pretrain --env CartPole-v1 --dataset {made}/data --output new": ["{made}/data", "CartPole-v1"],
    "pretrain --env corridor:make --dataset {made}/data --output {made}/pretrained": ["--overwrite"],
    "train recovery --env corridor:make --output new": ["recovery-rl"],
    "train recovery-rl --env corridor:make --output new": ["--dataset"],
    "train recovery-rl --env corridor:make --output new --dataset nowhere": ["nowhere"],
    "train recovery-rl --env corridor:make --output new --dataset {made}/harmless": ["{made}/harmless", "violat"],
    "train recovery-rl --env corridor:make --output new --dataset {made}/data --pretrained {made}": ["{made}"],
    "train recovery-rl --env corridor:make --output new --dataset {made}/data --risk.gamma-risk 1.5": ["1.5"],
    "train recovery-rl --env corridor:make --output {made}/run --dataset {made}/data": ["--resume", "--overwrite"],
    "train sqrl --env CartPole-v1 --output new --dataset {made}/data": ["sqrl", "Discrete(2)", "recovery-rl"],
    "train unconstrained --env corridor:make --output {made}/run --overwrite --resume": ["--overwrite"],
    "train unconstrained --env corridor:make --output new --resume": ["new", "--resume"],
    "train unconstrained --env corridor:make --output new --device quantum": ["quantum"],
    "train unconstrained --env corridor:make --output new --episodes 0": ["--episodes", "0"],
    "train unconstrained --env corridor:make --output {made}/data --overwrite": ["{made}/data"],
    "evaluate nowhere": ["nowhere"],
    "evaluate {made}/data": ["{made}/data"],
    "evaluate {made}/run --episodes 0": ["--episodes", "0"],
    "report nowhere": ["nowhere"],
    "report {made}/run --output {made}": ["{made}"],
}  # fmt: skip


def fingerprints(folder: Path) -> dict[str, str]:
    """A hash of every file."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("command", list(MISTAKES))
def test_a_mistake(command, made, safe_rl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = fingerprints(made)
    outcome = safe_rl(*command.format(made=made).split())
    assert outcome.code == 2
    assert outcome.err.startswith("safe-rl: error: ")
    assert outcome.err.count("\n") == 1, outcome.err
    for word in MISTAKES[command]:
        assert word.format(made=made) in outcome.err
    assert fingerprints(made) == before
    assert not (tmp_path / "new").exists()


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x20
    path.write_bytes(content)


@pytest.mark.parametrize("method", ["inspect", "pretrain", "train"])
def test_a_damaged_dataset_is_named(method, mine, safe_rl):
    damaged = next(mine.glob("data/**/*.hdf5"))
    flip_a_byte(damaged)
    data, new = mine / "data", mine / "new"
    commands = {
        "inspect": ["inspect", data],
        "pretrain": ["pretrain", "--env", ENV, "--dataset", data, "--output", new],
        "train": ["train", "recovery-rl", "--env", ENV, "--dataset", data, "--output", new],
    }
    outcome = safe_rl(*commands[method])
    assert outcome.code == 2
    assert damaged.name in outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    assert not new.exists()


def test_a_damaged_checkpoint_is_named(mine, safe_rl):
    weights = sorted(mine.glob("run/checkpoints/*/*.safetensors"))
    assert weights
    for path in weights:
        flip_a_byte(path)
    outcome = safe_rl("evaluate", mine / "run")
    assert outcome.code == 2
    assert any(path.name in outcome.err for path in weights), outcome.err
    assert outcome.err.count("\n") == 1, outcome.err


def test_a_damaged_pretraining_is_named(mine, safe_rl):
    for path in (mine / "pretrained").rglob("*.safetensors"):
        flip_a_byte(path)
    arguments = [
        "--env",
        ENV,
        "--dataset",
        mine / "data",
        "--pretrained",
        mine / "pretrained",
        "--output",
        mine / "new",
    ]
    outcome = safe_rl("train", "recovery-rl", *arguments, *QUICK.split())
    assert outcome.code == 2
    assert ".safetensors" in outcome.err
    assert str(mine / "pretrained") in outcome.err


def test_a_damaged_episode_table_is_named(mine, safe_rl):
    table = mine / "run" / "episodes.csv"
    table.write_text(table.read_text().replace(",", ";"))
    outcome = safe_rl("report", mine / "run", "--output", mine / "report.html")
    assert outcome.code == 2
    assert "episodes.csv" in outcome.err
    assert not (mine / "report.html").exists()


@pytest.mark.parametrize(
    ("factory", "words"),
    [("raises", "the motor is on fire"), ("gives_nan", "not finite"), ("changes_shape", "shape")],
)
def test_an_environment_that_fails_leaves_a_run_that_goes_on(factory, words, made, safe_rl, tmp_path):
    arguments = ["--dataset", made / "data", "--pretrained", made / "pretrained", "--output", tmp_path / "run"]
    command = ["train", "recovery-rl", "--env", f"corridor:{factory}", *arguments, *QUICK.split(), "--episodes", "12"]
    outcome = safe_rl(*command)
    assert outcome.code == 2
    assert words in outcome.err
    assert factory in outcome.err
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    episodes = (tmp_path / "run" / "episodes.csv").read_text().splitlines()
    assert len(episodes) >= 2
    resumed = safe_rl(*command, "--resume")  # the fault comes back in its 40th step: more episodes are done by then
    assert resumed.code in (0, 2)
    assert (tmp_path / "run" / "episodes.csv").read_text().splitlines()[: len(episodes)] == episodes
