"""SAC beside a risk critic that is pretrained offline and updated online: the base of every method that knows risk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch

from safe_rl.algorithms.learner_step import LearnerStep
from safe_rl.algorithms.sac import Metrics, SACAgent, Stateful
from safe_rl.config import RecoveryRLConfig
from safe_rl.data.replay_buffer import Batch, Source
from safe_rl.risk import RiskCritic
from safe_rl.transitions import Transitions


class RiskAwareAgent(SACAgent):
    """Learns ``Q_risk`` from offline and online transitions; does not act on it."""

    has_risk = True
    config: RecoveryRLConfig

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: RecoveryRLConfig,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(observation_space, action_space, config, seed=seed, device=device)
        self.risk_critic = RiskCritic(
            self.obs_dim, self.act_dim, config.risk, generator=self.init_generator, precision=config.precision
        ).to(self.device)
        self.risk_optimizer = self.risk_critic.make_optimizer()
        self._pretrain_risk = LearnerStep(self._pretrain_from_indices, self.generator, self.device)
        self._learn_task = LearnerStep(super()._learn_from_indices, self.generator, self.device)
        self._learn_risk = LearnerStep(self._risk_from_indices, self.generator, self.device)

    # ------------------------------------------------------------------ acting

    @torch.inference_mode()
    def risk(self, obs: npt.NDArray[np.float32], action: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """``Q_risk`` (N,) of actions (N, act_dim) in states (N, obs_dim), both in the environment's units."""
        unit_action = torch.from_numpy(self.scaler.to_unit(np.asarray(action, dtype=np.float32))).to(self.device)
        risk: npt.NDArray[np.float32] = self.risk_critic(self._normalize(obs), unit_action).cpu().numpy()
        return risk

    # ---------------------------------------------------------------- learning

    def add_offline(self, transitions: Transitions) -> None:
        """Takes the offline dataset: the risk learner's for good, and the scale of the observations."""
        if self.config.normalize_obs != "none":
            self.normalizer.update(np.concatenate([transitions.obs, transitions.next_obs[-1:]]))
        self.replay.add_offline(self._to_unit(transitions))

    def pretrain(self, steps: int) -> Iterator[Metrics]:
        """Fits risk critic and recovery policy to the offline transitions; yields the metrics of each step."""
        return self._offline_steps(steps, lambda: self._pretrain_risk(self._risk_indices()))

    def pretrain_task(self, steps: int) -> Iterator[Metrics]:
        """Fits the task policy to the offline transitions; yields the metrics of each of ``steps`` steps."""
        return self._offline_steps(steps, lambda: self._learn_task(self._task_indices()))

    def update_task(self) -> Metrics:
        """The task policy's part of ``update``, for those who let the two learners run side by side."""
        if self.num_observed <= self.config.update_after:
            return {}
        self.num_updates += 1
        return self._learn_task(self._task_indices())

    def update_risk(self) -> Metrics:
        """The other part of ``update``: risk critic and recovery policy."""
        if self.num_observed <= self.config.update_after or not self.config.risk.update_online:
            return {}
        return self._learn_risk(self._risk_indices())

    def _offline_steps(self, steps: int, step: Callable[[], Metrics]) -> Iterator[Metrics]:
        for _ in range(steps):
            yield step()

    def _task_indices(self) -> npt.NDArray[np.int64]:
        source: Source = "all" if self.config.demonstrations else "online"
        return self.replay.sample_indices(self.config.batch_size, source)

    def _risk_indices(self) -> npt.NDArray[np.int64]:
        return self.replay.sample_indices(self.config.batch_size, "all", self.config.risk.positive_fraction)

    def _sample_indices(self) -> tuple[npt.NDArray[np.int64], ...]:
        if not self.config.risk.update_online:
            return (self._task_indices(),)
        return self._task_indices(), self._risk_indices()

    def _learn_from_indices(self, task_indices: torch.Tensor, risk_indices: torch.Tensor | None = None) -> Metrics:
        metrics = super()._learn_from_indices(task_indices)
        if risk_indices is not None:
            metrics |= self._update_risk(self.replay.batch(risk_indices))
        return metrics

    def _risk_from_indices(self, indices: torch.Tensor) -> Metrics:
        return self._update_risk(self.replay.batch(indices))

    def _pretrain_from_indices(self, indices: torch.Tensor) -> Metrics:
        return self._update_risk(self.replay.batch(indices), pretraining=True)

    def _ends_value(self, batch: Batch) -> torch.Tensor:
        return batch.terminated if self.config.violation_ends_value else batch.terminated * (1 - batch.cost)

    def _update_risk(self, batch: Batch, *, pretraining: bool = False) -> Metrics:
        obs, next_obs = self.normalizer(batch.obs), self.normalizer(batch.next_obs)
        with torch.no_grad():
            next_action = self._next_action(next_obs, pretraining)
        loss = self.risk_critic.loss(obs, batch.action, self.risk_critic.target(batch, next_obs, next_action))
        self.risk_optimizer.step(loss)
        self.risk_critic.update_targets()
        return {"risk/loss": loss.detach()}

    def _next_action(self, next_obs: torch.Tensor, pretraining: bool) -> torch.Tensor:
        """What will be executed in the next states (B, obs_dim): here what the task policy proposes."""
        if pretraining and self.config.risk.pretrain_proposal == "uniform":
            return self._uniform(len(next_obs))
        return self.actor.sample_action(next_obs, self._noise(len(next_obs)))

    # ------------------------------------------------------------------- state

    def _acting_modules(self) -> tuple[torch.nn.Module, ...]:
        return (*super()._acting_modules(), self.risk_critic.critics)

    def _policy_parts(self) -> dict[str, Stateful]:
        return {**super()._policy_parts(), "risk_critic": self.risk_critic}

    def _learning_parts(self) -> dict[str, Stateful]:
        return {**super()._learning_parts(), "risk_optimizer": self.risk_optimizer}

    def _safety_parts(self) -> dict[str, Stateful]:
        """What the pretraining makes, by name; the scale of the observations is part of it."""
        return {
            "risk_critic": self.risk_critic,
            "risk_optimizer": self.risk_optimizer,
            "normalizer": self.normalizer,
        }

    def safety_state_dict(self) -> dict[str, Any]:
        """The part of the state that the pretraining makes."""
        return {name: part.state_dict() for name, part in self._safety_parts().items()}

    def load_safety_state_dict(self, state: dict[str, Any]) -> None:
        """Restores ``safety_state_dict``."""
        for name, part in self._safety_parts().items():
            part.load_state_dict(state[name])
