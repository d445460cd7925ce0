"""A robot on a floor without noise: what it is commanded is how it moves."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

STEP = 0.01
"""Distance of a full command."""
WALL = 0.505


class Floor(gym.Env):
    """Observation x, y and a constant; beyond ``WALL`` from the start along x or y is a violation."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place = np.zeros(2)
        return self._obs(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.place = self.place + STEP * np.asarray(action, np.float64)
        hit = bool(np.abs(self.place).max() > WALL)
        return self._obs(), 0.0, hit, False, {"cost": float(hit), "success": False}

    def _obs(self) -> np.ndarray:
        return np.float32([*self.place, 0.5])
