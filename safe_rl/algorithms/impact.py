"""IMPACT: PPO's objective against a slow target policy, for workers that lag behind (arXiv 1912.00167)."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from safe_rl.algorithms.actor_critic import Evaluation
from safe_rl.algorithms.fragment import Fragment, fragment_columns
from safe_rl.algorithms.on_policy_learner import Bools, Floats, Metrics, OnPolicyConfig, OnPolicyLearner
from safe_rl.algorithms.ppo import clipped_weights
from safe_rl.algorithms.returns import vtrace
from safe_rl.config import require


@dataclass
class IMPACTConfig(OnPolicyConfig):
    """IMPACT (arXiv 1912.00167)."""

    clip: float = 0.2
    """How far the ratio of learner to target may move with profit."""
    rho_max: float = 2.0
    """Bound of the weight of worker against target in the surrogate."""
    rho_bar: float = 1.0
    """V-trace's bound of the importance weight of a temporal difference."""
    c_bar: float = 1.0
    """V-trace's bound of the importance weight of what follows it."""
    num_slots: int = 4
    """N, batches in the circular buffer."""
    max_uses: int = 8
    """K, how often each is used."""
    target_interval: int = 0
    """Gradient steps between copies to the target network; 0 for those of a whole buffer, N * K * num_minibatches."""
    num_minibatches: int = 4
    """Gradient steps that a use of a batch is split into, by environments."""
    kl_coef: float = 0.0
    """Weight of a penalty on the divergence of learner from worker."""

    def __post_init__(self) -> None:
        """Validates the values."""
        super().__post_init__()
        require(0 < self.clip < 1, "", "clip", self.clip, "between 0 and 1")
        require(self.rho_max >= 1, "", "rho_max", self.rho_max, "at least 1")
        require(self.rho_bar > 0, "", "rho_bar", self.rho_bar, "positive")
        require(0 < self.c_bar <= self.rho_bar, "", "c_bar", self.c_bar, "positive and at most rho_bar")
        for name in ("num_slots", "max_uses", "num_minibatches"):
            require(getattr(self, name) >= 1, "", name, getattr(self, name), "at least 1")
        require(self.target_interval >= 0, "", "target_interval", self.target_interval, "at least 0")
        require(self.kl_coef >= 0, "", "kl_coef", self.kl_coef, "at least 0")

    @property
    def steps_per_target(self) -> int:
        """``t_target`` in gradient steps."""
        return self.target_interval or self.num_slots * self.max_uses * self.num_minibatches


def impact_log_ratio(log_prob: Floats, log_target: Floats, log_worker: Floats, rho_max: float) -> Floats:
    """``log r = log pi_theta - max(log pi_target, log pi_worker - log rho_max)``, of any one shape.

    The learner's ratio to the worker, ``pi_theta / pi_worker``, times the truncated weight
    ``w = min(pi_worker / pi_target, rho_max)``. Its limits:

    * ``pi_worker <= rho_max pi_target``: the weight is not truncated and ``r = pi_theta / pi_target``, however far the
      worker lags behind: the clip then holds the learner near the target, not near each worker.
    * ``pi_target -> 0``: ``r -> rho_max pi_theta / pi_worker``, which stays finite where ``pi_theta / pi_target`` does
      not.
    * ``pi_target = pi_worker``: PPO's ratio. ``rho_max -> infinity``: never truncated.
    """
    return log_prob - np.maximum(log_target, log_worker - np.float32(math.log(rho_max)))


class _Step(NamedTuple):
    """What a gradient step leaves behind; most of them are never asked for metrics."""

    evaluation: Evaluation
    ratio: Floats
    log_ratio_to_worker: Floats
    valid: Bools
    grad_norm: float

    def metrics(self, clip: float) -> Metrics:
        shift = self.log_ratio_to_worker
        return {
            "train/entropy": float(self.evaluation.entropy.mean()),
            "train/grad_norm": self.grad_norm,
            "train/kl": float((np.expm1(shift) - shift).mean(where=self.valid)),
            "train/clip_fraction": float((np.abs(self.ratio - 1.0) > clip).mean(where=self.valid)),
        }


class ImpactBatch:
    """A fragment in the circular buffer, cut into minibatches: groups of environments, drawn once."""

    def __init__(self, fragment: Fragment, groups: list[npt.NDArray[np.int64]]) -> None:
        self.version = fragment.version
        self.parts = [ImpactPart(fragment_columns(fragment, group)) for group in groups]


