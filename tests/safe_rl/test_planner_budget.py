"""Planning within a time: which search is chosen, when it ends, what is refused."""

from __future__ import annotations

import pytest
import torch

from safe_rl.cross_entropy import Deadline, minimize
from safe_rl.errors import UserError
from safe_rl.planner_budget import MARGIN, cuts, describe, search_within
from safe_rl.planner_config import PlannerConfig


def sizes(planner: PlannerConfig, *, particles: bool = True) -> list[tuple[int, int, int, int]]:
    return [(s.particles, s.population, s.elites, s.iterations) for s in cuts(planner, particles=particles)]


def test_particles_are_cut_first_then_the_population_then_the_iterations():
    assert sizes(PlannerConfig(population=100, elites=10, iterations=3)) == [
        (20, 100, 10, 3), (10, 100, 10, 3), (5, 100, 10, 3), (5, 50, 5, 3), (5, 25, 2, 3), (5, 25, 2, 2), (5, 25, 2, 1),
    ]  # fmt: skip
    assert sizes(PlannerConfig(population=40, elites=1, iterations=2), particles=False) == [
        (20, 40, 1, 2),
        (20, 40, 1, 1),
    ]


def linear(planner: PlannerConfig) -> float:
    """A machine on which each candidate's particle takes a microsecond."""
    return 1e-6 * planner.iterations * planner.population * planner.particles


@pytest.mark.parametrize(
    ("budget_ms", "expected"),
    [(1000, (20, 400, 5)), (40 * MARGIN, (20, 400, 5)), (40, (10, 400, 5)), (10, (5, 200, 5)), (1, (5, 25, 5))],
)
def test_the_largest_search_within_the_budget_is_chosen(budget_ms, expected):
    search = search_within(PlannerConfig(budget_ms=budget_ms), linear, particles=True)
    assert (search.particles, search.population, search.iterations) == expected


def test_a_budget_that_nothing_meets_is_refused_with_the_least_that_works():
    """The smallest search takes 25 * 5 microseconds, 0.1375 ms with the margin."""
    timed = []
    words = (
        r"^--planner.budget-ms is 0.1: the smallest search \(1 iteration, population 25, 5 particles\) .* at least 1,"
    )
    with pytest.raises(UserError, match=words):
        search_within(PlannerConfig(budget_ms=0.1), lambda s: timed.append(s) or linear(s), particles=True)
    assert {s.iterations for s in timed} == {1}  # nothing large was waited for
    assert search_within(PlannerConfig(budget_ms=1), linear, particles=True)


def test_the_first_plan_and_a_hiccup_do_not_count():
    """Plans take 1 ms; the first of each search is four times as slow, and one of five is halted for a second."""
    plans: dict[str, int] = {}

    def duration(search: PlannerConfig) -> float:
        name = describe(search, particles=True)
        plans[name] = plans.get(name, 0) + 1
        return {1: 4e-3, 4: 1.0}.get(plans[name], 1e-3)

    planner = PlannerConfig(budget_ms=1.0 * MARGIN + 1e-6)
    assert search_within(planner, duration, particles=True) is planner


def test_a_plan_that_is_far_too_slow_is_made_once():
    timed: list[int] = []

    def duration(search: PlannerConfig) -> float:
        timed.append(search.population * search.particles)
        return 10 * linear(search)

    search = search_within(PlannerConfig(budget_ms=50), duration, particles=True)
    assert (search.particles, search.population, search.iterations) == (5, 100, 5)
    assert timed.count(400 * 20) == 1  # 400 ms against 50
    assert timed.count(400 * 5) == 7  # 100 ms: the first plan may be so slow


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("budget", "iterations"), [(0.5, 0), (1.0, 0), (3.5, 2), (4.0, 3), (100.0, 5)])
def test_a_search_ends_when_one_more_iteration_would_be_too_late(budget, iterations):
    """Judging the starts takes 1, each iteration 1: with 3.5 the second ends at 3, the third would at 4."""
    clock, judged = Clock(), []

    def cost(plans):
        clock.now += 1.0
        judged.append(plans)
        return plans.abs().sum(dim=(2, 3))

    config = PlannerConfig(horizon=1, population=8, elites=2, iterations=5)
    noise = torch.randn(5, 1, 8, 1, 1, generator=torch.Generator().manual_seed(0))
    start = torch.full((1, 1, 1, 1), 0.3)
    plan = minimize(cost, start, config, noise, Deadline(budget, clock))
    assert len(judged) == 1 + iterations
    assert clock.now <= max(budget, 1.0)
    assert (plan.abs() <= 0.3).all()  # what was found by then, or the start
    clock.now = 0.0
    judged.clear()
    free = minimize(cost, start, config, noise[: max(iterations, 1)])
    if iterations:
        assert torch.equal(plan, free)


def test_the_longest_iteration_so_far_is_what_one_more_may_take():
    """Calls at 0, 3 and 4: the iteration from 3 to 4 was short, one more may take 3 again."""
    clock = Clock()
    deadline = Deadline(6.5, clock)
    clock.now = 3.0
    assert deadline.allows_another()
    clock.now = 4.0
    assert not deadline.allows_another()
