"""`safe-rl view` as a function: episodes in a window or as a video, with who acts and at what risk."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from safe_rl.data.behaviours import SCRIPTED, checked_act, make_behaviour
from safe_rl.envs.factory import CostEnv, make_env
from safe_rl.envs.protocols import OffersExpert
from safe_rl.envs.screen import screen_fault
from safe_rl.errors import UserError
from safe_rl.evaluation import EVALUATION_SEED_OFFSET
from safe_rl.report.trajectories import FrameSink, Move, Trajectory, moves_of, run_episode
from safe_rl.report.video import FRAMES_PER_SEC, VideoWriter
from safe_rl.rollout import episode_seed
from safe_rl.subjects import open_subject

_Play = Callable[[int, FrameSink | None], Trajectory]
"""``play(number, on_frame)`` runs an episode."""
_INSTEAD = "write a video with --output video.mp4"


@dataclass
class ViewConfig:
    """Watch episodes in a window, or write them as a video, with who acts (task, recovery, stop) and the risk."""

    env: str | None = None
    """Environment: a registered id or package.module:factory (default: the run's)."""
    run: Path | None = None
    """Run folder or policy bundle that acts."""
    policy: str | None = None
    """Who acts where no run does: random, expert, noisy-expert, or boundary, the short episodes of collect (default:
    expert where the environment has one, else random)."""
    output: Path | None = None
    """Video to write (.mp4); without it a window opens."""
    episodes: int = 3
    """Episodes to show."""
    seed: int = 0
    """Seed of the episodes; a run's are those of evaluate."""
    cost_key: str | None = None
    """Entry of info that is the constraint (default: the run's, or cost)."""
    max_episode_steps: int = 1000
    """Longest episode, for environments that have no limit of their own."""
    frames_per_sec: float | None = None
    """Speed of the video (default: the environment's render_fps)."""

    def __post_init__(self) -> None:
        """Validates the values."""
        for name, least in (("episodes", 1), ("seed", 0), ("max_episode_steps", 1)):
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}: it must be at least {least}")
        if self.frames_per_sec is not None and not 0.1 <= self.frames_per_sec <= 240:
            raise UserError(f"--frames-per-sec is {self.frames_per_sec}: it must be between 0.1 and 240")
        if self.env is None and self.run is None:
            raise UserError("nothing to view: name an environment with --env, or a run with --run")
        if self.run is not None and self.policy is not None:
            raise UserError("--run and --policy are two who would act: choose one")
        if self.policy is not None and self.policy not in SCRIPTED[1:]:
            raise UserError(
                f"--policy is {self.policy!r}: it must be one of {', '.join(SCRIPTED[1:])}; a run is named with --run"
            )
        if self.output is not None and self.output.suffix != ".mp4":
            raise UserError(f"--output is {self.output}: it must end in .mp4")


def view(config: ViewConfig, on_episode: Callable[[Trajectory], None] | None = None) -> list[Trajectory]:
    """Shows or films episodes.

    Args:
        config: What to show, and where.
        on_episode: Called after each.

    Raises:
        UserError: There is no screen, the run does not fit, or the environment cannot be drawn.
    """
    if config.output is None:
        require_screen()
        return _show(config, on_episode)
    try:
        config.output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {config.output}: {error.strerror or error}") from error
    if config.output.is_dir():
        raise UserError(f"--output is {config.output}: it is a folder; name a file in it")
    return _play(config, "rgb_array", on_episode)


def require_screen() -> None:
    """Raises ``UserError`` on a machine that has no screen to open a window on."""
    fault = screen_fault()
    if fault is not None:
        raise UserError(f"no screen for a window here ({fault}): {_INSTEAD}")


def _show(config: ViewConfig, on_episode: Callable[[Trajectory], None] | None) -> list[Trajectory]:
    try:
        return _play(config, "human", on_episode)
    except UserError as error:
        if "window" in str(error):  # an OpenCV without windows, a renderer that opens none
            raise UserError(f"{error}; or {_INSTEAD}") from error
        raise


def _play(config: ViewConfig, render_mode: str, on_episode: Callable[[Trajectory], None] | None) -> list[Trajectory]:
    env, play = _script(config, render_mode) if config.run is None else _run(config, config.run, render_mode)
    speed = config.frames_per_sec or float(env.metadata.get("render_fps") or FRAMES_PER_SEC)
    trajectories = []
    with ExitStack() as stack:
        stack.callback(env.close)
        on_frame = None
        if config.output is not None:
            writer = VideoWriter(config.output, max_frames=sys.maxsize, frames_per_sec=speed)
            on_frame = stack.enter_context(writer).add
        for number in range(config.episodes):
            trajectories.append(play(number, on_frame))
            if on_episode is not None:
                on_episode(trajectories[-1])
    return trajectories


def _run(config: ViewConfig, path: Path, render_mode: str) -> tuple[CostEnv, _Play]:
    """An agent or a shield, in the episodes of ``evaluate``."""
    subject = open_subject(path, env=config.env, cost_key=config.cost_key, render_mode=render_mode)
    decide = moves_of(subject.actor, subject.env)

    def play(number: int, on_frame: FrameSink | None) -> Trajectory:
        if number > 0:
            subject.between_episodes()
        return run_episode(
            subject.env,
            decide,
            number=number,
            seed=_seed(config, number),
            eps_risk=subject.eps_risk,
            max_steps=config.max_episode_steps,
            on_frame=on_frame,
        )

    return subject.env, play


def _script(config: ViewConfig, render_mode: str) -> tuple[CostEnv, _Play]:
    """A policy that needs no training."""
    env = make_env(config.env or "", cost_key=config.cost_key or "cost", render_mode=render_mode)
    policy = config.policy or ("expert" if isinstance(env.unwrapped, OffersExpert) else "random")
    behaviour = make_behaviour(policy, None, env)

    def play(number: int, on_frame: FrameSink | None) -> Trajectory:
        start = behaviour(np.random.default_rng([config.seed, number]))
        return run_episode(
            env,
            lambda obs: Move(checked_act(start.act, obs, env)[0]),
            number=number,
            seed=_seed(config, number),
            options=start.options,
            max_steps=min(config.max_episode_steps, start.max_steps or config.max_episode_steps),
            on_frame=on_frame,
        )

    return env, play


def _seed(config: ViewConfig, number: int) -> int:
    return episode_seed(config.seed + EVALUATION_SEED_OFFSET, number)
