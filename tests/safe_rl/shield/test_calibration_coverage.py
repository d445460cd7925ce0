"""Is the promise kept? Many draws of calibration sets from distributions whose true miss rate is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from safe_rl.shield.calibration import CalibrationError, Promise, binomial_cdf, choose_threshold

DRAWS = 1000
VALUES = np.array([0.0625, 0.25, 0.3125, 0.5, 0.875, 1.0], np.float32)
PROBABILITIES = np.array([0.01, 0.03, 0.02, 0.24, 0.6, 0.1])

FloatArray = npt.NDArray[np.float32]
Rule = Callable[[FloatArray, Promise], float]


class Beta:
    """Scores without ties: uniform ones to a power."""

    def draw(self, rng: np.random.Generator, num: int) -> FloatArray:
        return (rng.random(num) ** (1 / 3)).astype(np.float32)

    def miss_rate(self, eps: float) -> float:
        return float(eps**3)


class Discrete:
    """A critic that knows six values."""

    def draw(self, rng: np.random.Generator, num: int) -> FloatArray:
        return rng.choice(VALUES, num, p=PROBABILITIES)

    def miss_rate(self, eps: float) -> float:
        return float(PROBABILITIES[np.float32(eps) >= VALUES].sum())


class Clipped(Beta):
    """Many scores tie at 0.5, the others have no ties."""

    def draw(self, rng: np.random.Generator, num: int) -> FloatArray:
        return np.maximum(super().draw(rng, num), np.float32(0.5))

    def miss_rate(self, eps: float) -> float:
        return super().miss_rate(eps) if eps >= 0.5 else 0.0


def rule(scores: FloatArray, promise: Promise) -> float:
    try:
        return choose_threshold(scores, promise).eps_risk
    except CalibrationError:
        return -1.0  # refused: nothing is promised


def one_too_many(scores: FloatArray, promise: Promise) -> float:
    """Misses one event more than is allowed."""
    return float(np.nextafter(np.sort(scores)[promise.allowed_misses(len(scores)) + 1], np.float32(0)))


def at_the_score(scores: FloatArray, promise: Promise) -> float:
    """Forgets that the switch lets a risk pass that equals its threshold."""
    return float(np.sort(scores)[promise.allowed_misses(len(scores))])


def true_miss_rates(chosen: Rule, distribution: Beta | Discrete, promise: Promise, num: int) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng(20_221)
    return np.array([distribution.miss_rate(chosen(distribution.draw(rng, num), promise)) for _ in range(DRAWS)])


def is_kept(rates: npt.NDArray[np.float64], promise: Promise) -> bool:
    """False by chance in one of a million cases."""
    if promise.confidence is None:
        return float(rates.mean()) <= promise.miss_rate + 5 * float(rates.std()) / np.sqrt(DRAWS)
    num_broken = int(np.count_nonzero(rates > promise.miss_rate + 1e-9))
    return bool(1 - binomial_cdf(DRAWS, 1 - promise.confidence)[max(num_broken - 1, 0)] > 1e-6)


@pytest.mark.parametrize("distribution", [Beta(), Discrete(), Clipped()], ids=lambda d: type(d).__name__)
@pytest.mark.parametrize(
    ("num", "promise"),
    [
        (59, Promise(0.05, 0.95)),
        (200, Promise(0.05, 0.95)),
        (93, Promise(0.05, 0.9)),
        (50, Promise(0.2, 0.9)),
        (19, Promise(0.05, None)),
        (200, Promise(0.05, None)),
        (25, Promise(0.2, None)),
    ],
    ids=str,
)
def test_the_promise_is_kept(distribution: Beta | Discrete, num: int, promise: Promise) -> None:
    assert is_kept(true_miss_rates(rule, distribution, promise, num), promise)


@pytest.mark.parametrize(
    ("num", "promise"), [(59, Promise(0.05, 0.95)), (93, Promise(0.05, 0.95)), (19, Promise(0.05, None))], ids=str
)
def test_a_rule_that_is_one_off_is_found_out(num: int, promise: Promise) -> None:
    assert not is_kept(true_miss_rates(one_too_many, Beta(), promise, num), promise)
    assert not is_kept(true_miss_rates(at_the_score, Discrete(), promise, num), promise)


def test_the_promise_is_not_kept_by_being_timid() -> None:
    """Where scores do not tie, the rate is exceeded about as often as the binomial tail says."""
    promise, num = Promise(0.05, 0.95), 93
    share = float((true_miss_rates(rule, Beta(), promise, num) > promise.miss_rate).mean())
    expected = float(binomial_cdf(num, promise.miss_rate)[promise.allowed_misses(num)])
    assert share == pytest.approx(expected, abs=5 * np.sqrt(expected / DRAWS))
    mean = true_miss_rates(rule, Beta(), Promise(0.05, None), 39).mean()
    assert mean == pytest.approx(2 / 40, abs=0.006)
