"""Tiny environments for the tests of the data package, made by ``tiny_env:<factory>``."""

from __future__ import annotations

import os
import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from safe_rl.envs.protocols import OfflineSegment


class LineEnv(gym.Env):
    """A point on a line: beyond 1 is a violation, below -1 the goal; both end the episode.

    Observations are (position, previous action); the horizon is 20.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-0.5, 0.5, (1,), np.float32)
    cost_key = "cost"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = float(options["state"][0]) if options else float(self.np_random.uniform(-0.5, 0.5))
        self.previous, self.steps = 0.0, 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.previous = float(np.asarray(action).reshape(-1)[0])
        self.position += self.previous + 0.01 * float(self.np_random.standard_normal())
        self.steps += 1
        violation, success = self.position > 1.0, self.position < -1.0
        info = {self.cost_key: violation, "success": success}
        return self._obs(), -abs(self.position + 1.0), violation or success, self.steps >= 20, info

    def _obs(self) -> Any:
        return np.array([self.position, self.previous], dtype=np.float32)

    def expert_action(self, obs: Any) -> Any:
        """Walks to the goal."""
        return np.array([-0.3], dtype=np.float32)


class BoundaryEnv(LineEnv):
    """Offers segments of at most 4 steps that begin just below the limit."""

    def sample_offline_segment(self, rng: np.random.Generator) -> OfflineSegment:
        return OfflineSegment(
            state=rng.uniform(0.5, 1.0, size=1),
            policy=lambda obs, rng: rng.uniform(-0.5, 0.5, size=1).astype(np.float32),
            max_steps=4,
        )


class DictEnv(LineEnv):
    """The same with a Dict observation of an image and a number, and Discrete actions that start at 1."""

    observation_space = spaces.Dict(
        {
            "number": spaces.Box(-10, 10, (), np.float64),
            "camera": spaces.Dict({"image": spaces.Box(0, 255, (3, 2), np.uint8)}),
        }
    )
    action_space = spaces.Discrete(3, start=1)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(np.asarray(action)):
            raise ValueError(f"{action} is no action")
        return super().step((int(action) - 2) * 0.25)

    def _obs(self) -> Any:
        image = np.full((3, 2), int(100 * abs(self.position)) % 256, dtype=np.uint8)
        image[0, 0] = self.steps
        return {"number": np.float64(self.position), "camera": {"image": image}}


class HazardEnv(LineEnv):
    """Names its constraint ``hazard`` and counts it in units of two."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated, truncated, {"hazard": 2 * int(info["cost"])}


class FaultyEnv(LineEnv):
    """Breaks at its 50th step: raises, or returns NaN where ``TINY_ENV_FAULT`` says so; whole where it is ``none``."""

    total_steps = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, *rest = super().step(action)
        self.total_steps += 1
        fault = os.environ.get("TINY_ENV_FAULT", "raise")
        if self.total_steps == 50 and fault == "raise":
            raise RuntimeError("the motor is on fire")
        if self.total_steps == 50 and fault == "interrupt":
            raise KeyboardInterrupt
        if self.total_steps == 50 and fault == "nan":
            obs = np.array([np.nan, 0.0], dtype=np.float32)
        return obs, *rest  # type: ignore[return-value]


class SlowEnv(BoundaryEnv):
    """Takes about a millisecond a step, as long as a small simulator does."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(0.001)
        return super().step(action)


class SafeEnv(LineEnv):
    """Has no constraint at all."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        *rest, info = super().step(action)
        return *rest, {**info, "cost": 0}  # type: ignore[return-value]
