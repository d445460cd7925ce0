"""`train_on_robot`: pretrains on recordings, then learns on the robot, the switch in the loop; goes on where it was.

    python -m ros_nodes.train_on_robot --ros-args -p params_file:=my_robot.yaml -p dataset:=data/run1 -p output:=runs/r1

is ``safe-rl train recovery-rl --env ros_nodes.ros_env:my_robot.yaml ...`` with what a robot needs around it: called
again, it resumes; it refuses to where the parameter file now gives the numbers another meaning; a dry run leaves the
run alone.
"""

from __future__ import annotations

import ros_nodes.require_ros  # noqa: F401  (before what it requires)

# isort: split
import dataclasses
import json
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.signals import SignalHandlerOptions

from ros_nodes.parameters import nested
from ros_nodes.robot_settings import RobotSettings
from ros_nodes.ros_env import DRY_RUN
from safe_rl.cli.console import progress_bar, show
from safe_rl.cli.train import parse_arguments
from safe_rl.config import RunConfig
from safe_rl.errors import UserError
from safe_rl.rollout import EpisodeRecord
from safe_rl.runner import Runner
from safe_rl.runs import CONFIG, flat_settings, read_config
from safe_rl.training import train

PROG = "train_on_robot"
TASK = "robot.json"
"""What the robot's numbers meant, in the run folder."""
REFUSED, INTERRUPTED = 2, 130


@dataclass(frozen=True)
class Request:
    """The node's parameters, all of them texts."""

    params_file: str = ""
    """The parameter file, which describes robot, reward and episodes."""
    output: str = ""
    """Run folder; one that holds a run is gone on with."""
    dataset: str = ""
    """Offline dataset, such as safe-rl collect --from-bag makes. Needed at the start."""
    pretrained: str = ""
    """Run folder of safe-rl pretrain to start from; empty: pretrain on the dataset first."""
    method: str = "recovery-rl"
    """A method of safe-rl train."""
    episodes: str = ""
    """Training episodes in all, those of earlier sessions included."""
    seed: str = ""
    """Seed of everything random but the robot."""
    preset: str = ""
    """Settings to start from: tuned, paper or none."""
    settings_of: str = ""
    """Environment whose preset to take, such as the robot's simulation safe_rl/Maze-v0."""
    dry_run: str = "false"
    """Whether to send nothing; the run then goes to a folder of its own, which the next dry run replaces."""
    flags: str = ""
    """Further flags of safe-rl train, such as --risk.eps-risk 0.2."""

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Request:
        """Picks its own among all parameters.

        Raises:
            UserError: One is needed or cannot be.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        request = cls(**{name: _text(value) for name, value in parameters.items() if name in known})
        for name in ("params_file", "output"):
            if not getattr(request, name):
                raise UserError(f"parameter {name} is missing: give -p {name}:=...")
        if request.dry_run not in ("true", "false"):
            raise UserError(f"parameter dry_run is {request.dry_run}: it must be true or false")
        return request

    @property
    def is_dry(self) -> bool:
        """Whether nothing is sent."""
        return self.dry_run == "true"

    @property
    def env(self) -> str:
        """The environment's name; the same from whatever folder it is called."""
        return f"ros_nodes.ros_env:{Path(self.params_file).resolve()}{DRY_RUN * self.is_dry}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.output + "_dry_run" if self.is_dry else self.output)

    def arguments(self) -> tuple[RunConfig, Any]:
        """The run and the method's settings, as safe-rl train would have them.

        Raises:
            UserError: They cannot be, or a robot cannot do what they ask.
        """
        resumes = not self.is_dry and (self.folder / CONFIG).is_file()
        words = ["--env", self.settings_of or self.env, "--output", str(self.folder)]
        given = {"dataset": self.dataset, "pretrained": self.pretrained, "episodes": self.episodes, "seed": self.seed}
        if not resumes:
            given["preset"] = self.preset
        for name, value in given.items():
            words += [f"--{name}", value] if value else []
        words += ["--resume"] * resumes + ["--overwrite"] * self.is_dry + shlex.split(self.flags)
        parsed = parse_arguments(self.method, RunConfig, words, prog=PROG)
        run = dataclasses.replace(parsed.run, env=self.env)
        for name, limit in (("eval_every", 0), ("num_envs", 1)):
            if getattr(run, name) > limit:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(run, name)}: there is one robot; leave it out")
        return run, parsed.agent


