"""A family of tasks for meta-learning: a point that has to find a goal which it cannot see."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

HORIZON = 20


class PointGoal(gym.Env[npt.NDArray[np.float32], npt.NDArray[np.float32]]):
    """A point in the plane starts at the origin; the reward of a step is minus its distance from the goal.

    A task is a goal on the unit circle. The observation is the position alone: only rewards tell where the goal is, so
    a policy must adapt to each task (after the 2D navigation of MAML, arXiv 1703.03400). An action moves by at most 0.2
    along each axis; an episode is cut after 20 steps.
    """

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Box(-0.2, 0.2, (2,), np.float32)
        self.goal = np.array([1.0, 0.0])
        self._position = np.zeros(2)
        self._steps = 0

    def sample_task(self, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """Draws a goal."""
        angle = rng.uniform(0.0, 2.0 * np.pi)
        return np.array([np.cos(angle), np.sin(angle)])

    def set_task(self, task: npt.NDArray[np.float64]) -> None:
        """Sets the goal."""
        self.goal = np.asarray(task, dtype=np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Puts the point at the origin."""
        super().reset(seed=seed)
        self._position, self._steps = np.zeros(2), 0
        return self._position.astype(np.float32), {}

    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Moves the point."""
        self._position = self._position + np.clip(action, -0.2, 0.2)
        self._steps += 1
        distance = float(np.linalg.norm(self._position - self.goal))
        info = {"cost": 0.0, "success": distance < 0.1}
        return self._position.astype(np.float32), -distance, False, self._steps >= HORIZON, info
