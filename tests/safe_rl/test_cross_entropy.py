from __future__ import annotations

import pytest
import torch

from safe_rl.cross_entropy import minimize
from safe_rl.errors import UserError
from safe_rl.planner_config import PlannerConfig


def column(*values: float) -> torch.Tensor:
    """Plans of one action of one number each, in one state (1, P, 1, 1)."""
    return torch.tensor(values).view(1, -1, 1, 1)


def draw(config: PlannerConfig, horizon: int, act_dim: int) -> torch.Tensor:
    shape = (config.iterations, 1, config.population, horizon, act_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_two_iterations_by_hand():
    """Cost |a - 1|; deviation 0.5 at first, so the noise -1, 0, 1, 1.6 around 0 offers -0.5, 0, 0.5, 0.8.

    The elites 0.5 and 0.8 have the mean 0.65 and the deviation 0.15; with momentum 0.1 the mean becomes 0.585 and the
    deviation 0.1 * 0.5 + 0.9 * 0.15 = 0.185. The second noise offers 0.585 + 0.185 * (2, 0, 0, -1): 0.955 at best.
    """
    offered = []

    def cost(plans):
        offered.append(plans.flatten().tolist())
        return (plans - 1).abs().sum(dim=(2, 3))

    config = PlannerConfig(horizon=1, population=4, elites=2, iterations=2, momentum=0.1)
    noise = torch.stack([column(-1.0, 0.0, 1.0, 1.6), column(2.0, 0.0, 0.0, -1.0)])
    plan = minimize(cost, column(0.0), config, noise)
    assert offered[1] == pytest.approx([-0.5, 0.0, 0.5, 0.8])
    assert offered[2] == pytest.approx([0.955, 0.585, 0.585, 0.4])
    assert plan.item() == pytest.approx(0.955)


def test_it_finds_the_minimum_of_a_quadratic_in_each_state():
    goal = torch.tensor([[[0.4, -0.7], [-0.2, 0.9]], [[-0.6, 0.0], [0.3, 0.1]]])  # (2 states, 2 steps, 2 numbers)
    config = PlannerConfig(horizon=2, population=300, elites=30, iterations=12)
    plan = minimize(
        lambda plans: (plans - goal[:, None]).square().sum(dim=(2, 3)), torch.zeros(2, 1, 2, 2), config,
        draw(config, 2, 2),
    )  # fmt: skip
    torch.testing.assert_close(plan, goal, atol=0.01, rtol=0)


def test_plans_stay_within_the_actions():
    config = PlannerConfig(iterations=10)
    plan = minimize(lambda plans: -plans.sum(dim=(2, 3)), torch.zeros(1, 1, 5, 2), config, draw(config, 5, 2))
    assert plan.max() == 1.0
    assert plan.min() > 0.9


def test_it_begins_at_the_best_start_and_never_ends_worse():
    config = PlannerConfig(horizon=1, population=6, elites=2, iterations=1)
    starts = column(-0.9, 0.75, 0.1)
    cost = lambda plans: (plans - 0.75).abs().sum(dim=(2, 3))  # noqa: E731
    assert minimize(cost, starts, config, draw(config, 1, 1)).item() == 0.75
    offered = []
    minimize(lambda plans: offered.append(plans) or cost(plans), starts, config, torch.zeros(1, 1, 6, 1, 1))
    assert (offered[1] == 0.75).all()


def test_a_cost_that_is_no_number_is_the_worst():
    config = PlannerConfig(horizon=1, population=40, elites=4)
    cost = lambda plans: torch.where(plans > 0.2, torch.nan, -plans).sum(dim=(2, 3))  # noqa: E731
    assert minimize(cost, column(0.0), config, draw(config, 1, 1)).item() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"horizon": 0}, "--planner.horizon is 0: it must be at least 1"),
        ({"population": 0, "elites": 1}, "--planner.population is 0"),
        ({"elites": 500}, "--planner.elites is 500: it must be at least 1 and at most the population, 400"),
        ({"elites": 0}, "--planner.elites is 0"),
        ({"iterations": 0}, "--planner.iterations is 0"),
        ({"momentum": 1.0}, "--planner.momentum is 1.0: it must be at least 0 and below 1"),
        ({"momentum": float("nan")}, "--planner.momentum is nan"),
        ({"hidden_sizes": (0,)}, r"--planner.hidden-sizes is \(0,\)"),
        ({"learning_rate": 0.0}, "--planner.learning-rate is 0.0"),
        ({"batch_size": 0}, "--planner.batch-size is 0"),
        ({"pretrain_steps": 0}, "--planner.pretrain-steps is 0"),
        ({"refresh_every": -1}, "--planner.refresh-every is -1: it must be at least 0"),
        ({"refresh_steps": 0}, "--planner.refresh-steps is 0"),
    ],
)
def test_a_setting_out_of_range_is_one_line(changes, words):
    with pytest.raises(UserError, match=words):
        PlannerConfig(**changes)
