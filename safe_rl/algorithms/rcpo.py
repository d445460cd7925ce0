"""RCPO, reward-constrained policy optimisation (arXiv 1805.11074): the risk of an action is taken off its reward."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from safe_rl.algorithms.lagrangian import LagrangianConfig, MultiplierAgent
from safe_rl.data.replay_buffer import Batch


@dataclass
class RCPOConfig(LagrangianConfig):
    """RCPO (arXiv 1805.11074), as Recovery RL (arXiv 2010.15920) compares with."""


class RCPOAgent(MultiplierAgent):
    """RCPO with ``Q_risk`` (arXiv 2010.15920, section V): ``y = r - nu Q_risk(s, a) + gamma Q'(s', a')``.

    ``nu``, the paper's lambda, is learned as in LR: it rises while ``Q_risk(s, pi(s))`` is above ``eps_risk``.
    """

    def _task_reward(self, batch: Batch, obs: torch.Tensor) -> torch.Tensor:
        risk = self.risk_critic(self._risk_view(batch, obs), batch.task_action)
        return super()._task_reward(batch, obs) - self._price() * risk
