from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_rl.errors import UserError
from safe_rl.normalization import ActionScaler, DiscreteScaler, ObservationNormalizer, action_scaler


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    offset=st.floats(-50, 50),
    scale=st.floats(0.1, 20),
)
def test_statistics_equal_numpys_however_the_data_is_split(seed, sizes, offset, scale):
    data = (offset + scale * np.random.default_rng(seed).standard_normal((sum(sizes), 3))).astype(np.float32)
    normalizer = ObservationNormalizer(3)
    for part in np.split(data, np.cumsum(sizes)[:-1]):
        normalizer.update(part)
    exact = data.astype(np.float64)
    assert normalizer.count.item() == len(data)
    np.testing.assert_allclose(normalizer.mean, exact.mean(0), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(normalizer.variance, exact.var(0), rtol=2e-3, atol=2e-3)


def test_by_hand():
    normalizer = ObservationNormalizer(2)
    normalizer.update(np.array([[1.0, 10.0], [3.0, 10.0]], np.float32))
    normalizer.update(np.array([[5.0, 10.0], [7.0, 10.0]], np.float32))
    assert normalizer.mean.tolist() == [4.0, 10.0]
    assert normalizer.variance.tolist() == [5.0, 0.0]  # (9 + 1 + 1 + 9) / 4
    scaled = normalizer(torch.tensor([[4.0 + 5.0**0.5, 10.0], [4.0, 10.5]]))
    # The second component never moved: it is shifted, but not blown up.
    torch.testing.assert_close(scaled, torch.tensor([[1.0, 0.0], [0.0, 0.5]]))


def test_clips_at_ten_deviations():
    normalizer = ObservationNormalizer(1)
    normalizer.update(np.array([[-1.0], [1.0]], np.float32))
    assert normalizer(torch.tensor([[9.5], [1e6], [-1e6]])).flatten().tolist() == [9.5, 10.0, -10.0]


def test_without_data_it_changes_nothing_but_the_extremes():
    obs = torch.tensor([[0.5, -3.0]])
    assert torch.equal(ObservationNormalizer(2)(obs), obs)
    assert obs.tolist() == [[0.5, -3.0]]


def test_normalising_leaves_its_input_alone():
    normalizer = ObservationNormalizer(1)
    obs = torch.tensor([[100.0]])
    normalizer(obs)
    assert obs.item() == 100.0


def test_statistics_travel_in_the_state_dict():
    normalizer, other = ObservationNormalizer(1), ObservationNormalizer(1)
    normalizer.update(np.array([[2.0], [6.0]], np.float32))
    other.load_state_dict(normalizer.state_dict())
    other.update(np.array([[10.0]], np.float32))
    normalizer.update(np.array([[10.0]], np.float32))
    assert other(torch.tensor([[5.0]])).item() == normalizer(torch.tensor([[5.0]])).item()
    assert other.mean.item() == 6.0


def _box(low, high):
    return gym.spaces.Box(np.array(low, np.float32), np.array(high, np.float32))


def test_actions_by_hand():
    scaler = ActionScaler(_box([-1.0, 0.0], [3.0, 10.0]))
    assert scaler.act_dim == 2
    assert scaler.to_env(np.array([[-1, -1], [0, 0], [1, 0.5]], np.float32)).tolist() == [[-1, 0], [1, 5], [3, 7.5]]
    assert scaler.to_unit(np.array([[-1, 0], [1, 5], [3, 7.5]], np.float32)).tolist() == [[-1, -1], [0, 0], [1, 0.5]]


def test_actions_beyond_the_limits_count_as_at_them():
    scaler = ActionScaler(_box([-2.0], [4.0]))
    assert scaler.to_env(np.array([[-1.5], [1.5]], np.float32)).tolist() == [[-2.0], [4.0]]
    assert scaler.to_unit(np.array([[-99.0], [99.0]], np.float32)).tolist() == [[-1.0], [1.0]]


@settings(max_examples=200, deadline=None)
@given(
    low=st.floats(-100, 100, width=32),
    width=st.floats(0.015625, 100, width=32),
    unit=st.floats(-1, 1, width=32),
)
def test_actions_stay_inside_and_come_back(low, width, unit):
    space = _box([low], [np.float32(low) + np.float32(width)])
    scaler = ActionScaler(space)
    action = scaler.to_env(np.array([[unit]], np.float32))
    assert action.dtype == np.float32
    assert space.contains(action[0])
    back = scaler.to_unit(action)
    assert abs(back.item() - unit) <= 1e-5 * (1 + abs(low) / width) * 4


def test_a_component_that_cannot_move_is_no_division_by_zero():
    scaler = ActionScaler(_box([1.0, -1.0], [1.0, 1.0]))
    assert scaler.to_env(np.array([[0.7, 0.7]], np.float32))[0, 0] == 1.0
    assert scaler.to_unit(np.array([[1.0, 0.5]], np.float32)).tolist() == [[0.0, 0.5]]


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (gym.spaces.Box(-np.inf, 1.0, (2,)), "finite limits"),
        (gym.spaces.Box(-1, 1, (2, 2)), "one-dimensional Box"),
        (gym.spaces.Box(-1, 1, ()), "one-dimensional Box"),
        (gym.spaces.Discrete(3), "one-dimensional Box"),
    ],
)
def test_unsuitable_action_spaces_are_named(space, words):
    with pytest.raises(UserError, match=words) as caught:
        ActionScaler(space)
    assert str(space) in str(caught.value)


