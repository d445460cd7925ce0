"""Stochastic actors whose densities are written out: ``torch.distributions`` costs more than the formulas."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from safe_rl.nets.mlp import StackedMLP

LOG_STD_MIN = -20.0
LOG_STD_MAX = 2.0
LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
LOG_2 = math.log(2.0)


class TanhGaussianActor(nn.Module):
    """SAC's squashed Gaussian: ``action = tanh(u)`` with ``u ~ N(mean(s), std(s))`` (arXiv 1812.05905).

    Args:
        obs_dim: width of the observation.
        act_dim: width of the action.
        hidden_sizes: width of each hidden layer.
        generator: CPU generator of the initial weights.
        precision: see ``StackedMLP``.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        hidden_sizes: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.act_dim = act_dim
        self.net = StackedMLP(1, obs_dim, hidden_sizes, 2 * act_dim, generator=generator, precision=precision)

    def sample(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws an action by the given noise; differentiable with respect to the parameters.

        Args:
            obs: (B, obs_dim) observations.
            noise: (B, act_dim) standard normal draws.

        Returns:
            (B, act_dim) action in [-1, 1] and (B,) its log-density.
        """
        mean, log_std = self.net(obs)[0].chunk(2, dim=-1)
        log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
        u = torch.addcmul(mean, log_std.exp(), noise)
        # log N(u; mean, std) - log(1 - tanh(u)^2), where (u - mean) / std is the noise itself and
        # log(1 - tanh(u)^2) = 2 * (log 2 - u - softplus(-2 u)) does not overflow.
        log_det = 2.0 * (LOG_2 - u - functional.softplus(-2.0 * u))
        log_prob = (-0.5 * noise.square() - LOG_SQRT_2PI - log_std - log_det).sum(dim=-1)
        return torch.tanh(u), log_prob

    def mean_action(self, obs: Tensor) -> Tensor:
        """Returns the (B, act_dim) action in [-1, 1] without noise, for (B, obs_dim) observations."""
        return torch.tanh(self.net(obs)[0, :, : self.act_dim])


class DeterministicActor(nn.Module):
    """The model-free recovery policy: a tanh mean and one learned standard deviation that ignores the state.

    As in the code of Recovery RL (arXiv 2010.15920).

    Args:
        obs_dim: width of the observation.
        act_dim: width of the action.
        hidden_sizes: width of each hidden layer.
        initial_std: standard deviation at the start, in the units of the normalised action.
        generator: CPU generator of the initial weights.
        precision: see ``StackedMLP``.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        hidden_sizes: Sequence[int],
        *,
        initial_std: float = 0.1,
        generator: torch.Generator | None = None,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.net = StackedMLP(1, obs_dim, hidden_sizes, act_dim, generator=generator, precision=precision)
        self.log_std = nn.Parameter(torch.full((act_dim,), math.log(initial_std)))

    def sample(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Draws an action by the given noise; differentiable with respect to the parameters.

        Args:
            obs: (B, obs_dim) observations.
            noise: (B, act_dim) standard normal draws.

        Returns:
            (B, act_dim) action, clipped to [-1, 1].
        """
        std = self.log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp()
        return torch.addcmul(self.mean_action(obs), std, noise).clamp(-1.0, 1.0)

    def mean_action(self, obs: Tensor) -> Tensor:
        """Returns the (B, act_dim) action in [-1, 1] without noise, for (B, obs_dim) observations."""
        return torch.tanh(self.net(obs)[0])
