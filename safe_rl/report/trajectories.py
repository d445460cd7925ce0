"""Evaluation episodes of a trained run, step by step: what the risk map and the video show."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from safe_rl.algorithms.risk_aware import RiskAwareAgent
from safe_rl.algorithms.sac import SACAgent
from safe_rl.envs.factory import CostEnv
from safe_rl.envs.protocols import OffersPlaneMap, PlaneMap
from safe_rl.envs.spaces import image_shape
from safe_rl.errors import EnvironmentFault
from safe_rl.evaluation import EVALUATION_SEED_OFFSET, Actor
from safe_rl.rollout import episode_seed
from safe_rl.subjects import threshold_of
from safe_rl.switch import Mode


class RunLike(Protocol):
    """What is needed of ``safe_rl.runs.Run`` here."""

    def make_env(self, render_mode: str | None = None) -> CostEnv:
        """Makes the run's environment."""
        ...

    def make_agent(self, device: str = "cpu") -> SACAgent:
        """Loads the run's agent."""
        ...


@dataclass(frozen=True)
class Trajectory:
    """One evaluation episode of ``T`` steps."""

    positions: npt.NDArray[np.float64] | None
    """(T + 1, 2) points of the plane, where the environment offers one."""
    modes: npt.NDArray[np.int8]
    """(T,) who acted: ``Mode``."""
    risks: npt.NDArray[np.float32]
    """(T,) ``Q_risk`` of what the task policy proposed; NaN without a risk critic."""
    return_: float
    success: bool
    violation: bool

    @property
    def outcome(self) -> str:
        """``violation``, ``success`` or ``time-out``; a violation outweighs a success."""
        return "violation" if self.violation else "success" if self.success else "time-out"


@dataclass(frozen=True)
class Frame:
    """A moment of an episode, as an environment's camera saw it."""

    image: npt.NDArray[np.uint8]
    """(height, width, 3) RGB."""
    episode: int
    step: int
    mode: Mode | None
    """Who acted; None for a script."""
    risk: float
    outcome: str | None
    """Set in the last frame of an episode."""
    has_overlay: bool
    """The environment drew mode and risk into the image itself."""
    observation: npt.NDArray[np.uint8] | None = None
    """(height, width, 3) what the policy sees, where that is an image; the last of several frames."""


FrameSink = Callable[[Frame], None]


def collect_trajectories(
    run: RunLike,
    episodes: int,
    seed: int,
    *,
    agent: SACAgent | None = None,
    on_frame: FrameSink | None = None,
    filmed_episodes: int | None = None,
) -> list[Trajectory]:
    """Runs a trained agent without exploration.

    Args:
        run: The run folder, opened.
        episodes: How many episodes.
        seed: The same seed gives the same starts, which are those of ``safe-rl evaluate --seed``.
        agent: Acts (default: the run's newest checkpoint).
        on_frame: Takes the pictures; the environment is made with ``render_mode="rgb_array"`` for it.
        filmed_episodes: How many of the episodes are filmed (default: all).

    Raises:
        UserError: There is no usable checkpoint, or the environment cannot be made.
        EnvironmentFault: The environment failed, or has no pictures.
    """
    agent = agent or run.make_agent()
    env = run.make_env(render_mode="rgb_array" if on_frame is not None else None)
    seeds = [episode_seed(seed + EVALUATION_SEED_OFFSET, number) for number in range(episodes)]
    filmed = episodes if filmed_episodes is None else filmed_episodes
    try:
        return [
            run_episode(
                env,
                moves_of(agent, env),
                number=number,
                seed=reset_seed,
                eps_risk=threshold_of(agent),
                on_frame=on_frame if number < filmed else None,
            )
            for number, reset_seed in enumerate(seeds)
        ]
    finally:
        env.close()


class Move(NamedTuple):
    """What is done at a step, and by whom."""

    action: Any
    mode: Mode | None = None
    """None for a script, which no switch watches."""
    risk: float = float("nan")


def moves_of(agent: Actor, env: CostEnv) -> Callable[[Any], Move]:
    """Returns an agent, without exploration, as a function of the environment's own observations."""

    def decide(obs: Any) -> Move:
        decision = agent.act(env.flat(obs)[None], explore=False)
        return Move(decision.action[0], Mode(int(decision.mode[0])), float(decision.risk[0]))

    return decide


