from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_rl.shield.outcomes import NEVER, Curve, Outcomes, reliability

# Three episodes: one that ends in a violation, one that goes on after two of them and is cut, one that ends well.
COST = np.array([0, 0, 1, *[0, 1, 1, 0, 1, 0], *[0, 0]], bool)
TERMINATED = np.array([0, 0, 1, *[0, 0, 0, 0, 0, 0], *[0, 1]], bool)
OUTCOMES = Outcomes(COST, TERMINATED, np.array([3, 6, 2]))


def test_steps_to_the_next_violation_stay_within_the_episode() -> None:
    expected = [2, 1, 0, *[1, 0, 0, 1, 0, NEVER], *[NEVER, NEVER]]
    np.testing.assert_array_equal(OUTCOMES.steps_to_violation, expected)


def test_what_is_known_ends_where_an_episode_was_cut() -> None:
    np.testing.assert_array_equal(OUTCOMES.steps_followed, [*[NEVER] * 3, 6, 5, 4, 3, 2, 1, *[NEVER] * 2])
    np.testing.assert_array_equal(np.flatnonzero(OUTCOMES.known_safe(1)), [0, 1, 3, 6, 8, 9, 10])
    np.testing.assert_array_equal(np.flatnonzero(OUTCOMES.known_safe(2)), [0, 9, 10])


def test_violating_steps_in_a_row_are_one_event() -> None:
    np.testing.assert_array_equal(OUTCOMES.events, [2, 4, 7])
    back_to_back = Outcomes(np.array([1, 1, 1], bool), np.array([1, 0, 1], bool), np.array([1, 2]))
    np.testing.assert_array_equal(back_to_back.events, [0, 1])


def test_one_event_of_each_episode_is_drawn_evenly_by_the_seed() -> None:
    drawn = np.array([OUTCOMES.one_event_an_episode(seed) for seed in range(400)])
    assert (drawn[:, 0] == 2).all()
    assert set(drawn[:, 1]) == {4, 7}
    assert np.mean(drawn[:, 1] == 4) == pytest.approx(0.5, abs=0.1)
    np.testing.assert_array_equal(OUTCOMES.one_event_an_episode(3), OUTCOMES.one_event_an_episode(3))


def test_windows_end_at_the_event_and_begin_within_the_episode_after_the_last_violation() -> None:
    risk = np.array([0.9, 0.1, 0.2, *[0.3, 0.25, 0.8, 0.4, 0.35, 1.0], *[1.0, 1.0]], np.float32)
    for horizon, expected in (
        (1, [0.2, 0.25, 0.35]),
        (2, [0.2, 0.3, 0.4]),
        (3, [0.9, 0.3, 0.4]),
        (99, [0.9, 0.3, 0.4]),
    ):
        np.testing.assert_array_equal(OUTCOMES.scores(risk, OUTCOMES.events, horizon), np.float32(expected))


