"""Environments of this project as plain tasks, for learners that know no constraint: they lose reward for a violation.

Without that the best return is often that of a robot which ends its episodes at the next wall.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np

import sim

NUM_HEADINGS = 8


class Penalised(gym.Wrapper[Any, Any, Any, Any]):
    """An environment that loses reward at a violation.

    Args:
        env: with ``info["cost"]``.
        penalty: the reward that is lost.
        scale: factor on the reward and the penalty.
    """

    def __init__(self, env: gym.Env[Any, Any], penalty: float, scale: float = 1.0) -> None:
        super().__init__(env)
        self.penalty, self.scale = penalty, scale

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See ``gymnasium.Env``."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, self.scale * (float(reward) - self.penalty * info["cost"]), terminated, truncated, info


class Headings(gym.ActionWrapper[Any, Any, Any]):
    """Eight discrete actions in place of a planar box: full speed along one of eight directions.

    Args:
        env: whose action space is a Box (2,) around zero.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        angles = 2.0 * math.pi * np.arange(NUM_HEADINGS) / NUM_HEADINGS
        limit = env.action_space.high  # type: ignore[attr-defined]
        self._moves = (limit * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)
        self.action_space = gym.spaces.Discrete(NUM_HEADINGS)

    def action(self, action: Any) -> Any:
        """The move (2,) for one of the directions."""
        return self._moves[int(action)]


def maze() -> gym.Env[Any, Any]:
    """Reaching the goal of Maze (PyBullet): the distance, at most 0.4 a step, and 20 for touching a wall."""
    sim.register_envs()
    return Penalised(gym.make("safe_rl/Maze-v0"), 20.0)


def image_navigation() -> gym.Env[Any, Any]:
    """Navigation 1 from 32 x 32 pictures with eight actions: a hundredth of the distance, and 20 for a violation."""
    sim.register_envs()
    return Penalised(Headings(gym.make("safe_rl/ImageNavigation1-v0", image_size=32)), 2_000.0, 0.01)
