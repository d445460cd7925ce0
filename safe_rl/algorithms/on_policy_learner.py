"""What the learners of the on-policy family share: networks, optimiser, the terms of the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from safe_rl.algorithms.actor_critic import ActorCritic, Evaluation
from safe_rl.algorithms.fragment import Fragment
from safe_rl.config import require
from safe_rl.envs.spaces import image_shape
from safe_rl.errors import UserError
from safe_rl.nets.arrays import as_tensor
from safe_rl.nets.optim import FlatAdam

Metrics = dict[str, float]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass
class OnPolicyConfig:
    """What the on-policy methods have in common."""

    learning_rate: float = 3e-4
    """Adam step size."""
    anneal_steps: int = 0
    """Environment steps over which the step size falls linearly to anneal_to of itself; 0 keeps it."""
    anneal_to: float = 0.0
    """Share of the step size that annealing ends at."""
    gamma: float = 0.99
    """Discount of the reward."""
    gae_lambda: float = 0.95
    """Decay of the advantages' traces: 0 trusts the value function, 1 the rewards."""
    reward_scale: float = 1.0
    """Factor on the reward; brings returns to a size that the value network learns."""
    value_coef: float = 0.5
    """Weight of the value loss."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    max_grad_norm: float = 0.5
    """Norm that the gradient is clipped to."""
    normalize_advantages: bool = True
    """Shift and scale the advantages of each batch to mean 0 and deviation 1."""
    normalize_running: bool = False
    """Scale observations by their running mean and deviation."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of policy and value network."""
    initial_log_std: float = 0.0
    """Logarithm of the Gaussian's deviation at the start, in units of half the range of the actions."""

    def __post_init__(self) -> None:
        """Validates the values."""
        for name in ("learning_rate", "reward_scale", "max_grad_norm"):
            require(getattr(self, name) > 0, "", name, getattr(self, name), "positive")
        for name in ("anneal_steps", "value_coef", "entropy_coef"):
            require(getattr(self, name) >= 0, "", name, getattr(self, name), "at least 0")
        for name in ("gamma", "gae_lambda", "anneal_to"):
            require(0 <= getattr(self, name) <= 1, "", name, getattr(self, name), "between 0 and 1")
        require(all(size > 0 for size in self.hidden_sizes), "", "hidden_sizes", self.hidden_sizes, "positive widths")


Config = TypeVar("Config", bound=OnPolicyConfig)


class OnPolicyLearner(Generic[Config]):
    """Networks and their optimiser. A method adds ``learn``.

    Args:
        observation_space: of one environment.
        action_space: of one environment.
        config: the method's settings.
        seed: of the initial weights and of everything drawn while learning.

    Raises:
        UserError: the spaces are not supported, or the config does not suit them.
    """

    def __init__(
        self, observation_space: gym.Space[Any], action_space: gym.Space[Any], config: Config, *, seed: int = 0
    ) -> None:
        self.config = config
        if config.normalize_running and image_shape(observation_space) is not None:
            raise UserError("--normalize-running is True: observations are images, which are scaled by their range")
        self.net = ActorCritic(
            observation_space,
            action_space,
            config.hidden_sizes,
            initial_log_std=config.initial_log_std,
            generator=torch.Generator().manual_seed(seed),
        )
        self.optimizer = FlatAdam(self.net.trained, config.learning_rate, eps=1e-5)
        self.rng = np.random.default_rng(seed)
        self.version = 0
        """Gradient steps so far: the version of the weights."""
        self.num_steps = 0
        """Environment steps taken in."""

    def weights(self) -> Floats:
        """The weights for workers, one flat array, a copy."""
        return self.net.flat_weights()

    def take_in(self, fragment: Fragment) -> None:
        """Counts a fragment's steps, once, and learns the observations' scale from it."""
        self.num_steps += fragment.num_steps
        if self.config.normalize_running:
            self.net.normalizer.update(fragment.obs[:-1][fragment.valid])

    def observations(self, fragment: Fragment) -> Tensor:
        """The fragment's (T + 1, N, obs_dim) observations as the networks take them: flat, normalised."""
        obs = as_tensor(fragment.obs).flatten(0, 1)
        return self.net.normalizer(obs) if self.config.normalize_running else obs

    def scaled_reward(self, fragment: Fragment) -> Floats:
        """Rewards (T, N) as the value function learns them."""
        return fragment.reward * np.float32(self.config.reward_scale)

    def scaled_advantages(self, advantages: Floats, valid: Bools) -> Floats:
        """Shifted and scaled, if wanted, by mean and deviation over the valid rows; of any one shape."""
        if not self.config.normalize_advantages:
            return advantages
        chosen = advantages[valid]
        if len(chosen) < 2:
            return advantages
        mean = chosen.mean()
        chosen -= mean
        std = math.sqrt(float(np.dot(chosen, chosen)) / len(chosen))
        return (advantages - mean) * np.float32(1.0 / (std + 1e-8))

    def gradients(
        self, evaluation: Evaluation, policy_weights: Floats, targets: Floats, valid: Bools
    ) -> tuple[list[Tensor], float]:
        """The gradient of the loss, clipped to ``max_grad_norm``, and its norm before that.

        The loss is ``mean(-J + value_coef (V - target)^2 / 2 - entropy_coef H)`` over the valid rows. A method tells
        its objective ``J`` by its derivative: all that a policy gradient is made of. Autograd would give the same; its
        bookkeeping would take longer than the networks.

        Args:
            evaluation: of the rows, and of the values of more rows perhaps.
            policy_weights: ``dJ / d log pi(a|s)`` of each row.
            targets: what each row's value should be.
            valid: False for rows that count nothing. The three are of one shape with ``B`` elements.
        """
        config = self.config
        share = valid.reshape(-1) * np.float32(1.0 / max(int(np.count_nonzero(valid)), 1))
        values = evaluation.values
        d_values = np.zeros_like(values)
        errors = values[: len(share)] - targets.reshape(-1)
        np.multiply(errors, share * np.float32(config.value_coef), out=d_values[: len(share)])
        gradients = self.net.backpropagate(
            evaluation, policy_weights.reshape(-1) * -share, share * np.float32(-config.entropy_coef), d_values
        )
        arrays = [gradient.numpy() for gradient in gradients]
        norm = math.sqrt(sum(float(np.dot(array, array)) for array in arrays))
        if norm > config.max_grad_norm:
            for array in arrays:
                array *= np.float32(config.max_grad_norm / norm)
        return gradients, norm

    def apply(self, gradients: Sequence[Tensor]) -> None:
        """One step of the optimiser along ``gradients``: a new version of the weights."""
        config = self.config
        if config.anneal_steps > 0:
            left = max(0.0, 1.0 - self.num_steps / config.anneal_steps)
            self.optimizer.learning_rate = config.learning_rate * (config.anneal_to + (1.0 - config.anneal_to) * left)
        self.optimizer.apply(gradients)
        self.version += 1

    def descend(self, evaluation: Evaluation, policy_weights: Floats, targets: Floats, valid: Bools) -> float:
        """One step along ``gradients``; returns the norm."""
        gradients, norm = self.gradients(evaluation, policy_weights, targets, valid)
        self.apply(gradients)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed training needs."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": self.rng.bit_generator.state,
            "counters": {"version": self.version, "num_steps": self.num_steps},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores ``state_dict``."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.bit_generator.state = state["rng"]
        self.version, self.num_steps = state["counters"]["version"], state["counters"]["num_steps"]
