from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import gymnasium as gym
import minari
import numpy as np
import pytest

from safe_rl.data.collect import CollectConfig, collect
from safe_rl.data.dataset import OfflineDataset
from safe_rl.errors import EnvironmentFault, UserError

HERE = Path(__file__).parent


def config(output: Path, env: str = "tiny_env:LineEnv", **kwargs) -> CollectConfig:
    return CollectConfig(env=env, output=output, **{"transitions": 200, **kwargs})


def assert_same_data(first: OfflineDataset, second: OfflineDataset) -> None:
    assert first.num_episodes == second.num_episodes
    for field in fields(first.transitions()):
        np.testing.assert_array_equal(
            getattr(first.transitions(), field.name), getattr(second.transitions(), field.name)
        )


def test_collects_exactly_as_many_transitions_as_asked(tmp_path: Path) -> None:
    dataset = collect(config(tmp_path / "d", transitions=123))
    transitions = dataset.transitions()
    assert len(transitions) == dataset.num_transitions == 123
    assert dataset.env_id == "tiny_env:LineEnv"
    ends = transitions.terminated | transitions.truncated
    assert ends[-1]
    assert not (transitions.terminated & transitions.truncated).any()
    np.testing.assert_array_equal(np.flatnonzero(ends) + 1, np.cumsum(dataset.episode_lengths))


def test_what_was_recorded_is_what_happens(tmp_path: Path) -> None:
    """The stored seed and actions, repeated in a fresh environment, give the stored observations, rewards and costs."""
    dataset = collect(config(tmp_path / "d"))
    import tiny_env

    env, num_violations = tiny_env.LineEnv(), 0
    for episode in dataset.episodes():
        obs, _ = env.reset(seed=episode.seed)
        np.testing.assert_array_equal(obs, episode.obs[""][0])
        for step in range(len(episode)):
            obs, reward, terminated, _, info = env.step(episode.action[step])
            np.testing.assert_array_equal(obs, episode.obs[""][step + 1])
            assert (reward, terminated) == (episode.reward[step], episode.terminated[step])
            assert (info["cost"], info["success"]) == (bool(episode.cost[step]), episode.success[step])
            num_violations += info["cost"]
    assert dataset.num_violations == num_violations > 0