@pytest.mark.parametrize(
    "space",
    [gym.spaces.MultiDiscrete([2, 3]), gym.spaces.MultiBinary(3), gym.spaces.Dict({"a": gym.spaces.Discrete(2)})],
)
def test_other_spaces_are_refused_in_one_line_that_says_which_are_served(space):
    with pytest.raises(UserError, match="must be Discrete or a one-dimensional Box") as caught:
        action_scaler(space)
    assert str(space) in str(caught.value)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------- discrete actions


def test_numbers_become_one_hot_rows_by_hand():
    scaler = action_scaler(gym.spaces.Discrete(3, start=-1))
    assert isinstance(scaler, DiscreteScaler)
    assert scaler.act_dim == 3
    assert scaler.to_unit(np.array([1, -1])).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert scaler.to_env(np.array([[0, 0, 1], [1, 0, 0]], np.float32)).tolist() == [1, -1]


@given(st.integers(1, 12), st.integers(-5, 5), st.integers(0, 2**16))
def test_numbers_come_back_however_they_are_held(count, start, seed):
    space = gym.spaces.Discrete(count, start=start)
    scaler = DiscreteScaler(space)
    numbers = np.random.default_rng(seed).integers(start, start + count, 20)
    for held in (numbers, numbers[:, None], numbers.astype(np.float32)[:, None]):  # the last as a dataset holds them
        rows = scaler.to_unit(held)
        assert rows.dtype == np.float32
        assert rows.shape == (20, count)
        assert (rows.sum(1) == 1).all()
        back = scaler.to_env(rows)
        assert back.tolist() == numbers.tolist()
        assert all(space.contains(number) for number in back)


@pytest.mark.parametrize("number", [1, 5])
def test_a_number_that_is_no_action_is_named(number):
    with pytest.raises(UserError, match=rf"the action {number} is none of Discrete\(3, start=2\)"):
        DiscreteScaler(gym.spaces.Discrete(3, start=2)).to_unit(np.array([2, number]))


def test_uniform_actions_are_one_hot_and_equally_likely():
    rows = DiscreteScaler(gym.spaces.Discrete(4)).uniform(20_000, torch.Generator().manual_seed(0))
    assert (rows.sum(1) == 1).all()
    assert rows.mean(0).tolist() == pytest.approx([0.25] * 4, abs=0.02)
