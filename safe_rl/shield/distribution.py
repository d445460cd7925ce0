"""How unlike the known data a state is: a distance in the risk critic's features, cheap enough for every decision."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from safe_rl.errors import UserError

FloatArray = npt.NDArray[np.float32]

MAX_RANK = 32
_SMALLEST_SHARE = 1e-5
"""Of the total variance: a direction with less counts as if it had so much. Dead features have none, and float32 cannot
tell less from rounding."""


class FeatureDistribution:
    """Mean, principal directions and what is left of them: a Mahalanobis distance of low rank.

    With ``k`` principal directions ``p_j`` of variance ``v_j``, and ``r`` the mean variance of the other ``F - k``,

        score^2 = (sum_j (p_j . d)^2 / v_j  +  (|d|^2 - sum_j (p_j . d)^2) / r) / F,        d = features - mean,

    1 on average over the data that it was fitted to. A score that is NaN or infinite, of features too large to be
    squared, is to be treated as larger than every threshold: ask ``not score <= threshold``.

    Args:
        mean: (F,) mean features.
        directions: (F, k) orthonormal principal directions.
        variances: (k + 1,) ``v_j`` and, last, ``r``.

    Raises:
        UserError: They do not fit together.
    """

    def __init__(self, mean: FloatArray, directions: FloatArray, variances: FloatArray) -> None:
        num_features, rank = directions.shape
        if mean.shape != (num_features,) or variances.shape != (rank + 1,) or not (variances > 0).all():
            raise UserError(
                f"the feature distribution does not fit together: mean {mean.shape}, directions {directions.shape}, "
                f"variances {variances.shape}, all of which must be positive; calibrate the bundle again"
            )
        self.mean, self.directions, self.variances = mean, directions, variances
        # score^2 = w |d|^2 + sum_j w_j (p_j . d)^2: two products and no division in the control loop.
        inverse = 1 / (variances.astype(np.float64) * num_features)
        self._length_weight = float(inverse[-1])
        self._across = np.ascontiguousarray(directions.T)
        self._weights = (inverse[:-1] - inverse[-1]).astype(np.float32)

    @classmethod
    def fit(cls, features: FloatArray, rank: int = MAX_RANK) -> FeatureDistribution:
        """Fits it.

        Args:
            features: (N, F) the risk critic's features on known data.
            rank: Number of principal directions, less where the data or the features have fewer.

        Raises:
            UserError: There are fewer than two rows, they are all the same, or some are not finite.
        """
        data = np.asarray(features, dtype=np.float64)
        if len(data) < 2 or not np.isfinite(data).all():
            raise UserError(f"the feature distribution needs two or more rows of finite features; it got {len(data)}")
        num_features = data.shape[1]
        values, vectors = np.linalg.eigh(np.cov(data, rowvar=False).reshape(num_features, num_features))
        values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
        if values[0] <= 0:
            raise UserError("the risk critic's features are the same in all of the data: it tells no states apart")
        rank = min(rank, len(data) - 1, num_features)
        rest = values[rank:].mean() if rank < num_features else values[0]
        variances = np.maximum(np.append(values[:rank], rest), _SMALLEST_SHARE * values.sum())
        mean, directions = data.mean(axis=0), vectors[:, :rank]
        return cls(*(np.ascontiguousarray(array, dtype=np.float32) for array in (mean, directions, variances)))

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[np.generic]]) -> FeatureDistribution:
        """Reads what ``to_arrays`` gave.

        Raises:
            UserError: Arrays are missing, unknown, or do not fit together.
        """
        shapes = {"mean": 1, "directions": 2, "variances": 1}
        ndims = {name: array.ndim for name, array in arrays.items()}
        if ndims != shapes or any(array.dtype != np.float32 for array in arrays.values()):
            raise UserError(
                f"the feature distribution holds {sorted(arrays)}: it must be float32 {sorted(shapes)}; "
                "calibrate the bundle again"
            )
        return cls(**{name: np.ascontiguousarray(array, dtype=np.float32) for name, array in arrays.items()})

    def to_arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """What ``from_arrays`` reads: mean, directions and variances."""
        return {"mean": self.mean, "directions": self.directions, "variances": self.variances}

    @property
    def num_features(self) -> int:
        """F."""
        return len(self.mean)

    def score(self, features: FloatArray) -> FloatArray:
        """Distance of each row.

        Args:
            features: (N, F)

        Returns:
            (N,) at least 0; about 1 where the features are ordinary.
        """
        if len(features) == 1:  # the control loop: a third of the time of what follows
            row = features[0] - self.mean
            along = self._across.dot(row)  # .dot asks less than @ before it multiplies
            squared = self._length_weight * float(row.dot(row)) + float(self._weights.dot(along * along))
            return np.array([0.0 if squared < 0 else math.sqrt(squared)], np.float32)  # rounding can fall below 0
        rows = features - self.mean
        projected = rows @ self.directions
        squares = self._length_weight * np.vecdot(rows, rows) + (projected * projected) @ self._weights
        scores: FloatArray = np.sqrt(np.maximum(squares, 0)).astype(np.float32)
        return scores


def flagging_threshold(scores: FloatArray, episode: npt.NDArray[np.int64], rate: float) -> tuple[float, float]:
    """Chooses the threshold above which inputs count as unlike the data.

    Steps of one episode depend on each other, episodes are exchangeable: conformal risk control (arXiv 2208.02814) of
    the share of an episode's steps that are flagged. That share is at most ``rate`` on average over episodes; a single
    one's can be larger, for what is unlike the data comes in rows.

    Args:
        scores: (N,) of data that the distribution was not fitted to.
        episode: (N,) number of the episode of each.
        rate: Largest mean share of flagged steps.

    Returns:
        The threshold, and the rate that it keeps: with fewer than ``1 / rate - 1`` episodes ``1 / (episodes + 1)``, by
        flagging none of this data.
    """
    _, number, lengths = np.unique(episode, return_inverse=True, return_counts=True)
    order = np.argsort(scores)[::-1]
    falling = scores[order]
    shares = np.concatenate([[0.0], np.cumsum(1 / lengths[number[order]])])
    # With each score as the threshold: the flagged shares, summed over the episodes, of all that is truly above it.
    flagged = shares[np.searchsorted(-falling, -falling, side="left")]
    allowed = float(Fraction(str(rate)) * (len(lengths) + 1) - 1)
    least = max(int(np.count_nonzero(flagged <= allowed + 1e-9)), 1)
    return float(falling[least - 1]), max(rate, 1 / (len(lengths) + 1))
