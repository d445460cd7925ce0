"""The risk critic: how likely is a violation from here on?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from safe_rl.config import Precision, RiskCriticConfig
from safe_rl.data.replay_buffer import Batch
from safe_rl.nets.discrete import ActionValues, make_critics, one_hot
from safe_rl.nets.mlp import StackedMLP
from safe_rl.nets.optim import FlatAdam, polyak_update


class RiskCritic(nn.Module):
    """``Q_risk(s, a) = E[sum_t gamma_risk^t C(s_t)]`` in [0, 1], the largest of an ensemble, or another quantile.

    Recovery RL (arXiv 2010.15920), section III-B. Trained towards
    ``y = c + (1 - c) * gamma_risk * max_i Q'_i(s', a')``, where ``a'`` is what will be executed next.

    The discounted safety Bellman backup (Fisac and others, ICRA 2019), ``(1 - gamma) l + gamma max(l, V')``, which
    remembers the worst state instead of summing, is this target where the margin ``l`` takes two values, as the cost.
    """

    discrete: ClassVar[bool] = False

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
        self.critics = make_critics(
            config.num_critics, obs_dim, act_dim, config.hidden_sizes,
            discrete=self.discrete, generator=generator, precision=precision,
        )  # fmt: skip
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
        """``Q_risk`` (B,) in [0, 1], as the ensemble is read; gradients reach the action, not the critics."""
        return self._read(self.critics, obs, action)

    def logit(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """``log(Q_risk / (1 - Q_risk))`` (B,), otherwise as ``forward``."""
        return self._read_logit(self.critics, obs, action)

    def _read(self, critics: StackedMLP, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return self._read_logit(critics, obs, action).sigmoid()

    def _read_logit(self, critics: StackedMLP, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return critics.ranked(torch.cat([obs, action], dim=1), self.config.rank)

    def in_precision(self, precision: Precision) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """``forward`` with the products between hidden layers in another precision."""
        critics = self.critics.in_precision(precision)
        return lambda obs, action: self._read(critics, obs, action)

    @torch.no_grad()
    def target(self, batch: Batch, next_obs: torch.Tensor, next_action: torch.Tensor) -> torch.Tensor:
        """``y = c + (1 - c) * gamma_risk * Q_risk'(s', a')`` (B,); nothing follows a terminal state."""
        next_risk = self._read(self.targets, next_obs, next_action)
        return batch.cost + (1 - batch.cost) * (1 - batch.terminated) * self.config.gamma_risk * next_risk

    def loss(
        self, obs: torch.Tensor, action: torch.Tensor, target: torch.Tensor, proposal: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Distance of every member to ``target`` (B,), summed over the ensemble and averaged over the batch.

        With proposals (B, act_dim) it is conservative: ``conservatism`` times how much less risky the members call
        them than the data's actions is added. That is the regulariser of conservative safety critics (arXiv 2010.14497,
        eq. 2), which overestimates the risk of what a policy proposes and the data do not show.
        """
        logits = self.logits(obs, action)
        if self.config.loss == "mse":
            loss = functional.mse_loss(logits.sigmoid(), target.expand_as(logits), reduction="sum")
        else:
            loss = functional.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="sum")
        if proposal is not None:
            optimism = logits.sigmoid() - self.logits(obs, proposal).sigmoid()
            loss = loss + self.config.conservatism * optimism.sum()
        return loss / logits.shape[1]

    def make_optimizer(self, encoders: Iterable[nn.Module] = ()) -> FlatAdam:
        """The optimiser of the critics, and of what they look through."""
        return FlatAdam([self.critics, *encoders], self.config.learning_rate)

    def update_targets(self) -> None:
        """Moves the target critics by ``tau``."""
        polyak_update(self.targets, self.critics, self.config.tau)


class DiscreteRiskCritic(RiskCritic):
    """``Q_risk`` of all ``n`` discrete actions at once.

    An action is a one-hot row (B, n), or a policy's probabilities: what is then read is the expected risk,
    ``sum_a pi(a|s) Q_risk(s, a)``.
    """

    discrete = True
    critics: ActionValues
    targets: ActionValues

    def _read(self, critics: ActionValues, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return (critics.all_ranked(obs, self.config.rank).sigmoid() * action).sum(1)

    def least_risky(self, obs: torch.Tensor) -> torch.Tensor:
        """The action of least ``Q_risk`` for observations (B, obs_dim), as one-hot rows (B, n)."""
        return one_hot(-self.critics.all_ranked(obs, self.config.rank))
