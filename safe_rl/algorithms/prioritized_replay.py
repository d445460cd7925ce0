"""Replay of n-step transitions with discrete actions, drawn by priority (arXiv 1511.05952)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from safe_rl.algorithms.fragment import Fragment

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

SMALLEST = 1e-6
"""Added to each priority: no transition is lost for good."""


class QRows(NamedTuple):
    """``B`` n-step transitions."""

    obs: Floats
    """(B, obs_dim)"""
    action: Ints
    """(B,) counted from 0."""
    reward: Floats
    """(B,) ``sum_{k < m} gamma^k r_k`` over the ``m <= n`` steps that there are."""
    discount: Floats
    """(B,) ``gamma^m``, and 0 where the episode terminated within them."""
    next_obs: Floats
    """(B, obs_dim) after the last of them."""


class QBatch(NamedTuple):
    """Rows that were drawn."""

    obs: Floats
    action: Ints
    reward: Floats
    discount: Floats
    next_obs: Floats
    weight: Floats
    """(B,) importance weights, at most 1."""
    indices: Ints
    """(B,) where they lie."""


def n_step_rows(fragment: Fragment, n: int, gamma: float, start: int = 0) -> QRows:
    """Cuts a fragment into n-step transitions; those at its end, or an episode's, bootstrap after fewer steps.

    Args:
        fragment: with discrete actions.
        n: rewards to sum.
        gamma: discount.
        start: number of the first action.
    """
    length, count = fragment.reward.shape
    ended = fragment.terminated | fragment.truncated
    reward, discount = np.zeros((length, count), np.float32), np.ones((length, count), np.float32)
    last = np.zeros((length, count), dtype=np.int64)
    alive = fragment.valid.copy()
    for k in range(min(n, length)):
        alive[length - k :] = False  # the fragment has no more
        here, ahead = slice(0, length - k), slice(k, length)
        go = alive[here]
        reward[here] += np.where(go, discount[here] * fragment.reward[ahead], 0.0)
        discount[here] *= np.where(go, gamma * ~fragment.terminated[ahead], 1.0)
        last[here] = np.where(go, np.arange(k, length)[:, None], last[here])
        alive[here] &= ~ended[ahead]
    rows = fragment.valid
    next_obs = fragment.obs[last + 1, np.arange(count)]
    action = (fragment.action - start).astype(np.int64)
    return QRows(fragment.obs[:-1][rows], action[rows], reward[rows], discount[rows], next_obs[rows])


class PrioritizedReplay:
    """A ring of rows; ``P(i) = p_i^alpha / sum_j p_j^alpha`` with ``p_i`` the magnitude of the error when last seen.

    Args:
        capacity: rows kept.
        obs_dim: length of an observation.
        priority_exponent: ``alpha``; 0 draws uniformly.
        importance_exponent: ``beta`` of the weights ``(N P(i))^-beta``, scaled so that the largest is 1.
        seed: of the drawing.
    """

    def __init__(
        self, capacity: int, obs_dim: int, priority_exponent: float, importance_exponent: float, seed: int = 0
    ) -> None:
        self.capacity, self.alpha, self.beta = capacity, priority_exponent, importance_exponent
        self._rows = QRows(
            np.empty((capacity, obs_dim), np.float32),
            np.empty(capacity, np.int64),
            np.empty(capacity, np.float32),
            np.empty(capacity, np.float32),
            np.empty((capacity, obs_dim), np.float32),
        )
        self._tree = SumTree(capacity)
        self._largest = 1.0
        self._next = self._size = 0
        self._rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return self._size

    def add(self, rows: QRows) -> None:
        """Takes rows in, over the oldest; new ones count as the most surprising so far, so that all are seen."""
        count = len(rows.action)
        if count > self.capacity:
            count = self.capacity
        places = (self._next + np.arange(count)) % self.capacity
        columns: list[tuple[Any, Any]] = list(zip(self._rows, rows, strict=True))
        for column, values in columns:
            column[places] = values[-count:]
        self._tree.set(places, np.full(count, self._largest**self.alpha))
        self._next = (self._next + count) % self.capacity
        self._size = min(self._size + count, self.capacity)

    def sample(self, batch_size: int) -> QBatch | None:
        """Draws rows with replacement; None where there are none."""
        if self._size == 0:
            return None
        indices = self._tree.find(self._rng.random(batch_size) * self._tree.total)
        weight = (self._size * self._tree.get(indices) / self._tree.total) ** -self.beta
        rows = self._rows
        return QBatch(
            rows.obs[indices],
            rows.action[indices],
            rows.reward[indices],
            rows.discount[indices],
            rows.next_obs[indices],
            weight=(weight / weight.max()).astype(np.float32),
            indices=indices,
        )

    def set_priorities(self, indices: Ints, errors: Floats) -> None:
        """Notes the errors' magnitudes (B,) of rows that were seen."""
        priorities = np.asarray(errors, np.float64) + SMALLEST
        self._largest = max(self._largest, float(priorities.max()))
        self._tree.set(indices, priorities**self.alpha)


class SumTree:
    """Numbers of which any prefix's sum is found in logarithmic time, many at once."""

    def __init__(self, size: int) -> None:
        self._leaves = 1 << max(size - 1, 0).bit_length()
        self._nodes = np.zeros(2 * self._leaves)

    @property
    def total(self) -> float:
        """The sum of all."""
        return float(self._nodes[1])

    def get(self, indices: Ints) -> npt.NDArray[np.float64]:
        """The numbers at ``indices``."""
        return self._nodes[indices + self._leaves]

    def set(self, indices: Ints, values: npt.NDArray[np.float64]) -> None:
        """Sets the numbers at ``indices``; of equal indices the last counts."""
        nodes = indices + self._leaves
        self._nodes[nodes] = values
        while len(nodes) and nodes[0] > 1:
            nodes = np.unique(nodes // 2)
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]

    def find(self, sums: npt.NDArray[np.float64]) -> Ints:
        """For each of ``sums``, below ``total``, the index at which the prefix sum passes it."""
        nodes = np.ones(len(sums), dtype=np.int64)
        rest = sums.copy()
        while nodes[0] < self._leaves:
            left = self._nodes[2 * nodes]
            # Rounding may leave a little more than there is: never step into an empty half.
            right = (rest >= left) & (self._nodes[2 * nodes + 1] > 0)
            rest -= np.where(right, left, 0.0)
            nodes = 2 * nodes + right
        return nodes - self._leaves
