"""Navigation 1 and 2: a noisy point mass among boxes (Recovery RL, arXiv 2010.15920, appendix on the domains).

State ``(x, y)``, action ``(dx, dy)`` in ``[-1, 1]^2``, ``s' = s + a + 0.05 * N(0, I)``; no units. The start is
``(-50, 0) + N(0, I)``, the goal the origin. The reward is ``-||s||`` and success ``||s|| < 4``, both of the state
before the step; entering an obstacle, its edge included, is a violation.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from safe_rl.envs.protocols import Box2D, OfflineSegment, PlaneMap, Policy
from sim.drawn import FloatArray
from sim.planar import PlanarEnv

START = (-50.0, 0.0)
NOISE_SCALE = 0.05
GOAL_RADIUS = 4.0
MAX_STEP = 1.0

NAVIGATION1_MAP = PlaneMap(
    bounds=Box2D(-60.0, 10.0, -17.5, 17.5),
    obstacles=(Box2D(-100.0, 150.0, 5.0, 10.0), Box2D(-100.0, 150.0, -10.0, -5.0), Box2D(-100.0, -80.0, -10.0, 10.0)),
    goal=(0.0, 0.0),
    goal_radius=GOAL_RADIUS,
)
NAVIGATION2_MAP = PlaneMap(
    bounds=Box2D(-60.0, 10.0, -26.25, 26.25),
    obstacles=(Box2D(-30.0, -20.0, -7.5, 7.5),),
    goal=(0.0, 0.0),
    goal_radius=GOAL_RADIUS,
)

OFFLINE_STEPS = 10


class Navigation(PlanarEnv):
    """What Navigation 1 and 2 share; they differ in the map, the offline data and the expert."""

    MAX_ACTION: ClassVar[float] = MAX_STEP

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self._boxes = tuple((box.x_min, box.x_max, box.y_min, box.y_max) for box in self.PLANE_MAP.obstacles)

    def step(self, action: FloatArray) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """Moves by the action (2,), clipped to [-1, 1], and the noise.

        Returns:
            Observation (2,), reward, terminated, truncated (always False: the registered time limit truncates) and an
            info with ``cost`` and ``success``.

        Raises:
            ResetNeeded: The episode is over.
            UserError: The action is not finite.
        """
        dx, dy = self._checked_action(action)
        x, y = self._x, self._y
        distance = math.hypot(x, y)
        noise_x, noise_y = self.np_random.standard_normal(2).tolist()
        # The state is what the observation can hold: an observation then tells the cost, and restarts exactly here.
        obs = np.array((x + dx + NOISE_SCALE * noise_x, y + dy + NOISE_SCALE * noise_y), np.float32)
        self._x, self._y = x, y = obs.tolist()
        success = distance < GOAL_RADIUS
        violation = False
        for x_min, x_max, y_min, y_max in self._boxes:
            if x_min <= x <= x_max and y_min <= y <= y_max:
                violation = True
                break
        self._ended = success or violation
        if self.render_mode is not None:
            self._after_step(success, violation)
        return obs, -distance, self._ended, False, {"cost": float(violation), "success": success}

    def _random_start(self) -> tuple[float, float]:
        noise_x, noise_y = self.np_random.standard_normal(2).tolist()
        return START[0] + noise_x, START[1] + noise_y

    def _place(self, x: float, y: float) -> None:
        self._x, self._y = np.array((x, y), np.float32).tolist()


class Navigation1(Navigation):
    """A corridor of half-width 5 along the x axis."""

    PLANE_MAP: ClassVar[PlaneMap] = NAVIGATION1_MAP

    def sample_offline_segment(self, rng: np.random.Generator) -> OfflineSegment:
        """Returns 10 random Gaussian steps that start within 3 of a corridor wall."""
        x, y = rng.uniform(-80.0, 50.0), rng.choice((-1.0, 1.0)) * rng.uniform(2.0, 5.0)
        return OfflineSegment(np.array((x, y)), _gaussian_policy, OFFLINE_STEPS)

    def expert_action(self, obs: npt.NDArray[Any]) -> FloatArray:
        """Returns the action (2,) of a robot that keeps to the middle of the corridor."""
        return _towards(obs, (0.0, 0.0))


class Navigation2(Navigation):
    """A block across the straight line to the goal."""

    PLANE_MAP: ClassVar[PlaneMap] = NAVIGATION2_MAP

    def sample_offline_segment(self, rng: np.random.Generator) -> OfflineSegment:
        """Returns 10 steps: a third random Gaussian around the block, the rest pushed towards it from near a side."""
        block = self.PLANE_MAP.obstacles[0]
        if rng.random() < 1.0 / 3.0:
            while True:
                x, y = rng.uniform(-40.0, 10.0), rng.uniform(-25.0, 25.0)
                if not self.touches_obstacle(x, y):
                    return OfflineSegment(np.array((x, y)), _gaussian_policy, OFFLINE_STEPS)
        gap = rng.uniform(0.0, 5.0)
        side = rng.integers(4)
        if side < 2:
            x, y = (block.x_min - gap, block.x_max + gap)[side], rng.uniform(-12.0, 12.0)
        else:
            x, y = rng.uniform(block.x_min, block.x_max), (block.y_min - gap, block.y_max + gap)[side - 2]
        return OfflineSegment(
            np.array((x, y)), _pushing_policy(axis=side // 2, sign=1.0 - 2.0 * (side % 2)), OFFLINE_STEPS
        )

    def expert_action(self, obs: npt.NDArray[Any]) -> FloatArray:
        """Returns the action (2,) of a robot that goes round the block on its nearer side, 2 away from it."""
        block, margin = self.PLANE_MAP.obstacles[0], 2.0
        x, y = float(obs[0]), float(obs[1])
        lane = math.copysign(block.y_max + margin, y)
        if x >= block.x_max + margin:
            return _towards(obs, (0.0, 0.0))
        if abs(y) >= abs(lane) - 0.5:
            return _towards(obs, (block.x_max + margin + 0.5, lane))
        if x > block.x_max:
            return _towards(obs, (block.x_max + margin + 0.5, y))
        return _towards(obs, (block.x_min - margin, lane))


def _gaussian_policy(obs: npt.NDArray[Any], rng: np.random.Generator) -> FloatArray:
    return np.clip(rng.standard_normal(2), -MAX_STEP, MAX_STEP).astype(np.float32)


def _pushing_policy(axis: int, sign: float) -> Policy:
    """Returns a policy that moves by 0.5 to 1 along an axis and at random along the other."""

    def policy(obs: npt.NDArray[Any], rng: np.random.Generator) -> FloatArray:
        action = rng.standard_normal(2)
        action[axis] = sign * rng.uniform(0.5, 1.0)
        return np.clip(action, -MAX_STEP, MAX_STEP).astype(np.float32)

    return policy


def _towards(obs: npt.NDArray[Any], target: tuple[float, float]) -> FloatArray:
    """Returns the largest action (2,) along the straight line to a target, stopping there."""
    delta = np.array((target[0] - float(obs[0]), target[1] - float(obs[1])))
    return (delta / max(1.0, np.abs(delta).max() / MAX_STEP)).astype(np.float32)
