from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from pathlib import Path

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from safe_rl.data.dataset import OfflineDataset, require_compatible
from safe_rl.data.episodes import Episode, EpisodeTable
from safe_rl.data.writer import OfflineDatasetWriter
from safe_rl.envs.factory import make_env
from safe_rl.envs.spaces import flatten_observation
from safe_rl.errors import UserError


def write(path: Path, box_spaces: tuple[spaces.Box, spaces.Box], episodes: list[Episode], **kwargs) -> OfflineDataset:
    writer = OfflineDatasetWriter.begin(path, *box_spaces, **kwargs)
    for episode in episodes:
        writer.add(episode)
    return writer.commit()


def forget_manifest(dataset: OfflineDataset) -> OfflineDataset:
    """Makes a dataset look like other people's: Minari's files alone."""
    (dataset.path / "manifest.json").unlink()
    (dataset.path / "table.npz").unlink()
    return OfflineDataset.open(dataset.path)


@pytest.fixture
def dataset(tmp_path: Path, box_spaces, hand_made) -> OfflineDataset:
    return write(tmp_path / "hand", box_spaces, hand_made, env_id="Hand-v0")


@pytest.mark.parametrize("from_hdf5", [False, True])
def test_transitions_by_hand(dataset: OfflineDataset, from_hdf5: bool) -> None:
    transitions = (forget_manifest(dataset) if from_hdf5 else dataset).transitions()
    assert transitions.obs.tolist() == [[0, 10], [1, 11], [2, 12], [20, 30], [21, 31]]
    assert transitions.next_obs.tolist() == [[1, 11], [2, 12], [3, 13], [21, 31], [22, 32]]
    np.testing.assert_allclose(transitions.action[:, 0], [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-6)
    np.testing.assert_allclose(transitions.task_action[:, 0], [0.1, -0.2, 0.3, 0.4, 0.5], rtol=1e-6)
    assert transitions.reward.tolist() == [-1, -2, -3, -4, -5]
    assert transitions.cost.tolist() == [0, 0, 1, 0, 0]
    assert transitions.terminated.tolist() == [False, False, True, False, False]
    assert transitions.truncated.tolist() == [False, False, False, False, True]
    for field in dataclasses.fields(transitions):
        expected = np.bool_ if field.name in ("terminated", "truncated") else np.float32
        assert getattr(transitions, field.name).dtype == expected


def test_what_it_tells_of_itself(dataset: OfflineDataset, box_spaces) -> None:
    assert (dataset.num_transitions, dataset.num_episodes, dataset.num_violations) == (5, 2, 1)
    assert dataset.episode_lengths.tolist() == [3, 2]
    assert dataset.episode_successes.tolist() == [False, True]
    assert (dataset.observation_space, dataset.action_space) == box_spaces
    assert dataset.env_id == "Hand-v0"


def test_the_hash_is_of_the_content(tmp_path: Path, dataset: OfflineDataset, box_spaces, hand_made) -> None:
    assert write(tmp_path / "again", box_spaces, hand_made).sha256 == dataset.sha256
    assert forget_manifest(OfflineDataset.open(tmp_path / "again")).sha256 == dataset.sha256
    hand_made[1].reward[0] += 1
    assert write(tmp_path / "other", box_spaces, hand_made).sha256 != dataset.sha256


def test_opens_with_minari_alone(dataset: OfflineDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(dataset.path.parent))
    for opened in (minari.MinariDataset(dataset.path / "data"), minari.load_dataset("hand")):
        assert (opened.total_episodes, opened.total_steps) == (2, 5)
        assert opened.spec.dataset_id == "hand-v0"
        first, second = opened.iterate_episodes()
        assert first.observations.tolist() == [[0, 10], [1, 11], [2, 12], [3, 13]]
        assert second.rewards.tolist() == [-4, -5]
        assert first.terminations.tolist() == [False, False, True]
        assert first.infos["cost"].tolist() == [0, 0, 0, 1]  # the reset's first, as Minari's collector stores them
        assert first.infos["task_action"].shape == (4, 1)
        assert "task_action" not in second.infos
        assert next(iter(opened.storage.get_episode_metadata([0])))["seed"] == 7


def test_minari_can_add_to_it_and_the_manifest_notices(dataset: OfflineDataset, hand_made) -> None:
    opened = minari.MinariDataset(dataset.path / "data")
    episode = hand_made[1]
    infos = {"cost": np.array([0, 1, 1])}
    arrays = {"actions": episode.action, "rewards": episode.reward, "infos": infos}
    flags = {"terminations": episode.terminated, "truncations": episode.truncated}
    opened.update_dataset_from_buffer(
        [minari.data_collector.EpisodeBuffer(observations=episode.obs[""], **arrays, **flags)]
    )
    assert minari.MinariDataset(dataset.path / "data").total_episodes == 3
    with pytest.raises(UserError, match=r"main_data\.hdf5 is damaged"):
        OfflineDataset.open(dataset.path)
    added = forget_manifest(dataset)
    assert added.transitions().cost.tolist() == [0, 0, 1, 0, 0, 1, 1]


class CostInInfos(gym.Wrapper):
    """A third party's environment, with the constraint as a bool under a name of its own and one for the reset too."""

    def reset(self, **kwargs):
        obs, _ = self.env.reset(**kwargs)
        return obs, {"unsafe": True, "height": 0.5}

    def step(self, action):
        obs, reward, terminated, truncated, _ = self.env.step(action)
        return obs, reward, terminated, truncated, {"unsafe": bool(abs(obs[1]) > 0.5), "height": float(obs[0])}


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[list[bool]]]:
    """Recorded and written by Minari; returns its id and the constraint of every step."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    env = CostInInfos(gym.make("Pendulum-v1", max_episode_steps=6))
    buffers, costs = [], []
    for seed in range(3):
        obs, info = env.reset(seed=seed)
        env.action_space.seed(seed)
        observations, actions, rewards, infos, truncations = [obs], [], [], [info], []
        for _ in range(6):
            actions.append(env.action_space.sample())
            obs, reward, _, truncated, info = env.step(actions[-1])
            observations.append(obs)
            rewards.append(reward)
            infos.append(info)
            truncations.append(truncated)
        costs.append([info["unsafe"] for info in infos[1:]])
        buffers.append(
            minari.data_collector.EpisodeBuffer(
                observations=np.array(observations),
                actions=np.array(actions),
                rewards=rewards,
                terminations=[False] * 6,
                truncations=truncations,
                infos={key: [info[key] for info in infos] for key in infos[0]},
            )
        )
    with pytest.warns(UserWarning):
        minari.create_dataset_from_buffers("pendulum/tilt-v0", buffers, env=env)
    return "pendulum/tilt-v0", costs


def test_other_peoples_minari_data_opens(third_party, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, costs = third_party
    monkeypatch.chdir(tmp_path)
    for path in (name, tmp_path / "minari" / name, tmp_path / "minari" / name / "data"):
        dataset = OfflineDataset.open(path, cost_key="unsafe")
        assert dataset.env_id == "Pendulum-v1"
        transitions = dataset.transitions()
        np.testing.assert_array_equal(transitions.cost, np.concatenate(costs).astype(np.float32))
        assert 0 < transitions.cost.sum() < len(transitions)
        np.testing.assert_array_equal(transitions.obs[1:6], transitions.next_obs[:5])
        np.testing.assert_array_equal(transitions.task_action, transitions.action)
        dataset.validate_for_training()
        dataset.check_compatible(gym.make("Pendulum-v1"))


def test_a_missing_cost_names_the_infos_there_are(third_party, tmp_path: Path) -> None:
    dataset = OfflineDataset.open(tmp_path / "minari" / third_party[0])
    with pytest.raises(UserError, match=r"no info 'cost' \(its infos: height, unsafe\).*--cost-key"):
        dataset.transitions()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([False, True, False]), [0, 1, 0]),
        (np.array([0, 2, -1]), [0, 1, 0]),
        (np.array([0.0, 0.3, -0.5]), [0, 1, 0]),
        (np.array([[0.0], [7.0], [0.0]]), [0, 1, 0]),
    ],
)
def test_any_number_above_zero_is_a_violation(tmp_path: Path, values: np.ndarray, expected: list[int]) -> None:
    box = spaces.Box(-1, 1, (1,), np.float32)
    storage = minari.dataset.minari_storage.MinariStorage.new(tmp_path / "d", box, box)
    steps = np.zeros((4, 1), dtype=np.float32)
    storage.update_episodes(
        [
            minari.data_collector.EpisodeBuffer(
                observations=steps,
                actions=steps[:3],
                rewards=[0.0] * 3,
                terminations=[False] * 3,
                truncations=[False] * 3,
                infos={"cost": values},
            )
        ]
    )
    transitions = OfflineDataset.open(tmp_path / "d").transitions()
    assert transitions.cost.tolist() == expected
    assert transitions.truncated.tolist() == [False, False, True]  # nothing said how the episode ended


finite = st.floats(-1e6, 1e6, width=32)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), lengths=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_dict_observations_survive_both_ways(tmp_path_factory, data, lengths: list[int]) -> None:
    space = spaces.Dict(
        {
            "pose": spaces.Box(-np.inf, np.inf, (2, 2), np.float32),
            "camera": spaces.Box(0, 255, (2, 3), np.uint8),
            "nested": spaces.Dict({"height": spaces.Box(-np.inf, np.inf, (), np.float64)}),
        }
    )
    act_space = spaces.Discrete(5)
    episodes = []
    for length in lengths:
        action = data.draw(hnp.arrays(np.int64, (length,), elements=st.integers(0, 4)))
        floats = data.draw(hnp.arrays(np.float32, (length + 1, 2, 2), elements=finite))
        episodes.append(
            Episode(
                obs={
                    "camera": data.draw(hnp.arrays(np.uint8, (length + 1, 2, 3))),
                    "nested/height": data.draw(hnp.arrays(np.float64, (length + 1,), elements=finite)),
                    "pose": floats,
                },
                action=action,
                task_action=data.draw(st.sampled_from([action, 4 - action])),
                reward=data.draw(hnp.arrays(np.float64, (length,), elements=finite)),
                cost=data.draw(hnp.arrays(np.float32, (length,), elements=st.sampled_from([0.0, 1.0]))),
                success=data.draw(hnp.arrays(np.bool_, (length,))),
                terminated=data.draw(hnp.arrays(np.bool_, (length,))),
                truncated=data.draw(hnp.arrays(np.bool_, (length,))),
                seed=data.draw(st.none() | st.integers(0, 2**31 - 1)),
            )
        )
    folder = tmp_path_factory.mktemp("round") / "trip"
    writer = OfflineDatasetWriter.begin(folder, space, act_space)
    for episode in episodes:
        writer.add(episode)
    dataset = writer.commit()
    through_table, through_hdf5 = dataset.table(), forget_manifest(dataset).table()
    for table in (through_table, through_hdf5):
        expected = EpisodeTable.from_episodes(episodes).to_arrays()
        arrays = table.to_arrays()
        assert arrays.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(arrays[name], array, err_msg=name)
            assert arrays[name].dtype == array.dtype, name
    flat = OfflineDataset.open(folder).transitions()
    first = {"pose": episodes[0].obs["pose"][0], "camera": episodes[0].obs["camera"][0]}
    first["nested"] = {"height": episodes[0].obs["nested/height"][0]}
    np.testing.assert_array_equal(flat.obs[0], flatten_observation(space, first))


def test_twenty_thousand_transitions_of_short_episodes_are_written_in_seconds_and_load_at_once(
    tmp_path: Path, box_spaces
) -> None:
    zeros = np.zeros(8, dtype=np.bool_)
    steps = np.zeros((9, 2), dtype=np.float32)
    episode = Episode({"": steps}, steps[1:, :1], steps[1:, :1], zeros * 1.0, zeros * 1.0, zeros, zeros, zeros)
    started = time.process_time()
    dataset = write(tmp_path / "d", box_spaces, [episode] * 2500)
    written = time.process_time()
    assert len(OfflineDataset.open(dataset.path).transitions()) == 20_000
    loaded = time.process_time()
    assert written - started < 8  # about 1.3 on an idle core
    assert loaded - written < 0.5  # about 0.03


def flip_byte(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", ["data/main_data.hdf5", "data/metadata.json", "table.npz"])
def test_a_flipped_byte_names_the_file(dataset: OfflineDataset, name: str) -> None:
    path = dataset.path / name
    flip_byte(path, path.stat().st_size // 2)
    with pytest.raises(UserError, match=rf"{name} is damaged"):
        OfflineDataset.open(dataset.path)


@pytest.mark.parametrize("position", range(20, 300, 40))
def test_a_flipped_byte_in_the_manifest_is_noticed(dataset: OfflineDataset, position: int) -> None:
    flip_byte(dataset.path / "manifest.json", position)
    with pytest.raises(UserError, match=r"manifest\.json is damaged|is missing"):
        OfflineDataset.open(dataset.path)


@pytest.mark.parametrize("name", ["data/main_data.hdf5", "data/metadata.json", "table.npz"])
def test_a_missing_file_is_named(dataset: OfflineDataset, name: str) -> None:
    (dataset.path / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        OfflineDataset.open(dataset.path)


def test_data_without_a_manifest_opens_unchecked_and_its_damage_is_one_line(dataset: OfflineDataset) -> None:
    forget_manifest(dataset)
    path = dataset.path / "data" / "main_data.hdf5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"is damaged \(OSError: .*truncated") as error:
        OfflineDataset.open(dataset.path).transitions()
    assert "\n" not in str(error.value)


def test_an_episode_that_does_not_fit_together_is_named(dataset: OfflineDataset) -> None:
    forget_manifest(dataset)
    with h5py.File(dataset.path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1/actions"]
        file["episode_1/actions"] = np.zeros((5, 1), dtype=np.float32)
    with pytest.raises(
        UserError, match=r"episode 1 of .* is damaged: its actions .* expected numbers of shape \(2, 1\)"
    ):
        OfflineDataset.open(dataset.path).transitions()


def test_a_missing_episode_is_damage(dataset: OfflineDataset) -> None:
    forget_manifest(dataset)
    with h5py.File(dataset.path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/rewards"]
    with pytest.raises(UserError, match="is damaged"):
        OfflineDataset.open(dataset.path).transitions()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"total_steps": 1, "total_episodes": 1, "data_format": "hdf5"}'])
def test_damaged_metadata_is_one_line(dataset: OfflineDataset, content: str) -> None:
    forget_manifest(dataset)
    (dataset.path / "data" / "metadata.json").write_text(content)
    with pytest.raises(UserError, match="is damaged"):
        OfflineDataset.open(dataset.path)


def test_missing_and_foreign_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no dataset at .*nowhere.*safe-rl collect"):
        OfflineDataset.open(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match="is not a dataset"):
            OfflineDataset.open(path)


def test_an_unsupported_space_is_refused(tmp_path: Path) -> None:
    box = spaces.Box(-1, 1, (1,), np.float32)
    minari.dataset.minari_storage.MinariStorage.new(tmp_path / "d", box, spaces.MultiDiscrete([2, 2]))
    with pytest.raises(UserError, match=r"action space MultiDiscrete.* is not supported"):
        OfflineDataset.open(tmp_path / "d")


class WithSpaces(gym.Env):
    def __init__(self, observation_space: gym.Space, action_space: gym.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space


def test_compatible_environments_pass(dataset: OfflineDataset, box_spaces) -> None:
    dataset.check_compatible(WithSpaces(*box_spaces))
    dataset.check_compatible(WithSpaces(spaces.Box(-5, 5, (2,), np.float64), box_spaces[1]))


@pytest.mark.parametrize(
    ("observation_space", "action_space", "message"),
    [
        (spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (1,)), r"observations of shape \(2,\).*of \(3,\)"),
        (spaces.Dict({"a": spaces.Box(-1, 1, (2,))}), spaces.Box(-1, 1, (1,)), r"\(2,\).*\{'a': \(2,\)\}"),
        (spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (2,)), r"actions Box.*\(1,\).*Box.*\(2,\)"),
        (spaces.Box(-1, 1, (2,)), spaces.Box(-2, 2, (1,)), r"actions Box\(-1\.0, 1\.0.*Box\(-2\.0, 2\.0"),
        (spaces.Box(-1, 1, (2,)), spaces.Discrete(4), r"Discrete\(4\)"),
    ],
)
def test_other_spaces_are_named(dataset: OfflineDataset, observation_space, action_space, message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataset.check_compatible(WithSpaces(observation_space, action_space))


@pytest.mark.parametrize("inside", [False, True])
def test_images_and_numbers_of_one_shape_do_not_belong_together(inside: bool) -> None:
    """What learned from bytes would see a picture of numbers from 0 to 1 as black."""
    picture, numbers = spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Box(0, 1, (8, 8, 3), np.float32)
    actions = spaces.Box(-1, 1, (1,))
    one, other = (spaces.Dict({"camera": space}) if inside else space for space in (picture, numbers))
    require_compatible("run", (one, actions), "environment", (one, actions))
    for own, theirs, words in ((one, other, "type uint8.*of float32"), (other, one, "type float32.*of uint8")):
        with pytest.raises(UserError, match=words):
            require_compatible("run", (own, actions), "environment", (theirs, actions))


def test_another_environment_with_equal_spaces_is_warned_of(
    tmp_path: Path, box_spaces, hand_made, caplog: pytest.LogCaptureFixture
) -> None:
    line_spaces = (box_spaces[0], spaces.Box(-0.5, 0.5, (1,), np.float32))
    dataset = write(tmp_path / "d", line_spaces, hand_made, env_id="tiny_env:BoundaryEnv")
    with caplog.at_level(logging.WARNING):
        dataset.check_compatible(make_env("tiny_env:BoundaryEnv"))
        assert not caplog.messages
        dataset.check_compatible(make_env("tiny_env:LineEnv"))
    assert "was collected in tiny_env:BoundaryEnv, not in tiny_env:LineEnv" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [("obs", np.nan), ("reward", np.inf), ("action", np.nan), ("cost", np.nan), ("task_action", -np.inf)],
)
def test_what_is_not_finite_names_field_and_episode(
    tmp_path: Path, box_spaces, hand_made, name: str, value: float
) -> None:
    array = hand_made[1].obs[""] if name == "obs" else getattr(hand_made[1], name)
    array[-1] = value
    dataset = write(tmp_path / "d", box_spaces, hand_made)
    expected = "next_obs" if name == "obs" else name
    with pytest.raises(UserError, match=rf"not finite in 1 transitions: the first is the {expected} in episode 1"):
        dataset.validate_for_training()


def test_data_without_violations_is_refused(tmp_path: Path, dataset: OfflineDataset, box_spaces, hand_made) -> None:
    dataset.validate_for_training()
    safe = write(tmp_path / "safe", box_spaces, hand_made[1:])
    with pytest.raises(UserError, match=r"holds no violation in its 2 transitions.*collect nearer"):
        safe.validate_for_training()


def test_a_dataset_that_was_moved_aside_comes_back(dataset: OfflineDataset) -> None:
    dead = 2**22 + 1  # above the largest process id
    aside = dataset.path.with_name(f".{dataset.path.name}.former-{dead}")
    os.rename(dataset.path, aside)
    assert OfflineDataset.open(dataset.path).sha256 == dataset.sha256
    assert not aside.exists()


def test_a_cost_key_of_its_own(tmp_path: Path, box_spaces, hand_made) -> None:
    path = tmp_path / "d"
    write(path, box_spaces, hand_made, description={"cost_key": "hazard"})
    for key in ("cost", "hazard"):
        assert OfflineDataset.open(path, cost_key=key).num_violations == 1
    with pytest.raises(UserError, match="was collected with --cost-key hazard, not bump"):
        OfflineDataset.open(path, cost_key="bump")


def test_equal_data_gives_equal_files(tmp_path: Path, box_spaces, hand_made) -> None:
    for parent in ("a", "b"):
        write(tmp_path / parent / "d", box_spaces, hand_made)
    manifests = [json.loads((tmp_path / parent / "d" / "manifest.json").read_text()) for parent in ("a", "b")]
    assert manifests[0] == manifests[1]
    assert set(manifests[0]["files"]) == {"data/main_data.hdf5", "data/metadata.json", "table.npz"}
