"""RP, reward penalty: a violation costs reward."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from safe_rl.algorithms.sac import SACAgent
from safe_rl.config import AgentConfig
from safe_rl.data.replay_buffer import Batch
from safe_rl.validation import require


@dataclass
class RewardPenaltyConfig(AgentConfig):
    """RP: reward penalty, as Recovery RL (arXiv 2010.15920) compares with."""

    penalty: float = 1000.0
    """What a violation takes off the reward, in its units."""

    def __post_init__(self) -> None:
        """Validates the values."""
        super().__post_init__()
        require(self.penalty >= 0, "", "penalty", self.penalty, "at least 0")


class RewardPenaltyAgent(SACAgent):
    """RP (arXiv 2010.15920, section V): SAC on ``r - penalty * c``."""

    config: RewardPenaltyConfig

    def _task_reward(self, batch: Batch, obs: torch.Tensor) -> torch.Tensor:
        penalty = self.config.penalty * self.config.sac.reward_scale
        return super()._task_reward(batch, obs) - penalty * batch.cost
