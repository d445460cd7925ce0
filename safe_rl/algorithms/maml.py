"""Model-agnostic meta-learning of a policy that adapts to a task in one gradient step (MAML, arXiv 1703.03400)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from safe_rl.algorithms.actor_critic import ActorCritic
from safe_rl.algorithms.fragment import Fragment
from safe_rl.algorithms.returns import gae
from safe_rl.config import require
from safe_rl.envs.spaces import require_no_image
from safe_rl.nets.optim import FlatAdam

Floats = npt.NDArray[np.float32]


@dataclass
class MAMLConfig:
    """MAML (arXiv 1703.03400)."""

    inner_rate: float = 0.3
    """Step size of the adaptation to a task."""
    outer_rate: float = 5e-3
    """Adam step size of what all tasks start from."""
    gamma: float = 0.99
    """Discount of the reward."""
    second_order: bool = True
    """Differentiate through the adaptation; without, its Jacobian counts as the identity (first-order MAML)."""
    tasks_per_step: int = 8
    """Tasks that an outer step averages over."""
    hidden_sizes: tuple[int, ...] = (32, 32)
    """Widths of the policy's hidden layers."""
    initial_log_std: float = -0.5
    """Logarithm of the Gaussian's deviation at the start, in units of half the range of the actions."""

    def __post_init__(self) -> None:
        """Validates the values."""
        for name in ("inner_rate", "outer_rate"):
            require(getattr(self, name) > 0, "", name, getattr(self, name), "positive")
        require(0 <= self.gamma <= 1, "", "gamma", self.gamma, "between 0 and 1")
        require(self.tasks_per_step >= 1, "", "tasks_per_step", self.tasks_per_step, "at least 1")
        require(all(size > 0 for size in self.hidden_sizes), "", "hidden_sizes", self.hidden_sizes, "positive widths")


class MetaGradient(NamedTuple):
    """What a worker makes of one task."""

    values: Floats
    """The gradient of the objective after adaptation by the parameters before it, flat."""
    num_steps: int
    return_before: float
    """Mean return of the task's episodes before the adaptation."""
    return_after: float
    """The same after it, of other episodes."""


class MAMLPolicy:
    """The objective of a task, and one step up its gradient.

    With the advantages ``A`` of data ``D`` that ``theta_D`` gathered, the parameters ``theta`` have the objective::

        J(theta; D) = mean_D [ pi_theta(a|s) / pi_theta_D(a|s) A ]

    whose gradient at ``theta = theta_D`` is the policy gradient ``mean [grad log pi(a|s) A]``. A task's adaptation is
    ``theta' = theta + alpha grad J(theta; D)``; with new data ``D'`` of ``theta'`` the outer gradient is, by autograd
    through the adaptation (second order)::

        grad_theta J(theta'; D') = (I + alpha grad^2 J(theta; D)) grad_theta' J(theta'; D')

    First-order MAML leaves the Hessian out. ``A`` is the discounted sum of the rewards to come less its mean over the
    episodes that are at the same step: all are of one task. How the sampling of ``D`` depends on ``theta`` is left out
    beyond the ratio, as in the paper.

    Args:
        net: its policy and deviations are what adapts; its value network is not used.
    """

    def __init__(self, net: ActorCritic) -> None:
        self.net = net

    @property
    def parameters(self) -> Tensor:
        """Policy and deviations, one flat tensor, a copy."""
        return torch.cat([self.net.policy.flat, self.net.head_parameters]).detach().clone()

    def log_prob(self, parameters: Tensor, fragment: Fragment) -> Tensor:
        """(T * N,) log-probabilities of a fragment's actions, differentiable as often as one likes."""
        flat, deviations = parameters.split([self.net.policy.flat.numel(), self.net.head_parameters.numel()])
        layers = self.net.policy.views_of(flat)[0]
        hidden = torch.from_numpy(fragment.obs[:-1]).flatten(0, 1)
        for index, (weight, bias) in enumerate(layers):
            hidden = torch.addmm(bias, hidden, weight)
            if index < len(layers) - 1:
                hidden = torch.tanh(hidden)
        action = torch.from_numpy(fragment.task_action).flatten(0, 1)
        return self.net.head.terms(hidden, deviations, action).log_prob

    def objective(self, parameters: Tensor, fragment: Fragment, gamma: float) -> Tensor:
        """``J`` of one task's fragment."""
        log_ratio = self.log_prob(parameters, fragment) - torch.from_numpy(fragment.log_prob).flatten()
        weight = torch.from_numpy(task_advantages(fragment, gamma) * fragment.valid).flatten()
        return (log_ratio.exp() * weight).sum() / fragment.num_steps

    def adapt(self, parameters: Tensor, fragment: Fragment, config: MAMLConfig) -> Tensor:
        """One step up the objective's gradient; remembers how, if ``parameters`` want their gradient."""
        before = parameters if parameters.requires_grad else parameters.clone().requires_grad_()
        objective = self.objective(before, fragment, config.gamma)
        (gradient,) = torch.autograd.grad(objective, before, create_graph=config.second_order)
        return parameters + config.inner_rate * gradient


