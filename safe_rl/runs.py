"""Run folders: made, recognised, opened."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safe_rl.checkpoint import load_newest
from safe_rl.config import AgentConfig
from safe_rl.envs.factory import CostEnv, make_env
from safe_rl.errors import UserError
from safe_rl.methods import config_from_dict, get_method, make_agent

CONFIG = "config.json"
VERSIONS = "versions.json"
_STAGED = f".{CONFIG}.staged"
FREE_TO_CHANGE = {
    *("episodes", "resume", "overwrite", "output", "device", "checkpoint_every", "dataset", "pretrained"),
    *("steps", "workers", "address", "stop_at_return", "checkpoint_every_sec", "log_every_sec"),
}
"""Settings that a resumed run may have other values of; the checkpoint knows the dataset's hash."""
REPORTED_LIBRARIES = ("torch", "numpy", "gymnasium", "minari", "pybullet", "safetensors")


def prepare_run_folder(folder: Path, config: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
    """Makes a run folder, or checks that the one there may be gone on with.

    Args:
        folder: The run folder.
        config: The resolved settings, as JSON values and paths.
        resume: Go on with the run there.
        overwrite: Replace the run there.

    Raises:
        UserError: There is a run already and neither was asked for, there is none to resume, its settings differ, or
            replacing it would delete what the new one reads.
    """
    config = json.loads(json.dumps(config, default=str))
    exists = (folder / CONFIG).is_file()
    if exists and resume:
        _require_same_settings(folder, read_config(folder), config)
        return
    if exists and not overwrite:
        raise UserError(
            f"{folder} already holds a run: go on with --resume, replace it with --overwrite, "
            "or choose another --output"
        )
    if resume:
        raise UserError(f"{folder} holds no run to resume: leave --resume out to start one")
    if folder.is_dir() and not exists and any(path.name not in (VERSIONS, _STAGED) for path in folder.iterdir()):
        raise UserError(f"{folder} holds other files and no run: choose another --output")
    if exists:
        for name in ("dataset", "pretrained"):
            if config.get(name) and Path(config[name]).resolve().is_relative_to(folder.resolve()):
                raise UserError(f"--overwrite would delete --{name} {config[name]}: choose another --output")
        shutil.rmtree(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / VERSIONS).write_text(json.dumps(versions(), indent=2))
        (folder / _STAGED).write_text(json.dumps(config, indent=2))
        (folder / _STAGED).replace(folder / CONFIG)  # whole or not at all: a run that was killed here can begin again
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error


def _require_same_settings(folder: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    if is_pretraining(saved) != is_pretraining(wanted):
        cure = "name it with --pretrained and " if is_pretraining(saved) else ""
        raise UserError(f"{folder} holds a {_kind(saved)}, not a {_kind(wanted)}: {cure}choose another --output")
    if name := first_difference(saved, wanted):
        if version := other_version(saved, wanted, name):
            raise UserError(f"{folder} was started by {version}: resume it with that one, or choose another --output")
        before, now = flat_settings(saved)[name], flat_settings(wanted)[name]
        raise UserError(
            f"{folder} was started with {name} = {before}, not {now}: "
            "resume with the same settings, or choose another --output"
        )


def first_difference(saved: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """The name of a setting that a run may not change and that two configurations disagree on; None where none does.

    One that only one of them has comes last: another method or environment has other sections, too.
    """
    saved, wanted = flat_settings(saved), flat_settings(wanted)
    common = saved.keys() & wanted.keys()
    for name in sorted(saved.keys() | wanted.keys(), key=lambda name: (name not in common, name != "method", name)):
        if name not in FREE_TO_CHANGE and saved.get(name) != wanted.get(name):
            return name
    return None


def other_version(saved: dict[str, Any], wanted: dict[str, Any], name: str) -> str:
    """What wrote ``saved``, where it and ``wanted`` differ in that only one of them has a setting; else empty."""
    if name not in flat_settings(saved):
        return f"a version without {name}"
    if name not in flat_settings(wanted):
        return f"a version with {name}, which this one does not have"
    return ""


def is_pretraining(config: dict[str, Any]) -> bool:
    """Whether these are the settings of ``safe-rl pretrain``, which knows neither episodes nor steps."""
    return "episodes" not in config and "steps" not in config


def is_plan(config: dict[str, Any]) -> bool:
    """Whether these are the settings of a training by a plan (``safe_rl.plans``)."""
    return "steps" in config


def _kind(config: dict[str, Any]) -> str:
    return "pretraining" if is_pretraining(config) else "training"


def flat_settings(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turns nested sections into dotted names."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= flat_settings(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def versions() -> dict[str, Any]:
    """What this run was made with: libraries, Python, platform, git revision and the command line."""
    libraries = {}
    for name in REPORTED_LIBRARIES:
        try:
            libraries[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": libraries,
    }


def _git_revision() -> str | None:
    """The revision of the installed source, with a mark where files differ from it; None outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603 (fixed)
        return result.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def read_config(folder: Path) -> dict[str, Any]:
    """Reads the resolved settings of a run.

    Raises:
        UserError: The folder is missing, no run, or its settings are damaged.
    """
    path = folder / CONFIG
    if not folder.is_dir():
        raise UserError(f"no run at {folder}: the folder does not exist")
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder: it has no {CONFIG}")
    try:
        config: dict[str, Any] = json.loads(path.read_text())
        config["method"], config["env"], config["seed"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: restore it, or train again with --overwrite") from error
    return config


@contextmanager
def misfit_named(run: Path, env_id: str) -> Iterator[None]:
    """Turns the error of loading a state of other shapes into a ``UserError`` that says what does not fit."""
    try:
        yield
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(
            f"the checkpoint of {run} does not fit {env_id} as it is now: {' '.join(str(error).split())[:200]}"
        ) from error


@dataclass(frozen=True)
class Run:
    """A run folder that was opened."""

    path: Path
    config: dict[str, Any]
    """The resolved settings."""

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.config["method"])

    @property
    def env_id(self) -> str:
        """Name of the environment."""
        return str(self.config["env"])

    @property
    def cost_key(self) -> str:
        """The entry of ``info`` that is the constraint."""
        return str(self.config.get("cost_key", "cost"))

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.config["seed"])

    def agent_config(self) -> AgentConfig:
        """The method's settings."""
        config: AgentConfig = config_from_dict(get_method(self.method).config, self.config)
        return config

    def make_env(self, render_mode: str | None = None) -> CostEnv:
        """Makes the run's environment."""
        return make_env(self.env_id, cost_key=self.cost_key, render_mode=render_mode)

    def make_agent(self, device: str = "cpu") -> Any:
        """Loads the newest checkpoint's policy: an agent that can act, ``SACAgent`` or ``ActorCriticAgent``.

        Raises:
            UserError: There is no checkpoint, it is damaged, or does not fit the environment.
        """
        if is_plan(self.config):
            from safe_rl.plans.agent import load_agent

            return load_agent(self)
        # The replay is the training's; an agent that acts needs none.
        config = dataclasses.replace(self.agent_config(), replay_capacity=1)
        if is_pretraining(self.config):
            raise UserError(f"{self.path} holds a pretraining and no policy: train one with --pretrained {self.path}")
        env = self.make_env()
        agent = make_agent(self.method, config, env.observation_space, env.action_space, seed=self.seed, device=device)
        env.close()
        state = load_newest(self.path / "checkpoints")
        with misfit_named(self.path, self.env_id):
            agent.load_policy_state_dict(state["agent"]["policy"])
        agent.num_observed = state["agent"]["counters"]["num_observed"]
        return agent


def load_run(path: Path | str) -> Run:
    """Opens a run folder.

    Raises:
        UserError: It is missing, damaged, or no run.
    """
    return Run(Path(path), read_config(Path(path)))
