"""Recovery policies: what rescues the robot once the proposed action is too risky."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from safe_rl.config import Precision, RecoveryConfig
from safe_rl.nets.gaussian import DeterministicActor
from safe_rl.nets.optim import FlatAdam
from safe_rl.risk import DiscreteRiskCritic, RiskCritic


class RecoveryPolicy(Protocol):
    """Proposes the action that keeps the robot safe; all actions are in [-1, 1]."""

    optimizer: FlatAdam

    def act(self, obs: torch.Tensor, generator: torch.Generator, *, explore: bool) -> torch.Tensor:
        """Returns actions (B, act_dim) for normalised observations (B, obs_dim); ``explore`` allows sampling."""
        ...

    def backup_action(self, obs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Returns what would be executed in the next states (B, obs_dim) of a batch, for the composite backup."""
        ...

    def update(self, obs: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Learns from the states (B, obs_dim) of a risk batch; returns its metrics."""
        ...


class ModelFreeRecovery(nn.Module):
    """Minimises ``Q_risk(s, pi_rec(s))`` by following the critic's gradient (arXiv 2010.15920; DDPG-like)."""

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        config: RecoveryConfig,
        risk: RiskCritic,
        *,
        generator: torch.Generator,
        precision: Precision = "float32",
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.config = config
        self.act_dim = act_dim
        self.actor = DeterministicActor(
            obs_dim, act_dim, config.hidden_sizes, generator=generator, precision=precision
        ).to(device)
        self.optimizer = FlatAdam(self.actor, config.learning_rate)
        self._risk = (risk,)  # in a tuple, so that its parameters are not counted among this module's

    def act(self, obs: torch.Tensor, generator: torch.Generator, *, explore: bool) -> torch.Tensor:
        """See ``RecoveryPolicy``."""
        if explore and self.config.explore:
            return self.actor.sample(obs, self._noise(obs, generator))
        return self.actor.mean_action(obs)

    def backup_action(self, obs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """See ``RecoveryPolicy``."""
        return self.act(obs, generator, explore=True)

    def update(self, obs: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """One gradient step on ``mean Q_risk(s, pi_rec(s))``, or on the mean of its logit.

        In each state both have the same minimum. But the gradient of ``Q_risk = sigmoid(l)`` is ``Q_risk (1 - Q_risk)``
        times that of ``l``: where every action looks nearly certain to fail, it says next to nothing.
        """
        action = self.actor.sample(obs, self._noise(obs, generator))
        if self.config.objective == "logit":
            logit = self._risk[0].logit(obs, action)
            risk, loss = logit.detach().sigmoid().mean(), logit.mean()
        else:
            risk = loss = self._risk[0](obs, action).mean()
        self.optimizer.step(loss)
        return {"recovery/risk": risk.detach()}

    def _noise(self, obs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return torch.randn((len(obs), self.act_dim), generator=generator, device=obs.device)


class QSamplingRecovery(nn.Module):
    """Takes the least risky of uniformly sampled actions; learns nothing of its own (arXiv 2010.15920, section IV)."""

    def __init__(self, act_dim: int, config: RecoveryConfig, risk: RiskCritic) -> None:
        super().__init__()
        self.config = config
        self.act_dim = act_dim
        self.optimizer = FlatAdam([], config.learning_rate)
        self._risk = (risk,)

    def act(self, obs: torch.Tensor, generator: torch.Generator, *, explore: bool) -> torch.Tensor:
        """See ``RecoveryPolicy``; without exploring all rows have the same candidates, and ``generator`` rests."""
        if explore:
            return self._least_risky(obs, self._candidates(len(obs), self.config.num_samples, generator))
        return self._least_risky(obs, self.fixed_candidates(obs.device).expand(len(obs), -1, -1))

    def fixed_candidates(self, device: torch.device | str) -> torch.Tensor:
        """The actions (num_samples, act_dim) among which ``act`` chooses where it does not explore."""
        return self._candidates(1, self.config.num_samples, torch.Generator(device).manual_seed(0))[0]

    def backup_action(self, obs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """See ``RecoveryPolicy``; fewer candidates, since a batch asks for hundreds of states."""
        return self._least_risky(obs, self._candidates(len(obs), self.config.num_backup_samples, generator))

    def update(self, obs: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Nothing to learn."""
        return {}

    def _candidates(self, rows: int, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        shape = (rows, num_samples, self.act_dim)
        return 2 * torch.rand(shape, generator=generator, device=generator.device) - 1

    def _least_risky(self, obs: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Of the candidates (B, num_samples, act_dim) of each row the one with the least ``Q_risk`` (B, act_dim)."""
        num_samples = candidates.shape[1]
        risk = self._risk[0](obs.repeat_interleave(num_samples, dim=0), candidates.flatten(0, 1))
        best = risk.view(len(obs), num_samples).argmin(1)
        return candidates[torch.arange(len(obs), device=obs.device), best]


class LeastRiskyRecovery(nn.Module):
    """Takes the least risky of all discrete actions: ``argmin_a Q_risk(s, a)``, exact, with nothing to learn."""

    def __init__(self, config: RecoveryConfig, risk: DiscreteRiskCritic) -> None:
        super().__init__()
        self.optimizer = FlatAdam([], config.learning_rate)
        self._risk = (risk,)

    def act(self, obs: torch.Tensor, generator: torch.Generator, *, explore: bool) -> torch.Tensor:
        """See ``RecoveryPolicy``."""
        return self._risk[0].least_risky(obs)

    def backup_action(self, obs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """See ``RecoveryPolicy``."""
        return self._risk[0].least_risky(obs)

    def update(self, obs: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Nothing to learn."""
        return {}
