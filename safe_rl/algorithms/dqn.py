"""Double DQN with n-step returns and prioritised replay (arXiv 1509.06461, 1511.05952); Ape-X spreads it out."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from safe_rl.algorithms.fragment import Fragment
from safe_rl.algorithms.prioritized_replay import PrioritizedReplay, QBatch, n_step_rows
from safe_rl.config import require
from safe_rl.envs.spaces import flat_dim, require_no_image
from safe_rl.errors import UserError
from safe_rl.nets.arrays import as_tensor
from safe_rl.nets.mlp import StackedMLP
from safe_rl.nets.optim import FlatAdam
from safe_rl.switch import Decision, Mode

Floats = npt.NDArray[np.float32]


@dataclass
class DQNConfig:
    """Double DQN (arXiv 1509.06461)."""

    learning_rate: float = 1e-3
    """Adam step size."""
    gamma: float = 0.99
    """Discount of the reward."""
    n_step: int = 1
    """Rewards that a target sums before it bootstraps."""
    reward_scale: float = 1.0
    """Factor on the reward."""
    hidden_sizes: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers."""
    batch_size: int = 128
    """Transitions in a gradient step."""
    replay_capacity: int = 100_000
    """Transitions kept."""
    learning_starts: int = 1_000
    """Environment steps before the first gradient step."""
    updates_per_step: float = 0.5
    """Gradient steps for each environment step; Ape-X on Ray takes as many as it can."""
    target_interval: int = 100
    """Gradient steps between copies to the target network."""
    epsilon: float = 1.0
    """Share of random actions at the beginning."""
    final_epsilon: float = 0.05
    """Share of random actions in the end."""
    epsilon_steps: int = 5_000
    """Environment steps over which it falls."""
    priority_exponent: float = 0.0
    """How much more often transitions with large errors are drawn: 0 not at all, 1 in proportion."""
    importance_exponent: float = 0.4
    """How much of the bias that this makes is corrected: 0 nothing, 1 all."""

    def __post_init__(self) -> None:
        """Validates the values."""
        for name in ("learning_rate", "reward_scale"):
            require(getattr(self, name) > 0, "", name, getattr(self, name), "positive")
        for name in ("gamma", "epsilon", "final_epsilon", "priority_exponent", "importance_exponent"):
            require(0 <= getattr(self, name) <= 1, "", name, getattr(self, name), "between 0 and 1")
        for name in ("n_step", "batch_size", "replay_capacity", "target_interval", "epsilon_steps"):
            require(getattr(self, name) >= 1, "", name, getattr(self, name), "at least 1")
        for name in ("learning_starts", "updates_per_step"):
            require(getattr(self, name) >= 0, "", name, getattr(self, name), "at least 0")
        require(all(size > 0 for size in self.hidden_sizes), "", "hidden_sizes", self.hidden_sizes, "positive widths")


@dataclass
class ApexConfig(DQNConfig):
    """Ape-X (arXiv 1803.00933): DQN with many workers, each of its own epsilon, and replays in actors."""

    n_step: int = 3
    """Rewards that a target sums before it bootstraps."""
    priority_exponent: float = 0.6
    """How much more often transitions with large errors are drawn: 0 not at all, 1 in proportion."""
    num_replays: int = 1
    """Actors that keep transitions, each a share of the capacity."""
    batches_a_draw: int = 32
    """Batches that a replay hands out at once; the learner passes over them before it draws again."""
    epsilon_base: float = 0.4
    """Environment i of M explores with the share epsilon_base^(1 + epsilon_spread * i / (M - 1)), for good."""
    epsilon_spread: float = 7.0
    """See epsilon_base."""

    def __post_init__(self) -> None:
        """Validates the values."""
        super().__post_init__()
        for name in ("num_replays", "batches_a_draw"):
            require(getattr(self, name) >= 1, "", name, getattr(self, name), "at least 1")
        require(0 < self.epsilon_base < 1, "", "epsilon_base", self.epsilon_base, "between 0 and 1")
        require(self.epsilon_spread >= 0, "", "epsilon_spread", self.epsilon_spread, "at least 0")

    def epsilon_of(self, index: int, count: int) -> float:
        """The share of random actions of environment ``index`` of ``count``."""
        return float(self.epsilon_base ** (1.0 + self.epsilon_spread * index / max(count - 1, 1)))


def double_q_target(reward: Tensor, discount: Tensor, next_q: Tensor, next_q_target: Tensor) -> Tensor:
    """``y = R + discount * Q'(s', argmax_a Q(s', a))``: the online network chooses, the target network values.

    Args:
        reward: (B,) sum of ``n`` discounted rewards.
        discount: (B,) ``gamma^n``, and 0 where the episode terminated on the way.
        next_q: (B, num_actions) of the online network.
        next_q_target: (B, num_actions) of the target network.
    """
    best = next_q.argmax(dim=1, keepdim=True)
    return reward + discount * next_q_target.gather(1, best).squeeze(1)


def make_q_network(
    observation_space: gym.Space[Any], action_space: gym.Space[Any], config: DQNConfig, seed: int = 0
) -> StackedMLP:
    """Builds ``Q(s, .)``.

    Raises:
        UserError: The actions are not discrete, or the observations are images.
    """
    require_no_image(observation_space, "DQN")
    if not isinstance(action_space, gym.spaces.Discrete):
        raise UserError(f"action space {action_space} is not supported by DQN: it must be Discrete")
    generator = torch.Generator().manual_seed(seed)
    return StackedMLP(1, flat_dim(observation_space), config.hidden_sizes, int(action_space.n), generator=generator)


