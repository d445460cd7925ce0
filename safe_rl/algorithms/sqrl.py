"""SQRL, safety Q-functions for RL (arXiv 2010.14603): LR that also rejects risky ones among its sampled actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch

from safe_rl.algorithms.lagrangian import LagrangianAgent, LagrangianConfig
from safe_rl.errors import UserError
from safe_rl.validation import require


@dataclass
class SQRLConfig(LagrangianConfig):
    """SQRL (arXiv 2010.14603), as Recovery RL (arXiv 2010.15920) compares with."""

    num_samples: int = 100
    """Actions that are drawn for a decision."""

    def __post_init__(self) -> None:
        """Validates the values."""
        super().__post_init__()
        require(self.num_samples >= 1, "", "num_samples", self.num_samples, "at least 1")


class SQRLAgent(LagrangianAgent):
    """Draws ``a_1 ... a_K ~ pi(.|s)`` and executes one of the safe ones, ``a_k`` with probability ``~ pi(a_k|s)``.

    Safe is ``Q_risk(s, a_k) <= eps_risk``; where none is, the least risky one is executed (arXiv 2010.14603, section
    4.1). Without exploring it is the likeliest of the safe ones, and the candidates are the same at each call.
    """

    config: SQRLConfig

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: SQRLConfig,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if isinstance(action_space, gym.spaces.Discrete):
            raise UserError(
                f"sqrl samples continuous actions, the environment has {action_space}: train recovery-rl, which checks "
                "every action, or lagrangian, rspo or rcpo"
            )
        noise = config.sac.exploration_noise
        require(noise == "white", "sac", "exploration_noise", noise, "white: sqrl draws independent candidates")
        super().__init__(observation_space, action_space, config, seed=seed, device=device)

    def _propose_knowing_risk(self, task_state: torch.Tensor, risk_state: torch.Tensor, explore: bool) -> torch.Tensor:
        num_states, num_samples = len(task_state), self.config.num_samples
        generator = self.generator if explore else torch.Generator(self.device).manual_seed(0)
        rows = torch.arange(num_states, device=self.device).repeat_interleave(num_samples)
        if explore and self.num_observed < self.config.start_steps:
            actions = self._uniform(len(rows))
            log_prob = torch.zeros(len(rows), device=self.device)
        else:
            noise = torch.randn((len(rows), self.act_dim), generator=generator, device=self.device)
            actions, log_prob = self.actor.sample(task_state[rows], noise)
        risk = self.risk_critic(risk_state[rows], actions)
        chosen = choose(
            log_prob.view(num_states, -1), risk.view(num_states, -1), self.config.risk.eps_risk,
            generator if explore else None,
        )  # fmt: skip
        return actions.view(num_states, num_samples, -1)[torch.arange(num_states, device=self.device), chosen]


def choose(
    log_prob: torch.Tensor, risk: torch.Tensor, eps_risk: float, generator: torch.Generator | None
) -> torch.Tensor:
    """SQRL's choice among ``K`` candidates in each of ``N`` states.

    Args:
        log_prob: (N, K) log-densities under the policy.
        risk: (N, K) ``Q_risk``; one that is NaN counts as unsafe.
        eps_risk: Largest tolerated risk.
        generator: Draws in proportion to the densities; None takes the largest.

    Returns:
        (N,) numbers of the chosen candidates.
    """
    safe = risk <= eps_risk
    score = log_prob.masked_fill(~safe, -torch.inf)
    if generator is not None:  # the largest of Gumbel-perturbed log-weights is a draw in proportion to the weights
        uniform = torch.rand(log_prob.shape, generator=generator, device=log_prob.device)
        score = score - (-uniform.clamp(min=1e-20).log()).log()
    return torch.where(safe.any(1), score.argmax(1), risk.nan_to_num(nan=torch.inf).argmin(1))
