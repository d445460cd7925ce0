"""RSPO, risk-sensitive policy optimisation: LR whose price of risk falls on a schedule instead of being learned."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import torch
from torch import nn

from safe_rl.algorithms.agent_state import Stateful
from safe_rl.algorithms.lagrangian import MAX_MULTIPLIER
from safe_rl.algorithms.risk_aware import RiskAwareAgent
from safe_rl.algorithms.sac import Metrics
from safe_rl.config import AgentConfig, RiskAwareConfig
from safe_rl.data.replay_buffer import Batch
from safe_rl.transitions import Transitions
from safe_rl.validation import require


@dataclass
class ScheduleConfig:
    """How the price of risk ``nu`` falls to 0."""

    start: float = 2000.0
    """Its first value, in units of the environment's reward."""
    episodes: int | None = None
    """Training episodes after which it is 0 (default: those of the run)."""

    def __post_init__(self) -> None:
        """Validates the values."""
        most = f"at least 0 and at most {MAX_MULTIPLIER:g}"
        require(0 <= self.start <= MAX_MULTIPLIER, "schedule", "start", self.start, most)
        require(self.episodes is None or self.episodes >= 1, "schedule", "episodes", self.episodes, "at least 1")


@dataclass
class RSPOConfig(RiskAwareConfig):
    """RSPO: risk-sensitive policy optimisation, as Recovery RL (arXiv 2010.15920) compares with."""

    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Price of risk."""

    def for_run(self, *, episodes: int, dataset: bool) -> AgentConfig:
        """See ``AgentConfig``; the schedule ends with the run where nothing else is said."""
        config = self
        if self.schedule.episodes is None:
            config = dataclasses.replace(self, schedule=dataclasses.replace(self.schedule, episodes=episodes))
        return super(RSPOConfig, config).for_run(episodes=episodes, dataset=dataset)


class LinearSchedule(nn.Module):
    """``nu_k = start * max(0, 1 - k / K)`` in the ``k``-th of ``K`` episodes; ``K`` None: it never falls."""

    num_episodes: torch.Tensor

    def __init__(self, start: float, episodes: int | None) -> None:
        super().__init__()
        self.start, self.episodes = start, episodes
        self.register_buffer("num_episodes", torch.zeros(()))

    def forward(self) -> torch.Tensor:
        """``nu``, a scalar."""
        if self.episodes is None:
            return torch.full_like(self.num_episodes, self.start)
        return self.start * (1 - self.num_episodes / self.episodes).clamp(min=0)


class RSPOAgent(RiskAwareAgent):
    """RSPO (arXiv 2010.15920, section V): ``L = L_SAC + nu_k * mean (Q_risk(s, pi(s)) - eps_risk)``."""

    config: RSPOConfig

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: RSPOConfig,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(observation_space, action_space, config, seed=seed, device=device)
        self.schedule = LinearSchedule(config.schedule.start, config.schedule.episodes).to(self.device)

    def observe(self, transitions: Transitions) -> None:
        """See ``SACAgent``; counts the episodes that end."""
        super().observe(transitions)
        self.schedule.num_episodes += int((transitions.terminated | transitions.truncated).sum())

    def _actor_loss(
        self, batch: Batch, obs: torch.Tensor, action: torch.Tensor, log_prob: torch.Tensor
    ) -> torch.Tensor:
        loss = super()._actor_loss(batch, obs, action, log_prob)
        excess = self.risk_critic(self._risk_view(batch, obs), action) - self.config.risk.eps_risk
        return loss + self.schedule() * self.config.sac.reward_scale * excess.mean()

    def _update_task(self, batch: Batch) -> Metrics:
        return super()._update_task(batch) | {"train/multiplier": self.schedule()}

    def _learning_parts(self) -> dict[str, Stateful]:
        return {**super()._learning_parts(), "schedule": self.schedule}