def run_episode(
    env: CostEnv,
    decide: Callable[[Any], Move],
    *,
    number: int,
    seed: int,
    eps_risk: float | None = None,
    options: dict[str, Any] | None = None,
    max_steps: int | None = None,
    on_frame: FrameSink | None = None,
) -> Trajectory:
    """Runs an episode, and tells an environment that draws who acts.

    Args:
        env: The environment.
        decide: Who acts.
        number: Of the episode, for its pictures.
        seed: Of its reset.
        eps_risk: The threshold, for those who draw it.
        options: Of its reset.
        max_steps: The episode is left after that many steps.
        on_frame: Takes the pictures of an environment with ``render_mode="rgb_array"``.

    Raises:
        EnvironmentFault: The environment failed, or has no pictures.
    """
    plane = plane_of(env)
    set_overlay = None if env.render_mode is None else _overlay_of(env, eps_risk)
    obs, _ = env.reset(seed=seed, options=options)
    positions = [plane.plane_position(obs)] if plane else []
    modes, risks = [], []
    return_, violation = 0.0, False
    ended, info = False, {"success": False}
    while not ended:
        action, mode, risk = decide(obs)
        if set_overlay is not None:
            set_overlay(None if mode is None else mode.name, None if np.isnan(risk) else risk)
        obs, reward, terminated, truncated, info = env.step(action)
        modes.append(Mode.TASK if mode is None else mode)
        risks.append(risk)
        ended = terminated or truncated or len(modes) == max_steps
        return_ += reward
        violation = violation or info["cost"] > 0.0
        if plane:
            positions.append(plane.plane_position(obs))
        if on_frame is not None:
            outcome = ("violation" if violation else "success" if info["success"] else "time-out") if ended else None
            seen = np.asarray(obs)[:, :, -3:] if image_shape(env.observation_space) else None
            on_frame(Frame(_picture(env), number, len(modes), mode, risk, outcome, set_overlay is not None, seen))
    return Trajectory(
        positions=np.array(positions, dtype=np.float64) if plane else None,
        modes=np.array(modes, dtype=np.int8),
        risks=np.array(risks, dtype=np.float32),
        return_=return_,
        success=bool(info["success"]),
        violation=violation,
    )


def plane_of(env: CostEnv) -> OffersPlaneMap | None:
    """The environment's plane, where it offers one."""
    inner: Any = env.unwrapped
    return inner if isinstance(inner, OffersPlaneMap) else None


def _overlay_of(env: CostEnv, eps_risk: float | None) -> Callable[[str | None, float | None], None] | None:
    """The environment's ``set_overlay(mode, risk)``, where it has one; told the threshold too, where it takes that."""
    hook = getattr(env.unwrapped, "set_overlay", None)
    if not callable(hook):
        return None
    if eps_risk is not None and "eps_risk" in inspect.signature(hook).parameters:
        return functools.partial(hook, eps_risk=eps_risk)
    return hook


def _picture(env: CostEnv) -> npt.NDArray[np.uint8]:
    try:
        image = np.asarray(env.render())
    except Exception as error:
        raise EnvironmentFault(f"environment {env.name} raised in render: {type(error).__name__}: {error}") from error
    if image.ndim != 3 or image.shape[2] not in (3, 4):
        raise EnvironmentFault(f"environment {env.name} renders no RGB picture: render() gave the shape {image.shape}")
    return image[..., :3].astype(np.uint8)


@dataclass(frozen=True)
class RiskGrid:
    """``V(s) = Q_risk(s, pi_task(s))`` over the plane."""

    x: npt.NDArray[np.float64]
    """(num_x,)"""
    y: npt.NDArray[np.float64]
    """(num_y,)"""
    risk: npt.NDArray[np.float32]
    """(num_y, num_x)"""


def risk_over_plane(agent: SACAgent, plane: OffersPlaneMap, resolution: int = 160) -> RiskGrid | None:
    """Evaluates the risk of what the task policy proposes, everywhere; None without a risk critic.

    Args:
        agent: A trained agent.
        plane: An environment.
        resolution: Points along the longer side.
    """
    if not isinstance(agent, RiskAwareAgent):
        return None
    x, y = _axes(plane.plane_map, resolution)
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    # In parts: the observations may be images.
    parts = np.array_split(points, max(1, len(points) // 4096))
    risk = np.concatenate([agent.proposed_risk(plane.plane_observation(part)) for part in parts])
    return RiskGrid(x, y, risk.reshape(len(y), len(x)))


def _axes(plane_map: PlaneMap, resolution: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    bounds = plane_map.bounds
    width, height = bounds.x_max - bounds.x_min, bounds.y_max - bounds.y_min
    longer = max(width, height)
    num_x, num_y = (max(60, round(resolution * side / longer)) for side in (width, height))
    return np.linspace(bounds.x_min, bounds.x_max, num_x), np.linspace(bounds.y_min, bounds.y_max, num_y)
