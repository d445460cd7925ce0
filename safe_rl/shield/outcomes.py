"""What became of every recorded step: violation events and their warnings, needless interventions, reliability."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from safe_rl.shield.calibration import FloatArray, missed_share, wilson_interval

NEVER = np.iinfo(np.int64).max // 2
"""Steps to something that does not come."""
_LARGEST_JUMP = 0.05
"""What follows is told as long as one more violation would change a share by no more than this."""
_LARGEST_UNKNOWN = 0.05
"""Of a share, what may lie beyond that."""

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Outcomes:
    """Episodes laid end to end, ``N`` steps in all."""

    cost: BoolArray
    """(N,) the step violates the constraint."""
    terminated: BoolArray
    """(N,) nothing follows the step."""
    lengths: IntArray
    """(E,) steps of each episode; they add up to N."""

    @cached_property
    def episode(self) -> IntArray:
        """(N,) number of the episode of each step."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def steps_to_violation(self) -> IntArray:
        """(N,) steps until the next violation in the episode, 0 where this step is one, ``NEVER`` where none came."""
        steps = np.arange(len(self.cost))
        following = np.minimum.accumulate(np.where(self.cost, steps, NEVER)[::-1])[::-1]
        return np.where(following < self._ends, following - steps, NEVER)

    @cached_property
    def steps_followed(self) -> IntArray:
        """(N,) steps, this one included, of which is known what happened; ``NEVER`` where the episode terminated."""
        last = np.cumsum(self.lengths) - 1
        cut = np.repeat(~self.terminated[last], self.lengths)
        return np.where(cut, self._ends - np.arange(len(self.cost)), NEVER)

    @cached_property
    def _ends(self) -> IntArray:
        return np.repeat(np.cumsum(self.lengths), self.lengths)

    @cached_property
    def events(self) -> IntArray:
        """(n,) steps at which a violation begins; those that follow a violating step belong to the same event."""
        first = np.concatenate([[True], np.diff(self.episode) > 0])
        return np.flatnonzero(self.cost & (first | ~np.concatenate([[False], self.cost[:-1]])))

    def one_event_an_episode(self, seed: int) -> IntArray:
        """Draws one event of each episode that has one; (n,) steps.

        Events of one episode resemble each other and their windows overlap, so only episodes are exchangeable. One
        event each, drawn without looking at the risk, makes the events so too.
        """
        events = self.events
        order = np.lexsort((np.random.default_rng(seed).random(len(events)), self.episode[events]))
        _, first = np.unique(self.episode[events][order], return_index=True)
        return events[order][first]

    def scores(self, risk: FloatArray, events: IntArray, horizon: int) -> FloatArray:
        """Largest risk in the last ``horizon`` steps up to each event, its own step included.

        The window begins after an earlier violation of the episode, for a warning before that one is none of this one.

        Args:
            risk: (N,) ``Q_risk`` of every step.
            events: (n,) some of ``self.events``.
            horizon: H.

        Returns:
            (n,)
        """
        steps = np.arange(len(self.cost))
        previous = np.concatenate([[-1], np.maximum.accumulate(np.where(self.cost, steps, -1))[:-1]])
        episode_start = self._ends[events] - self.lengths[self.episode[events]]
        begin = np.maximum.reduce([events - horizon + 1, episode_start, previous[events] + 1])
        bounds = np.stack([begin, events + 1], axis=1).reshape(-1)
        scores: FloatArray = np.maximum.reduceat(np.append(risk, np.float32(0)), bounds)[::2]
        return scores

    def known_safe(self, horizon: int) -> BoolArray:
        """(N,) no violation in this step and the ``horizon - 1`` after it, and the episode was followed so far."""
        return (self.steps_to_violation >= horizon) & (self.steps_followed >= horizon)


