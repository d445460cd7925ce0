"""Proximal policy optimisation (arXiv 1707.06347)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from safe_rl.algorithms.fragment import Fragment, concat_fragments
from safe_rl.algorithms.on_policy_learner import Floats, Metrics, OnPolicyConfig, OnPolicyLearner
from safe_rl.algorithms.returns import gae
from safe_rl.config import require


@dataclass
class PPOConfig(OnPolicyConfig):
    """Proximal policy optimisation (arXiv 1707.06347)."""

    clip: float = 0.2
    """How far the ratio of new to old probability may move with profit."""
    num_epochs: int = 10
    """Passes over a batch."""
    minibatch_size: int = 256
    """Steps in a gradient step."""

    def __post_init__(self) -> None:
        """Validates the values."""
        super().__post_init__()
        require(0 < self.clip < 1, "", "clip", self.clip, "between 0 and 1")
        require(self.num_epochs >= 1, "", "num_epochs", self.num_epochs, "at least 1")
        require(self.minibatch_size >= 1, "", "minibatch_size", self.minibatch_size, "at least 1")


def clipped_weights(ratio: Floats, advantages: Floats, clip: float) -> Floats:
    """The derivative of ``J = min(r A, clip(r, 1 - eps, 1 + eps) A)`` by ``log pi(a|s)``, of any one shape.

    ``d r / d log pi = r``, so it is ``r A``, and zero where moving ``r`` further from 1 would gain nothing: where
    ``A > 0`` and ``r > 1 + eps``, or ``A < 0`` and ``r < 1 - eps``.
    """
    beyond = np.where(advantages > 0, ratio > 1.0 + clip, ratio < 1.0 - clip)
    return np.where(beyond, np.float32(0.0), ratio * advantages)


class PPOLearner(OnPolicyLearner[PPOConfig]):
    """PPO: several passes over shuffled minibatches of one batch of the newest policy's steps."""

    def learn(self, fragments: Sequence[Fragment]) -> Metrics:
        """Learns from fragments of one length, which are then used up."""
        config = self.config
        batch = concat_fragments(fragments)
        self.take_in(batch)
        obs = self.observations(batch)
        values = self.net.values(obs).reshape(len(batch.obs), -1)
        returns = gae(
            self.scaled_reward(batch),
            values,
            batch.terminated,
            batch.truncated,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
        )
        rows = np.flatnonzero(batch.valid.reshape(-1))
        arrays = (batch.task_action, batch.log_prob, returns.advantages, returns.targets)
        chosen = [array.reshape(-1, *array.shape[2:])[rows] for array in arrays]
        obs = obs[torch.from_numpy(rows)]
        metrics: Metrics = {}
        for _ in range(config.num_epochs):
            order = self.rng.permutation(len(rows))
            for part in np.split(order, range(config.minibatch_size, len(order), config.minibatch_size)):
                metrics = self._step(obs[torch.from_numpy(part)], *(array[part] for array in chosen))
        return metrics

    def _step(
        self, obs: Tensor, action: npt.NDArray[Any], old_log_prob: Floats, advantages: Floats, targets: Floats
    ) -> Metrics:
        clip = self.config.clip
        evaluation = self.net.evaluate(obs, torch.from_numpy(action))
        everywhere = np.ones(targets.shape, dtype=np.bool_)
        log_ratio = evaluation.log_prob - old_log_prob
        ratio = np.exp(log_ratio)
        weights = clipped_weights(ratio, self.scaled_advantages(advantages, everywhere), clip)
        norm = self.descend(evaluation, weights, targets, everywhere)
        return {
            "train/entropy": float(evaluation.entropy.mean()),
            "train/grad_norm": norm,
            "train/kl": float((ratio - 1.0 - log_ratio).mean()),
            "train/clip_fraction": float((np.abs(ratio - 1.0) > clip).mean()),
        }
