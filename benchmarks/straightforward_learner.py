"""The whole learner of Recovery RL as one writes it first, after the code of its authors: the yardstick for ours.

Two ``nn.Sequential`` a pair of critics, an Adam for each network, ``torch.distributions``, ``loss.backward()`` through
networks whose weight gradients nobody uses, target updates a tensor at a time, a NumPy batch converted at each step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional


def mlp(input_size: int, hidden: int, output_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(input_size, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, output_size),
    )


class Twins(nn.Module):
    """Two critics."""

    def __init__(self, obs_dim: int, act_dim: int, hidden: int, head: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = mlp(obs_dim + act_dim, hidden, 1)
        self.second = mlp(obs_dim + act_dim, hidden, 1)
        self.head = head

    def forward(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Both values (B, 1)."""
        x = torch.cat([obs, action], 1)
        return self.head(self.first(x)), self.head(self.second(x))


class GaussianPolicy(nn.Module):
    """SAC's actor."""

    def __init__(self, obs_dim: int, act_dim: int, hidden: int) -> None:
        super().__init__()
        self.net = mlp(obs_dim, hidden, 2 * act_dim)

    def sample(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """An action (B, act_dim) and its log-density (B, 1)."""
        mean, log_std = self.net(obs).chunk(2, dim=1)
        normal = Normal(mean, log_std.clamp(-20, 2).exp())
        x = normal.rsample()
        action = torch.tanh(x)
        log_prob = normal.log_prob(x) - torch.log(1 - action.pow(2) + 1e-6)
        return action, log_prob.sum(1, keepdim=True)


class RecoveryPolicy(nn.Module):
    """Tanh mean and one learned standard deviation."""

    def __init__(self, obs_dim: int, act_dim: int, hidden: int) -> None:
        super().__init__()
        self.net = mlp(obs_dim, hidden, act_dim)
        self.log_std = nn.Parameter(torch.full((act_dim,), float(np.log(0.1))))

    def sample(self, obs: Tensor) -> Tensor:
        """An action (B, act_dim)."""
        mean = torch.tanh(self.net(obs))
        return Normal(mean, self.log_std.exp().expand_as(mean)).rsample().clamp(-1, 1)


class StraightforwardLearner:
    """SAC, risk critics with the composite backup, and model-free recovery."""

    def __init__(self, data: dict[str, npt.NDArray[np.float32]], batch_size: int, hidden: int) -> None:
        self.data, self.batch_size = data, batch_size
        obs_dim, act_dim = data["obs"].shape[1], data["action"].shape[1]
        self.rng = np.random.default_rng(0)
        self.policy = GaussianPolicy(obs_dim, act_dim, hidden)
        self.critic = Twins(obs_dim, act_dim, hidden, nn.Identity())
        self.risk = Twins(obs_dim, act_dim, hidden, torch.sigmoid)
        self.recovery = RecoveryPolicy(obs_dim, act_dim, hidden)
        self.critic_target, self.risk_target = copy.deepcopy(self.critic), copy.deepcopy(self.risk)
        networks = self.policy, self.critic, self.risk, self.recovery
        self.policy_optim, self.critic_optim, self.risk_optim, self.recovery_optim = (
            torch.optim.Adam(network.parameters(), lr=3e-4) for network in networks
        )

    def update(self) -> None:
        """One step of everything that learns."""
        self.update_task()
        self.update_risk()

    def update_task(self) -> None:
        """One step of SAC."""
        obs, task_action, _, next_obs, reward, _, terminated = self._sample()
        with torch.no_grad():
            next_action, next_log_prob = self.policy.sample(next_obs)
            value = torch.min(*self.critic_target(next_obs, next_action)) - 0.2 * next_log_prob
            target = reward + 0.99 * (1 - terminated) * value
        q1, q2 = self.critic(obs, task_action)
        critic_loss = functional.mse_loss(q1, target) + functional.mse_loss(q2, target)
        _step(self.critic_optim, critic_loss)
        action, log_prob = self.policy.sample(obs)
        policy_loss = (0.2 * log_prob - torch.min(*self.critic(obs, action))).mean()
        _step(self.policy_optim, policy_loss)
        _soft_update(self.critic_target, self.critic, 0.005)
        self.metrics = critic_loss.item(), policy_loss.item()

    def update_risk(self) -> None:
        """One step of the risk critics and of the recovery policy."""
        obs, _, action, next_obs, _, cost, _ = self._sample()
        with torch.no_grad():
            next_action, _ = self.policy.sample(next_obs)
            unsafe = torch.max(*self.risk(next_obs, next_action)) > 0.3
            next_action = torch.where(unsafe, self.recovery.sample(next_obs), next_action)
            target = cost + (1 - cost) * 0.8 * torch.max(*self.risk_target(next_obs, next_action))
        q1, q2 = self.risk(obs, action)
        risk_loss = functional.mse_loss(q1, target) + functional.mse_loss(q2, target)
        _step(self.risk_optim, risk_loss)
        recovery_loss = torch.max(*self.risk(obs, self.recovery.sample(obs))).mean()
        _step(self.recovery_optim, recovery_loss)
        _soft_update(self.risk_target, self.risk, 0.0002)
        self.metrics = risk_loss.item(), recovery_loss.item()

    def _sample(self) -> list[Tensor]:
        rows = self.rng.integers(0, len(self.data["obs"]), self.batch_size)
        names = "obs", "task_action", "action", "next_obs", "reward", "cost", "terminated"
        batch = [torch.FloatTensor(self.data[name][rows]) for name in names]
        return [x.unsqueeze(1) if x.dim() == 1 else x for x in batch]


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _soft_update(target: nn.Module, source: nn.Module, tau: float) -> None:
    for to, towards in zip(target.parameters(), source.parameters(), strict=True):
        to.data.copy_(to.data * (1.0 - tau) + towards.data * tau)
