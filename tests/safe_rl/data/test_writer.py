from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import minari
import numpy as np
import pytest
from gymnasium import spaces

from safe_rl.data.dataset import OfflineDataset
from safe_rl.data.episodes import Episode
from safe_rl.data.minari_files import RAW_IMAGES_METADATA
from safe_rl.data.writer import OfflineDatasetWriter
from safe_rl.errors import UserError


def write(path: Path, box_spaces, episodes: list[Episode], **kwargs) -> OfflineDataset:
    writer = OfflineDatasetWriter.begin(path, *box_spaces, **kwargs)
    for episode in episodes:
        writer.add(episode)
    return writer.commit()


def rewards(path: Path) -> list[float]:
    return OfflineDataset.open(path).transitions().reward.tolist()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_is_visible_before_the_commit(tmp_path: Path, box_spaces, hand_made) -> None:
    writer = OfflineDatasetWriter.begin(tmp_path / "d", *box_spaces)
    writer.add(hand_made[0])
    writer.flush()
    assert names(tmp_path) == ["d.partial"]
    with pytest.raises(UserError, match="was interrupted: finish it with safe-rl collect --resume"):
        OfflineDataset.open(tmp_path / "d")
    writer.commit()
    assert names(tmp_path) == ["d"]
    assert names(tmp_path / "d") == ["data", "manifest.json", "table.npz"]


