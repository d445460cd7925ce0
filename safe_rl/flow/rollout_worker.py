"""A rollout worker: steps its environments with a copy of the policy and hands in fragments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from safe_rl.algorithms.fragment import EpisodeSummary, Fragment
from safe_rl.algorithms.numpy_policy import NumpyPolicy
from safe_rl.config import require
from safe_rl.envs.batched import BatchedEnv, BatchedStep, make_batched_env
from safe_rl.errors import UserError

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class RolloutWorker:
    """Acts with the weights it was given last. A plain class: an actor of a cluster, or an object of this process.

    Args:
        env: as for ``make_env``.
        num_envs: environments stepped together (``N``).
        fragment_length: steps of each in a fragment (``T``).
        seed: of the run; every worker and every restart of one draws its own numbers.
        index: number of the worker.
        cost_key: entry of ``info`` that is the constraint.
        hidden_sizes: of the policy whose weights will come.
        num_sampled: fragments that a worker of this index handed in before: a restarted one does not repeat them.

    Raises:
        UserError: the environment cannot be made, or a value is out of range.
    """

    def __init__(
        self,
        env: str,
        *,
        num_envs: int = 32,
        fragment_length: int = 32,
        seed: int = 0,
        index: int = 0,
        cost_key: str = "cost",
        hidden_sizes: Sequence[int] = (64, 64),
        num_sampled: int = 0,
    ) -> None:
        require(num_envs >= 1, "", "envs_per_worker", num_envs, "at least 1")
        require(fragment_length >= 1, "", "fragment_length", fragment_length, "at least 1")
        self.index, self.seed, self.fragment_length = index, seed, fragment_length
        self.envs: BatchedEnv = make_batched_env(env, num_envs, cost_key=cost_key)
        self._make_policy(hidden_sizes)
        self.version = -1
        """Version of the weights; -1 before the first came."""
        self.num_sampled = num_sampled
        """Fragments handed in."""
        self._episodes: list[EpisodeSummary] = []
        self._begin()

    def _make_policy(self, hidden_sizes: Sequence[int]) -> None:
        self.policy = NumpyPolicy(self.envs.observation_space, self.envs.action_space, hidden_sizes)

    def _begin(self) -> None:
        """Starts all episodes afresh, with numbers that no earlier start of this worker drew."""
        seeds = np.random.SeedSequence([self.seed, self.index, self.num_sampled])
        self._rng = np.random.default_rng(seeds)
        self._obs = self.envs.reset(int(seeds.generate_state(1)[0]))
        count = self.envs.num_envs
        self._restarts = np.zeros(count, dtype=np.bool_)
        self._return, self._cost = np.zeros((2, count), dtype=np.float64)
        self._length, self._overridden = np.zeros((2, count), dtype=np.int64)

    def set_weights(self, weights: Floats, version: int) -> None:
        """Takes over ``ActorCritic.flat_weights``."""
        self.policy.load(weights)
        self.version = version

    def sample(self) -> Fragment:
        """Steps every environment ``fragment_length`` times.

        Raises:
            EnvironmentFault: an environment failed.
            UserError: no weights came yet.
        """
        if self.version < 0:
            raise UserError("the rollout worker has no weights yet: call set_weights before sample")
        length, count, head = self.fragment_length, self.envs.num_envs, self.policy.head
        noise = head.noise(self._rng, (length, count))
        obs = np.empty((length + 1, *self._obs.shape), dtype=self._obs.dtype)
        outputs = np.empty(noise.shape, dtype=np.float32)
        valid, overridden = np.empty((2, length, count), dtype=np.bool_)
        proposed, executed, steps = [], [], []
        for t in range(length):
            obs[t] = self._obs
            outputs[t] = self.policy.outputs(obs[t])
            task_action = head.sample(outputs[t], self.policy.parameters, noise[t])
            action = self.execute(obs[t], head.to_env(task_action), overridden[t])
            np.logical_not(self._restarts, out=valid[t])
            step = self.envs.step(action)
            self._count(step, valid[t], overridden[t])
            self._obs = step.obs
            proposed.append(task_action)
            executed.append(action)
            steps.append(step)
        obs[length] = self._obs
        actions = np.stack(proposed)
        self.num_sampled += 1
        return Fragment(
            obs=obs,
            task_action=actions,
            action=np.stack(executed),
            log_prob=head.log_prob(outputs, self.policy.parameters, actions),
            reward=np.stack([step.reward for step in steps]),
            cost=np.stack([step.cost for step in steps]),
            terminated=np.stack([step.terminated for step in steps]),
            truncated=np.stack([step.truncated for step in steps]),
            valid=valid,
            overridden=overridden,
            version=self.version,
            worker=self.index,
            episodes=tuple(self.pop_episodes()),
        )

    def execute(self, obs: Floats, action: npt.NDArray[Any], overridden: Bools) -> npt.NDArray[Any]:
        """What to execute where the policy proposes ``action``: here just that.

        A worker with a safety switch overrides this.

        Args:
            obs: (N, obs_dim) observations in the environment's units.
            action: (N,) or (N, act_dim), as the environment takes it; not to be changed.
            overridden: (N,) to be set True where another action is returned, and False elsewhere.
        """
        overridden[:] = False
        return action

    def pop_episodes(self) -> list[EpisodeSummary]:
        """The episodes that ended and were not handed in yet; ``sample`` puts them into its fragment itself."""
        episodes, self._episodes = self._episodes, []
        return episodes

    def _count(self, step: BatchedStep, valid: Bools, overridden: Bools) -> None:
        """Adds a step to the unfinished episodes and closes those that ended."""
        self._return += step.reward
        self._cost += step.cost
        self._length += valid
        self._overridden += overridden & valid
        self._restarts = step.terminated | step.truncated
        if not self._restarts.any():
            return
        for i in np.flatnonzero(self._restarts):
            self._episodes.append(
                EpisodeSummary(
                    float(self._return[i]),
                    int(self._length[i]),
                    float(self._cost[i]),
                    bool(step.success[i]),
                    int(self._overridden[i]),
                )
            )
            self._return[i] = self._cost[i] = self._length[i] = self._overridden[i] = 0

    def state_dict(self) -> dict[str, Any]:
        """What can be kept of a worker: a simulator cannot be saved in general, so its unfinished episodes are lost."""
        return {"num_sampled": self.num_sampled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores ``state_dict``: new episodes begin, with numbers that were not drawn before."""
        self.num_sampled = int(state["num_sampled"])
        self._begin()

    def close(self) -> None:
        """Closes the environments."""
        self.envs.close()
