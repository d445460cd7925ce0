"""What a rollout worker hands in: a piece of ``T`` steps of ``N`` environments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from safe_rl.transitions import Transitions

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class EpisodeSummary(NamedTuple):
    """A finished episode."""

    return_: float
    """Sum of rewards."""
    steps: int
    """Length."""
    cost: float
    """Number of steps that violated the constraint."""
    success: bool
    """Whether the task was done at the last step."""
    overridden: int
    """Steps on which something else was executed than the policy proposed."""


@dataclass
class Fragment:
    """``T`` consecutive steps of ``N`` environments, in contiguous arrays with the time first.

    The row after the end of an episode only resets the environment (``valid`` is False there). So ``obs[t + 1]`` is
    what followed step ``t`` in every valid row, the last observation of a truncated episode too, and whoever values
    ``obs`` has all bootstrap values.
    """

    obs: Floats
    """(T + 1, N, obs_dim) observations in the environment's units."""
    task_action: npt.NDArray[Any]
    """(T, N) numbers of discrete actions, or (T, N, act_dim) draws of the Gaussian before they were clipped."""
    action: npt.NDArray[Any]
    """What was executed, in the environment's units; shape as ``task_action``."""
    log_prob: Floats
    """(T, N) log-probability, or log-density, of ``task_action`` under the policy that drew it."""
    reward: Floats
    """(T, N)"""
    cost: Floats
    """(T, N) in {0, 1}."""
    terminated: Bools
    """(T, N) the episode ended, nothing follows."""
    truncated: Bools
    """(T, N) the episode was cut, for a time limit say."""
    valid: Bools
    """(T, N) False where the row only resets."""
    overridden: Bools
    """(T, N) another action was executed than the policy proposed."""
    version: int = 0
    """Version of the weights that acted (the oldest of them, where several fragments were joined)."""
    worker: int = 0
    """Index of the worker."""
    episodes: tuple[EpisodeSummary, ...] = ()
    """The episodes that ended in this fragment."""

    @property
    def num_steps(self) -> int:
        """Environment steps in it; rows that reset are none."""
        return int(np.count_nonzero(self.valid))

    def transitions(self) -> Transitions:
        """The valid steps as a flat batch, for off-policy learners."""
        rows = self.valid
        return Transitions(
            obs=self.obs[:-1][rows],
            task_action=self.task_action[rows],
            action=self.action[rows],
            reward=self.reward[rows],
            cost=self.cost[rows],
            next_obs=self.obs[1:][rows],
            terminated=self.terminated[rows],
            truncated=self.truncated[rows],
        )


ARRAYS = [field.name for field in fields(Fragment) if field.name not in ("version", "worker", "episodes")]
"""The fields that are arrays with the environments second."""


def concat_fragments(fragments: Sequence[Fragment]) -> Fragment:
    """Joins fragments of the same length side by side: (T, N_1 + N_2 + ...).

    Raises:
        ValueError: Their lengths differ.
    """
    if len(fragments) == 1:
        return fragments[0]
    lengths = {len(fragment.reward) for fragment in fragments}
    if len(lengths) > 1:
        raise ValueError(f"fragments of different lengths {sorted(lengths)} cannot be joined")
    arrays = {name: np.concatenate([getattr(fragment, name) for fragment in fragments], axis=1) for name in ARRAYS}
    return Fragment(
        **arrays,
        version=min(fragment.version for fragment in fragments),
        worker=fragments[0].worker,
        episodes=tuple(episode for fragment in fragments for episode in fragment.episodes),
    )


def fragment_columns(fragment: Fragment, columns: npt.NDArray[np.int64]) -> Fragment:
    """The environments ``columns`` of a fragment, copied; without its episodes."""
    arrays = {name: getattr(fragment, name)[:, columns] for name in ARRAYS}
    return Fragment(**arrays, version=fragment.version, worker=fragment.worker)
