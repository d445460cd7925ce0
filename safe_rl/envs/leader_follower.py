"""Environments with several agents: the interface, and a tiny one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt

Observations = dict[str, npt.NDArray[np.float32]]


class MultiAgentStep(NamedTuple):
    """What a step gave, by agent."""

    obs: Observations
    reward: dict[str, float]
    terminated: dict[str, bool]
    truncated: dict[str, bool]
    info: dict[str, dict[str, Any]]


class MultiAgentEnv(Protocol):
    """Several agents that act at the same time. Gymnasium has no such interface.

    It is the part of PettingZoo's ``ParallelEnv`` that is needed, so that most of those fit; with one condition: an
    episode ends for all agents at once.
    """

    possible_agents: Sequence[str]
    """Their names."""

    def observation_space(self, agent: str) -> gym.Space[Any]:
        """Of one agent."""
        ...

    def action_space(self, agent: str) -> gym.Space[Any]:
        """Of one agent."""
        ...

    def reset(self, seed: int | None = None) -> tuple[Observations, dict[str, dict[str, Any]]]:
        """Begins an episode."""
        ...

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[Mapping[str, Any], Mapping[str, float], Mapping[str, bool], Mapping[str, bool], Mapping[str, Any]]:
        """Acts; the observations, rewards, two kinds of ends, and infos by agent."""
        ...


class LeaderFollower:
    """Two agents on a line of 9 cells. The leader sees the goal, the follower sees the leader.

    Both move by -1, 0 or 1 cells. The leader's reward is minus its distance from the goal, the follower's minus its
    distance from the leader, both in eighths. An episode is cut after 16 steps.
    """

    possible_agents = ("leader", "follower")
    SIZE, HORIZON = 9, 16

    def __init__(self) -> None:
        self._rng = np.random.default_rng()
        self._steps = 0
        self.goal = self.leader = self.follower = 0

    def observation_space(self, agent: str) -> gym.Space[Any]:
        """Two numbers from -1 to 1: where it is, and where it should be."""
        return gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def action_space(self, agent: str) -> gym.Space[Any]:
        """Left, stay, right."""
        return gym.spaces.Discrete(3)

    def reset(self, seed: int | None = None) -> tuple[Observations, dict[str, dict[str, Any]]]:
        """Puts goal and agents anywhere."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.goal, self.leader, self.follower = (int(place) for place in self._rng.integers(0, self.SIZE, 3))
        self._steps = 0
        return self._observe(), {agent: {} for agent in self.possible_agents}

    def step(self, actions: dict[str, Any]) -> MultiAgentStep:
        """Moves both."""
        last = self.SIZE - 1
        self.leader = min(max(self.leader + int(actions["leader"]) - 1, 0), last)
        self.follower = min(max(self.follower + int(actions["follower"]) - 1, 0), last)
        self._steps += 1
        reward = {"leader": -abs(self.leader - self.goal) / last, "follower": -abs(self.follower - self.leader) / last}
        never, ended = ({agent: end for agent in self.possible_agents} for end in (False, self._steps >= self.HORIZON))
        info: dict[str, dict[str, Any]] = {agent: {} for agent in self.possible_agents}
        return MultiAgentStep(self._observe(), reward, never, ended, info)

    def _observe(self) -> Observations:
        places = {"leader": (self.leader, self.goal), "follower": (self.follower, self.leader)}
        return {agent: np.array(seen, np.float32) / ((self.SIZE - 1) / 2) - 1 for agent, seen in places.items()}
