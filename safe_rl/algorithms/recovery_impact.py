"""Recovery IMPACT: Recovery RL (arXiv 2010.15920) whose task policy learns by IMPACT (arXiv 1912.00167)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from safe_rl.algorithms.actor_critic import ActorCritic
from safe_rl.algorithms.agent_state import Stateful
from safe_rl.algorithms.fragment import Fragment
from safe_rl.algorithms.impact import ImpactBatch, IMPACTConfig, IMPACTLearner
from safe_rl.algorithms.on_policy_learner import Floats
from safe_rl.algorithms.recovery_rl import RecoveryRLAgent
from safe_rl.config import Precision, RecoveryConfig, RiskConfig, require
from safe_rl.flow.metrics import current_metrics
from safe_rl.nets.arrays import as_tensor
from safe_rl.nets.flat_state import flatten_state, load_flat_state, state_size
from safe_rl.normalization import ActionScaler, NormalizeObs, ObservationNormalizer


@dataclass
class RecoveryIMPACTConfig:
    """Recovery IMPACT: Recovery RL (arXiv 2010.15920) with IMPACT (arXiv 1912.00167) in place of SAC."""

    impact: IMPACTConfig = field(default_factory=IMPACTConfig)
    """Task policy."""
    risk: RiskConfig = field(default_factory=RiskConfig)
    """Risk critic and switch."""
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    """Recovery policy."""
    risk_updates_per_step: float = 0.05
    """Gradient steps of risk critic and recovery policy for each environment step."""
    batch_size: int = 256
    """Transitions in such a step."""
    replay_capacity: int = 200_000
    """Online transitions that they are drawn from, beside the offline ones."""
    normalize_obs: NormalizeObs = "dataset"
    """Scale observations, for all networks, by the statistics of the dataset, by running ones, or not."""
    precision: Precision = "float32"
    """Precision of the hidden layers' matrix products of risk critic and recovery policy."""
    relabel_actions: bool = True
    """Train the task policy on what it proposed; off for the ablation that trains it on what was executed."""
    violation_ends_value: bool = True
    """Value a violation as the end of the episode, which makes crashing pay where rewards are negative. Switched off,
    the value function looks past it as if the episode went on."""

    def __post_init__(self) -> None:
        """Validates the values."""
        for name in ("batch_size", "replay_capacity"):
            require(getattr(self, name) >= 1, "", name, getattr(self, name), "at least 1")
        updates = self.risk_updates_per_step
        require(updates >= 0, "", "risk_updates_per_step", updates, "at least 0")
        running = self.impact.normalize_running
        require(not running, "impact", "normalize_running", running, "off: --normalize-obs holds for all networks")


class GaussianProposals(nn.Module):
    """The policy of an ``ActorCritic`` in the place of SAC's actor: actions in [-1, 1] for normalised observations."""

    def __init__(self, net: ActorCritic) -> None:
        super().__init__()
        self.net = net

    def mean_action(self, obs: Tensor) -> Tensor:
        """The likeliest action (B, act_dim) for ``obs`` (B, obs_dim)."""
        return self.net.policy.run(obs)[0].clamp(-1.0, 1.0)

    def sample_action(self, obs: Tensor, noise: Tensor) -> Tensor:
        """The action drawn by standard normal ``noise`` (B, act_dim), as the environment executes it: clipped."""
        std = self.net.head_parameters.detach().exp()
        return torch.addcmul(self.net.policy.run(obs)[0], std, noise).clamp_(-1.0, 1.0)


