"""Navigation 2 with eight headings in the place of continuous moves."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest

import sim
from safe_rl.errors import UserError
from sim.discrete import HEADINGS, DiscreteNavigation2, nearest_heading
from sim.navigation import Navigation2

sim.register_envs()


@pytest.mark.parametrize(
    ("action", "move"), [(0, (1, 0)), (1, (1, 1)), (2, (0, 1)), (4, (-1, 0)), (6, (0, -1)), (7, (1, -1))]
)
def test_a_heading_moves_as_the_same_continuous_action_does(action: int, move: tuple[int, int]):
    discrete, continuous = DiscreteNavigation2(), Navigation2()
    for env in (discrete, continuous):
        env.reset(seed=3)
    found, wanted = discrete.step(action), continuous.step(np.array(move, np.float32))
    np.testing.assert_array_equal(found[0], wanted[0])
    assert found[1:] == wanted[1:]


def test_headings_are_in_order_and_at_full_speed():
    assert [math.degrees(math.atan2(y, x)) % 360 for x, y in HEADINGS] == pytest.approx(range(0, 360, 45))
    assert {max(abs(x), abs(y)) for x, y in HEADINGS} == {1.0}


@pytest.mark.parametrize(
    ("move", "number"),
    [((0.3, 0.01), 0), ((0.5, 0.6), 1), ((-1, -0.1), 4), ((0.2, -1), 6), ((1, -0.9), 7), ((0, 0), 0)],
)
def test_the_nearest_heading(move: tuple[float, float], number: int):
    assert nearest_heading(np.array(move)) == number


def test_the_nearest_heading_of_a_heading_is_itself():
    assert [int(nearest_heading(np.array(move))) for move in HEADINGS] == list(range(8))


@pytest.mark.parametrize("action", [8, -1, 1.0, "east", None, np.array([1, 2])])
def test_what_is_no_heading_is_refused(action: object):
    env = DiscreteNavigation2()
    env.reset(seed=0)
    with pytest.raises(UserError, match="whole number from 0 to 7"):
        env.step(action)  # type: ignore[arg-type]


def test_offline_segments_know_every_heading_near_every_side():
    env, rng = DiscreteNavigation2(), np.random.default_rng(0)
    seen: set[tuple[int, int]] = set()
    for _ in range(1500):
        segment = env.sample_offline_segment(rng)
        x, y = segment.state
        side = 0 if x < -30 else 1 if x > -20 else 2 if y < 0 else 3
        seen.add((side, int(segment.policy(segment.state, rng))))
    assert len(seen) == 4 * 8


def test_it_is_registered_with_its_horizon():
    env = gym.make("safe_rl/DiscreteNavigation2-v0")
    assert env.spec is not None and env.spec.max_episode_steps == 100
    assert isinstance(env.unwrapped, DiscreteNavigation2)
    env.close()
