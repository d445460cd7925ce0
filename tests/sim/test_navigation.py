from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_rl.errors import UserError
from sim.navigation import Navigation, Navigation1, Navigation2


class Scripted:
    """A generator that returns the given noise, then zeros."""

    def __init__(self, *noise: tuple[float, float]) -> None:
        self.noise = list(noise)

    def standard_normal(self, size: int) -> np.ndarray:
        return np.array(self.noise.pop(0) if self.noise else (0.0, 0.0))


def step_from(
    env: Navigation, state: tuple[float, float], action: tuple[float, float], noise: tuple[float, float] = (0.0, 0.0)
) -> tuple[Any, ...]:
    env.reset(seed=0, options={"state": state})
    env.np_random = Scripted(noise)  # type: ignore[assignment]
    return env.step(np.array(action, np.float32))


def test_one_step_by_hand() -> None:
    obs, reward, terminated, truncated, info = step_from(Navigation1(), (-30.0, -4.0), (1.0, 0.5), noise=(2.0, -1.0))
    np.testing.assert_allclose(obs, (-30.0 + 1.0 + 0.1, -4.0 + 0.5 - 0.05), rtol=1e-6)
    assert obs.dtype == np.float32
    assert reward == pytest.approx(-math.sqrt(916.0))  # of the state before the step
    assert (terminated, truncated) == (False, False)
    assert info == {"cost": 0.0, "success": False}


def test_the_start_is_minus_fifty_with_unit_noise() -> None:
    env = Navigation2()
    starts = np.array([env.reset(seed=seed)[0] for seed in range(2000)])
    np.testing.assert_allclose(starts.mean(0), (-50.0, 0.0), atol=0.1)
    np.testing.assert_allclose(starts.std(0), (1.0, 1.0), atol=0.06)


def test_the_noise_of_a_step_is_a_twentieth_on_each_axis() -> None:
    env = Navigation2()
    moves = []
    env.reset(seed=0)
    for _ in range(2000):
        env.reset(options={"state": (-40.0, 3.0)})
        moves.append(env.step(np.zeros(2, np.float32))[0] - (-40.0, 3.0))
    np.testing.assert_allclose(np.std(moves, axis=0), (0.05, 0.05), rtol=0.05)
    np.testing.assert_allclose(np.mean(moves, axis=0), (0.0, 0.0), atol=0.004)
    assert abs(np.corrcoef(np.transpose(moves))[0, 1]) < 0.07


@pytest.mark.parametrize(
    ("action", "move"),
    [((3.0, -7.0), (1.0, -1.0)), ((-1.5, 0.25), (-1.0, 0.25)), ((0.5, 2.0), (0.5, 1.0)), ((1.0, -1.0), (1.0, -1.0))],
)
def test_actions_are_clipped_to_one(action: tuple[float, float], move: tuple[float, float]) -> None:
    obs = step_from(Navigation1(), (-20.0, 0.5), action)[0]
    np.testing.assert_allclose(obs, (-20.0 + move[0], 0.5 + move[1]), rtol=1e-6)


@pytest.mark.parametrize(
    ("state", "success"), [((3.9, 0.0), True), ((4.0, 0.0), False), ((0.0, -3.99), True), ((3.0, 3.0), False)]
)
def test_success_is_of_the_state_before_the_step(state: tuple[float, float], success: bool) -> None:
    _, reward, terminated, _, info = step_from(Navigation1(), state, (1.0, 0.0))
    assert reward == pytest.approx(-math.hypot(*state), rel=1e-6)
    assert (terminated, info["success"], info["cost"]) == (success, success, 0.0)


