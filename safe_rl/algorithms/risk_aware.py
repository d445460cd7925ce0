"""SAC beside a risk critic that is pretrained offline and updated online: the base of every method that knows risk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch

from safe_rl.algorithms.agent_state import Stateful
from safe_rl.algorithms.learner_step import LearnerStep
from safe_rl.algorithms.sac import Metrics, SACAgent
from safe_rl.config import RiskAwareConfig
from safe_rl.data.replay_buffer import Batch
from safe_rl.nets.autoencoder import Autoencoder
from safe_rl.nets.conv import ImageEncoder
from safe_rl.nets.optim import FlatAdam
from safe_rl.risk import DiscreteRiskCritic, RiskCritic
from safe_rl.switch import Decision, Mode


class RiskAwareAgent(SACAgent):
    """Learns ``Q_risk`` from offline and online transitions; does not act on it."""

    has_risk = True
    config: RiskAwareConfig

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: RiskAwareConfig,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(observation_space, action_space, config, seed=seed, device=device)
        apart = self.image_shape is not None and config.encoder.sharing == "separate"
        self.risk_encoder = self._make_encoder() if apart else self.encoder
        critic_type = DiscreteRiskCritic if self.discrete else RiskCritic
        self.risk_critic = critic_type(
            self.state_dim, self.act_dim, config.risk, generator=self.init_generator, precision=config.precision
        ).to(self.device)
        self.risk_optimizer = self.risk_critic.make_optimizer(self._trained(self.risk_encoder))
        self.autoencoder = self._make_autoencoder()
        self._pretrain_risk = LearnerStep(self._pretrain_from_indices, self.generator, self.device)
        self._learn_risk = LearnerStep(self._risk_from_indices, self.generator, self.device)
        self._learn_images = LearnerStep(self._images_from_indices, self.generator, self.device)

    def _make_autoencoder(self) -> Autoencoder | None:
        """What pretrains the encoder, where that is asked for."""
        if not isinstance(self.risk_encoder, ImageEncoder) or self.config.encoder.pretrain_steps == 0:
            return None
        made = Autoencoder(self.risk_encoder, generator=self.init_generator).to(self.device)
        self.autoencoder_optimizer = FlatAdam([made, self.risk_encoder], self.config.encoder.learning_rate)
        return made

    # ------------------------------------------------------------------ acting

    @torch.inference_mode()
    def risk(self, obs: npt.NDArray[Any], action: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """``Q_risk`` (N,) of actions (N, act_dim) in states (N, obs_dim), both in the environment's units."""
        unit_action = torch.from_numpy(self.scaler.to_unit(np.asarray(action, dtype=np.float32))).to(self.device)
        state = self.risk_encoder(self._tensor(obs))
        risk: npt.NDArray[np.float32] = self.risk_critic(state, unit_action).cpu().numpy()
        return risk

    @torch.inference_mode()
    def act(self, obs: npt.NDArray[Any], *, explore: bool) -> Decision:
        """See ``SACAgent``; ``Decision.risk`` is known."""
        started = time.perf_counter()
        task_state, risk_state = self._both_views(obs)
        proposal = self._propose_knowing_risk(task_state, risk_state, explore)
        return self._decide(risk_state, proposal, started, explore=explore)

    @torch.inference_mode()
    def proposed_risk(self, obs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """``Q_risk`` (N,) of what is proposed in states (N, obs_dim) without exploring; nobody is asked to rescue.

        That is ``act(obs, explore=False).risk`` without the time of a recovery policy that samples or plans.
        """
        task_state, risk_state = self._both_views(obs)
        proposal = self._propose_knowing_risk(task_state, risk_state, False)
        risk: npt.NDArray[np.float32] = self.risk_critic(risk_state, proposal).cpu().numpy()
        return risk

    def _propose_knowing_risk(self, task_state: torch.Tensor, risk_state: torch.Tensor, explore: bool) -> torch.Tensor:
        """The task policy's actions (N, act_dim) in [-1, 1]; a method that chooses among several does so here."""
        return self._propose(task_state, explore)

    def _decide(self, state: torch.Tensor, task_action: torch.Tensor, started: float, *, explore: bool) -> Decision:
        """The decision on proposals (N, act_dim) in [-1, 1] in what the risk critic sees (N, state_dim): to do so."""
        action = self.scaler.to_env(task_action.cpu().numpy())
        return Decision(
            action=action,
            task_action=action,
            risk=self.risk_critic(state, task_action).cpu().numpy(),
            mode=np.full(len(action), Mode.TASK, dtype=np.int8),
            solve_time_sec=time.perf_counter() - started,
        )

    def _both_views(self, obs: npt.NDArray[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """What the task policy, and what risk critic and recovery policy, see of observations (N, obs_dim)."""
        raw = self._tensor(obs)
        state = self.encoder(raw)
        return state, state if self.risk_encoder is self.encoder else self.risk_encoder(raw)

    # ---------------------------------------------------------------- learning

    @property
    def num_encoder_steps(self) -> int:
        """Gradient steps of ``pretrain_encoder`` that the settings ask for."""
        return 0 if self.autoencoder is None else self.config.encoder.pretrain_steps

    def pretrain_encoder(self, steps: int) -> Iterator[Metrics]:
        """Teaches the encoder to describe the offline images, and the task's too; yields the metrics of each step.

        An autoencoder, as in SAC-AE (arXiv 1910.01741): what its features hold is enough to draw the image again.
        """
        for _ in range(steps):
            metrics = self._learn_images(self.replay.sample_indices(self.config.batch_size, "all"))
            if self.encoder is not self.risk_encoder:
                self.encoder.load_state_dict(self.risk_encoder.state_dict())
            yield metrics

    def pretrain(self, steps: int) -> Iterator[Metrics]:
        """Fits risk critic and recovery policy to the offline transitions; yields the metrics of each step."""
        return self._offline_steps(steps, lambda: self._pretrain_risk(self._risk_indices()))

    @property
    def num_recovery_steps(self) -> int:
        """Gradient steps of ``pretrain_recovery`` that the settings ask for."""
        return 0

    def pretrain_recovery(self, steps: int) -> Iterator[Metrics]:
        """Fits what a recovery policy learns after the risk critic, from sequences; yields the metrics of each step."""
        return iter(())

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

    def _risk_indices(self) -> npt.NDArray[np.int64]:
        return self.replay.sample_indices(self.config.batch_size, "all", self.config.risk.positive_fraction)

    def _sample_indices(self) -> tuple[npt.NDArray[np.int64], ...]:
        if not self.config.risk.update_online:
            return (self._task_indices(),)
        return self._task_indices(), self._risk_indices()

    def _learn_from_indices(self, task_indices: torch.Tensor, risk_indices: torch.Tensor | None = None) -> Metrics:
        metrics = self._task_from_indices(task_indices)
        if risk_indices is not None:
            metrics |= self._update_risk(self.replay.batch(risk_indices))
        return metrics

    def _risk_from_indices(self, indices: torch.Tensor) -> Metrics:
        return self._update_risk(self.replay.batch(indices))

    def _images_from_indices(self, indices: torch.Tensor) -> Metrics:
        if self.autoencoder is None:
            raise RuntimeError("no encoder is to be pretrained")
        images = self._augmented(self.replay.batch(indices)).obs
        self.autoencoder.observe(images)
        loss = self.autoencoder.loss(images)
        self.autoencoder_optimizer.step(loss)
        return {"encoder/loss": loss.detach()}

    def _pretrain_from_indices(self, indices: torch.Tensor) -> Metrics:
        return self._update_risk(self.replay.batch(indices), pretraining=True)

    def _update_risk(self, batch: Batch, *, pretraining: bool = False) -> Metrics:
        return self._step_risk(batch, pretraining)[0]

    def _step_risk(self, batch: Batch, pretraining: bool) -> tuple[Metrics, torch.Tensor]:
        """One step of the risk critic; returns its metrics and what it saw (B, state_dim), without gradient."""
        batch = self._augmented(batch)
        obs, next_obs = self._look(self.risk_encoder, batch)
        apart = self.risk_encoder is not self.encoder
        with torch.no_grad():
            next_action = self._next_action(next_obs, pretraining, batch.next_obs if apart else None)
            target = self.risk_critic.target(batch, next_obs, next_action)
            conservative = pretraining and self.config.risk.conservatism > 0
            proposal = self._proposal(obs, pretraining, batch.obs if apart else None) if conservative else None
        loss = self.risk_critic.loss(obs, batch.action, target, proposal)
        self.risk_optimizer.step(loss)
        self.risk_critic.update_targets()
        return {"risk/loss": loss.detach()}, obs.detach()

    def _risk_view(self, batch: Batch, obs: torch.Tensor) -> torch.Tensor:
        """What the risk critic sees (B, state_dim) of a task batch, of which the task sees ``obs``; no gradient."""
        if self.risk_encoder is self.encoder:
            return obs.detach()
        with torch.no_grad():
            seen: torch.Tensor = self.risk_encoder(batch.obs)
        return seen

    def _next_action(
        self, next_obs: torch.Tensor, pretraining: bool, images: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What will be executed in the next states: here what is proposed; for the arguments see ``_proposal``."""
        return self._proposal(next_obs, pretraining, images)

    def _proposal(self, obs: torch.Tensor, pretraining: bool, images: torch.Tensor | None) -> torch.Tensor:
        """What the task policy proposes (B, act_dim).

        Args:
            obs: (B, state_dim) what the risk critic sees of the states.
            pretraining: Before any task learning.
            images: (B, obs_dim) the states themselves, where the task policy looks through an encoder of its own.
        """
        if pretraining and self.config.risk.pretrain_proposal == "uniform":
            return self._uniform(len(obs))
        if images is not None:
            obs = self.encoder(images)
        return self.actor.sample_action(obs, self._noise(len(obs)))

    # ------------------------------------------------------------------- state

    def encoders(self) -> dict[str, torch.nn.Module]:
        """See ``SACAgent``; risk may have its own."""
        own = {} if self.risk_encoder is self.encoder else {"risk_encoder": self.risk_encoder}
        return {**super().encoders(), **own}

    def _acting_modules(self) -> tuple[torch.nn.Module, ...]:
        return (*super()._acting_modules(), self.risk_critic.critics)

    def _policy_parts(self) -> dict[str, Stateful]:
        return {**super()._policy_parts(), "risk_critic": self.risk_critic}

    def _learning_parts(self) -> dict[str, Stateful]:
        parts: dict[str, Stateful] = {**super()._learning_parts(), "risk_optimizer": self.risk_optimizer}
        if self.autoencoder is not None:
            parts |= {"autoencoder": self.autoencoder, "autoencoder_optimizer": self.autoencoder_optimizer}
        return parts

    def _safety_parts(self) -> dict[str, Stateful]:
        """What the pretraining makes, by name; the scale or the encoders of the observations are part of it."""
        return {"risk_critic": self.risk_critic, "risk_optimizer": self.risk_optimizer, **self.encoders()}

    def safety_state_dict(self) -> dict[str, Any]:
        """The part of the state that the pretraining makes."""
        return {name: part.state_dict() for name, part in self._safety_parts().items()}

    def load_safety_state_dict(self, state: dict[str, Any]) -> None:
        """Restores ``safety_state_dict``."""
        for name, part in self._safety_parts().items():
            part.load_state_dict(state[name])
