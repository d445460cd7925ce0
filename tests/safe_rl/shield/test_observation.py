from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_rl.envs.spaces import flat_dim, flatten_observation, space_to_json
from safe_rl.errors import UserError
from safe_rl.shield.latency import random_observations
from safe_rl.shield.observation import ObservationLayout

boxes = st.builds(
    lambda shape, dtype: spaces.Box(0, 200, shape, dtype),
    st.lists(st.integers(1, 3), max_size=3).map(tuple),
    st.sampled_from([np.float32, np.float64, np.uint8, np.int64]),
)
keys = st.text("abcAB_/. ", min_size=1, max_size=3)
any_space = st.recursive(
    boxes, lambda inner: st.dictionaries(keys, inner, min_size=1, max_size=3).map(spaces.Dict), max_leaves=5
)


@settings(max_examples=60, deadline=None)
@given(any_space, st.integers(0, 1000))
def test_it_flattens_as_the_training_does(space: gym.Space, seed: int) -> None:
    space.seed(seed)
    obs = space.sample()
    layout = ObservationLayout(space_to_json(space))
    assert layout.size == flat_dim(space)
    row = np.zeros(layout.size, np.float32)
    layout.flatten(obs, row)
    np.testing.assert_array_equal(row, flatten_observation(space, obs))
    again = np.zeros_like(row)
    layout.flatten(layout.unflatten(row), again)
    np.testing.assert_array_equal(again, row)


@pytest.mark.parametrize(
    "description",
    [None, {}, {"type": "Discrete", "n": 3}, {"type": "Box"}, {"type": "Dict"}, {"type": "Dict", "spaces": [1]},
     {"type": "Box", "shape": [2], "dtype": "no"}, {"type": "Box", "shape": [-1, -2], "dtype": "float32"},
     {"type": "Box", "shape": ["2"], "dtype": "float32"}],
)  # fmt: skip
def test_a_description_that_is_none_is_one_line(description) -> None:
    with pytest.raises(UserError, match="observation space"):
        ObservationLayout(description)


@pytest.mark.parametrize("low", ["x", [], {}, [0, 1, 2], 10**400])
def test_bounds_that_are_none_are_one_line(low) -> None:
    space = {"type": "Box", "low": low, "high": 1.0, "shape": [2], "dtype": "float32"}
    with pytest.raises(UserError, match="observation space: low does not fit"):
        random_observations(space, 1, seed=0)
