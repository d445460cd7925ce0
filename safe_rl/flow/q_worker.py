"""Rollout workers of DQN, and actors that keep its replay."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from safe_rl.algorithms.dqn import ApexConfig, DQNConfig, make_q_network
from safe_rl.algorithms.fragment import EpisodeSummary, Fragment
from safe_rl.algorithms.prioritized_replay import Ints, PrioritizedReplay, QBatch, n_step_rows
from safe_rl.flow.agent_worker import Choice, OffPolicyWorker
from safe_rl.flow.rollout_worker import Floats


class QWorker(OffPolicyWorker):
    """Acts epsilon-greedily: with the learner's epsilon, or in Ape-X each environment with its own.

    Args:
        env: as for ``RolloutWorker``.
        config: the method's settings.
        num_workers: how many there are.
        **kwargs: as for ``RolloutWorker``.
    """

    def __init__(self, env: str, config: DQNConfig, num_workers: int = 1, **kwargs: Any) -> None:
        super().__init__(env, **kwargs)
        self._q = make_q_network(self.envs.observation_space, self.envs.action_space, config)
        self._num_actions, self._start = self._q.sizes[-1], int(self.envs.action_space.start)  # type: ignore[attr-defined]
        count = self.envs.num_envs
        self.epsilon = np.ones(count)
        """(N,) share of random actions of each environment."""
        self._own = isinstance(config, ApexConfig)
        if isinstance(config, ApexConfig):
            numbers = range(self.index * count, (self.index + 1) * count)
            self.epsilon = np.array([config.epsilon_of(number, num_workers * count) for number in numbers])

    def set_weights(self, weights: Floats, version: int) -> None:
        """Takes over ``DQNLearner.weights``."""
        with torch.no_grad():
            self._q.flat.copy_(torch.from_numpy(np.array(weights[:-1])))
        if not self._own:
            self.epsilon[:] = weights[-1]
        self.version = version

    def decide(self, obs: Floats) -> Choice:
        """See ``OffPolicyWorker``."""
        count = len(obs)
        with torch.inference_mode():
            greedy = self._q(torch.from_numpy(obs))[0].argmax(1).numpy()
        random = self._rng.random(count) < self.epsilon
        action = np.where(random, self._rng.integers(0, self._num_actions, count), greedy) + self._start
        return Choice(action, action, np.zeros(count, dtype=np.bool_))


class Receipt(NamedTuple):
    """What a replay tells of a fragment that it took in."""

    num_steps: int
    episodes: tuple[EpisodeSummary, ...]


class ReplayActor:
    """Keeps a share of the transitions, so that they pass neither through the learner's process nor its memory.

    Args:
        obs_dim: length of an observation.
        start: number of the first action.
        config: the method's settings.
        seed: of the drawing.
        index: number of the actor.
    """

    def __init__(self, obs_dim: int, start: int, config: ApexConfig, *, seed: int = 0, index: int = 0) -> None:
        self.config, self._start = config, start
        capacity = max(config.replay_capacity // config.num_replays, 1)
        seeds = np.random.SeedSequence([seed, index]).generate_state(1)
        self.replay = PrioritizedReplay(
            capacity, obs_dim, config.priority_exponent, config.importance_exponent, int(seeds[0])
        )

    def add(self, fragment: Fragment) -> Receipt:
        """Takes a fragment in."""
        self.replay.add(n_step_rows(fragment, self.config.n_step, self.config.gamma, self._start))
        return Receipt(fragment.num_steps, fragment.episodes)

    def sample(self) -> list[QBatch]:
        """Some batches; none while there are too few transitions."""
        config = self.config
        fewest = max(min(config.learning_starts // config.num_replays, self.replay.capacity), 1)
        if len(self.replay) < fewest:
            return []
        drawn = [self.replay.sample(config.batch_size) for _ in range(config.batches_a_draw)]
        return [batch for batch in drawn if batch is not None]

    def set_priorities(self, indices: Ints, errors: Floats) -> None:
        """Notes the errors of rows that were seen."""
        self.replay.set_priorities(indices, errors)
