"""A rollout worker for several agents, each of which hands in fragments of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch

from safe_rl.algorithms.dqn import DQNConfig, make_q_network
from safe_rl.algorithms.fragment import EpisodeSummary, Fragment
from safe_rl.algorithms.numpy_policy import NumpyPolicy
from safe_rl.algorithms.on_policy_learner import OnPolicyConfig
from safe_rl.envs.leader_follower import MultiAgentEnv
from safe_rl.errors import UserError

Floats = npt.NDArray[np.float32]
AgentConfigs = Mapping[str, OnPolicyConfig | DQNConfig]


class Acted(NamedTuple):
    """What an agent does in ``N`` states."""

    draw: npt.NDArray[Any]
    """(N, ...) as its learner wants it."""
    action: npt.NDArray[Any]
    """(N, ...) as the environment takes it."""
    log_prob: Floats
    """(N,); zeros where the learner needs none."""


class StochasticActor:
    """Acts by the policy of an actor-critic."""

    def __init__(self, obs_space: gym.Space[Any], action_space: gym.Space[Any], config: OnPolicyConfig) -> None:
        self._policy = NumpyPolicy(obs_space, action_space, config.hidden_sizes)

    def load(self, weights: Floats) -> None:
        """Takes over ``OnPolicyLearner.weights``."""
        self._policy.load(weights)

    def act(self, obs: Floats, rng: np.random.Generator) -> Acted:
        """Draws actions for (N, obs_dim) observations."""
        head, outputs, parameters = self._policy.head, self._policy.outputs(obs), self._policy.parameters
        draw = head.sample(outputs, parameters, head.noise(rng, (len(obs),)))
        return Acted(draw, head.to_env(draw), head.log_prob(outputs, parameters, draw))


class GreedyActor:
    """Acts epsilon-greedily by ``Q``, with the learner's epsilon."""

    def __init__(self, obs_space: gym.Space[Any], action_space: gym.Space[Any], config: DQNConfig) -> None:
        self._q = make_q_network(obs_space, action_space, config)
        self._start = int(action_space.start)  # type: ignore[attr-defined]
        self._epsilon = 1.0

    def load(self, weights: Floats) -> None:
        """Takes over ``DQNLearner.weights``."""
        with torch.no_grad():
            self._q.flat.copy_(torch.from_numpy(np.array(weights[:-1])))
        self._epsilon = float(weights[-1])

    def act(self, obs: Floats, rng: np.random.Generator) -> Acted:
        """Chooses actions for (N, obs_dim) observations."""
        with torch.inference_mode():
            q = self._q(torch.from_numpy(obs))[0].numpy()
        drawn = rng.integers(0, q.shape[1], len(obs))
        action = np.where(rng.random(len(obs)) < self._epsilon, drawn, q.argmax(1)) + self._start
        return Acted(action, action, np.zeros(len(obs), dtype=np.float32))


def require_agents(configs: AgentConfigs, env: MultiAgentEnv) -> None:
    """Raises ``UserError`` where the agents with learners are not the environment's."""
    if set(configs) != set(env.possible_agents):
        have, want = ", ".join(sorted(configs)), ", ".join(sorted(env.possible_agents))
        raise UserError(f"there are learners for {have}, but the environment's agents are {want}: give each one")


