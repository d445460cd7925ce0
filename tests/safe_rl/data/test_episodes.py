from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from safe_rl.data.episodes import STEP_FIELDS, Episode, EpisodeRecorder, EpisodeTable, leaf_spaces
from safe_rl.envs.spaces import flatten_observation
from safe_rl.errors import UserError


def make_episode(length: int, seed: int, generator_seed: int) -> Episode:
    rng = np.random.default_rng(generator_seed)
    return Episode(
        obs={"": rng.normal(size=(length + 1, 2)).astype(np.float32)},
        action=rng.normal(size=(length, 1)).astype(np.float32),
        task_action=rng.normal(size=(length, 1)).astype(np.float32),
        reward=rng.normal(size=length),
        cost=rng.integers(0, 2, length).astype(np.float32),
        success=rng.random(length) < 0.5,
        terminated=np.arange(length) == length - 1,
        truncated=np.zeros(length, dtype=np.bool_),
        seed=seed,
    )


def assert_equal_episodes(first: Episode, second: Episode) -> None:
    assert first.obs.keys() == second.obs.keys()
    for path in first.obs:
        np.testing.assert_array_equal(first.obs[path], second.obs[path])
        assert first.obs[path].dtype == second.obs[path].dtype
    for name in STEP_FIELDS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
        assert getattr(first, name).dtype == getattr(second, name).dtype
    assert first.seed == second.seed


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(0, 2**31 - 1))
def test_a_table_gives_back_its_episodes(lengths: list[int], seed: int) -> None:
    episodes = [make_episode(length, seed, seed + i) for i, length in enumerate(lengths)]
    table = EpisodeTable.from_episodes(episodes)
    assert table.num_steps == sum(lengths)
    for recovered, episode in zip(table, episodes, strict=True):
        assert_equal_episodes(recovered, episode)


def test_a_saved_table_is_the_same(tmp_path: Path, hand_made: list[Episode]) -> None:
    path = tmp_path / "table.npz"
    with path.open("wb") as file:
        EpisodeTable.from_episodes(hand_made).save(file)
    loaded = list(EpisodeTable.load(path))
    assert [episode.seed for episode in loaded] == [7, None]
    for recovered, episode in zip(loaded, hand_made, strict=True):
        assert_equal_episodes(recovered, episode)


def test_a_damaged_table_is_named(tmp_path: Path, hand_made: list[Episode]) -> None:
    stream = io.BytesIO()
    EpisodeTable.from_episodes(hand_made).save(stream)
    path = tmp_path / "table.npz"
    path.write_bytes(stream.getvalue()[:-100])
    with pytest.raises(ValueError, match=r"table\.npz"):
        EpisodeTable.load(path)


def test_tables_join_in_order(hand_made: list[Episode]) -> None:
    tables = [EpisodeTable.from_episodes([episode]) for episode in hand_made]
    joined = EpisodeTable.concatenate(tables)
    assert joined.lengths.tolist() == [3, 2]
    assert joined.obs[""][:, 0].tolist() == [0, 1, 2, 3, 20, 21, 22]
    assert joined.steps["reward"].tolist() == [-1, -2, -3, -4, -5]


def test_leaves_come_in_the_order_of_flat_observations_whatever_the_spaces_own() -> None:
    leaves = [
        ("z", spaces.Box(-1, 1, (1,))),
        ("a", spaces.Dict({"c": spaces.Box(-1, 1, ()), "b": spaces.Box(-1, 1, (2,))})),
    ]
    obs = {"z": np.array([4.0]), "a": {"c": np.array(3.0), "b": np.array([1.0, 2.0])}}
    for space in (spaces.Dict(OrderedDict(leaves)), spaces.Dict(dict(leaves)), spaces.Dict(**dict(leaves))):
        assert list(leaf_spaces(space)) == ["a/b", "a/c", "z"]
        assert flatten_observation(space, obs).tolist() == [1, 2, 3, 4]


def test_an_unsupported_observation_space_is_refused() -> None:
    with pytest.raises(UserError, match="must be a Box or a Dict of Boxes"):
        leaf_spaces(spaces.Dict({"n": spaces.Discrete(3)}))


def test_the_recorder_copies_arrays_that_the_environment_goes_on_writing_to() -> None:
    recorder = EpisodeRecorder(spaces.Box(-9, 9, (1,), np.float32), spaces.Box(-1, 1, (1,), np.float32))
    obs, action = np.zeros(1), np.zeros(1)
    recorder.reset(obs)
    for step in (1, 2):
        obs += 1
        action += 0.25
        recorder.step(action, action, obs, reward=step, cost=0, success=False, terminated=step == 2, truncated=False)
    episode = recorder.episode(seed=3)
    assert episode.obs[""].tolist() == [[0], [1], [2]]
    assert episode.action.tolist() == [[0.25], [0.5]]
    assert episode.obs[""].dtype == episode.action.dtype == np.float32
    assert episode.seed == 3
