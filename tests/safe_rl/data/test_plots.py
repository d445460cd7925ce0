from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from safe_rl.data.collect import CollectConfig, collect
from safe_rl.data.dataset import OfflineDataset
from safe_rl.data.episodes import Episode
from safe_rl.data.plots import SAFE, SUCCESS, VIOLATION, plot_dataset
from safe_rl.data.writer import OfflineDatasetWriter
from safe_rl.errors import UserError


def share_of_colour(path: Path, colour: str) -> float:
    """How much of a picture is close to a colour."""
    picture = matplotlib.image.imread(path)[..., :3]
    target = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return float((np.abs(picture - target).max(axis=2) < 0.02).mean())


def dataset(path: Path, env: str, **kwargs) -> OfflineDataset:
    return collect(CollectConfig(env=env, output=path, **{"transitions": 400, **kwargs}))


def test_violations_and_successes_are_seen(tmp_path: Path) -> None:
    plot_dataset(dataset(tmp_path / "mixed", "tiny_env:LineEnv"), tmp_path / "mixed.png")
    plot_dataset(dataset(tmp_path / "safe", "tiny_env:LineEnv", policy="expert"), tmp_path / "safe.png")
    for colour in (SAFE, VIOLATION, SUCCESS):
        assert share_of_colour(tmp_path / "mixed.png", colour) > 0.001
    legend_only = share_of_colour(tmp_path / "safe.png", VIOLATION)
    assert legend_only < 0.2 * share_of_colour(tmp_path / "mixed.png", VIOLATION)


@pytest.mark.parametrize("env", ["tiny_env:DictEnv", "tiny_env:BoundaryEnv", "CartPole-v1"])
def test_other_spaces_can_be_drawn(tmp_path: Path, env: str) -> None:
    plot_dataset(dataset(tmp_path / "d", env), tmp_path / "new" / "folder" / "d.png")
    assert matplotlib.image.imread(tmp_path / "new" / "folder" / "d.png").shape[2] == 4


@pytest.mark.parametrize(
    "obs",
    [
        np.zeros((4, 1)),  # nothing varies
        np.full((4, 1), np.nan),  # nothing can be drawn
        np.random.default_rng(0).normal(size=(4, 40)),  # too many numbers: principal components
    ],
)
def test_odd_data_can_be_drawn(tmp_path: Path, obs: np.ndarray) -> None:
    from gymnasium import spaces

    space, actions = spaces.Box(-np.inf, np.inf, obs.shape[1:], np.float32), spaces.Box(-1, 1, (1,), np.float32)
    steps, flags = np.zeros((3, 1), dtype=np.float32), np.zeros(3, dtype=np.bool_)
    writer = OfflineDatasetWriter.begin(tmp_path / "d", space, actions)
    writer.add(Episode({"": obs.astype(np.float32)}, steps, steps, flags * 1.0, flags * 1.0, flags, flags, flags))
    plot_dataset(writer.commit(), tmp_path / "d.png")
    assert (tmp_path / "d.png").stat().st_size > 10_000


def test_a_picture_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    data = dataset(tmp_path / "d", "tiny_env:LineEnv")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "d.png", tmp_path / "d.poem"):
        with pytest.raises(UserError, match=r"cannot write .*; name another with --plot"):
            plot_dataset(data, path)
