from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from safe_rl.data.dataset import OfflineDataset
from safe_rl.data.episodes import Episode
from safe_rl.data.inspect import action_coverage, inspect_dataset
from safe_rl.data.writer import OfflineDatasetWriter


def write(path: Path, box_spaces, episodes: list[Episode], **kwargs) -> OfflineDataset:
    writer = OfflineDatasetWriter.begin(path, *box_spaces, **kwargs)
    for episode in episodes:
        writer.add(episode)
    return writer.commit()


def long_episode(length: int = 6000, violations: int = 600, seed: int = 0) -> Episode:
    """Data with nothing wrong: spread states and actions, a tenth of violations."""
    rng = np.random.default_rng(seed)
    action = rng.uniform(-1, 1, (length, 1)).astype(np.float32)
    cost = np.zeros(length, dtype=np.float32)
    cost[rng.choice(length, violations, replace=False)] = 1
    flags = np.zeros(length, dtype=np.bool_)
    return Episode(
        obs={"": rng.normal(size=(length + 1, 2)).astype(np.float32)},
        action=action,
        task_action=action,
        reward=rng.normal(size=length),
        cost=cost,
        success=flags,
        terminated=flags,
        truncated=np.arange(length) == length - 1,
    )


def warnings(tmp_path: Path, box_spaces, episode: Episode) -> list[str]:
    return inspect_dataset(write(tmp_path / "d", box_spaces, [episode])).warnings


def test_a_summary_by_hand(tmp_path: Path, box_spaces, hand_made) -> None:
    summary = inspect_dataset(write(tmp_path / "d", box_spaces, [*hand_made, hand_made[1]], env_id="Hand-v0"))
    assert summary.env_id == "Hand-v0"
    assert (summary.num_transitions, summary.num_episodes) == (7, 3)
    assert (summary.shortest, summary.median, summary.longest) == (2, 2, 3)
    assert (summary.num_violations, summary.num_ending_violations) == (1, 1)
    assert summary.violation_share == pytest.approx(1 / 7)
    assert summary.num_successes == 2
    assert summary.num_duplicates == 2
    assert summary.num_relabelled == 1
    assert summary.num_self_loops == summary.num_not_finite == 0
    assert summary.return_mean == pytest.approx((-6 - 9 - 9) / 3)
    first, second = summary.observations
    assert (first.name, second.name) == ("obs[0]", "obs[1]")
    values = np.array([0, 1, 2, 20, 21, 20, 21])
    assert (first.minimum, first.maximum) == (0, 21)
    assert first.mean == pytest.approx(values.mean())
    assert first.std == pytest.approx(values.std())
    assert second.mean == pytest.approx(values.mean() + 10)
    assert [s.name for s in summary.actions] == ["action[0]"]
    assert summary.actions[0].maximum == pytest.approx(0.5)


def test_good_data_gives_no_warning(tmp_path: Path, box_spaces) -> None:
    assert warnings(tmp_path, box_spaces, long_episode()) == []


@pytest.mark.parametrize(
    ("violations", "expected"),
    [
        (0, ["nothing violates the constraint"]),
        (59, ["only 0.98% of the transitions violate"]),
        (60, []),
        (3000, []),
        (3060, ["51% of the transitions violate"]),
    ],
)
def test_the_share_of_violations(tmp_path: Path, box_spaces, violations: int, expected: list[str]) -> None:
    found = warnings(tmp_path, box_spaces, long_episode(violations=violations))
    assert len(found) == len(expected)
    assert all(part in warning for part, warning in zip(expected, found, strict=True))


def test_few_transitions(tmp_path: Path, box_spaces) -> None:
    assert warnings(tmp_path, box_spaces, long_episode(length=5000)) == []
    (warning,) = warnings(tmp_path / "few", box_spaces, long_episode(length=4999))
    assert "4,999 transitions are few" in warning


def test_numbers_that_are_not_finite(tmp_path: Path, box_spaces) -> None:
    episode = long_episode()
    episode.obs[""][100, 1] = np.nan  # after step 99 and before step 100
    episode.reward[500] = np.inf
    dataset = write(tmp_path / "d", box_spaces, [episode])
    summary = inspect_dataset(dataset)
    assert summary.num_not_finite == 3
    assert any("3 transitions hold NaN or infinity" in warning for warning in summary.warnings)
    assert np.isfinite(summary.observations[1].mean)


def test_constant_observations(tmp_path: Path, box_spaces) -> None:
    episode = long_episode()
    episode.obs[""][:, 1] = 3
    (warning,) = warnings(tmp_path, box_spaces, episode)
    assert warning.startswith("obs[1] never change")


def test_duplicates(tmp_path: Path, box_spaces) -> None:
    episode = long_episode(length=5000)
    tenth = long_episode(length=500, violations=50, seed=1)
    summary = inspect_dataset(write(tmp_path / "d", box_spaces, [episode, tenth, tenth]))
    assert summary.num_duplicates == 500
    assert summary.warnings == ["8% of the transitions repeat earlier ones: vary starts or seed"]


def test_standing_still_after_a_violation(tmp_path: Path, box_spaces) -> None:
    episode = long_episode()
    for step in np.flatnonzero(episode.cost)[:7]:
        episode.obs[""][step + 1] = episode.obs[""][step]
    (warning,) = warnings(tmp_path, box_spaces, episode)
    assert warning.startswith("7 violating transitions change nothing")


def test_a_narrow_range_of_actions(tmp_path: Path, box_spaces) -> None:
    episode = long_episode()
    episode.action *= 0.4
    (warning,) = warnings(tmp_path, box_spaces, episode)
    assert warning.startswith("action[0] covers only 38% of its range")


def test_action_coverage_by_hand() -> None:
    space = spaces.Box(np.array([-1, -np.inf], dtype=np.float32), np.array([3, np.inf], dtype=np.float32))
    action = np.stack([np.linspace(0, 2, 1001), np.zeros(1001)], axis=1).astype(np.float32)
    covered = action_coverage(space, action)
    assert covered[0] == pytest.approx(0.95 * 2 / 4)
    assert np.isnan(covered[1])
    assert action_coverage(spaces.Discrete(4), np.array([[0.0], [2.0], [2.0]], dtype=np.float32)).tolist() == [0.5]


def test_a_large_observation_is_summarised_in_one_row(tmp_path: Path) -> None:
    observation_space = spaces.Dict(
        {"camera": spaces.Box(0, 255, (8, 8, 3), np.uint8), "pose": spaces.Box(-9, 9, (2,))}
    )
    episode = long_episode()
    pixels = np.random.default_rng(0).integers(0, 256, (6001, 8, 8, 3), dtype=np.uint8)
    pixels[:, 0] = 7
    episode.obs = {"camera": pixels, "pose": episode.obs[""]}
    summary = inspect_dataset(write(tmp_path / "d", (observation_space, spaces.Box(-1, 1, (1,))), [episode]))
    assert [s.name for s in summary.observations] == ["camera (8, 8, 3)", "pose[0]", "pose[1]"]
    assert summary.observations[0].count == 192
    assert summary.observations[0].constant == 24
    assert summary.warnings == [
        "24 numbers of camera (8, 8, 3) never change: a critic learns nothing from them; leave them out"
    ]
