"""Runs a policy without exploration or learning and counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from safe_rl.envs.factory import CostEnv
from safe_rl.rollout import EpisodeRecord, Rollout
from safe_rl.switch import Decision

EVALUATION_SEED_OFFSET = 1_000_003
"""Keeps the seeds of evaluation episodes apart from those of training."""


class Actor(Protocol):
    """What can be evaluated: an agent, or a shield in its place."""

    def act(self, obs: npt.NDArray[np.float32], *, explore: bool) -> Decision:
        """Decides for ``N`` flat observations."""
        ...


@dataclass
class Evaluation:
    """The episodes of an evaluation."""

    episodes: list[EpisodeRecord]

    def summary(self) -> dict[str, float]:
        """Rates and means over the episodes."""
        return {
            "success_rate": float(np.mean([episode.success for episode in self.episodes])),
            "violation_rate": float(np.mean([episode.violation for episode in self.episodes])),
            "return_mean": float(np.mean([episode.return_ for episode in self.episodes])),
            "length_mean": float(np.mean([episode.steps for episode in self.episodes])),
            "recovery_share": sum(e.recovery_steps for e in self.episodes) / sum(e.steps for e in self.episodes),
        }


def evaluate(
    agent: Actor,
    env: CostEnv,
    episodes: int,
    *,
    seed: int = 0,
    on_episode: Callable[[EpisodeRecord], None] | None = None,
) -> Evaluation:
    """Runs ``episodes`` episodes with the mean action.

    Args:
        agent: Decides; it neither observes nor learns.
        env: Left open, in the middle of a new episode.
        episodes: How many.
        seed: The same seed gives the same starts; none of them is a training episode's.
        on_episode: Called after each.
    """
    rollout = Rollout([env], seed + EVALUATION_SEED_OFFSET)
    records: list[EpisodeRecord] = []
    while len(records) < episodes:
        _, ended = rollout.step(agent.act(rollout.obs, explore=False), lambda: 0.0)
        records.extend(ended)
        if on_episode is not None:
            for record in ended:
                on_episode(record)
    return Evaluation(records)