@st.composite
def records(draw: st.DrawFn) -> tuple[Outcomes, np.ndarray]:
    lengths = np.array(draw(st.lists(st.integers(1, 12), min_size=1, max_size=8)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num = int(lengths.sum())
    outcomes = Outcomes(rng.random(num) < draw(st.floats(0, 0.6)), rng.random(num) < 0.3, lengths)
    return outcomes, rng.random(num).astype(np.float32)


@given(records(), st.integers(1, 15))
@settings(max_examples=150, deadline=None)
def test_everything_agrees_with_plain_loops(record: tuple[Outcomes, np.ndarray], horizon: int) -> None:
    outcomes, risk = record
    events, scores, start = [], [], 0
    for length in outcomes.lengths:
        end = start + length
        last = start - 1
        for step in range(start, end):
            following = [k for k in range(step, end) if outcomes.cost[k]]
            assert outcomes.steps_to_violation[step] == (following[0] - step if following else NEVER)
            followed = NEVER if outcomes.terminated[end - 1] else end - step
            assert outcomes.steps_followed[step] == followed
            is_safe = not any(outcomes.cost[step : min(step + horizon, end)]) and followed >= horizon
            assert outcomes.known_safe(horizon)[step] == is_safe
            if outcomes.cost[step]:
                if step == start or not outcomes.cost[step - 1]:
                    events.append(step)
                    scores.append(risk[max(step - horizon + 1, start, last + 1) : step + 1].max())
                last = step
        start = end
    np.testing.assert_array_equal(outcomes.events, events)
    if events:
        np.testing.assert_array_equal(outcomes.scores(risk, outcomes.events, horizon), scores)


def test_the_curve_by_hand() -> None:
    curve = Curve.of(np.array([0.2, 0.6], np.float32), np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    np.testing.assert_array_equal(curve.eps_risk, np.float32([0, 0.1, 0.2, 0.3, 0.4, 0.6]))
    np.testing.assert_array_equal(curve.missed, [0, 0, 0.5, 0.5, 0.5, 1])
    np.testing.assert_array_equal(curve.needless, [1, 0.75, 0.5, 0.25, 0, 0])


def test_reliability_of_episodes_that_were_followed_to_their_end() -> None:
    """40 episodes of 2 steps, 10 violate in the second: gamma^1 and gamma^0 there, nothing elsewhere."""
    cost = np.zeros((40, 2), bool)
    cost[:10, 1] = True
    outcomes = Outcomes(cost.reshape(-1), np.tile([False, True], 40), np.full(40, 2))
    risk = np.tile(np.array([0.25, 0.75], np.float32), 40)
    result = reliability(risk, outcomes, gamma=0.5, horizon=1, num_bins=2)
    np.testing.assert_array_equal(result.num_steps, [40, 40])
    np.testing.assert_array_equal(result.num_episodes, [40, 40])
    np.testing.assert_allclose(result.mean_risk, [0.25, 0.75])
    np.testing.assert_allclose(result.discounted, [0.25 * 0.5, 0.25])
    np.testing.assert_allclose(result.within_horizon, [0, 0.25])
    for far in (2, 3, 10**15):  # nothing comes later
        within = reliability(risk, outcomes, 0.5, horizon=far, num_bins=2).within_horizon
        np.testing.assert_allclose(within, [0.25, 0.25])


def test_reliability_is_not_fooled_by_a_time_limit() -> None:
    """A violation comes with probability 0.1 a step whatever happens; episodes are cut after 1 to 8 steps."""
    rng, gamma, horizon = np.random.default_rng(0), 0.8, 5
    comes, limit = rng.geometric(0.1, 20_000) - 1, rng.integers(1, 9, 20_000)
    lengths = np.minimum(comes + 1, limit)
    cost = np.zeros(lengths.sum(), bool)
    cost[np.cumsum(lengths)[comes < limit] - 1] = True
    outcomes = Outcomes(cost, cost, lengths)
    result = reliability(np.full(len(cost), 0.35, np.float32), outcomes, gamma, horizon, num_bins=1)
    assert result.within_horizon[0] == pytest.approx(1 - 0.9**5, abs=0.01)
    # 0.1 / (1 - 0.8 * 0.9), of which the data tells all but 0.72^8 = 7 %; that much is unknown, so nothing is said.
    assert np.isnan(result.discounted[0])
    shorter = reliability(np.full(len(cost), 0.35, np.float32), outcomes, 0.6, horizon, num_bins=1)
    assert shorter.discounted[0] == pytest.approx(0.1 / (1 - 0.6 * 0.9), abs=0.01)
    kept = outcomes.steps_to_violation < NEVER
    kept |= outcomes.steps_followed >= horizon
    naive = (outcomes.steps_to_violation[kept] < horizon).mean()
    assert naive > 0.5  # what leaving out the undecided steps would have said: 0.41 is the truth


def test_bins_that_tell_nothing_are_left_open() -> None:
    outcomes = Outcomes(np.zeros(30, bool), np.zeros(30, bool), np.ones(30, int))
    result = reliability(np.full(30, 0.05, np.float32), outcomes, gamma=0.9, horizon=3)
    np.testing.assert_array_equal(result.num_steps, [30] + [0] * 9)
    assert np.isnan(result.discounted).all()
    assert np.isnan(result.within_horizon).all()
    assert reliability(np.full(30, 0.05, np.float32), outcomes, 0.9, horizon=1).within_horizon[0] == 0


def test_intervals_count_episodes_not_steps() -> None:
    lengths = np.full(25, 40)
    outcomes = Outcomes(np.arange(1000) % 40 >= 20, np.arange(1000) % 40 == 39, lengths)
    result = reliability(np.full(1000, 0.5, np.float32), outcomes, gamma=0.9, horizon=1, num_bins=1)
    low, high = result.interval(result.within_horizon)
    assert result.within_horizon[0] == pytest.approx(0.5)
    assert (low[0], high[0]) == (pytest.approx(0.3174, abs=1e-3), pytest.approx(0.6826, abs=1e-3))  # n = 25
