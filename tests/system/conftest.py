"""A dataset, a pretraining and a run that the system tests share, made by the commands themselves."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from safe_rl.cli.main import main

HERE = Path(__file__).parent
ENV = "corridor:make"
QUICK = ["--risk.pretrain-steps", "20", "--batch-size", "32", "--start-steps", "20"]


class Outcome(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str


@pytest.fixture
def safe_rl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs a command in this process; the test's environments are importable."""
    monkeypatch.syspath_prepend(str(HERE))

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data``, ``harmless`` (no violations), ``pretrained`` and ``run``, to be read alone."""
    folder = tmp_path_factory.mktemp("made")
    commands = [
        ["collect", "--env", ENV, "--transitions", "600", "--output", "data", "--policy", "random"],
        ["collect", "--env", "corridor:harmless", "--transitions", "200", "--output", "harmless"],
        ["pretrain", "--env", ENV, "--dataset", "data", "--output", "pretrained", *QUICK],
        ["train", "recovery-rl", "--env", ENV, "--dataset", "data", "--pretrained", "pretrained",
         "--episodes", "4", "--output", "run", *QUICK],
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        patch.chdir(folder)
        for command in commands:
            assert main(command) == 0, command
    return folder


@pytest.fixture
def mine(made: Path, tmp_path: Path) -> Path:
    """A copy of ``made`` that the test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "mine"))
