"""Advantage actor-critic (arXiv 1602.01783): A2C where workers wait for each gradient step, A3C where they do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from safe_rl.algorithms.fragment import Fragment, concat_fragments
from safe_rl.algorithms.on_policy_learner import Floats, Metrics, OnPolicyConfig, OnPolicyLearner
from safe_rl.algorithms.returns import gae
from safe_rl.nets.arrays import as_tensor


@dataclass
class A2CConfig(OnPolicyConfig):
    """Advantage actor-critic (arXiv 1602.01783)."""

    learning_rate: float = 7e-4
    """Adam step size."""
    gae_lambda: float = 1.0
    """Decay of the advantages' traces: 0 trusts the value function, 1 the rewards."""
    entropy_coef: float = 0.01
    """Weight of the entropy bonus."""
    normalize_advantages: bool = False
    """Shift and scale the advantages of each batch to mean 0 and deviation 1."""


class A2CLearner(OnPolicyLearner[A2CConfig]):
    """The gradient of ``J = log pi(a|s) A``. For A2C, ``learn``; for A3C each worker holds a learner of its own.

    Such a worker loads the weights into ``net`` and sends its ``gradient``; the driver's learner applies it.
    """

    def learn(self, fragments: Sequence[Fragment]) -> Metrics:
        """One step along the gradient of fragments of one length."""
        batch = concat_fragments(fragments)
        self.take_in(batch)
        gradients, metrics = self._gradients(batch)
        self.apply(gradients)
        return metrics

    def gradient(self, fragments: Sequence[Fragment]) -> tuple[Floats, Metrics]:
        """The clipped gradient as one flat array, and metrics; changes nothing."""
        gradients, metrics = self._gradients(concat_fragments(fragments))
        return torch.cat(gradients).numpy(), metrics

    def apply_gradient(self, gradient: Floats, num_steps: int) -> None:
        """Steps along another learner's ``gradient``, which was made of ``num_steps`` environment steps."""
        self.num_steps += num_steps
        lengths = [parameter.numel() for parameter in self.optimizer.parameters]
        self.apply(torch.from_numpy(np.array(gradient)).split(lengths))

    def _gradients(self, batch: Fragment) -> tuple[list[Tensor], Metrics]:
        config = self.config
        evaluation = self.net.evaluate(self.observations(batch), as_tensor(batch.task_action).flatten(0, 1))
        returns = gae(
            self.scaled_reward(batch),
            evaluation.values.reshape(len(batch.obs), -1),
            batch.terminated,
            batch.truncated,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
        )
        # dJ / d log pi = A
        advantages = self.scaled_advantages(returns.advantages, batch.valid)
        gradients, norm = self.gradients(evaluation, advantages, returns.targets, batch.valid)
        return gradients, {"train/entropy": float(evaluation.entropy.mean()), "train/grad_norm": norm}