def test_equal_seeds_give_equal_data_and_others_do_not(tmp_path: Path) -> None:
    first, again, other = (collect(config(tmp_path / name, seed=seed)) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert_same_data(first, again)
    assert first.sha256 != other.sha256


def test_boundary_segments_where_they_are_offered(tmp_path: Path) -> None:
    dataset = collect(config(tmp_path / "d", env="tiny_env:BoundaryEnv"))
    assert dataset.episode_lengths.max() == 4
    starts = np.array([episode.obs[""][0, 0] for episode in dataset.episodes()])
    assert ((starts >= 0.5) & (starts <= 1.0)).all()
    assert 0.1 < dataset.num_violations / 200 < 0.5
    transitions = dataset.transitions()
    cut = transitions.truncated & (transitions.obs[:, 0] < 1)
    assert cut.any()
    assert not transitions.cost[cut].any()
    assert (transitions.terminated == ((transitions.cost > 0) | (transitions.next_obs[:, 0] < -1))).all()


def test_without_a_limit_of_its_own_an_episode_is_cut(tmp_path: Path) -> None:
    dataset = collect(config(tmp_path / "d", max_episode_steps=7))
    assert dataset.episode_lengths.max() == 7


def test_dict_observations_and_discrete_actions(tmp_path: Path) -> None:
    dataset = collect(config(tmp_path / "d", env="tiny_env:DictEnv"))
    transitions = dataset.transitions()
    assert transitions.obs.shape == (200, 7)
    assert set(transitions.action[:, 0]) == {1, 2, 3}
    episode = minari.MinariDataset(dataset.path / "data")[0]
    assert episode.observations["camera"]["image"].dtype == np.uint8
    assert episode.observations["number"].shape == (len(episode) + 1,)
    np.testing.assert_array_equal(
        transitions.obs[: len(episode), -1], episode.observations["number"][:-1].astype(np.float32)
    )


def test_a_constraint_of_another_name(tmp_path: Path) -> None:
    dataset = collect(config(tmp_path / "d", env="tiny_env:HazardEnv", cost_key="hazard"))
    assert set(dataset.transitions().cost) == {0, 1}
    assert OfflineDataset.open(dataset.path, cost_key="hazard").num_violations == dataset.num_violations


def test_a_registered_environment_can_be_recovered_by_minari(tmp_path: Path) -> None:
    dataset = collect(config(tmp_path / "d", env="Pendulum-v1", transitions=300))
    assert dataset.episode_lengths.tolist() == [200, 100]
    env = minari.MinariDataset(dataset.path / "data").recover_environment()
    assert env.spec is not None
    assert env.spec.id == "Pendulum-v1"
    dataset.check_compatible(gym.make("Pendulum-v1"))


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    collect(config(tmp_path / "d"), progress=lambda done, total, status: told.append((done, total)))
    assert told[-1] == (200, 200)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_append_goes_on_where_the_numbers_of_the_episodes_end(tmp_path: Path) -> None:
    settings = {
        "env": "tiny_env:SafeEnv",
        "max_episode_steps": 2,
    }  # too short for the goal: all episodes are equally long
    whole = collect(config(tmp_path / "whole", transitions=40, **settings))
    for append in (False, True):
        parts = collect(config(tmp_path / "parts", transitions=20, append=append, **settings))
    assert_same_data(whole, parts)
    assert len(np.unique(parts.transitions().obs[:, 0])) == 40  # an equal seed repeats nothing


@pytest.mark.parametrize("fault", ["raise", "nan", "interrupt"])
def test_a_resumed_collection_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv("TINY_ENV_FAULT", "none")
    whole = collect(config(tmp_path / "whole", env="tiny_env:FaultyEnv"))
    monkeypatch.setenv("TINY_ENV_FAULT", fault)
    expected = KeyboardInterrupt if fault == "interrupt" else EnvironmentFault
    message = {"raise": "the motor is on fire", "nan": "not finite", "interrupt": None}[fault]
    with pytest.raises(expected, match=message) as error:
        collect(config(tmp_path / "parts", env="tiny_env:FaultyEnv"))
    if fault != "interrupt":
        assert "go on with --resume" in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["parts.partial", "whole"]
    with pytest.raises(UserError, match=r"interrupted collection .*--resume"):
        collect(config(tmp_path / "parts", env="tiny_env:FaultyEnv"))
    monkeypatch.setenv("TINY_ENV_FAULT", "none")
    told: list[int] = []
    parts = collect(
        config(tmp_path / "parts", env="tiny_env:FaultyEnv", resume=True),
        progress=lambda done, total, status: told.append(done),
    )
    assert told[0] > 20  # the episodes before the fault were kept
    assert_same_data(whole, parts)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["parts", "whole"]


def test_resume_wants_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_ENV_FAULT", "raise")
    with pytest.raises(EnvironmentFault):
        collect(config(tmp_path / "d", env="tiny_env:FaultyEnv"))
    monkeypatch.setenv("TINY_ENV_FAULT", "none")
    with pytest.raises(UserError, match="has seed = 0, not 1: resume with the same settings"):
        collect(config(tmp_path / "d", env="tiny_env:FaultyEnv", resume=True, seed=1))
    assert collect(config(tmp_path / "d", env="tiny_env:FaultyEnv", resume=True)).num_transitions == 200


def test_resuming_what_is_complete_changes_nothing(tmp_path: Path) -> None:
    dataset = collect(config(tmp_path / "d"))
    assert collect(config(tmp_path / "d", resume=True)).sha256 == dataset.sha256
    with pytest.raises(UserError, match="is a complete dataset, with nothing to resume"):
        collect(config(tmp_path / "d", resume=True, seed=9))


def test_resume_without_a_beginning_begins(tmp_path: Path) -> None:
    assert collect(config(tmp_path / "d", resume=True)).num_transitions == 200


def wait_for(condition, process: subprocess.Popen, timeout_sec: float = 60) -> None:
    deadline = time.monotonic() + timeout_sec
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing was written"
        time.sleep(0.02)


COLLECT = """
import sys
from pathlib import Path
import safe_rl.data.writer as writer
from safe_rl.data.collect import CollectConfig, collect
writer._FLUSH_SEC = 0.05
overwrite = sys.argv[2] == "overwrite"
collect(CollectConfig(env="tiny_env:SlowEnv", output=Path(sys.argv[1]), transitions=600, overwrite=overwrite))
"""


@pytest.mark.parametrize("former", [False, True])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process_leaves_the_former_dataset_and_a_collection_to_resume(
    tmp_path: Path, how: signal.Signals, former: bool
) -> None:
    output = tmp_path / "d"
    if former:
        before = collect(config(output, transitions=50)).sha256
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    command = [sys.executable, "-c", COLLECT, str(output), "overwrite" if former else "create"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list(tmp_path.glob("d.partial/chunk-*.npz"))) >= 3, process)
    process.send_signal(how)
    process.wait(timeout=60)
    assert process.returncode != 0
    if former:
        assert OfflineDataset.open(output).sha256 == before
    else:
        assert not output.exists()
    settings = {"env": "tiny_env:SlowEnv", "transitions": 600}
    told: list[int] = []
    resumed = collect(config(output, **settings, resume=True), progress=lambda done, total, status: told.append(done))
    assert 3 < told[0] < 600
    assert_same_data(resumed, collect(config(tmp_path / "whole", **settings)))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("transitions", 0, "--transitions is 0: it must be at least 1"),
        ("max_episode_steps", 0, "--max-episode-steps is 0"),
        ("seed", -1, "--seed is -1"),
        ("noise", 1.5, r"--noise is 1\.5: it must be between 0 and 1"),
        ("noise", float("nan"), "--noise is nan"),
        ("policy", "", "--policy is empty"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, field: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(tmp_path / "d", **{field: value})


@pytest.mark.parametrize("other", ["append", "resume"])
def test_overwrite_excludes_the_others(tmp_path: Path, other: str) -> None:
    with pytest.raises(UserError, match="--overwrite is given with"):
        config(tmp_path / "d", overwrite=True, **{other: True})


def test_an_unknown_environment_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="NoSuch-v0"):
        collect(config(tmp_path / "d", env="NoSuch-v0"))
    assert list(tmp_path.iterdir()) == []
