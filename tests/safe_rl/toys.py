"""Toy environments that the tests of the core reach as ``toys:<factory>``; nothing here needs a simulator."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from safe_rl.config import (
    AgentConfig,
    RecoveryConfig,
    RecoveryRLConfig,
    RiskAwareConfig,
    RiskConfig,
    RiskCriticConfig,
    SACConfig,
    UnconstrainedConfig,
)
from safe_rl.methods import get_method


class Corridor(gym.Env):
    """A point walks right through a corridor with a cliff on either side.

    It starts at x = 0; x >= 1 is the goal, |y| > 0.3 a violation; both end the episode, the horizon (30) cuts it. The
    reward is the way ahead, so nobody gains by falling.
    ``on_step`` is called with the number of steps of all corridors so far: a test interrupts or breaks there.
    """

    on_step: ClassVar[Callable[[int], None] | None] = None
    total_steps: ClassVar[int] = 0

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(-0.15, 0.15, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.point = np.array([0.0, self.np_random.uniform(-0.15, 0.15)])
        self.steps = 0
        return self.point.astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        Corridor.total_steps += 1
        if Corridor.on_step is not None:
            Corridor.on_step(Corridor.total_steps)
        if Corridor.total_steps == int(os.environ.get("TOYS_KILL_AT", "0")):
            os.kill(os.getpid(), signal.SIGKILL)
        self.steps += 1
        before = self.point[0]
        self.point = self.point + np.asarray(action, dtype=np.float64) + self.np_random.normal(0.0, 0.01, size=2)
        violation, success = abs(self.point[1]) > 0.3, self.point[0] >= 1.0
        info = {"cost": violation, "success": bool(success and not violation)}
        done = bool(violation or success)
        return self.point.astype(np.float32), float(self.point[0] - before), done, self.steps >= 30, info


class Steps(Corridor):
    """The corridor on foot: action 3 is a step of 0.15 ahead, then counter-clockwise left, back and right (6)."""

    FIRST: ClassVar[int] = 3

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Discrete(4, start=self.FIRST)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is none of {self.action_space}")
        angle = (int(action) - self.FIRST) * np.pi / 2
        return super().step(0.15 * np.array([np.cos(angle), np.sin(angle)]))


class Script(gym.Env):
    """Plays a script: episodes of a given length, at step ``t`` (from 1) the reward ``t``, a cost on the named steps.

    An observation is (a number drawn at reset, t).
    """

    def __init__(
        self, length: int = 3, costs: tuple[int, ...] = (), terminates: bool = True, success: bool = True
    ) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)
        self.length, self.costs, self.terminates, self.success = length, costs, terminates, success
        self.resets = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.resets += 1
        self.start, self.t = self._draw(), 0
        return np.array([self.start, 0.0], np.float32), {}

    def _draw(self) -> float:
        return float(self.np_random.integers(1, 1_000_000))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        ends = self.t >= self.length
        info = {"cost": self.t in self.costs, "success": self.success and ends}
        obs = np.array([self.start, self.t], np.float32)
        return obs, float(self.t), ends and self.terminates, ends and not self.terminates, info


class Unrepeatable(Script):
    """Never starts where it started before, whatever the seed: like a robot on a real floor."""

    draws: ClassVar[int] = 0

    def _draw(self) -> float:
        Unrepeatable.draws += 1
        return float(Unrepeatable.draws)


class Broken(Script):
    """Returns, or raises, what a test tells it to."""

    def __init__(self, result: Any = None, reset_result: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.result, self.reset_result = result, reset_result

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        made = super().reset(seed=seed)
        return _given(self.reset_result, made)

    def step(self, action: Any) -> Any:
        return _given(self.result, super().step(action))


def _given(wanted: Any, made: Any) -> Any:
    if isinstance(wanted, BaseException):
        raise wanted
    return made if wanted is None else wanted


class OtherCorridor(Corridor):
    """Has the corridor's spaces, and is another environment."""


class Wide(Corridor):
    """A corridor of other shapes than the dataset's."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)


class Keyed(Corridor):
    """A corridor with a Dict observation that names its constraint ``hazard``."""

    def __init__(self) -> None:
        super().__init__()
        box = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.observation_space = spaces.Dict({"x": box, "y": box})

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = super().reset(**kwargs)
        return {"x": obs[:1], "y": obs[1:]}, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = super().step(action)
        return {"x": obs[:1], "y": obs[1:]}, reward, terminated, truncated, {"hazard": 3.0 * info["cost"]}


def faults_at(step: int, fault: Callable[[], None]) -> Callable[[int], None]:
    """An ``on_step`` that calls ``fault`` at that step, counted from now."""
    last = Corridor.total_steps + step

    def on_step(total: int) -> None:
        if total == last:
            fault()

    return on_step


def nothing() -> str:
    """A factory that makes no environment."""
    return "an environment"


def raising() -> gym.Env:
    """A factory that fails."""
    raise RuntimeError("no\nlicence")


NOT_CALLABLE = 3

SMALL = (16, 16)
"""Hidden layers that learn a toy."""


def recovery_config(**changes: Any) -> RecoveryRLConfig:
    """Settings of Recovery RL for a run of seconds; ``changes`` name sections and fields by ``section__field``."""
    config = RecoveryRLConfig(
        batch_size=32,
        replay_capacity=2000,
        start_steps=10,
        sac=SACConfig(hidden_sizes=SMALL),
        risk=RiskConfig(hidden_sizes=SMALL, pretrain_steps=30, tau=0.01, learning_rate=3e-3),
        recovery=RecoveryConfig(hidden_sizes=SMALL, num_samples=50, num_backup_samples=4),
    )
    return _changed(config, changes)


def unconstrained_config(**changes: Any) -> UnconstrainedConfig:
    """The same for the unconstrained method."""
    config = UnconstrainedConfig(batch_size=32, replay_capacity=2000, start_steps=10, sac=SACConfig(hidden_sizes=SMALL))
    return _changed(config, changes)


def _changed(config: Any, changes: dict[str, Any]) -> Any:
    for dotted, value in changes.items():
        section, _, field = dotted.rpartition("__")
        target = getattr(config, section) if section else config
        if not hasattr(target, field):
            raise AttributeError(dotted)
        setattr(target, field, value)
    return config


def agent_config(method: str, **changes: Any) -> AgentConfig:
    """The small settings of a method."""
    if method in ("recovery-rl", "unconstrained"):
        return recovery_config(**changes) if method == "recovery-rl" else unconstrained_config(**changes)
    config = get_method(method).config(
        batch_size=32, replay_capacity=2000, start_steps=10, sac=SACConfig(hidden_sizes=SMALL)
    )
    if isinstance(config, RiskAwareConfig):
        config.risk = RiskCriticConfig(hidden_sizes=SMALL, pretrain_steps=30, tau=0.01, learning_rate=3e-3)
    return _changed(config, changes)


def collect_corridor(
    folder: Path, transitions: int = 600, env: str = "toys:Corridor", cost_key: str = "cost", seed: int = 0
) -> Path:
    """Makes a dataset of random walks, about one step in five over the edge."""
    from safe_rl.data.collect import CollectConfig, collect

    collect(CollectConfig(env, folder, transitions=transitions, policy="random", cost_key=cost_key, seed=seed))
    return folder