@pytest.mark.parametrize(
    ("env", "state", "action", "cost"),
    [
        (Navigation1(), (-50.0, 4.5), (0.0, 0.5), 1.0),  # the edge y = 5 belongs to the wall
        (Navigation1(), (-50.0, 4.5), (0.0, 0.49), 0.0),
        (Navigation1(), (-50.0, -4.5), (0.0, -0.5), 1.0),
        (Navigation1(), (-50.0, -4.5), (0.0, -0.49), 0.0),
        (Navigation1(), (-79.5, 0.0), (-0.5, 0.0), 1.0),
        (Navigation1(), (-79.5, 0.0), (-0.49, 0.0), 0.0),
        (Navigation2(), (-30.5, 0.0), (0.5, 0.0), 1.0),
        (Navigation2(), (-30.5, 0.0), (0.49, 0.0), 0.0),
        (Navigation2(), (-30.5, 7.0), (0.5, 0.5), 1.0),  # exactly the corner
        (Navigation2(), (-30.5, 7.25), (0.5, 0.5), 0.0),
        (Navigation2(), (-19.5, -3.0), (-0.5, 0.0), 1.0),
        (Navigation2(), (-25.0, -8.0), (0.0, 0.5), 1.0),
        (Navigation2(), (-25.0, 8.0), (0.0, -0.49), 0.0),
    ],
)
def test_obstacles_are_closed_boxes(
    env: Navigation, state: tuple[float, float], action: tuple[float, float], cost: float
) -> None:
    _, _, terminated, truncated, info = step_from(env, state, action)
    assert (info["cost"], terminated, truncated) == (cost, cost == 1.0, False)
    assert not info["success"]


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(st.floats(-60, 10), st.floats(-25, 25)),
    st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    st.integers(0, 2**32 - 1),
)
def test_the_observation_tells_the_cost(state: tuple[float, float], action: tuple[float, float], seed: int) -> None:
    env = Navigation2()
    if env.touches_obstacle(*state):
        with pytest.raises(UserError, match="obstacle"):
            env.reset(seed=seed, options={"state": state})
        return
    env.reset(seed=seed, options={"state": state})
    obs, *_, info = env.step(np.array(action, np.float32))
    x, y = obs.tolist()
    assert info["cost"] == float(-30.0 <= x <= -20.0 and -7.5 <= y <= 7.5)


@pytest.mark.parametrize("action", [(np.nan, 0.0), (0.0, np.nan), (np.inf, 0.0), (0.0, -np.inf)])
def test_an_action_that_is_not_finite_is_refused_and_moves_nothing(action: tuple[float, float]) -> None:
    env = Navigation1()
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(UserError, match="not finite"):
        env.step(np.array(action, np.float32))
    assert env.get_state() == before


def test_a_finished_episode_does_not_go_on() -> None:
    env = Navigation1()
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(2, np.float32))
    assert step_from(env, (-50.0, 4.5), (0.0, 1.0))[2]
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(2, np.float32))


@pytest.mark.parametrize("state", [(0.0,), (0.0, 1.0, 2.0), (np.nan, 0.0), "here", 3.0, (0.0, np.inf)])
def test_a_start_that_is_no_point_is_refused(state: Any) -> None:
    with pytest.raises(UserError, match="state="):
        Navigation1().reset(seed=0, options={"state": state})


def test_a_state_restored_goes_on_as_the_original() -> None:
    env, other = Navigation2(), Navigation2()
    env.reset(seed=3)
    for _ in range(5):
        env.step(np.array((1.0, 0.2), np.float32))
    other.reset(seed=99)
    other.set_state(json.loads(json.dumps(env.get_state())))
    for _ in range(20):
        action = np.array((0.5, -0.5), np.float32)
        np.testing.assert_array_equal(env.step(action)[0], other.step(action)[0])
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])


@pytest.mark.parametrize("state", [(-60.0, 3.0), (-40.0, -12.0), (-31.0, 1.0), (-25.0, 8.0), (-19.0, -4.0), (5.0, 2.0)])
def test_the_expert_goes_round_the_block_from_anywhere(state: tuple[float, float]) -> None:
    env = Navigation2()
    obs, _ = env.reset(seed=1, options={"state": state})
    for _ in range(100):
        obs, _, terminated, _, info = env.step(env.expert_action(obs))
        if terminated:
            break
    assert (info["success"], info["cost"]) == (True, 0.0)


def test_offline_starts_are_where_the_reference_has_them() -> None:
    rng = np.random.default_rng(0)
    corridor = np.array([Navigation1().sample_offline_segment(rng).state for _ in range(1000)])
    assert (corridor[:, 0] >= -80).all() and (corridor[:, 0] <= 50).all()
    assert (np.abs(corridor[:, 1]) >= 2).all() and (np.abs(corridor[:, 1]) <= 5).all()
    assert 400 < (corridor[:, 1] > 0).sum() < 600

    env = Navigation2()
    segments = [env.sample_offline_segment(rng) for _ in range(2000)]
    pushed = [s for s in segments if "pushing" in s.policy.__qualname__]
    assert 0.62 < len(pushed) / len(segments) < 0.71
    sides = np.zeros(4)
    for segment in pushed:
        (x, y), (dx, dy) = segment.state, segment.policy(segment.state, rng)
        left, right = -35 <= x <= -30 and 0.5 <= dx <= 1, -20 <= x <= -15 and -1 <= dx <= -0.5
        below, above = -12.5 <= y <= -7.5 and 0.5 <= dy <= 1, 7.5 <= y <= 12.5 and -1 <= dy <= -0.5
        assert left or right or below or above
        sides += (left, right, below, above)
    assert (sides > 250).all()