def task_advantages(fragment: Fragment, gamma: float) -> Floats:
    """(T, N) discounted rewards to come, up to the fragment's end, less their mean over the environments."""
    values = np.zeros((len(fragment.obs), fragment.reward.shape[1]), dtype=np.float32)
    ends = fragment.terminated, fragment.truncated
    to_go = gae(fragment.reward, values, *ends, gamma=gamma, gae_lambda=1.0).advantages
    count = np.maximum(fragment.valid.sum(1, keepdims=True), 1)
    return (to_go - (to_go * fragment.valid).sum(1, keepdims=True) / count).astype(np.float32)


class MAMLLearner:
    """What all tasks start from. Workers adapt and send outer gradients; here their mean is a step.

    Args:
        observation_space: of one environment.
        action_space: of one environment.
        config: the method's settings.
        seed: of the initial weights.
    """

    def __init__(
        self, observation_space: gym.Space[Any], action_space: gym.Space[Any], config: MAMLConfig, *, seed: int = 0
    ) -> None:
        self.config = config
        self.net = make_net(observation_space, action_space, config, seed)
        parts = [part for part in self.net.trained if part is not self.net.value]
        self.optimizer = FlatAdam(parts, config.outer_rate)
        self.version = self.num_steps = 0

    def weights(self) -> Floats:
        """The weights for workers, one flat array, a copy."""
        return self.net.flat_weights()

    def learn(self, gradients: Sequence[MetaGradient]) -> dict[str, float]:
        """One step up the mean of the tasks' outer gradients."""
        mean = torch.from_numpy(np.mean([gradient.values for gradient in gradients], axis=0))
        self.optimizer.apply(mean.neg().split([parameter.numel() for parameter in self.optimizer.parameters]))
        self.version += 1
        self.num_steps += sum(gradient.num_steps for gradient in gradients)
        before, after = (
            float(np.mean([getattr(g, f"return_{when}") for g in gradients])) for when in ("before", "after")
        )
        return {"rollout/return_before": before, "rollout/return_after": after, "train/grad_norm": float(mean.norm())}

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed training needs."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "counters": {"version": self.version, "num_steps": self.num_steps},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores ``state_dict``."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.version, self.num_steps = state["counters"]["version"], state["counters"]["num_steps"]


def make_net(
    observation_space: gym.Space[Any], action_space: gym.Space[Any], config: MAMLConfig, seed: int = 0
) -> ActorCritic:
    """Builds the networks.

    Raises:
        UserError: The spaces are not supported.
    """
    require_no_image(observation_space, "MAML")
    return ActorCritic(
        observation_space,
        action_space,
        config.hidden_sizes,
        initial_log_std=config.initial_log_std,
        generator=torch.Generator().manual_seed(seed),
    )
