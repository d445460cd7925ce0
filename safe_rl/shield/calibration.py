"""Which ``eps_risk`` misses at most a wanted share of violations: statistics of scores, nothing else.

A violation event is *missed* by the switch with threshold ``eps`` where its score, the largest ``Q_risk`` shortly
before it, is at most ``eps``. A larger threshold misses more and disturbs less: the largest that keeps the promise is
wanted.

Scores of future events are assumed exchangeable with those given (for a confidence: independent draws of one
distribution). Nothing else is assumed of them; ties and a critic that knows only a few values are allowed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from safe_rl.errors import UserError

FloatArray = npt.NDArray[np.float32]


class CalibrationError(UserError):
    """Data that do not support the promise; the message has the numbers and the cure."""


@dataclass(frozen=True)
class Promise:
    """What is wanted."""

    miss_rate: float
    """Largest share of violations that the switch may miss."""
    confidence: float | None = None
    """Probability, over the draw of the held-out data, that the share is kept; None: it is kept on average."""

    def __post_init__(self) -> None:
        """Validates the values."""
        if not 0 < self.miss_rate < 1:
            raise UserError(f"--miss-rate is {self.miss_rate}: it must be more than 0 and less than 1")
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise UserError(f"--confidence is {self.confidence}: it must be more than 0 and less than 1, or None")

    def allowed_misses(self, num_events: int) -> int:
        """How many of ``num_events`` held-out events may be missed; -1 where even none is too many.

        With a confidence, learn-then-test (arXiv 2110.01052) over all float32 thresholds from 0 upwards: each is tested
        against ``H: miss rate > miss_rate`` by the exact binomial p-value ``P(Binomial(n, miss_rate) <= misses)``, up
        to the first that is not rejected. Misses only grow with the threshold, so the answer is one number.

        Without, conformal risk control (arXiv 2208.02814): ``(misses + 1) / (n + 1) <= miss_rate``.
        """
        if self.confidence is None:
            # The decimal that was typed: 0.29 * 100 is 28.999... in binary.
            return math.floor(Fraction(str(self.miss_rate)) * (num_events + 1)) - 1
        p_values = binomial_cdf(num_events, self.miss_rate)
        return int(np.searchsorted(p_values, 1 - self.confidence, side="right")) - 1

    def events_needed(self) -> int:
        """Least number of held-out events with which the promise can be kept at all."""
        if self.confidence is None:
            return math.ceil(1 / Fraction(str(self.miss_rate))) - 1
        needed = max(1, math.ceil(math.log(1 - self.confidence) / math.log1p(-self.miss_rate)) - 1)
        # As in binomial_cdf, whose rounding decides; that would take room for every one of them.
        enough = np.exp(needed * math.log1p(-self.miss_rate)) <= 1 - self.confidence
        return needed if enough else needed + 1

    def supported_miss_rate(self, num_events: int, num_missed: int) -> float:
        """Least miss rate that can be promised where ``num_missed`` of ``num_events`` are missed."""
        if self.confidence is None:
            return (num_missed + 1) / (num_events + 1)
        return upper_bound(num_missed, num_events, self.confidence)


@dataclass(frozen=True)
class Threshold:
    """A threshold and what it did in the held-out data."""

    eps_risk: float
    """Largest threshold that keeps the promise; exact in float32."""
    num_events: int
    """Held-out events."""
    num_missed: int
    """Those of them that it misses."""
    allowed_misses: int
    """The most that it was allowed to miss; ties can keep it below."""


def require_enough(num_events: int, promise: Promise) -> None:
    """Raises ``CalibrationError`` where so few events cannot support the promise, whatever their scores."""
    if promise.allowed_misses(num_events) < 0:
        rate = promise.supported_miss_rate(num_events, 0)
        raise CalibrationError(
            f"{_number(num_events, 'violation')} cannot support {_wanted(promise)}: "
            f"at least {promise.events_needed():,} episodes with a violation are needed; "
            f"these support a miss rate of {_round_up(rate)} at best"
        )


def choose_threshold(scores: FloatArray, promise: Promise) -> Threshold:
    """Chooses the largest ``eps_risk`` in [0, 1) that keeps the promise.

    Args:
        scores: (n,) the largest ``Q_risk`` before each held-out event, in [0, 1].
        promise: What is wanted.

    Raises:
        CalibrationError: There are too few events, or too many with a score of 0.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float32))
    num_events = len(ordered)
    require_enough(num_events, promise)
    allowed = promise.allowed_misses(num_events)
    # Just below the first score that must not be missed; with all of them allowed, the largest threshold there is.
    first_caught = ordered[allowed] if allowed < num_events else np.float32(1)
    if first_caught <= 0:
        num_zero = int(np.count_nonzero(ordered <= 0))
        rate = promise.supported_miss_rate(num_events, num_zero)
        where = f"a miss rate of {_round_up(rate)} at best" if num_zero < num_events else "nothing"
        raise CalibrationError(
            f"the risk critic gives 0 to {num_zero:,} of {_number(num_events, 'violation')}, and no threshold helps: "
            f"{_wanted(promise)} allows {allowed:,} to be missed, this supports {where}; train the risk critic on "
            "more violations of this kind"
        )
    eps_risk = np.nextafter(first_caught, np.float32(0))
    return Threshold(float(eps_risk), num_events, int(np.count_nonzero(ordered <= eps_risk)), allowed)


def missed_share(scores: FloatArray, eps_risk: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Share of the events (n,) that each threshold misses; compares in float32 as the switch does."""
    thresholds = np.asarray(eps_risk, dtype=np.float32)
    return np.searchsorted(np.sort(scores), thresholds, side="right") / len(scores)


def binomial_cdf(num: int, probability: float) -> npt.NDArray[np.float64]:
    """``P(Binomial(num, probability) <= k)`` for ``k = 0 ... num``; (num + 1,)."""
    k = np.arange(1, num + 1, dtype=np.float64)
    steps = np.log(num + 1 - k) - np.log(k) + math.log(probability) - math.log1p(-probability)
    log_pmf = num * math.log1p(-probability) + np.concatenate([[0.0], np.cumsum(steps)])
    return np.minimum(np.exp(np.logaddexp.accumulate(log_pmf)), 1.0)


def upper_bound(num_missed: int, num: int, confidence: float) -> float:
    """One-sided Clopper-Pearson bound: the least rate under which so few misses have a chance of 1 - confidence."""
    if num_missed >= num:
        return 1.0
    low, high = num_missed / num, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_cdf(num, middle)[num_missed] > 1 - confidence else (low, middle)
    return high


def wilson_interval(
    share: npt.NDArray[np.float64], num: npt.NDArray[np.int64], *, z: float = 1.96
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Wilson's 95 % interval of binomial shares.

    Args:
        share: (B,) observed shares.
        num: (B,) independent observations behind each.
        z: Quantile of the normal distribution.

    Returns:
        Lower and upper ends (B,).
    """
    weight = z**2 / num
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * np.sqrt(np.maximum(share * (1 - share), 0) / num + weight / (4 * num))
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def _wanted(promise: Promise) -> str:
    how = "on average" if promise.confidence is None else f"with confidence {promise.confidence:g}"
    return f"a miss rate of {promise.miss_rate:g} {how}"


def _round_up(rate: float) -> str:
    return f"{math.ceil(rate * 1000) / 1000:g}"


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
