"""Soft actor-critic: the task policy of every method, and by itself the unconstrained baseline (arXiv 1812.05905)."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from safe_rl.algorithms.agent_state import AgentState, Stateful
from safe_rl.algorithms.learner_step import LearnerStep
from safe_rl.algorithms.temperature import Temperature, target_entropy
from safe_rl.config import AgentConfig, EncoderConfig
from safe_rl.data.image_replay import ImageReplayBuffer
from safe_rl.data.replay_buffer import Batch, ReplayBuffer, Source
from safe_rl.envs.spaces import flat_dim, flat_dtype, image_shape
from safe_rl.errors import UserError
from safe_rl.exploration import PinkNoise
from safe_rl.nets.conv import ImageEncoder
from safe_rl.nets.discrete import CategoricalActor, make_critics
from safe_rl.nets.gaussian import TanhGaussianActor
from safe_rl.nets.mlp import StackedMLP
from safe_rl.nets.optim import FlatAdam, polyak_update
from safe_rl.nets.random_shift import random_shift
from safe_rl.normalization import DiscreteScaler, ObservationNormalizer, action_scaler
from safe_rl.switch import Decision, Mode
from safe_rl.transitions import Transitions
from safe_rl.validation import require, require_defaults

Metrics = dict[str, torch.Tensor]


class SACAgent(AgentState):
    """Acts, observes and learns with SAC; methods that know risk build on it and change one term.

    The networks see normalised observations and actions in [-1, 1]; the interface speaks the environment's units. A
    discrete action is a one-hot row to them. The actor then says all probabilities at once, and the critics, which read
    such a row, give the exact expectation over the actions: every term here is SAC-discrete's (arXiv 1910.07207). Of an
    observation that is an image they see the features that ``encoder`` makes of it. The critics' loss alone trains the
    encoder; the actor looks through it and does not move it (DrQ, arXiv 2004.13649). The target critics look through it
    too (arXiv 2107.09645).
    """

    has_risk = False

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: AgentConfig,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self.scaler = action_scaler(action_space)
        self.discrete = isinstance(self.scaler, DiscreteScaler)
        self.obs_dim, self.act_dim = flat_dim(observation_space), self.scaler.act_dim
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.init_generator = torch.Generator().manual_seed(seed)
        self.num_observed = 0
        self.num_updates = 0
        self.image_shape = image_shape(observation_space)
        self._obs_dtype = flat_dtype(observation_space)
        self.encoder: ObservationNormalizer | ImageEncoder
        if self.image_shape is None:
            given = getattr(config, "encoder", EncoderConfig())
            require_defaults("encoder", given, "the observation is no image (Box of uint8, height x width x channels)")
            self.encoder = self.normalizer = ObservationNormalizer(self.obs_dim).to(self.device)
            self.state_dim = self.obs_dim
            """Width of what the networks see."""
        else:
            self.encoder = self._make_encoder()
            self.state_dim = self.encoder.feature_dim
        self._make_task_policy()
        self.replay = self._make_replay(seed)
        self._learn = LearnerStep(self._learn_from_indices, self.generator, self.device)
        self._learn_task = LearnerStep(self._task_from_indices, self.generator, self.device)

    def _make_encoder(self) -> ImageEncoder:
        settings: EncoderConfig | None = getattr(self.config, "encoder", None)
        if settings is None or self.image_shape is None:
            raise UserError(f"{type(self.config).__name__[:-6]} cannot learn from images: train recovery-rl")
        made = ImageEncoder(self.image_shape, settings.channels, settings.feature_dim, generator=self.init_generator)
        return made.to(self.device)

    def _make_replay(self, seed: int) -> ReplayBuffer:
        capacity = self.config.replay_capacity
        if self.image_shape is not None:
            return ImageReplayBuffer(capacity, self.image_shape, self.act_dim, seed=seed, device=self.device)
        return ReplayBuffer(capacity, self.obs_dim, self.act_dim, seed=seed, device=self.device)

    def _make_task_policy(self) -> None:
        """Builds ``actor``, which proposes actions, and what teaches it; who learns otherwise overrides it."""
        config, sac = self.config, self.config.sac
        actor_type: type[CategoricalActor | TanhGaussianActor] = (
            CategoricalActor if self.discrete else TanhGaussianActor
        )
        self.actor = actor_type(
            self.state_dim,
            self.act_dim,
            sac.hidden_sizes,
            generator=self.init_generator,
            precision=config.precision,
        ).to(self.device)
        self.critics = make_critics(
            2,
            self.state_dim,
            self.act_dim,
            sac.hidden_sizes,
            discrete=self.discrete,
            generator=self.init_generator,
            precision=config.precision,
        ).to(self.device)
        self.critic_targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.actor_optimizer = FlatAdam(self.actor, sac.learning_rate)
        self.critic_optimizer = FlatAdam([self.critics, *self._trained(self.encoder)], sac.learning_rate)
        self.temperature = Temperature(sac.alpha).to(self.device) if sac.entropy == "auto" else None
        self.temperature_optimizer = FlatAdam(self.temperature or [], sac.learning_rate)
        self.target_entropy = target_entropy(sac, self.act_dim, discrete=self.discrete)
        self.pink_noise = self._make_pink_noise() if sac.exploration_noise == "pink" else None

    def _make_pink_noise(self) -> PinkNoise:
        require(
            not self.discrete,
            "sac",
            "exploration_noise",
            "pink",
            "white: the actions are Discrete, none is near another",
        )
        return PinkNoise(self.act_dim, self.generator)

    # ------------------------------------------------------------------ acting

    @torch.inference_mode()
    def act(self, obs: npt.NDArray[Any], *, explore: bool) -> Decision:
        """Decides for ``N`` states.

        Args:
            obs: (N, obs_dim) flat observations in the environment's units.
            explore: Sample (and begin with uniform actions) as in training, or take the mean.
        """
        started = time.perf_counter()
        task_action = self._propose(self._normalize(obs), explore)
        action = self.scaler.to_env(task_action.cpu().numpy())
        return Decision(
            action=action,
            task_action=action,
            risk=np.full(len(obs), np.nan, dtype=np.float32),
            mode=np.full(len(obs), Mode.TASK, dtype=np.int8),
            solve_time_sec=time.perf_counter() - started,
        )

    def _propose(self, obs: torch.Tensor, explore: bool) -> torch.Tensor:
        """The task policy's actions (N, act_dim) in [-1, 1]."""
        if not explore:
            return self.actor.mean_action(obs)
        if self.num_observed < self.config.start_steps:
            return self._uniform(len(obs))
        noise = self._noise(len(obs)) if self.pink_noise is None else self.pink_noise.draw(len(obs))
        return self.actor.sample_action(obs, noise)

    # ---------------------------------------------------------------- learning

    def add_offline(self, transitions: Transitions) -> None:
        """Takes the offline dataset, for good, and from it the scale of the observations."""
        if self.image_shape is None and self.config.normalize_obs != "none":
            self.normalizer.update(np.concatenate([transitions.obs, transitions.next_obs[-1:]]))
        self.replay.add_offline(self._to_unit(transitions))

    def pretrain_task(self, steps: int) -> Iterator[Metrics]:
        """Fits the task policy to the offline transitions; yields the metrics of each of ``steps`` steps."""
        return self._offline_steps(steps, lambda: self._learn_task(self._task_indices()))

    def observe(self, transitions: Transitions) -> None:
        """Stores what happened; the task policy will learn from ``task_action``."""
        self.num_observed += len(transitions)
        if self._normalizer_runs:
            self.normalizer.update(transitions.obs)
        self.replay.add(self._to_unit(transitions))

    def update(self) -> Metrics:
        """One gradient step of everything that learns; returns scalar tensors (reading them is left to the logger)."""
        if self.num_observed <= self.config.update_after:
            return {}
        self.num_updates += 1
        return self._learn(*self._sample_indices())

    def _sample_indices(self) -> tuple[npt.NDArray[np.int64], ...]:
        """The rows that this step learns from."""
        return (self._task_indices(),)

    def _task_indices(self) -> npt.NDArray[np.int64]:
        source: Source = "all" if self.config.demonstrations else "online"
        return self.replay.sample_indices(self.config.batch_size, source)

    @staticmethod
    def _offline_steps(steps: int, step: Callable[[], Metrics]) -> Iterator[Metrics]:
        for _ in range(steps):
            yield step()

    def _learn_from_indices(self, task_indices: torch.Tensor) -> Metrics:
        return self._task_from_indices(task_indices)

    def _task_from_indices(self, indices: torch.Tensor) -> Metrics:
        return self._update_task(self.replay.batch(indices))

    def _update_task(self, batch: Batch) -> Metrics:
        batch = self._augmented(batch)
        obs, next_obs = self._look(self.encoder, batch)
        critic_loss = self._critic_loss(batch, obs, next_obs)
        self.critic_optimizer.step(critic_loss)

        obs = obs.detach()  # an encoder learns from critics alone
        action, log_prob = self.actor.sample(obs, self._noise(len(obs)))
        actor_loss = self._actor_loss(batch, obs, action, log_prob)
        self.actor_optimizer.step(actor_loss)

        self._adapt_weights(batch, obs, action.detach(), log_prob.detach())
        polyak_update(self.critic_targets, self.critics, self.config.sac.tau)
        return {
            "train/critic_loss": critic_loss.detach(),
            "train/actor_loss": actor_loss.detach(),
            "train/entropy": -log_prob.detach().mean(),
            "train/alpha": torch.as_tensor(self._alpha),
        }

    def _adapt_weights(self, batch: Batch, obs: torch.Tensor, action: torch.Tensor, log_prob: torch.Tensor) -> None:
        """One step of what weighs the terms of the actor's loss, here the temperature; arguments as there."""
        if self.temperature is not None:
            self.temperature_optimizer.step(self.temperature.loss(log_prob, self.target_entropy))

    def _augmented(self, batch: Batch) -> Batch:
        """``batch`` with its images shifted at random, where that is asked for."""
        if self.image_shape is None or self.config.encoder.augmentation == "none":
            return batch
        obs, next_obs = (
            random_shift(images, self.image_shape, self.config.encoder.pad, self.generator)
            for images in (batch.obs, batch.next_obs)
        )
        return dataclasses.replace(batch, obs=obs, next_obs=next_obs)

    @staticmethod
    def _look(encoder: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """What the networks see (B, state_dim) of a batch's observations; only through the first an encoder learns."""
        with torch.no_grad():
            next_obs = encoder(batch.next_obs)
        return encoder(batch.obs), next_obs

    def _critic_loss(self, batch: Batch, obs: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        """``sum_i mean (Q_i(s, a_task) - y)^2 / 2``, ``y = r + gamma (min_i Q'_i(s', a') - alpha log pi(a'|s'))``."""
        with torch.no_grad():
            next_action, next_log_prob = self.actor.sample(next_obs, self._noise(len(next_obs)))
            next_q = self.critic_targets.ranked(torch.cat([next_obs, next_action], dim=1), 0)
            next_value = next_q - self._alpha * next_log_prob
            target = self._task_reward(batch, obs) + self.config.sac.gamma * (1 - self._ends_value(batch)) * next_value
        q = self._q(self.critics, obs, batch.task_action)
        return functional.mse_loss(q, target.expand_as(q), reduction="sum") * (0.5 / len(target))

    def _actor_loss(
        self, batch: Batch, obs: torch.Tensor, action: torch.Tensor, log_prob: torch.Tensor
    ) -> torch.Tensor:
        """``mean (alpha log pi(a|s) - min_i Q_i(s, a))``; methods that constrain the actor add their term here.

        Args:
            batch: ``B`` transitions.
            obs: (B, state_dim) what the actor sees of their states.
            action: (B, act_dim) actions that the actor draws there; the probabilities of all where they are discrete.
            log_prob: (B,) their log-densities, or the expected ones.
        """
        q = self.critics.ranked(torch.cat([obs, action], dim=1), 0)
        return (self._alpha * log_prob - q).mean()

    def _task_reward(self, batch: Batch, obs: torch.Tensor) -> torch.Tensor:
        """The reward (B,) the task critics learn from; methods that penalise it change it here.

        Args:
            batch: ``B`` transitions.
            obs: (B, state_dim) what the task critics see of their states.
        """
        return batch.reward * self.config.sac.reward_scale

    def _ends_value(self, batch: Batch) -> torch.Tensor:
        """1.0 (B,) where nothing follows for the task critics."""
        return batch.terminated if self.config.violation_ends_value else batch.terminated * (1 - batch.cost)

    @staticmethod
    def _q(critics: StackedMLP, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """``Q_i(s, a)`` (2, B)."""
        return critics(torch.cat([obs, action], dim=1)).squeeze(-1)

    @property
    def _alpha(self) -> torch.Tensor | float:
        return self.config.sac.alpha if self.temperature is None else self.temperature()

    # ------------------------------------------------------------------- state

    def _policy_parts(self) -> dict[str, Stateful]:
        """What acting needs, by name."""
        return {"actor": self.actor, **self.encoders()}

    def encoders(self) -> dict[str, nn.Module]:
        """What the networks look through, by name."""
        return {"normalizer" if self.image_shape is None else "encoder": self.encoder}

    @staticmethod
    def _trained(encoder: nn.Module) -> list[nn.Module]:
        """The encoder, where it has something to learn: what steps a critic steps it too."""
        return [encoder] if isinstance(encoder, ImageEncoder) else []

    def _learning_parts(self) -> dict[str, Stateful]:
        """What only learning needs, by name."""
        return self._task_parts()

    def _task_parts(self) -> dict[str, Stateful]:
        """What teaches the task policy, by name."""
        parts: dict[str, Stateful] = {
            "critics": self.critics,
            "critic_targets": self.critic_targets,
            "actor_optimizer": self.actor_optimizer,
            "critic_optimizer": self.critic_optimizer,
            "temperature_optimizer": self.temperature_optimizer,
        }
        optional = {"temperature": self.temperature, "pink_noise": self.pink_noise}
        return {**parts, **{name: part for name, part in optional.items() if part is not None}}

    def _acting_modules(self) -> tuple[nn.Module, ...]:
        """What acting reads."""
        return (*self.encoders().values(), self.actor)

    # ----------------------------------------------------------------- helpers

    @property
    def _normalizer_runs(self) -> bool:
        """Without a dataset to learn the scale from, it is learned along the way."""
        wanted = self.config.normalize_obs
        if self.image_shape is not None:
            return False
        return wanted == "running" or (wanted == "dataset" and self.replay.num_offline == 0)

    def _normalize(self, obs: npt.NDArray[Any]) -> torch.Tensor:
        """What the task policy sees (N, state_dim) of observations (N, obs_dim)."""
        state: torch.Tensor = self.encoder(self._tensor(obs))
        return state

    def _tensor(self, obs: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(obs, dtype=self._obs_dtype)).to(self.device)

    def _noise(self, rows: int) -> torch.Tensor:
        return self.scaler.noise(rows, self.generator)

    def _uniform(self, rows: int) -> torch.Tensor:
        return self.scaler.uniform(rows, self.generator)

    def _to_unit(self, transitions: Transitions) -> Transitions:
        """``transitions`` as they are stored: their actions scaled to [-1, 1], or one-hot."""
        return transitions.replace(
            action=self.scaler.to_unit(transitions.action), task_action=self.scaler.to_unit(transitions.task_action)
        )