class DQNLearner:
    """Learns ``Q`` and acts by it; also the store and the supply of its plan, where no actor keeps the replay.

    Args:
        observation_space: of one environment.
        action_space: of one environment.
        config: the method's settings.
        seed: of the initial weights and of the replay.
    """

    has_risk = False

    def __init__(
        self, observation_space: gym.Space[Any], action_space: gym.Space[Any], config: DQNConfig, *, seed: int = 0
    ) -> None:
        self.config = config
        self.q = make_q_network(observation_space, action_space, config, seed)
        self.target = copy.deepcopy(self.q).requires_grad_(False)
        self.optimizer = FlatAdam(self.q, config.learning_rate)
        self.obs_dim = flat_dim(observation_space)
        self.first_action = int(action_space.start)  # type: ignore[attr-defined]
        self._rng = np.random.default_rng(seed)
        self.replay = PrioritizedReplay(
            1 if isinstance(config, ApexConfig) else config.replay_capacity,
            self.obs_dim,
            config.priority_exponent,
            config.importance_exponent,
            seed,
        )
        self.version = 0
        """Gradient steps so far."""
        self.num_steps = 0
        """Environment steps taken in."""

    # ------------------------------------------------------------------ acting

    @torch.inference_mode()
    def act(self, obs: Floats, *, explore: bool) -> Decision:
        """Decides for ``N`` flat observations: the best action, or with ``explore`` sometimes a random one."""
        began = time.perf_counter()
        q = self.q(torch.from_numpy(np.ascontiguousarray(obs, dtype=np.float32)))[0]
        action = q.argmax(1).numpy()
        if explore:
            random = self._rng.random(len(obs)) < self.epsilon
            action = np.where(random, self._rng.integers(0, q.shape[1], len(obs)), action)
        action = action + self.first_action
        return Decision(
            action=action,
            task_action=action,
            risk=np.full(len(obs), np.nan, dtype=np.float32),
            mode=np.full(len(obs), Mode.TASK, dtype=np.int8),
            solve_time_sec=time.perf_counter() - began,
        )

    @property
    def epsilon(self) -> float:
        """The share of random actions now."""
        left = max(0.0, 1.0 - self.num_steps / self.config.epsilon_steps)
        return self.config.final_epsilon + (self.config.epsilon - self.config.final_epsilon) * left

    def weights(self) -> Floats:
        """The network and the present epsilon, one flat array, a copy."""
        return np.append(self.q.flat.detach().numpy(), np.float32(self.epsilon))

    # ---------------------------------------------------------------- learning

    def add(self, fragment: Fragment) -> None:
        """Stores a fragment's steps."""
        self.num_steps += fragment.num_steps
        config = self.config
        self.replay.add(n_step_rows(fragment, config.n_step, config.gamma, self.first_action))

    def metrics(self) -> dict[str, float]:
        """How full the replay is, and epsilon."""
        return {"buffer/occupancy": len(self.replay) / self.replay.capacity, "rollout/epsilon": self.epsilon}

    def next(self) -> QBatch | None:
        """The next batch; None where all gradient steps were taken that are due."""
        config = self.config
        due = (self.num_steps - config.learning_starts) * config.updates_per_step
        return self.replay.sample(config.batch_size) if self.version < due else None

    def learn(self, batch: QBatch) -> dict[str, float]:
        """One gradient step; the replay is told the errors."""
        metrics, errors = self.step(batch)
        self.replay.set_priorities(batch.indices, errors)
        return metrics

    def step(self, batch: QBatch) -> tuple[dict[str, float], Floats]:
        """One gradient step on the Huber loss of ``Q(s, a) - y``; returns metrics and (B,) the errors' magnitudes."""
        scale = self.config.reward_scale
        obs, next_obs = as_tensor(batch.obs), as_tensor(batch.next_obs)
        with torch.no_grad():
            next_q, next_q_target = self.q(next_obs)[0], self.target(next_obs)[0]
            reward, discount = as_tensor(batch.reward) * scale, as_tensor(batch.discount)
            target = double_q_target(reward, discount, next_q, next_q_target)
        q = self.q(obs)[0].gather(1, as_tensor(batch.action)[:, None]).squeeze(1)
        loss = (functional.smooth_l1_loss(q, target, reduction="none") * as_tensor(batch.weight)).mean()
        self.optimizer.step(loss)
        self.version += 1
        if self.version % self.config.target_interval == 0:
            self.target.load_state_dict(self.q.state_dict())
        errors: Floats = (q.detach() - target).abs().numpy()
        return {"train/loss": float(loss.detach()), "train/q_mean": float(q.detach().mean())}, errors

    # ------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs; the replay is filled anew."""
        return {
            "policy": self.q.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "counters": {"version": self.version, "num_steps": self.num_steps},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores ``state_dict``."""
        self.load_policy_state_dict(state["policy"])
        self.target.load_state_dict(state["target"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.version, self.num_steps = state["counters"]["version"], state["counters"]["num_steps"]

    def load_policy_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what acting needs."""
        self.q.load_state_dict(state)
