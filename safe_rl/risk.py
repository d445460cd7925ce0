"""The risk critic: how likely is a violation from here on?"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional

from safe_rl.config import Precision, RiskCriticConfig
from safe_rl.data.replay_buffer import Batch
from safe_rl.nets.mlp import StackedMLP
from safe_rl.nets.optim import FlatAdam, polyak_update


class RiskCritic(nn.Module):
    """``Q_risk(s, a) = E[sum_t gamma_risk^t C(s_t)]`` in [0, 1], an ensemble read pessimistically.

    Recovery RL (arXiv 2010.15920), section III-B. Trained towards
    ``y = c + (1 - c) * gamma_risk * max_i Q'_i(s', a')``, where ``a'`` is what will be executed next.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        config: RiskCriticConfig,
        *,
        generator: torch.Generator,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        self.config = config
        self.critics = StackedMLP(
            config.num_critics, obs_dim + act_dim, config.hidden_sizes, 1, generator=generator, precision=precision
        )
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)

    def logits(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Evaluates every member before the sigmoid.

        Args:
            obs: (B, obs_dim) normalised observations.
            action: (B, act_dim) actions in [-1, 1].

        Returns:
            (num_critics, B)
        """
        return self.critics(torch.cat([obs, action], dim=1)).squeeze(-1)

    def forward(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """``Q_risk`` (B,) in [0, 1], the largest of the ensemble; gradients reach the action, not the critics."""
        return self.critics.extreme(torch.cat([obs, action], dim=1), largest=True).sigmoid()

    @torch.no_grad()
    def target(self, batch: Batch, next_obs: torch.Tensor, next_action: torch.Tensor) -> torch.Tensor:
        """``y = c + (1 - c) * gamma_risk * Q_risk'(s', a')`` (B,); nothing follows a terminal state."""
        next_risk = self.targets.extreme(torch.cat([next_obs, next_action], dim=1), largest=True).sigmoid()
        return batch.cost + (1 - batch.cost) * (1 - batch.terminated) * self.config.gamma_risk * next_risk

    def loss(self, obs: torch.Tensor, action: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Distance of every member to ``target`` (B,), summed over the ensemble and averaged over the batch."""
        logits = self.logits(obs, action)
        target = target.expand_as(logits)
        if self.config.loss == "mse":
            return functional.mse_loss(logits.sigmoid(), target, reduction="sum") / logits.shape[1]
        return functional.binary_cross_entropy_with_logits(logits, target, reduction="sum") / logits.shape[1]

    def make_optimizer(self, encoders: Iterable[nn.Module] = ()) -> FlatAdam:
        """The optimiser of the critics, and of what they look through."""
        return FlatAdam([self.critics, *encoders], self.config.learning_rate)

    def update_targets(self) -> None:
        """Moves the target critics by ``tau``."""
        polyak_update(self.targets, self.critics, self.config.tau)
