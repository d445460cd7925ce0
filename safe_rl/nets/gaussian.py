"""Stochastic actors whose densities are written out: ``torch.distributions`` costs more than the formulas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

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
        action, log_prob = _TanhGaussian.apply(self.net(obs)[0], noise)
        return action, log_prob

    def sample_action(self, obs: Tensor, noise: Tensor) -> Tensor:
        """The action of ``sample`` without its log-density, where nobody needs that; for the arguments see there."""
        mean, log_std = self.net(obs)[0].chunk(2, dim=-1)
        return torch.addcmul(mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp(), noise).tanh()

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


class _TanhGaussian(torch.autograd.Function):
    """Squashed sample and log-density of a Gaussian, once differentiable: 16 operations instead of some 40."""

    @staticmethod
    def forward(ctx: Any, parameters: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = parameters.chunk(2, dim=-1)
        log_std_ = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
        deviation = log_std_.exp().mul_(noise)
        u = mean + deviation
        action = torch.tanh(u)
        half = torch.sub(u, functional.softplus(u, beta=-2.0), alpha=2.0)
        half.sub_(torch.addcmul(log_std_, noise, noise, value=0.5), alpha=0.5)
        log_prob = half.sum(dim=-1).mul_(2.0).sub_(noise.shape[-1] * (LOG_SQRT_2PI + 2.0 * LOG_2))
        ctx.save_for_backward(action, deviation, log_std)
        ctx.set_materialize_grads(False)
        return action, log_prob

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_action: Tensor | None, grad_log_prob: Tensor | None) -> tuple[Tensor | None, None]:
        action, deviation, log_std = ctx.saved_tensors
        grad_u = torch.zeros_like(action) if grad_action is None else torch.ops.aten.tanh_backward(grad_action, action)
        if grad_log_prob is not None:
            grad_log_prob = grad_log_prob.unsqueeze(-1)
            grad_u.addcmul_(action, grad_log_prob, value=2.0)
        grad_log_std = grad_u * deviation
        if grad_log_prob is not None:
            grad_log_std.sub_(grad_log_prob)
        grad_log_std = torch.ops.aten.hardtanh_backward(grad_log_std, log_std, LOG_STD_MIN, LOG_STD_MAX)
        return torch.cat([grad_u, grad_log_std], dim=-1), None
