"""The weight of the entropy in SAC, tuned so that the policy keeps a given entropy (arXiv 1812.05905)."""

from __future__ import annotations

import math

import torch
from torch import nn

from safe_rl.config import SACConfig
from safe_rl.validation import require


def target_entropy(config: SACConfig, act_dim: int, *, discrete: bool) -> float:
    """The entropy to keep, in nats.

    Where nothing is said it is minus the number of components (arXiv 1812.05905), or with discrete actions a share of
    ``log n``, the entropy of uniform ones. arXiv 1910.07207 keeps 0.98 of it, a policy that is nearly uniform, which no
    constraint survives (docs/methods/discrete_actions.md); arXiv 2112.02852 shows that less is better for the reward.

    Args:
        config: the settings.
        act_dim: number of components, or of discrete actions.
        discrete: which of the two.

    Raises:
        UserError: A share of ``log n`` is asked of continuous actions, whose entropy has no largest value.
    """
    share = config.target_entropy_share
    require(
        discrete or share == SACConfig.target_entropy_share, "sac", "target_entropy_share", share,
        "left out: the actions are not Discrete, set target_entropy",
    )  # fmt: skip
    if config.target_entropy is not None:
        return config.target_entropy
    return share * math.log(act_dim) if discrete else -float(act_dim)


class Temperature(nn.Module):
    """The weight ``alpha`` of the entropy, learned in its logarithm so that it stays positive."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor(math.log(alpha)))

    def forward(self) -> torch.Tensor:
        """``alpha``, a scalar without gradient."""
        return self.log_alpha.detach().exp()

    def loss(self, log_prob: torch.Tensor, target_entropy: float) -> torch.Tensor:
        """``-log_alpha * (log pi + target_entropy)``: alpha rises while the entropy is below its target."""
        return -self.log_alpha * (log_prob.detach().mean() + target_entropy)
