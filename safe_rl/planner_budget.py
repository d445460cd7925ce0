"""Chooses how large a search may be for its time."""

from __future__ import annotations

import dataclasses
import logging
import math
import statistics
from collections.abc import Callable

from safe_rl.errors import UserError
from safe_rl.planner_config import PlannerConfig

logger = logging.getLogger(__name__)

MARGIN = 1.1
"""A search counts as so many times as long as it was measured, for what the machine does besides."""
REPEATS = 5
"""Plans that are timed, once the search is warm; their median counts."""
HOPELESS = 4
"""A plan that takes so many budgets does not do so for being the first: it is not timed again."""
LEAST_POPULATION = 25
"""No smaller population is tried."""


def search_within(
    planner: PlannerConfig, duration: Callable[[PlannerConfig], float], *, particles: bool
) -> PlannerConfig:
    """The largest search of ``cuts`` that keeps to ``planner.budget_ms``.

    Args:
        planner: The search that is asked for.
        duration: Makes a plan and tells how many seconds it took.
        particles: Whether there are any.

    Raises:
        UserError: Not even the smallest search does.
    """
    budget_ms, tried = planner.budget_ms, cuts(planner, particles=particles)
    least_ms = _needed_ms(tried[-1], budget_ms, duration)
    if least_ms > budget_ms:
        raise UserError(
            f"--planner.budget-ms is {budget_ms:g}: the smallest search ({describe(tried[-1], particles=particles)}) "
            f"needs more here; give at least {math.ceil(least_ms)}, or a shorter --planner.horizon or smaller "
            "--planner.hidden-sizes"
        )
    for search in tried[:-1]:
        needed_ms = _needed_ms(search, budget_ms, duration)
        if needed_ms <= budget_ms:
            words = describe(search, particles=particles)
            logger.info("planner: %s within %g ms (%.1f with a margin)", words, budget_ms, needed_ms)
            return search
    return tried[-1]


def cuts(planner: PlannerConfig, *, particles: bool) -> list[PlannerConfig]:
    """A search and smaller ones, in the order in which they are tried.

    First the particles, where there are any, are halved down to one for each network, then the population, with its
    elites, as long as it does not fall below ``LEAST_POPULATION``, then one iteration after the other is left out.
    """
    made = [planner]
    size = planner.ensemble_size
    while particles and made[-1].particles > size:
        made.append(dataclasses.replace(made[-1], particles=size * (made[-1].particles // size // 2)))
    while (population := made[-1].population // 2) >= LEAST_POPULATION:
        elites = max(planner.elites * population // planner.population, 1)
        made.append(dataclasses.replace(made[-1], population=population, elites=elites))
    for iterations in range(planner.iterations - 1, 0, -1):
        made.append(dataclasses.replace(made[-1], iterations=iterations))
    return made


def describe(search: PlannerConfig, *, particles: bool) -> str:
    """A search in words."""
    iterations = "1 iteration" if search.iterations == 1 else f"{search.iterations} iterations"
    words = f"{iterations}, population {search.population}"
    return f"{words}, {search.particles} particles" if particles else words


def _needed_ms(search: PlannerConfig, budget_ms: float, duration: Callable[[PlannerConfig], float]) -> float:
    """What a search takes, with a margin; one that is far from its budget is not timed again."""
    first = 1e3 * duration(search)
    if first > HOPELESS * budget_ms and search.iterations > 1:
        return first
    duration(search)
    return MARGIN * 1e3 * statistics.median(duration(search) for _ in range(REPEATS))
