"""What stands between the environment's units and the networks': scales of observations, codes of actions."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from safe_rl.errors import UserError
from safe_rl.nets.discrete import one_hot

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


def action_scaler(space: gym.Space[Any]) -> ActionScaler | DiscreteScaler:
    """What maps between the environment's actions and the networks'.

    Raises:
        UserError: The space is neither Discrete nor a bounded, one-dimensional Box.
    """
    if isinstance(space, gym.spaces.Discrete):
        return DiscreteScaler(space)
    if isinstance(space, gym.spaces.Box):
        return ActionScaler(space)
    raise UserError(f"action space {space} is not supported: it must be Discrete or a one-dimensional Box")


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

    def noise(self, rows: int, generator: torch.Generator) -> torch.Tensor:
        """What an actor draws actions by: standard normal numbers (rows, act_dim)."""
        return torch.randn((rows, self.act_dim), generator=generator, device=generator.device)

    def uniform(self, rows: int, generator: torch.Generator) -> torch.Tensor:
        """Draws uniform actions (rows, act_dim) in [-1, 1]."""
        return 2 * torch.rand((rows, self.act_dim), generator=generator, device=generator.device) - 1


class DiscreteScaler:
    """Maps between the numbers of Discrete actions, from ``start`` on, and one-hot rows of length ``n``."""

    def __init__(self, space: gym.spaces.Discrete) -> None:
        self._space = space
        self._start = int(space.start)
        self._one_hot = np.eye(int(space.n), dtype=np.float32)

    @property
    def act_dim(self) -> int:
        """Number of actions: length of a one-hot row."""
        return len(self._one_hot)

    def to_env(self, unit_action: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """The numbers ``(N,)`` of one-hot rows ``(N, n)``, as the environment takes them."""
        return unit_action.argmax(axis=1) + self._start

    def to_unit(self, action: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """The one-hot rows ``(N, n)`` of numbers ``(N,)``, or ``(N, 1)`` as a dataset has them.

        Raises:
            UserError: A number is none of the space's.
        """
        index = np.rint(action).astype(np.int64).reshape(-1) - self._start
        wrong = (index < 0) | (index >= self.act_dim)
        if wrong.any():
            raise UserError(f"the action {int(index[wrong][0]) + self._start} is none of {self._space}")
        return self._one_hot[index]

    def noise(self, rows: int, generator: torch.Generator) -> torch.Tensor:
        """What an actor draws actions by: uniform numbers (rows, n) in [0, 1)."""
        return torch.rand((rows, self.act_dim), generator=generator, device=generator.device)

    def uniform(self, rows: int, generator: torch.Generator) -> torch.Tensor:
        """Draws one-hot actions (rows, n), each as likely as the others."""
        return one_hot(self.noise(rows, generator))