class ImpactPart:
    """A minibatch with what the target network says of its actions."""

    def __init__(self, fragment: Fragment) -> None:
        self.fragment = fragment
        self.action = torch.from_numpy(fragment.task_action).flatten(0, 1)
        self.log_target = np.empty_like(fragment.log_prob)
        """(T, N) log-probabilities under the target policy of ``target_version``."""
        self.target_version = -1


class IMPACTLearner(OnPolicyLearner[IMPACTConfig]):
    """IMPACT's learner; which batch comes next is up to a ``CircularBuffer``.

    It climbs ``J = min(r A, clip(r, 1 - eps, 1 + eps) A)`` with ``r`` of ``impact_log_ratio`` and ``A`` of V-trace,
    evaluated for ``pi_target`` with the learner's own values. The target is a copy of the learner that is renewed every
    ``steps_per_target`` steps.
    """

    def __init__(
        self, observation_space: gym.Space[Any], action_space: gym.Space[Any], config: IMPACTConfig, *, seed: int = 0
    ) -> None:
        super().__init__(observation_space, action_space, config, seed=seed)
        self.target = copy.deepcopy(self.net).requires_grad_(False)
        self.target_version = 0
        """How often the target was renewed."""

    def prepare(self, fragment: Fragment) -> ImpactBatch:
        """Takes a fragment in, for the circular buffer; to be called once for each."""
        self.take_in(fragment)
        order = self.rng.permutation(fragment.reward.shape[1])
        return ImpactBatch(fragment, np.array_split(order, min(self.config.num_minibatches, len(order))))

    def learn(self, batch: ImpactBatch) -> Metrics:
        """Uses a batch once: a gradient step on each of its minibatches; returns the last one's metrics."""
        for index in self.rng.permutation(len(batch.parts)):
            step = self._step(batch.parts[index])
            if self.version % self.config.steps_per_target == 0:
                self._renew_target()
        return {**step.metrics(self.config.clip), "train/staleness": float(self.version - batch.version)}

    def _renew_target(self) -> None:
        self.target.load_state_dict(self.net.state_dict())
        self.target_version += 1

    def _log_target(self, part: ImpactPart, obs: Tensor) -> Floats:
        """Log-probabilities (T, N) under the target; evaluated anew only when the target is another one."""
        if part.target_version != self.target_version:
            log_prob = self.target.log_prob(obs[: len(part.action)], part.action)
            part.log_target, part.target_version = log_prob.reshape(part.log_target.shape), self.target_version
        return part.log_target

    def _step(self, part: ImpactPart) -> _Step:
        """One gradient step."""
        config, fragment = self.config, part.fragment
        obs = self.observations(fragment)
        log_target, log_worker = self._log_target(part, obs), fragment.log_prob
        evaluation = self.net.evaluate(obs, part.action)
        log_prob = evaluation.log_prob.reshape(log_worker.shape)
        returns = vtrace(
            log_target - log_worker,
            self.scaled_reward(fragment),
            evaluation.values.reshape(len(fragment.obs), -1),
            fragment.terminated,
            fragment.truncated,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            rho_bar=config.rho_bar,
            c_bar=config.c_bar,
        )
        advantages = self.scaled_advantages(returns.advantages, fragment.valid)
        ratio = np.exp(impact_log_ratio(log_prob, log_target, log_worker, config.rho_max))
        weights = clipped_weights(ratio, advantages, config.clip)
        to_worker = log_prob - log_worker
        if config.kl_coef > 0:
            # KL(pi_worker || pi_theta) = E[rho - 1 - log rho], rho = pi_theta / pi_worker; its derivative is rho - 1
            weights -= np.float32(config.kl_coef) * np.expm1(to_worker)
        norm = self.descend(evaluation, weights, returns.targets, fragment.valid)
        return _Step(evaluation, ratio, to_worker, fragment.valid, norm)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed training needs, but for the batches in the buffer: they come anew."""
        return {**super().state_dict(), "target": self.target.state_dict(), "target_version": self.target_version}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores ``state_dict``."""
        super().load_state_dict(state)
        self.target.load_state_dict(state["target"])
        self.target_version = state["target_version"]