def test_a_relative_path_will_do(tmp_path: Path, box_spaces, hand_made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert write(Path("new/folder/d"), box_spaces, hand_made).num_transitions == 5
    assert rewards(tmp_path / "new" / "folder" / "d") == [-1, -2, -3, -4, -5]


def test_a_resumed_collection_keeps_what_was_flushed(tmp_path: Path, box_spaces, hand_made) -> None:
    path = tmp_path / "d"
    writer = OfflineDatasetWriter.begin(path, *box_spaces)
    writer.add(hand_made[0])
    writer.flush()
    writer.add(hand_made[1])  # lost: never flushed
    writer.close()
    resumed = OfflineDatasetWriter.resume(path, *box_spaces)
    assert (resumed.num_episodes, resumed.num_transitions) == (1, 3)
    resumed.add(hand_made[1])
    resumed.add(hand_made[0])
    resumed.commit()
    assert rewards(path) == [-1, -2, -3, -4, -5, -1, -2, -3]


def test_only_one_process_at_a_time(tmp_path: Path, box_spaces) -> None:
    path = tmp_path / "d"
    first = OfflineDatasetWriter.begin(path, *box_spaces)
    with pytest.raises(UserError, match="another process is collecting"):
        OfflineDatasetWriter.resume(path, *box_spaces)
    first.close()
    OfflineDatasetWriter.resume(path, *box_spaces).close()


def test_nothing_to_resume(tmp_path: Path, box_spaces) -> None:
    with pytest.raises(UserError, match=r"no interrupted collection of .* to resume: leave --resume out"):
        OfflineDatasetWriter.resume(tmp_path / "d", *box_spaces)


def test_a_damaged_or_missing_chunk_is_named(tmp_path: Path, box_spaces, hand_made) -> None:
    path = tmp_path / "d"
    writer = OfflineDatasetWriter.begin(path, *box_spaces)
    for episode in hand_made:
        writer.add(episode)
        writer.flush()
    writer.close()
    first, second = sorted((tmp_path / "d.partial").glob("*.npz"))
    whole = second.read_bytes()
    second.write_bytes(whole[:-30])
    with pytest.raises(UserError, match=rf"{second.name} is missing or damaged"):
        OfflineDatasetWriter.resume(path, *box_spaces)
    second.write_bytes(whole)
    first.unlink()
    with pytest.raises(UserError, match=rf"{first.name} is missing or damaged"):
        OfflineDatasetWriter.resume(path, *box_spaces)


def test_a_partial_folder_without_a_header_does_not_block(tmp_path: Path, box_spaces, hand_made) -> None:
    (tmp_path / "d.partial").mkdir()  # killed between making the folder and writing to it
    assert write(tmp_path / "d", box_spaces, hand_made).num_episodes == 2


@pytest.mark.parametrize("from_hdf5", [False, True])
def test_append_adds_and_keeps_the_rest(tmp_path: Path, box_spaces, hand_made, from_hdf5: bool) -> None:
    path = tmp_path / "d"
    write(path, box_spaces, hand_made, env_id="A-v0", description={"seed": 1})
    (path / "notes.txt").write_text("mine")
    if from_hdf5:
        (path / "table.npz").unlink()
        (path / "manifest.json").unlink()
    appended = write(path, box_spaces, hand_made[1:], env_id="A-v0", mode="append", description={"seed": 2})
    assert rewards(path) == [-1, -2, -3, -4, -5, -4, -5]
    assert (appended.num_transitions, appended.num_episodes) == (7, 3)
    assert appended.metadata["safe_rl"]["collections"] == [{"seed": 1}, {"seed": 2}]
    assert (path / "notes.txt").read_text() == "mine"
    opened = minari.MinariDataset(path / "data")
    assert [episode.rewards.tolist() for episode in opened] == [[-1, -2, -3], [-4, -5], [-4, -5]]


def test_append_to_a_dataset_that_has_changed_is_refused(tmp_path: Path, box_spaces, hand_made) -> None:
    path = tmp_path / "d"
    write(path, box_spaces, hand_made)
    writer = OfflineDatasetWriter.begin(path, *box_spaces, mode="append")
    writer.add(hand_made[0])
    writer.flush()
    other = tmp_path / "other"
    write(other, box_spaces, hand_made[:1])
    path.rename(tmp_path / "former")
    other.rename(path)
    with pytest.raises(UserError, match="has changed since this collection began"):
        writer.commit()
    assert rewards(path) == [-1, -2, -3]


def test_killed_after_appending_but_before_cleaning_up(tmp_path: Path, box_spaces, hand_made) -> None:
    path = tmp_path / "d"
    write(path, box_spaces, hand_made, description={"seed": 1})
    writer = OfflineDatasetWriter.begin(path, *box_spaces, mode="append", description={"seed": 2})
    writer.add(hand_made[1])
    writer.flush()
    writer.close()
    (tmp_path / "d.partial").rename(tmp_path / "kept")
    write(path, box_spaces, hand_made[1:], mode="append", description={"seed": 2})
    (tmp_path / "kept").rename(tmp_path / "d.partial")
    OfflineDatasetWriter.resume(path, *box_spaces).commit()
    assert rewards(path) == [-1, -2, -3, -4, -5, -4, -5]
    assert names(tmp_path) == ["d"]


def test_what_is_in_the_way(tmp_path: Path, box_spaces, hand_made) -> None:
    path = tmp_path / "d"
    with pytest.raises(UserError, match=r"no dataset at .* to add to: leave --append out"):
        OfflineDatasetWriter.begin(path, *box_spaces, mode="append")
    write(path, box_spaces, hand_made)
    with pytest.raises(
        UserError, match="already holds a dataset: add to it with --append, replace it with --overwrite"
    ):
        OfflineDatasetWriter.begin(path, *box_spaces)
    OfflineDatasetWriter.begin(path, *box_spaces, mode="append").close()
    with pytest.raises(UserError, match=r"interrupted collection of .*--resume, or give it up by deleting"):
        OfflineDatasetWriter.begin(path, *box_spaces, mode="append")
    write(path, box_spaces, hand_made[:1], mode="overwrite")
    assert rewards(path) == [-1, -2, -3]


def test_other_files_are_not_overwritten(tmp_path: Path, box_spaces) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for mode in ("create", "overwrite"):
        with pytest.raises(UserError, match="holds other files and no dataset"):
            OfflineDatasetWriter.begin(tmp_path, *box_spaces, mode=mode)
        with pytest.raises(UserError, match="is a file"):
            OfflineDatasetWriter.begin(tmp_path / "thesis.tex", *box_spaces, mode=mode)


def test_append_wants_the_same_spaces(tmp_path: Path, box_spaces, hand_made) -> None:
    write(tmp_path / "d", box_spaces, hand_made)
    with pytest.raises(UserError, match=r"observations of shape \(2,\).*of \(3,\)"):
        OfflineDatasetWriter.begin(tmp_path / "d", spaces.Box(-1, 1, (3,)), box_spaces[1], mode="append")


def test_episodes_that_do_not_fit_are_refused(tmp_path: Path, box_spaces, hand_made) -> None:
    writer = OfflineDatasetWriter.begin(tmp_path / "d", *box_spaces)
    hand_made[0].obs[""] = hand_made[0].obs[""][:-1]
    with pytest.raises(UserError, match=r"observations of shapes .*\(3, 2\).*expected .*\(4, 2\)"):
        writer.add(hand_made[0])
    hand_made[1].action = np.zeros((2, 3), dtype=np.float32)
    with pytest.raises(UserError, match=r"actions of shape \(2, 3\): expected \(2, 1\)"):
        writer.add(hand_made[1])
    with pytest.raises(UserError, match="no episode was collected"):
        writer.commit()


def test_images_are_compressed_without_loss(tmp_path: Path) -> None:
    space, actions = spaces.Box(0, 255, (64, 64, 3), np.uint8), spaces.Box(-1, 1, (2,), np.float32)
    rows = np.random.default_rng(0).integers(0, 256, (11, 64, 1, 1))
    images = np.broadcast_to(rows, (11, 64, 64, 3)).astype(np.uint8)
    steps = np.zeros((10, 2), dtype=np.float32)
    flags = np.zeros(10, dtype=np.bool_)
    episode = Episode({"": images}, steps, steps, flags * 1.0, flags * 1.0, flags, flags, flags)
    dataset = write(tmp_path / "d", (space, actions), [episode])
    (dataset.path / "table.npz").unlink()
    (dataset.path / "manifest.json").unlink()
    np.testing.assert_array_equal(OfflineDataset.open(dataset.path).table().obs[""], images)
    if not RAW_IMAGES_METADATA:  # Minari 0.5.3 (Python 3.10) takes every image for JPEG
        np.testing.assert_array_equal(minari.MinariDataset(dataset.path / "data")[0].observations, images)
    assert (dataset.path / "data" / "main_data.hdf5").stat().st_size < images.nbytes / 5


@contextmanager
def disk_full_after(num_bytes: int) -> Iterator[None]:
    """No file may grow beyond ``num_bytes``: the system's own write calls fail, HDF5's among them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_limit_is_real(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too large") as error, disk_full_after(100):
        (tmp_path / "file").write_bytes(bytes(200))
    assert error.value.errno == errno.EFBIG


@pytest.mark.parametrize("mode", ["append", "overwrite"])
@pytest.mark.parametrize("room", [4_000, 12_000, 40_000])
def test_a_full_disk_at_the_commit_keeps_both_sides(tmp_path: Path, box_spaces, hand_made, mode, room: int) -> None:
    path = tmp_path / "d"
    write(path, box_spaces, hand_made)
    writer = OfflineDatasetWriter.begin(path, *box_spaces, mode=mode)
    for _ in range(40):
        writer.add(hand_made[1])
    writer.flush()
    with pytest.raises(UserError, match=r"cannot write .*; .*kept") as error, disk_full_after(room):
        writer.commit()
    assert "\n" not in str(error.value)
    assert rewards(path) == [-1, -2, -3, -4, -5]
    assert names(tmp_path) == ["d", "d.partial"]
    writer.close()
    resumed = OfflineDatasetWriter.resume(path, *box_spaces).commit()
    assert resumed.num_transitions == 80 + (5 if mode == "append" else 0)


def test_a_full_disk_while_collecting_keeps_the_chunks_before(tmp_path: Path, box_spaces, hand_made) -> None:
    path = tmp_path / "d"
    writer = OfflineDatasetWriter.begin(path, *box_spaces)
    writer.add(hand_made[0])
    writer.flush()
    writer.add(hand_made[1])
    with (
        pytest.raises(UserError, match=r"d\.partial: File too large; .*free some space and use --resume"),
        disk_full_after(1000),
    ):
        writer.flush()
    assert not list((tmp_path / "d.partial").glob("*.tmp"))
    writer.close()
    assert OfflineDatasetWriter.resume(path, *box_spaces).num_transitions == 3


@pytest.mark.parametrize("failing", ["rename", "replace"])
def test_an_interruption_while_the_folders_are_swapped(
    tmp_path: Path, box_spaces, hand_made, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The former dataset must be found again, whichever of the two renames does not happen."""
    path = tmp_path / "d"
    write(path, box_spaces, hand_made)
    writer = OfflineDatasetWriter.begin(path, *box_spaces, mode="overwrite")
    writer.add(hand_made[0])
    writer.flush()

    def fail(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path if failing == "rename" else os, failing, fail)
        with pytest.raises(KeyboardInterrupt):
            writer.commit()
    for aside in tmp_path.glob(".d.former-*"):  # as it looks to the next process
        aside.rename(aside.with_name(f".d.former-{2**22 + 1}"))
    assert rewards(path) == [-1, -2, -3, -4, -5]
    writer.close()
    OfflineDatasetWriter.resume(path, *box_spaces).commit()
    assert rewards(path) == [-1, -2, -3]
    assert names(tmp_path) == ["d"]
