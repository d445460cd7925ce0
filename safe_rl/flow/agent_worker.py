"""Rollout workers of off-policy methods: they act by an agent of their own, or by whatever decides for them."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from safe_rl.algorithms.fragment import Fragment
from safe_rl.config import AgentConfig
from safe_rl.errors import UserError
from safe_rl.flow.rollout_worker import Bools, Floats, RolloutWorker
from safe_rl.methods import make_agent
from safe_rl.switch import Mode


class Choice(NamedTuple):
    """What is done in ``N`` states."""

    task_action: npt.NDArray[Any]
    """(N, ...) what the policy proposes, in the environment's units."""
    action: npt.NDArray[Any]
    """(N, ...) what is executed, likewise."""
    overridden: Bools
    """(N,)"""


class OffPolicyWorker(RolloutWorker):
    """A rollout worker whose learner needs no probabilities; a subclass decides."""

    @abstractmethod
    def decide(self, obs: Floats) -> Choice:
        """Decides for the observations (N, obs_dim), which are in the environment's units."""

    def _make_policy(self, hidden_sizes: Sequence[int]) -> None:
        return

    def sample(self) -> Fragment:
        """See ``RolloutWorker``; the fragment's ``log_prob`` are zeros."""
        if self.version < 0:
            raise UserError("the rollout worker has no weights yet: call set_weights before sample")
        length, count = self.fragment_length, self.envs.num_envs
        obs = np.empty((length + 1, *self._obs.shape), dtype=self._obs.dtype)
        valid = np.empty((length, count), dtype=np.bool_)
        choices, steps = [], []
        for t in range(length):
            obs[t] = self._obs
            choice = self.decide(obs[t])
            np.logical_not(self._restarts, out=valid[t])
            step = self.envs.step(choice.action)
            self._count(step, valid[t], choice.overridden)
            self._obs = step.obs
            choices.append(choice)
            steps.append(step)
        obs[length] = self._obs
        self.num_sampled += 1
        return Fragment(
            obs=obs,
            task_action=np.stack([choice.task_action for choice in choices]),
            action=np.stack([choice.action for choice in choices]),
            log_prob=np.zeros((length, count), dtype=np.float32),
            reward=np.stack([step.reward for step in steps]),
            cost=np.stack([step.cost for step in steps]),
            terminated=np.stack([step.terminated for step in steps]),
            truncated=np.stack([step.truncated for step in steps]),
            valid=valid,
            overridden=np.stack([choice.overridden for choice in choices]),
            version=self.version,
            worker=self.index,
            episodes=tuple(self.pop_episodes()),
        )


class AgentWorker(OffPolicyWorker):
    """Acts by a copy of the agent: for Recovery RL that is the composite policy, the switch included.

    Args:
        env: as for ``RolloutWorker``.
        method: name of the agent's method.
        config: its settings.
        **kwargs: as for ``RolloutWorker``.
    """

    def __init__(self, env: str, method: str, config: AgentConfig, **kwargs: Any) -> None:
        super().__init__(env, **kwargs)
        self.agent = make_agent(
            method,
            dataclasses.replace(config, replay_capacity=1),
            self.envs.observation_space,
            self.envs.action_space,
            seed=int(self._rng.integers(2**31)),
        )

    def set_weights(self, weights: Floats, version: int) -> None:
        """Takes over ``SACAgent.policy_weights``; the version is the number of steps that the learner has seen."""
        self.agent.load_policy_weights(weights)
        self.agent.num_observed = self.version = version

    def decide(self, obs: Floats) -> Choice:
        """See ``OffPolicyWorker``."""
        decision = self.agent.act(obs, explore=True)
        return Choice(decision.task_action, decision.action, decision.mode == Mode.RECOVERY)
