"""The commands of a recovery that plans, run as a user would."""

from __future__ import annotations

import csv
from pathlib import Path

from safe_rl.cli.main import main


class PlanningCommands:
    """Commands on one toy environment, with one set of small networks.

    Args:
        folder: Gets the runs; the dataset is ``data`` within it.
        env: Name of the environment.
        networks: Flags of ``safe-rl train`` that make the agent small.
        capsys: pytest's, to read what was said.
    """

    def __init__(self, folder: Path, env: str, networks: list[str], capsys) -> None:
        self.folder, self.networks, self.capsys = folder, networks, capsys
        self.about = ("--env", env, "--dataset", folder / "data", *networks)

    def run(self, *arguments: object) -> int:
        return main([str(argument) for argument in arguments])

    def pretrain(self) -> None:
        assert self.run("pretrain", *self.about, "--output", self.folder / "pretrained") == 0

    def train(self, name: str, episodes: int, *more: object) -> list[list[str]]:
        """Trains from the pretraining and returns the rows of its episodes, with a head, without their times."""
        given = ("--pretrained", self.folder / "pretrained", "--output", self.folder / name, "--episodes", episodes)
        few = ("--log-every", 10, "--task-pretrain-steps", 5)
        assert self.run("train", "recovery-rl", *self.about, *given, *few, *more) == 0
        with (self.folder / name / "episodes.csv").open() as file:
            return [row[:-1] for row in csv.reader(file)]

    def refused(self, *arguments: object) -> str:
        """The last line said by a command that is refused."""
        self.capsys.readouterr()
        assert self.run(*arguments) == 2
        line: str = self.capsys.readouterr().err.strip().splitlines()[-1]
        return line

    def refused_training(self, *more: object, method: str = "recovery-rl") -> str:
        line = self.refused("train", method, *self.about, "--output", self.folder / "new", *more)
        assert not (self.folder / "new").exists()
        return line
