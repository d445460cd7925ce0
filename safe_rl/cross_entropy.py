"""The cross-entropy method: plans of actions that minimise a cost."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from safe_rl.planner_config import PlannerConfig

START_STD = 0.5
"""Deviation of the first plans: a quarter of the range of an action, as in PETS (arXiv 1805.12114)."""

Cost = Callable[[Tensor], Tensor]
"""The costs (N, P) of ``P`` plans (N, P, horizon, act_dim) in each of ``N`` states."""


class Deadline:
    """Tells whether there is time for one more iteration.

    Args:
        seconds: from now on.
        clock: tells the time in seconds, once what was asked of the device is done.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._last = clock()
        self._end = self._last + seconds
        self._longest = 0.0

    def allows_another(self) -> bool:
        """Whether another iteration would be done in time, if it takes as long as the longest since the last call."""
        now = self._clock()
        self._longest, self._last = max(self._longest, now - self._last), now
        return now + self._longest <= self._end


def minimize(
    cost: Cost, starts: Tensor, config: PlannerConfig, noise: Tensor, deadline: Deadline | None = None
) -> Tensor:
    """Searches for plans of least cost in ``N`` states side by side (CEM, as in PETS, arXiv 1805.12114).

    It begins at the start of least cost, draws plans around it, and moves towards the best of them. What comes back is
    the best plan of all that were compared, the starts among them: never a worse one than it began with.

    Args:
        cost: Judges plans; a cost that is not a number counts as the worst.
        starts: (N, S, horizon, act_dim) plans to begin at, the best of which is taken.
        config: Sizes of the search.
        noise: (iterations, N or 1, population, horizon, act_dim) standard normal numbers.
        deadline: Ends the search between two iterations; what it has found by then counts.

    Returns:
        (N, horizon, act_dim) actions in [-1, 1].
    """
    mean, least = _best(starts, _judged(cost, starts))
    std = torch.full_like(mean, START_STD)
    plan = mean
    for drawn in noise:
        if deadline is not None and not deadline.allows_another():
            break
        plans = (mean[:, None] + std[:, None] * drawn).clamp(-1, 1)
        costs = _judged(cost, plans)
        found, value = _best(plans, costs)
        plan = torch.where((value < least)[:, None, None], found, plan)
        least = torch.minimum(value, least)
        elites = _rows(plans, costs.topk(config.elites, largest=False).indices)
        mean = mean.lerp(elites.mean(1), 1 - config.momentum)
        std = std.lerp(elites.std(1, unbiased=False), 1 - config.momentum)
    return plan


def _judged(cost: Cost, plans: Tensor) -> Tensor:
    return cost(plans).nan_to_num(nan=torch.inf)


def _best(plans: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
    """The plan (N, horizon, act_dim) of least cost in each state, and that cost (N,)."""
    value, index = costs.min(1)
    return _rows(plans, index[:, None]).squeeze(1), value


def _rows(plans: Tensor, indices: Tensor) -> Tensor:
    """Of the plans (N, P, ...) in each state those with the numbers ``indices`` (N, K)."""
    return plans[torch.arange(len(plans), device=plans.device)[:, None], indices]