class TaskKeeper:
    """Keeps what the robot's numbers mean beside the run, and compares."""

    def __init__(self, folder: Path, settings: RobotSettings) -> None:
        self._path = folder / TASK
        self._task = json.loads(json.dumps(settings.task()))

    def check(self) -> None:
        """Compares with what was kept.

        Raises:
            UserError: The run was learned on something else.
        """
        if not self._path.is_file():
            return
        saved, wanted = flat_settings(json.loads(self._path.read_text())), flat_settings(self._task)
        for name in sorted(saved.keys() | wanted.keys()):
            if saved.get(name) != wanted.get(name):
                raise UserError(
                    f"{self._path.parent} was learned with {name} = {saved.get(name)}, the parameter file now says "
                    f"{wanted.get(name)}: set it back, or choose another output"
                )

    def keep(self) -> None:
        """Writes it down, once there is a run."""
        if (self._path.parent / CONFIG).is_file() and not self._path.is_file():
            self._path.write_text(json.dumps(self._task, indent=2))

    def __call__(self, runner: Runner, record: EpisodeRecord) -> None:
        """Called after each episode: a run that is killed is resumable, too."""
        self.keep()


def learn(request: Request) -> None:
    """Trains as the request says.

    Raises:
        UserError: Something is missing or does not fit.
        EnvironmentFault: The robot failed; the run was saved.
        KeyboardInterrupt: Ctrl-C; likewise.
    """
    run, agent_config = request.arguments()
    keeper = TaskKeeper(run.output, RobotSettings.load(Path(request.params_file)))
    if run.resume:
        method = read_config(run.output)["method"]
        if method != request.method:
            raise UserError(f"{run.output} holds a run of {method}: set method to it, or choose another output")
        keeper.check()
    try:
        with (
            progress_bar("pretraining", "steps") as pretrain_progress,
            progress_bar("training", "episodes") as progress,
        ):
            agent = train(
                request.method,
                run,
                agent_config,
                callbacks=[keeper],
                progress=progress,
                pretrain_progress=pretrain_progress,
            )
    finally:
        keeper.keep()
    show(f"{request.method}: {agent.num_observed} steps of the robot, run folder {run.output}")


def main(args: Sequence[str] | None = None) -> int:
    """Runs the program.

    Returns:
        0, or 2 where something cannot work, or 130 after Ctrl-C; what was learned is saved in each case.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):  # an orderly end, as with Ctrl-C
        signal.signal(number, _interrupt)
    try:
        rclpy.init(args=list(sys.argv if args is None else args), signal_handler_options=SignalHandlerOptions.NO)
        learn(Request.from_parameters(_parameters()))
        return 0
    except (UserError, RCLError) as error:
        sys.stderr.write(f"{PROG}: error: {' '.join(str(error).split())}\n")
        return REFUSED
    except OSError as error:
        sys.stderr.write(f"{PROG}: error: {error.strerror}: {error.filename}\n")
        return REFUSED
    except KeyboardInterrupt:
        sys.stderr.write(f"{PROG}: interrupted\n")
        return INTERRUPTED
    finally:
        rclpy.try_shutdown()


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)


def _parameters() -> dict[str, Any]:
    node = rclpy.create_node(PROG, automatically_declare_parameters_from_overrides=True)
    try:
        return nested(node)
    finally:
        node.destroy_node()


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    sys.exit(main())
