"""Navigation 1 and 2, many at a time in NumPy: the same episodes as ``sim.navigation`` in distribution."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from safe_rl.envs.protocols import PlaneMap
from safe_rl.errors import UserError
from sim.navigation import GOAL_RADIUS, MAX_STEP, NAVIGATION1_MAP, NAVIGATION2_MAP, NOISE_SCALE, START

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Info = dict[str, Any]


class NavigationVector(VectorEnv[FloatArray, FloatArray, npt.NDArray[Any]]):
    """``num_envs`` robots on one map, each with its own episode.

    Args:
        num_envs: Number of robots.
        max_episode_steps: Steps after which an episode is truncated.
        autoreset_mode: As Gymnasium defines it. ``SAME_STEP``: the observation of an episode's last step is in
            ``info["final_obs"]`` and its info in ``info["final_info"]``; ``NEXT_STEP``: the step after it resets;
            ``DISABLED``: ``reset(options={"reset_mask": mask})`` does.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    PLANE_MAP: ClassVar[PlaneMap]

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int = 100,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    ) -> None:
        if num_envs < 1:
            raise UserError(f"num_envs={num_envs} must be at least 1")
        if max_episode_steps < 1:
            raise UserError(f"max_episode_steps={max_episode_steps} must be at least 1")
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.single_action_space = spaces.Box(-MAX_STEP, MAX_STEP, (2,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._positions = np.zeros((num_envs, 2), np.float32)
        self._steps = np.zeros(num_envs, np.int64)
        self._ended = np.ones(num_envs, np.bool_)
        self._started = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[FloatArray, Info]:
        """Starts episodes.

        Args:
            seed: Seeds the one generator that all robots share.
            options: ``{"reset_mask": (num_envs,) bool}`` resets these alone; ``{"state": (num_envs, 2)}`` starts there.

        Returns:
            Observations (num_envs, 2) and an empty-episode info.

        Raises:
            UserError: A mask or states of another shape.
        """
        super().reset(seed=seed)
        options = options or {}
        mask = np.asarray(options.get("reset_mask", np.ones(self.num_envs, np.bool_)))
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise UserError(
                f"reset option reset_mask must be ({self.num_envs},) booleans, not {mask.shape} {mask.dtype}"
            )
        if not self._started and not mask.all():
            raise UserError("the first reset must be of all environments: leave out reset_mask")
        if "state" in options:
            state = np.asarray(options["state"], np.float32)
            if state.shape != (self.num_envs, 2) or not np.isfinite(state).all():
                raise UserError(
                    f"reset option state must be ({self.num_envs}, 2) finite numbers, not of shape {state.shape}"
                )
            if self._violates(state.astype(np.float64))[mask].any():
                raise UserError("reset option state has points in an obstacle: start in free space")
            self._positions[mask] = state[mask]
        else:
            self._positions[mask] = self._starts(int(mask.sum()))
        self._steps[mask] = 0
        self._ended[mask] = False
        self._started = True
        return self._positions.copy(), self._info(np.zeros(self.num_envs), np.zeros(self.num_envs, np.bool_), mask)

    def step(self, actions: FloatArray) -> tuple[FloatArray, npt.NDArray[np.float64], BoolArray, BoolArray, Info]:
        """Moves every robot by its action, clipped to [-1, 1], and the noise.

        Args:
            actions: (num_envs, 2).

        Returns:
            Observations (num_envs, 2), rewards, terminated, truncated (each (num_envs,)) and an info with ``cost`` and
            ``success``, masks beside them as Gymnasium has it.

        Raises:
            ResetNeeded: Before the first reset, and for ended episodes where automatic resets are disabled.
            UserError: Actions of another shape, or not finite.
        """
        if not self._started or (self.autoreset_mode == AutoresetMode.DISABLED and self._ended.any()):
            raise ResetNeeded("an episode is over: call reset before step")
        moves = np.asarray(actions, np.float64)
        if moves.shape != (self.num_envs, 2):
            raise UserError(f"actions have the shape {moves.shape}; expected ({self.num_envs}, 2)")
        if not np.isfinite(moves).all():
            raise UserError("actions are not finite")
        resetting = self._ended if self.autoreset_mode == AutoresetMode.NEXT_STEP and self._ended.any() else None

        before = self._positions.astype(np.float64)
        rewards = -np.hypot(before[:, 0], before[:, 1])
        noise = self.np_random.standard_normal((self.num_envs, 2))
        positions = (before + np.clip(moves, -MAX_STEP, MAX_STEP) + NOISE_SCALE * noise).astype(np.float32)
        success = rewards > -GOAL_RADIUS
        violation = self._violates(positions)
        self._steps += 1
        if resetting is not None:
            positions[resetting] = self._starts(int(resetting.sum()))
            rewards[resetting] = 0.0
            success[resetting] = violation[resetting] = False
            self._steps[resetting] = 0
        terminated = success | violation
        truncated = self._steps >= self.max_episode_steps
        self._positions = positions
        self._ended = ended = terminated | truncated
        info = self._info(violation.astype(np.float64), success, np.ones(self.num_envs, np.bool_))
        if self.autoreset_mode == AutoresetMode.SAME_STEP and ended.any():
            info = self._reset_same_step(info, ended)
        return self._positions.copy(), rewards, terminated, truncated, info

    def _reset_same_step(self, info: Info, ended: BoolArray) -> Info:
        """Resets the ended episodes and moves their last observation and info to ``final_obs`` and ``final_info``."""
        final_obs = np.full(self.num_envs, None, object)
        for i in np.flatnonzero(ended):
            final_obs[i] = self._positions[i].copy()
        final_info = self._info(np.where(ended, info["cost"], 0.0), info["success"] & ended, ended)
        self._positions[ended] = self._starts(int(ended.sum()))
        self._steps[ended] = 0
        self._ended = np.zeros(self.num_envs, np.bool_)
        everyone = np.ones(self.num_envs, np.bool_)
        return {
            **self._info(np.where(ended, 0.0, info["cost"]), info["success"] & ~ended, everyone),
            "final_obs": final_obs,
            "_final_obs": ended.copy(),
            "final_info": final_info,
            "_final_info": ended.copy(),
        }

    def _starts(self, number: int) -> FloatArray:
        return (np.array(START) + self.np_random.standard_normal((number, 2))).astype(np.float32)

    def _violates(self, points: npt.NDArray[Any]) -> BoolArray:
        x, y = points[:, 0], points[:, 1]
        violation = np.zeros(len(points), np.bool_)
        for box in self.PLANE_MAP.obstacles:
            violation |= (x >= box.x_min) & (x <= box.x_max) & (y >= box.y_min) & (y <= box.y_max)
        return violation

    @staticmethod
    def _info(cost: npt.NDArray[np.float64], success: BoolArray, mask: BoolArray) -> Info:
        return {"cost": cost, "_cost": mask.copy(), "success": success, "_success": mask.copy()}


class Navigation1Vector(NavigationVector):
    """Navigation 1, vectorised."""

    PLANE_MAP: ClassVar[PlaneMap] = NAVIGATION1_MAP


class Navigation2Vector(NavigationVector):
    """Navigation 2, vectorised."""

    PLANE_MAP: ClassVar[PlaneMap] = NAVIGATION2_MAP
