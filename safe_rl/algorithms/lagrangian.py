"""LR, Lagrangian relaxation: the risk beyond ``eps_risk`` is a cost of the actor, at a price that is learned."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import torch
from torch import nn

from safe_rl.algorithms.agent_state import Stateful
from safe_rl.algorithms.risk_aware import RiskAwareAgent
from safe_rl.algorithms.sac import Metrics
from safe_rl.config import RiskAwareConfig
from safe_rl.data.replay_buffer import Batch
from safe_rl.nets.optim import FlatAdam
from safe_rl.validation import require

MAX_MULTIPLIER = 1e6
"""Where no action is safe the price would grow without end."""


@dataclass
class MultiplierConfig:
    """The Lagrange multiplier ``nu``, the price of risk; learned in its logarithm, so it stays positive."""

    initial: float = 1000.0
    """Its first value, in units of the environment's reward."""
    learning_rate: float = 3e-5
    """Adam step size of its logarithm: the paper takes a tenth of the policy's."""

    def __post_init__(self) -> None:
        """Validates the values."""
        most = f"above 0 and at most {MAX_MULTIPLIER:g}"
        require(0 < self.initial <= MAX_MULTIPLIER, "multiplier", "initial", self.initial, most)
        require(self.learning_rate >= 0, "multiplier", "learning_rate", self.learning_rate, "at least 0")


@dataclass
class LagrangianConfig(RiskAwareConfig):
    """LR: Lagrangian relaxation, as Recovery RL (arXiv 2010.15920) compares with."""

    multiplier: MultiplierConfig = field(default_factory=MultiplierConfig)
    """Price of risk."""


class Multiplier(nn.Module):
    """``nu``, raised while the risk is above its limit and lowered while it is below: dual gradient ascent."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log_value = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self) -> torch.Tensor:
        """``nu``, a scalar without gradient."""
        return self.log_value.detach().exp()

    def loss(self, excess: torch.Tensor) -> torch.Tensor:
        """``-nu * mean excess`` of the excess risk (B,), which the step descends: ``nu`` ascends."""
        return -self.log_value.exp() * excess.mean()

    @torch.no_grad()
    def limit(self) -> None:
        """Brings ``nu`` back to the largest allowed, after a step; from there it may fall again."""
        self.log_value.clamp_(max=math.log(MAX_MULTIPLIER))


class MultiplierAgent(RiskAwareAgent):
    """Learns the price ``nu`` of ``Q_risk(s, a) - eps_risk``; where it is paid, a method says."""

    config: LagrangianConfig

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: LagrangianConfig,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(observation_space, action_space, config, seed=seed, device=device)
        self.multiplier = Multiplier(config.multiplier.initial).to(self.device)
        self.multiplier_optimizer = FlatAdam(self.multiplier, config.multiplier.learning_rate)

    def _price(self) -> torch.Tensor:
        """``nu`` in units of the scaled reward, a scalar."""
        return self.multiplier() * self.config.sac.reward_scale

    def _excess_risk(self, batch: Batch, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """``Q_risk(s, a) - eps_risk`` (B,); the arguments are those of ``SACAgent._actor_loss``."""
        return self.risk_critic(self._risk_view(batch, obs), action) - self.config.risk.eps_risk

    def _adapt_weights(self, batch: Batch, obs: torch.Tensor, action: torch.Tensor, log_prob: torch.Tensor) -> None:
        super()._adapt_weights(batch, obs, action, log_prob)
        with torch.no_grad():
            excess = self._excess_risk(batch, obs, action)
        self.multiplier_optimizer.step(self.multiplier.loss(excess))
        self.multiplier.limit()

    def _update_task(self, batch: Batch) -> Metrics:
        return super()._update_task(batch) | {"train/multiplier": self.multiplier()}

    def _learning_parts(self) -> dict[str, Stateful]:
        own: dict[str, Stateful] = {"multiplier": self.multiplier, "multiplier_optimizer": self.multiplier_optimizer}
        return {**super()._learning_parts(), **own}


class LagrangianAgent(MultiplierAgent):
    """LR (arXiv 2010.15920, section V): ``L = L_SAC + nu * mean (Q_risk(s, pi(s)) - eps_risk)``."""

    def _actor_loss(
        self, batch: Batch, obs: torch.Tensor, action: torch.Tensor, log_prob: torch.Tensor
    ) -> torch.Tensor:
        loss = super()._actor_loss(batch, obs, action, log_prob)
        return loss + self._price() * self._excess_risk(batch, obs, action).mean()
