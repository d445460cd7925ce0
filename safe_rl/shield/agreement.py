"""How far two engines differ."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from safe_rl.shield.engine import Engine, Evaluation, FloatArray
from safe_rl.shield.observation import ObservationLayout
from safe_rl.shield.spec import BundleSpec

TOLERANCE = 1e-5
"""Engines that differ by no more count as equal."""


def largest_difference(
    engine: Engine, other: Engine, spec: BundleSpec, *, batch_sizes: tuple[int, ...] = (1, 2, 33), seed: int = 0
) -> float:
    """Compares two engines on random and on extreme inputs.

    Args:
        engine: The one.
        other: The other.
        spec: What they were made for.
        batch_sizes: Numbers of states to evaluate at once.
        seed: Of the random inputs.

    Returns:
        The largest difference of a number (relative where it is above 1); infinity where they hand over differently
        and the risks do not lie within ``TOLERANCE`` of where the switch turns. Where recovery is the least risky of
        sampled actions, those of equal risk count as equal.
    """
    rng = np.random.default_rng(seed)
    largest = 0.0
    for rows in batch_sizes:
        for obs in _observations(rng, rows, ObservationLayout(spec.observation_space)):
            proposal = _proposals(rng, rows, spec)
            # The switch turns where some of the rows lie.
            for eps_risk in (spec.switch.eps_risk, float(np.median(engine.decide(obs, 0.5).risk))):
                for one, two in (
                    (engine.decide(obs, eps_risk), other.decide(obs, eps_risk)),
                    (engine.filter(obs, proposal, eps_risk), other.filter(obs, proposal, eps_risk)),
                ):
                    largest = max(largest, _difference(engine, obs, eps_risk, spec, one, two))
    return largest


def _observations(rng: np.random.Generator, rows: int, layout: ObservationLayout) -> Iterator[npt.NDArray[Any]]:
    obs_dim = layout.size
    if layout.image_shape is not None:
        yield rng.integers(0, 256, (rows, obs_dim), dtype=np.uint8)
        for level in (0, 128, 255):
            yield np.full((rows, obs_dim), level, dtype=np.uint8)
        return
    random = rng.normal(size=(rows, obs_dim))
    signs = rng.choice([-1.0, 1.0], size=(rows, obs_dim))
    for obs in (random, 100 * random, 0 * random, 1e6 * signs, 1e-40 * signs, 3e38 * signs):
        yield obs.astype(np.float32)


def _proposals(rng: np.random.Generator, rows: int, spec: BundleSpec) -> FloatArray:
    """Actions within the limits and beyond them, far beyond in the last row."""
    low, high = np.array(spec.limits.low), np.array(spec.limits.high)
    proposal = low + (high - low) * rng.uniform(-0.5, 1.5, size=(rows, len(low)))
    proposal[-1] *= 1e6
    return proposal.astype(np.float32)


def _difference(
    engine: Engine, obs: npt.NDArray[Any], eps_risk: float, spec: BundleSpec, one: Evaluation, two: Evaluation
) -> float:
    recovery = _distance(one.recovery_action, two.recovery_action)
    recovery_risk = engine.filter(obs, one.recovery_action, eps_risk).risk
    if spec.recovery == "q-sampling":
        recovery = np.fmin(recovery, np.abs(engine.filter(obs, two.recovery_action, eps_risk).risk - recovery_risk))
    clear = np.abs(one.risk - eps_risk) > TOLERANCE
    if spec.switch.recovery_must_help:
        clear &= np.abs(one.risk - recovery_risk) > TOLERANCE
    if (clear & (one.hands_over != two.hands_over)).any():
        return math.inf
    others = [_distance(getattr(one, name), getattr(two, name)) for name in ("proposal", "risk", "features")]
    return float(max(part.max() for part in (recovery, *others)))


def _distance(one: FloatArray, two: FloatArray) -> npt.NDArray[np.float64]:
    """(N,) largest difference of each row, relative to the row's largest number where that is above 1."""
    if one.shape != two.shape or one.dtype != two.dtype or not (np.isfinite(one).all() and np.isfinite(two).all()):
        return np.full(len(one), np.inf)
    a, b = (array.reshape(len(array), -1).astype(np.float64) for array in (one, two))
    distance: npt.NDArray[np.float64] = np.abs(a - b).max(axis=1) / np.maximum(1.0, np.abs(a).max(axis=1))
    return distance
