from __future__ import annotations

import json

import numpy as np
import pytest
from gymnasium import spaces

from safe_rl.envs.spaces import (
    flat_dim,
    flat_dtype,
    flatten_observation,
    flatten_observations,
    image_shape,
    space_from_json,
    space_to_json,
)
from safe_rl.errors import UserError

NESTED = spaces.Dict(
    {
        "b": spaces.Box(-1, 1, (2,), np.float64),
        "a": spaces.Dict({"image": spaces.Box(0, 255, (2, 2), np.uint8), "count": spaces.Box(0, 9, (), np.float32)}),
    }
)


def test_a_box_is_flattened_row_by_row():
    space = spaces.Box(0, 255, (2, 3), np.uint8)
    flat = flatten_observation(space, np.arange(6, dtype=np.uint8).reshape(2, 3))
    assert flat_dim(space) == 6
    assert flat.dtype == np.float32
    assert flat.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_nested_dict_is_flattened_in_the_alphabetical_order_of_its_keys():
    obs = {"b": np.array([0.5, -0.5]), "a": {"count": np.float32(7), "image": np.array([[1, 2], [3, 4]], np.uint8)}}
    assert flatten_observation(NESTED, obs).tolist() == [7, 1, 2, 3, 4, 0.5, -0.5]  # a.count, a.image, b
    assert flat_dim(NESTED) == 7


def test_flattening_copies():
    obs = np.zeros(2, np.float32)
    flat = flatten_observation(spaces.Box(-1, 1, (2,)), obs)
    obs[0] = 1.0
    assert flat.tolist() == [0, 0]


def test_a_batch_is_flattened_like_its_rows():
    rng = np.random.default_rng(0)
    rows = [
        {k: s.sample() if k == "b" else {n: t.sample() for n, t in s.items()} for k, s in NESTED.items()}
        for _ in range(3)
    ]
    batch = {
        "b": np.stack([row["b"] for row in rows]),
        "a": {name: np.stack([row["a"][name] for row in rows]) for name in ("image", "count")},
    }
    np.testing.assert_array_equal(
        flatten_observations(NESTED, batch), np.stack([flatten_observation(NESTED, row) for row in rows])
    )
    box = spaces.Box(-1, 1, (2, 2))
    obs = rng.uniform(size=(5, 2, 2)).astype(np.float32)
    assert flatten_observations(box, obs).shape == (5, 4)


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.Dict({"a": spaces.Discrete(2)}), spaces.MultiBinary(3)])
def test_other_observation_spaces_are_refused(space):
    with pytest.raises(UserError, match="must be a Box or a Dict of Boxes"):
        flat_dim(space)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, np.inf, (2,), np.float32),
        spaces.Box(np.array([-np.inf, 0, -1.5], np.float64), np.array([1, np.inf, 2.25], np.float64), dtype=np.float64),
        spaces.Box(0, 255, (2, 3, 1), np.uint8),
        spaces.Box(-1, 1, (), np.float32),
        spaces.Box(np.float32(0.1), np.float32(0.3), (2,), np.float32),
        spaces.Discrete(4),
        spaces.Discrete(3, start=-1),
        NESTED,
    ],
    ids=str,
)
def test_spaces_come_back_from_json(space):
    text = json.dumps(space_to_json(space), allow_nan=False)
    again = space_from_json(json.loads(text))
    assert again == space
    assert again.dtype == space.dtype


def test_an_image_space_is_short_in_json():
    assert space_to_json(spaces.Box(0, 255, (64, 64, 3), np.uint8)) == {
        "type": "Box",
        "low": 0,
        "high": 255,
        "shape": [64, 64, 3],
        "dtype": "uint8",
    }


def test_an_unsupported_space_has_no_json():
    with pytest.raises(UserError, match="not supported"):
        space_to_json(spaces.MultiBinary(2))


@pytest.mark.parametrize(
    "description",
    [
        {},
        {"type": "Box"},
        {"type": "Box", "low": [0, 0, 0], "high": 1, "shape": [2], "dtype": "float32"},
        {"type": "Box", "low": "zero", "high": 1, "shape": [2], "dtype": "float32"},
        {"type": "Discrete"},
        {"type": "Torus"},
    ],
)
def test_a_damaged_description_is_an_error_of_one_line(description):
    with pytest.raises(UserError) as caught:
        space_from_json(description)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("space", "shape"),
    [
        (spaces.Box(0, 255, (8, 9, 3), np.uint8), (8, 9, 3)),
        (spaces.Box(0, 255, (8, 9), np.uint8), None),
        (spaces.Box(0, 255, (8, 9, 3), np.float32), None),
        (spaces.Dict({"camera": spaces.Box(0, 255, (8, 9, 3), np.uint8)}), None),
    ],
    ids=str,
)
def test_what_counts_as_an_image_stays_bytes(space, shape):
    obs = space.sample()
    assert image_shape(space) == shape
    flat = flatten_observation(space, obs)
    assert flat.dtype == flat_dtype(space) == (np.float32 if shape is None else np.uint8)
    many = {"camera": obs["camera"][None]} if isinstance(obs, dict) else obs[None]
    np.testing.assert_array_equal(flatten_observations(space, many)[0], flat)
    assert flatten_observations(space, many).dtype == flat.dtype
