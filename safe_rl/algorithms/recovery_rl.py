"""Recovery RL (arXiv 2010.15920): a task policy, a recovery policy, and a switch on learned risk."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch

from safe_rl.algorithms.agent_state import Stateful
from safe_rl.algorithms.risk_aware import RiskAwareAgent
from safe_rl.algorithms.sac import Metrics
from safe_rl.config import RecoveryRLConfig
from safe_rl.data.replay_buffer import Batch
from safe_rl.errors import UserError
from safe_rl.latent_recovery import LatentModelRecovery
from safe_rl.model_recovery import ModelBasedRecovery
from safe_rl.planner_config import MODEL_BASED_ALONE, PLANNING_KINDS
from safe_rl.planning_recovery import PlanningRecovery
from safe_rl.recovery import LeastRiskyRecovery, ModelFreeRecovery, QSamplingRecovery
from safe_rl.risk import DiscreteRiskCritic
from safe_rl.switch import Decision, Mode, RecoverySwitch
from safe_rl.transitions import Transitions
from safe_rl.validation import require_defaults


class RecoveryRLAgent(RiskAwareAgent):
    """Executes the proposed action where ``Q_risk(s, a_task) <= eps_risk``, the recovery action elsewhere."""

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
        config = _suited(config, action_space)
        super().__init__(observation_space, action_space, config, seed=seed, device=device)
        self.switch = RecoverySwitch(config.risk.eps_risk, config.risk.recovery_must_help)
        self.recovery = self._make_recovery()

    def _make_recovery(self) -> ModelFreeRecovery | QSamplingRecovery | LeastRiskyRecovery:
        """Builds the recovery policy of the settings' kind.

        Raises:
            UserError: It does not fit the observations, or a setting is not heeded or not to be met.
        """
        config, kind = self.config, self.config.recovery.kind
        if isinstance(self.risk_critic, DiscreteRiskCritic):
            self._require_no_planner()
            return LeastRiskyRecovery(config.recovery, self.risk_critic)
        if kind == "model-free":
            self._require_no_planner()
            return ModelFreeRecovery(
                self.state_dim, self.act_dim, config.recovery, self.risk_critic,
                generator=self.init_generator, precision=config.precision, device=self.device,
            )  # fmt: skip
        if kind == "q-sampling":
            self._require_no_planner()
            return QSamplingRecovery(self.act_dim, config.recovery, self.risk_critic)
        self._require_planning(kind)
        planning = ModelBasedRecovery if kind == "model-based" else LatentModelRecovery
        return planning(
            self.state_dim, self.act_dim, config.recovery, config.planner, self.risk_critic,
            generator=self.init_generator, device=self.device,
        )  # fmt: skip

    def _require_no_planner(self) -> None:
        if isinstance(self.config, RecoveryRLConfig):  # Recovery IMPACT's settings have no planner
            why = f"--recovery.kind {self.config.recovery.kind} does not plan"
            require_defaults("planner", self.config.planner, why)

    def _require_planning(self, kind: str) -> None:
        """Raises ``UserError`` where a recovery that plans is not for these observations or settings."""
        if not isinstance(self.config, RecoveryRLConfig):
            raise UserError(f"--recovery.kind is {kind}: only recovery-rl plans; choose model-free or q-sampling")
        if kind == "latent-model":
            if self.image_shape is None:
                raise UserError(
                    "--recovery.kind is latent-model: the observation is no image (Box of uint8, height x width x "
                    "channels); choose model-based, model-free or q-sampling"
                )
            why = "--recovery.kind latent-model has one network, without noise"
            require_defaults("planner", self.config.planner, why, MODEL_BASED_ALONE)
        elif self.image_shape is not None:
            raise UserError(
                "--recovery.kind is model-based: the observation is an image; choose latent-model, model-free or "
                "q-sampling"
            )

    @torch.inference_mode()
    def watch(self, obs: npt.NDArray[Any], task_action: npt.NDArray[np.float32], *, explore: bool) -> Decision:
        """Decides on actions that somebody else proposes.

        Args:
            obs: (N, obs_dim) flat observations in the environment's units.
            task_action: (N, act_dim) proposed actions in the environment's units.
            explore: Whether the recovery policy may draw its actions.
        """
        started = time.perf_counter()
        proposal = torch.from_numpy(self.scaler.to_unit(task_action)).to(self.device)
        return self._decide(self.risk_encoder(self._tensor(obs)), proposal, started, explore=explore)

    def _decide(self, state: torch.Tensor, task_action: torch.Tensor, started: float, *, explore: bool) -> Decision:
        """The switch's decision, see ``RiskAwareAgent``; ``Decision.mode`` tells who acts."""
        risk = self.risk_critic(state, task_action)
        action, recovers = self._switch(state, task_action, risk, lambda rows: self._rescue(rows, explore=explore))
        return Decision(
            action=self.scaler.to_env(action.cpu().numpy()),
            task_action=self.scaler.to_env(task_action.cpu().numpy()),
            risk=risk.cpu().numpy(),
            mode=np.where(recovers.cpu().numpy(), Mode.RECOVERY, Mode.TASK).astype(np.int8),
            solve_time_sec=time.perf_counter() - started,
        )

    def _rescue(self, state: torch.Tensor, *, explore: bool) -> torch.Tensor:
        """The recovery policy's actions (N, act_dim), or while exploring random ones where even those look lost.

        Where ``Q_risk`` wrongly holds every way out for a dead end, the recovery policy never takes one, and so the
        critic would never see that it leads to safety (not in the paper).
        """
        action = self.recovery.act(state, self.generator, explore=explore)
        if not explore or self.config.recovery.explore_above == 1:
            return action
        lost = self.risk_critic(state, action) > self.config.recovery.explore_above
        return torch.where(lost[:, None], self._uniform(len(state)), action)

    def _switch(
        self,
        obs: torch.Tensor,
        proposal: torch.Tensor,
        risk: torch.Tensor,
        recover: Callable[[torch.Tensor], torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The rule of Recovery RL.

        Args:
            obs: (N, state_dim) what risk critic and recovery policy see.
            proposal: (N, act_dim) the task policy's actions.
            risk: (N,) ``Q_risk`` of the proposals.
            recover: Gives the recovery policy's actions for some of the observations.

        Returns:
            The actions to execute (N, act_dim), and where (N,) the recovery policy acts.
        """
        recovers = self.switch.hands_over(risk)
        if obs.is_cuda:  # a CUDA graph has fixed shapes: ask for every row
            rows = torch.arange(len(obs), device=obs.device)
        else:
            rows = recovers.nonzero().squeeze(1)
            if not len(rows):
                return proposal, recovers
        some = obs[rows]
        recovery_action = recover(some)
        if self.switch.recovery_must_help:
            recovers[rows] = self.switch.hands_over(risk[rows], self.risk_critic(some, recovery_action))
        candidates = proposal.index_copy(0, rows, recovery_action)
        return torch.where(recovers[:, None], candidates, proposal), recovers

    def _to_unit(self, transitions: Transitions) -> Transitions:
        """See ``SACAgent``; without relabelling the task policy learns from what was executed instead."""
        if not self.config.relabel_actions:
            transitions = transitions.replace(task_action=transitions.action)
        return super()._to_unit(transitions)

    def _update_task(self, batch: Batch) -> Metrics:
        """See ``SACAgent``; with ``learn_from_both`` a fair coin says whether a step is taken as executed."""
        if self.config.learn_from_both:
            as_executed = torch.rand((len(batch.obs), 1), generator=self.generator, device=self.device) < 0.5
            batch = dataclasses.replace(batch, task_action=torch.where(as_executed, batch.action, batch.task_action))
        return super()._update_task(batch)

    def _actor_loss(
        self, batch: Batch, obs: torch.Tensor, action: torch.Tensor, log_prob: torch.Tensor
    ) -> torch.Tensor:
        """See ``SACAgent``; plus ``risk_price * mean Q_risk(s, a)`` (not in the paper)."""
        loss = super()._actor_loss(batch, obs, action, log_prob)
        if self.config.risk_price == 0:
            return loss
        price = self.config.risk_price * self.config.sac.reward_scale
        return loss + price * self.risk_critic(self._risk_view(batch, obs), action).mean()

    def _update_risk(self, batch: Batch, *, pretraining: bool = False) -> Metrics:
        metrics, obs = self._step_risk(batch, pretraining)
        return metrics | self.recovery.update(obs, self.generator)

    def add_offline(self, transitions: Transitions) -> None:
        """See ``RiskAwareAgent``.

        Raises:
            UserError: A model is to be learned, and the transitions are not fit for it.
        """
        super().add_offline(transitions)
        if isinstance(self.recovery, PlanningRecovery):
            self.recovery.require_data(self.replay)

    @property
    def num_recovery_steps(self) -> int:
        """See ``RiskAwareAgent``."""
        return self.config.planner.pretrain_steps if isinstance(self.recovery, PlanningRecovery) else 0

    def pretrain_recovery(self, steps: int) -> Iterator[Metrics]:
        """See ``RiskAwareAgent``."""
        if steps > 0 and isinstance(self.recovery, PlanningRecovery):
            yield from self.recovery.fit(self.risk_encoder, self.replay, steps, self.generator)

    def observe(self, transitions: Transitions) -> None:
        """See ``SACAgent``; where episodes end plans are forgotten, and every so many of them a model is refreshed."""
        super().observe(transitions)
        if not isinstance(self.recovery, PlanningRecovery):
            return
        ended = int((transitions.terminated | transitions.truncated).sum())
        if ended > 0:
            self.recovery.episodes_ended()
        if self.config.risk.update_online:
            self.recovery.refresh(ended, self.risk_encoder, self.replay, self.generator)

    def update(self) -> Metrics:
        """See ``SACAgent``."""
        metrics = super().update()
        return metrics | self.recovery.metrics if isinstance(self.recovery, PlanningRecovery) else metrics

    def _next_action(
        self, next_obs: torch.Tensor, pretraining: bool, images: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The composite backup: what the switch would execute next (as an option, what the task policy proposes)."""
        proposal = self._proposal(next_obs, pretraining, images)
        if self.config.risk.backup == "task":
            return proposal
        risk = self.risk_critic(next_obs, proposal)
        return self._switch(next_obs, proposal, risk, lambda rows: self.recovery.backup_action(rows, self.generator))[0]

    def _acting_modules(self) -> tuple[torch.nn.Module, ...]:
        return (*super()._acting_modules(), self.recovery)

    def _policy_parts(self) -> dict[str, Stateful]:
        return {**super()._policy_parts(), "recovery": self.recovery}

    def _learning_parts(self) -> dict[str, Stateful]:
        return {**super()._learning_parts(), "recovery_optimizer": self.recovery.optimizer}

    def _safety_parts(self) -> dict[str, Stateful]:
        return {**super()._safety_parts(), "recovery": self.recovery, "recovery_optimizer": self.recovery.optimizer}


def _suited(config: RecoveryRLConfig, action_space: gym.Space[Any]) -> RecoveryRLConfig:
    """The settings with the kind of recovery that an action space has.

    Of discrete actions all can be asked for their risk, so the least risky one is known exactly: what the model-free
    policy and sampling come near to. It takes their places.

    Raises:
        UserError: The kind does not fit the actions.
    """
    if not isinstance(action_space, gym.spaces.Discrete):
        if config.recovery.kind == "least-risky":
            raise UserError(
                "--recovery.kind is least-risky: the actions are not Discrete; choose model-free or q-sampling"
            )
        return config
    if config.recovery.kind in PLANNING_KINDS:
        raise UserError(
            f"--recovery.kind is {config.recovery.kind}: it plans continuous actions, not {action_space}; "
            "leave it out, the least risky action is then taken"
        )
    return dataclasses.replace(config, recovery=dataclasses.replace(config.recovery, kind="least-risky"))