@dataclass(frozen=True)
class Curve:
    """Missed violations against needless interventions, over thresholds from 0 to 1; all (M,)."""

    eps_risk: FloatArray
    missed: npt.NDArray[np.float64]
    """Share of events that are missed."""
    needless: npt.NDArray[np.float64]
    """Share of known safe steps in which the switch would take over."""

    @classmethod
    def of(cls, scores: FloatArray, safe_risk: FloatArray, most_points: int = 2000) -> Curve:
        """Computes it.

        Args:
            scores: (n,) of the events.
            safe_risk: (m,) risk of the known safe steps.
            most_points: Thinned to about so many thresholds.
        """
        values = np.sort(np.concatenate([scores, safe_risk, np.zeros(1, np.float32)]))
        thresholds = np.unique(values[:: max(1, len(values) // most_points)])
        thresholds = np.unique(np.concatenate([thresholds, values[-1:]]))
        return cls(thresholds, missed_share(scores, thresholds), 1 - missed_share(safe_risk, thresholds))


@dataclass(frozen=True)
class Reliability:
    """What followed where ``Q_risk`` was in each of ``B`` equal bins; NaN where the records do not tell."""

    edges: npt.NDArray[np.float64]
    """(B + 1,)"""
    num_steps: IntArray
    """(B,)"""
    num_episodes: IntArray
    """(B,) episodes that these steps come from: steps of one are not independent, so the intervals count episodes."""
    mean_risk: npt.NDArray[np.float64]
    """(B,) mean ``Q_risk``."""
    discounted: npt.NDArray[np.float64]
    """(B,) mean of ``gamma_risk^k``, ``k`` the steps to the violation: what ``Q_risk`` predicts."""
    within_horizon: npt.NDArray[np.float64]
    """(B,) share with a violation in this step or the ``horizon - 1`` after it."""

    def interval(self, share: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """95 % interval (B,), (B,) of ``discounted`` or ``within_horizon``."""
        return wilson_interval(share, np.maximum(self.num_episodes, 1))


def reliability(risk: FloatArray, outcomes: Outcomes, gamma: float, horizon: int, num_bins: int = 10) -> Reliability:
    """Compares ``Q_risk`` with what followed.

    An episode that was cut tells nothing of what would have come. Leaving such steps out would keep mostly those that
    ended in a violation, so the share is estimated as survival is (Kaplan-Meier): of the steps still followed after
    ``k`` steps, which part violates then? That is right where the cut does not depend on the risk: a time limit, say.

    Args:
        risk: (N,) ``Q_risk``.
        outcomes: What became of the steps.
        gamma: Discount of ``Q_risk``.
        horizon: H.
        num_bins: B.
    """
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    bins = np.clip(np.searchsorted(edges, risk, side="right") - 1, 0, num_bins - 1)
    rows = []
    for number in range(num_bins):
        chosen = bins == number
        episodes = len(np.unique(outcomes.episode[chosen]))
        mean_risk = float(risk[chosen].mean()) if chosen.any() else math.nan
        to_violation, followed = outcomes.steps_to_violation[chosen], outcomes.steps_followed[chosen]
        rows.append((int(chosen.sum()), episodes, mean_risk, *_followed(to_violation, followed, gamma, horizon)))
    steps, num_episodes, mean_risk_, discounted, within = (np.array(column) for column in zip(*rows, strict=True))
    return Reliability(edges, steps, num_episodes, mean_risk_, discounted, within)


def _followed(to_violation: IntArray, followed: IntArray, gamma: float, horizon: int) -> tuple[float, float]:
    """Mean discounted violation, and share of violations within ``horizon``; NaN where too few were followed so far."""
    violated = to_violation < NEVER
    duration = np.where(violated, to_violation + 1, followed)
    lags = np.arange(int(duration[duration < NEVER].max(initial=0)) + 1)
    horizon = min(horizon, len(lags))  # nothing comes later
    at_risk = len(duration) - np.searchsorted(np.sort(duration), lags, side="right")
    hazard = np.bincount(to_violation[violated], minlength=len(lags)) / np.maximum(at_risk, 1)
    surviving = np.concatenate([[1.0], np.cumprod(1 - hazard)])  # before each lag, and after the last
    tells = surviving[:-1] <= _LARGEST_JUMP * at_risk
    known = len(lags) if tells.all() else int(np.argmin(tells))
    density = (hazard * surviving[:-1])[:known]
    discounted = float((density * gamma ** lags[:known]).sum())
    unknown = surviving[known] * gamma**known if known < len(lags) else 0.0
    unknown_within = surviving[known] if known < horizon else 0.0
    within = 1 - float(surviving[min(known, horizon)])
    return (
        discounted if unknown <= _LARGEST_UNKNOWN else math.nan,
        within if unknown_within <= _LARGEST_UNKNOWN else math.nan,
    )