class MultiAgentWorker:
    """Steps environments in which every agent acts by its own policy.

    Args:
        make_env: Makes a ``MultiAgentEnv``.
        configs: The settings of every agent's learner: an actor-critic's, or DQN's.
        num_envs: Environments stepped together (``N``).
        fragment_length: Steps of each in a fragment (``T``).
        seed: Of the run; every worker draws its own numbers.
        index: Number of the worker.

    Raises:
        UserError: The configs are not those of the environment's agents.
    """

    def __init__(
        self,
        make_env: Callable[[], MultiAgentEnv],
        configs: AgentConfigs,
        *,
        num_envs: int = 8,
        fragment_length: int = 32,
        seed: int = 0,
        index: int = 0,
    ) -> None:
        self.envs = [make_env() for _ in range(num_envs)]
        self.fragment_length, self.index, self.version = fragment_length, index, -1
        first = self.envs[0]
        require_agents(configs, first)
        self.actors: dict[str, StochasticActor | GreedyActor] = {}
        for agent, config in configs.items():
            spaces = first.observation_space(agent), first.action_space(agent)
            self.actors[agent] = (
                GreedyActor(*spaces, config) if isinstance(config, DQNConfig) else StochasticActor(*spaces, config)
            )
        self._rng = np.random.default_rng([seed, index])
        reset = [env.reset(seed=int(self._rng.integers(2**31)))[0] for env in self.envs]
        self._obs = {agent: np.stack([obs[agent] for obs in reset]) for agent in configs}
        self._restarts = np.zeros(num_envs, dtype=np.bool_)
        self._returns = {agent: np.zeros(num_envs) for agent in configs}
        self._lengths = np.zeros(num_envs, dtype=np.int64)

    def set_weights(self, weights: Mapping[str, Floats], version: int) -> None:
        """Takes over the weights of all learners."""
        for agent, flat in weights.items():
            self.actors[agent].load(flat)
        self.version = version

    def sample(self) -> dict[str, Fragment]:
        """Steps every environment ``fragment_length`` times; each agent's view of it.

        Raises:
            UserError: No weights came yet.
        """
        if self.version < 0:
            raise UserError("the rollout worker has no weights yet: call set_weights before sample")
        rows: dict[str, list[tuple[Any, ...]]] = {agent: [] for agent in self.actors}
        episodes: dict[str, list[EpisodeSummary]] = {agent: [] for agent in self.actors}
        for _ in range(self.fragment_length):
            acted = {agent: actor.act(self._obs[agent], self._rng) for agent, actor in self.actors.items()}
            valid, before = ~self._restarts, self._obs
            reward, terminated, truncated = self._step({agent: each.action for agent, each in acted.items()})
            for agent, each in acted.items():
                rows[agent].append((before[agent], *each, reward[agent], terminated, truncated, valid))
            self._count(reward, terminated | truncated, valid, episodes)
        return {agent: self._fragment(agent, rows[agent], episodes[agent]) for agent in self.actors}

    def _step(self, actions: dict[str, npt.NDArray[Any]]) -> tuple[dict[str, Floats], Any, Any]:
        count = len(self.envs)
        obs = {agent: np.empty_like(array) for agent, array in self._obs.items()}
        reward = {agent: np.zeros(count, dtype=np.float32) for agent in self.actors}
        terminated, truncated = np.zeros((2, count), dtype=np.bool_)
        for i, env in enumerate(self.envs):
            if self._restarts[i]:
                seen: Mapping[str, Any] = env.reset()[0]
            else:
                seen, rewards, ended, cut, _ = env.step({agent: action[i] for agent, action in actions.items()})
                terminated[i], truncated[i] = any(ended.values()), any(cut.values())
                for agent in self.actors:
                    reward[agent][i] = rewards[agent]
            for agent in self.actors:
                obs[agent][i] = seen[agent]
        self._obs = obs
        return reward, terminated, truncated

    def _count(
        self, reward: dict[str, Floats], ended: Any, valid: Any, episodes: dict[str, list[EpisodeSummary]]
    ) -> None:
        self._lengths += valid
        for agent, returns in self._returns.items():
            returns += reward[agent]
            episodes[agent] += [
                EpisodeSummary(float(returns[i]), int(self._lengths[i]), 0.0, False, 0) for i in np.flatnonzero(ended)
            ]
            returns[ended] = 0.0
        self._lengths[ended] = 0
        self._restarts = ended

    def _fragment(self, agent: str, rows: list[tuple[Any, ...]], episodes: list[EpisodeSummary]) -> Fragment:
        obs, draw, action, log_prob, reward, terminated, truncated, valid = map(np.stack, zip(*rows, strict=True))
        return Fragment(
            np.concatenate([obs, self._obs[agent][None]]),
            draw,
            action,
            log_prob,
            reward,
            np.zeros_like(reward),
            terminated,
            truncated,
            valid,
            np.zeros_like(valid),
            version=self.version,
            worker=self.index,
            episodes=tuple(episodes),
        )
