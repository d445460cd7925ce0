"""Scaling of observations and actions; it travels with the policy."""

from __future__ import annotations

from typing import Literal

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from safe_rl.errors import UserError

NormalizeObs = Literal["none", "dataset", "running"]


class ObservationNormalizer(nn.Module):
    """Shifts and scales observations to zero mean and unit deviation, clipped to +-10.

    The statistics come from data by Welford's parallel update (Chan, Golub and LeVeque, 1979): once from the offline
    dataset, or running along with training.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    count: torch.Tensor
    inverse_std: torch.Tensor

    def __init__(self, obs_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(obs_dim))
        self.register_buffer("variance", torch.ones(obs_dim))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("inverse_std", torch.ones(obs_dim))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Normalises ``obs`` (..., obs_dim)."""
        return ((obs - self.mean) * self.inverse_std).clamp_(-10.0, 10.0)

    @torch.no_grad()
    def update(self, obs: npt.NDArray[np.float32]) -> None:
        """Takes ``obs`` (N, obs_dim) into the statistics."""
        batch = torch.from_numpy(np.asarray(obs, dtype=np.float32)).to(self.mean.device)
        batch_mean, batch_variance, size = batch.mean(0), batch.var(0, correction=0), len(batch)
        total = self.count + size
        delta = batch_mean - self.mean
        spread = self.variance * self.count + batch_variance * size + delta**2 * self.count * size / total
        self.mean += delta * size / total
        self.variance.copy_(spread / total)
        self.count.copy_(total)
        # A component that never moved keeps its scale: dividing by its deviation would blow noise up.
        self.inverse_std.copy_(torch.where(self.variance > 1e-8, self.variance.clamp_min(1e-8).rsqrt(), 1.0))


class ActionScaler:
    """Maps between the environment's action box and [-1, 1]."""

    def __init__(self, space: gym.Space[npt.NDArray[np.float32]]) -> None:
        """Reads the limits of ``space``.

        Raises:
            UserError: The space is not a bounded, one-dimensional Box.
        """
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise UserError(f"action space {space} is not supported: it must be a one-dimensional Box")
        if not space.is_bounded():
            raise UserError(
                f"action space {space} has no finite limits: wrap the environment with gymnasium.wrappers.RescaleAction"
            )
        self.low = space.low.astype(np.float32)
        self.high = space.high.astype(np.float32)
        self._center = (self.high + self.low) / 2
        self._half_range = (self.high - self.low) / 2

    @property
    def act_dim(self) -> int:
        """Length of an action."""
        return len(self.low)

    def to_env(self, unit_action: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Maps ``(N, act_dim)`` from [-1, 1] to the environment's units, never past its limits."""
        return np.clip(self._center + self._half_range * unit_action, self.low, self.high)

    def to_unit(self, action: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Maps ``(N, act_dim)`` from the environment's units to [-1, 1]; beyond the limits counts as at them."""
        return np.clip((action - self._center) / np.where(self._half_range > 0, self._half_range, 1.0), -1.0, 1.0)