class RelabelledIMPACT(IMPACTLearner):
    """IMPACT under a switch: what is executed need not be what the policy proposed.

    The switch, with the recovery policy behind it, is part of the world to the task policy: proposing ``a_task`` in
    ``s`` leads to what executing ``a = switch(s, a_task)`` leads to. In that world the proposals *are* the actions. So
    an overridden step enters the objective like any other, with the proposal ``a_task``, its probability
    ``pi_worker(a_task | s)`` in all importance ratios, and the reward and the next state that ``a`` led to::

        w = min(pi_worker(a_task|s) / pi_target(a_task|s), rho_max),   r = w pi_theta(a_task|s) / pi_worker(a_task|s)

    The ratios are exact: nothing of them depends on the recovery policy's density, which nobody needs to know. (With
    the executed action in their place, ``pi(a|s) / pi_worker(a|s)`` would correct for a policy that did not draw ``a``,
    and be extreme just where recovery acts unlike the task policy.) What V-trace does not correct is that the world
    changes: an older fragment saw an older switch. The circular buffer is short, and risk learns slowly beside it.

    Args:
        observation_space: of one environment.
        action_space: of one environment.
        config: the method's settings.
        normalizer: scales the observations; shared with the risk critic.
        seed: of the initial weights and of everything drawn while learning.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: RecoveryIMPACTConfig,
        normalizer: ObservationNormalizer,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__(observation_space, action_space, config.impact, seed=seed)
        self.net.normalizer = normalizer
        self._scaler = ActionScaler(action_space)
        self._relabels, self._violation_ends = config.relabel_actions, config.violation_ends_value

    def observations(self, fragment: Fragment) -> Tensor:
        """See ``OnPolicyLearner``."""
        return self.net.normalizer(as_tensor(fragment.obs).flatten(0, 1))

    def prepare(self, fragment: Fragment) -> ImpactBatch:
        """See ``IMPACTLearner``."""
        if not self._relabels:
            fragment = self._with_executed_actions(fragment)
        if not self._violation_ends:
            crashed = fragment.terminated & (fragment.cost > 0)
            fragment = dataclasses.replace(
                fragment, terminated=fragment.terminated & ~crashed, truncated=fragment.truncated | crashed
            )
        return super().prepare(fragment)

    def _with_executed_actions(self, fragment: Fragment) -> Fragment:
        """The ablation without relabelling: overridden steps as if the policy, as it is, had proposed what was done.

        Its true probability is unknown, so these steps come in with the ratio 1.
        """
        rows = fragment.overridden
        if not rows.any():
            return fragment
        action, log_prob = fragment.task_action.copy(), fragment.log_prob.copy()
        action[rows] = self._scaler.to_unit(fragment.action[rows])
        obs = self.net.normalizer(torch.from_numpy(fragment.obs[:-1][rows]))
        log_prob[rows] = self.net.log_prob(obs, torch.from_numpy(action[rows]))
        return dataclasses.replace(fragment, task_action=action, log_prob=log_prob)


class RecoveryIMPACTAgent(RecoveryRLAgent):
    """Recovery RL whose proposals come from IMPACT: the plan's learner, and the agent that acts by what it learned.

    Switch, risk critic, recovery policy and their pretraining are Recovery RL's. The two learners take turns in the
    plan: ``task.learn`` on fragments of the newest policies, ``learn_risk`` on transitions of all times.
    """

    config: RecoveryIMPACTConfig  # type: ignore[assignment]
    actor: GaussianProposals  # type: ignore[assignment]

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: RecoveryIMPACTConfig,
        *,
        seed: int = 0,
    ) -> None:
        self._spaces, self._seed = (observation_space, action_space), seed
        super().__init__(observation_space, action_space, config, seed=seed)  # type: ignore[arg-type]

    def _make_task_policy(self) -> None:
        self.task = RelabelledIMPACT(*self._spaces, self.config, self.normalizer, seed=self._seed)
        self.actor = GaussianProposals(self.task.net)

    def _propose(self, obs: Tensor, explore: bool) -> Tensor:
        return self.actor.sample_action(obs, self._noise(len(obs))) if explore else self.actor.mean_action(obs)

    # ---------------------------------------------------------------- learning

    @property
    def num_steps(self) -> int:
        """Environment steps taken in."""
        return self.task.num_steps

    @property
    def version(self) -> int:
        """Gradient steps of the task policy; what the risk learner did meanwhile travels with its next version."""
        return self.task.version

    def store(self, fragment: Fragment) -> Fragment:
        """Keeps what was executed in a fragment for the risk learner, and hands the fragment on to the task's."""
        transitions = fragment.transitions()
        transitions.task_action = self.scaler.to_env(transitions.task_action)
        self.observe(transitions)
        share = float(fragment.overridden.mean(where=fragment.valid)) if len(transitions) else 0.0
        current_metrics().gauge("safety/recovery_share", share)
        return fragment

    def next(self) -> npt.NDArray[np.int64] | None:
        """The next rows for ``learn_risk``; None where all gradient steps were made that are due."""
        due = self.num_observed * self.config.risk_updates_per_step
        return self._risk_indices() if self.config.risk.update_online and self.num_updates < due else None

    def learn_risk(self, rows: npt.NDArray[np.int64]) -> dict[str, float]:
        """A gradient step of risk critic and recovery policy."""
        self.num_updates += 1
        return {name: float(value) for name, value in self._learn_risk(rows).items()}

    # ----------------------------------------------------------------- weights

    def weights(self) -> Floats:
        """All that a worker needs in one float32 array, a copy: the policy, and behind it what watches it."""
        return np.concatenate([self.task.weights(), flatten_state(self._watchers())])

    def load_watchers(self, weights: Floats) -> None:
        """Takes over risk critic, recovery policy and the observations' scale from ``weights``."""
        watchers = self._watchers()
        load_flat_state(watchers, weights[len(weights) - state_size(watchers) :])

    def _watchers(self) -> Sequence[nn.Module]:
        return (self.normalizer, self.risk_critic.critics, self.recovery)

    # ------------------------------------------------------------------- state

    def _task_parts(self) -> dict[str, Stateful]:
        return {"task": self.task}
