"""Writes offline datasets so that neither a crash nor a full disk leaves a half-written one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import minari
from gymnasium.envs.registration import EnvSpec
from minari.dataset.minari_storage import MinariStorage

from safe_rl.data.dataset import OfflineDataset, require_compatible
from safe_rl.data.episodes import Episode, EpisodeTable, leaf_spaces, require_action_space
from safe_rl.data.folders import DATA_FOLDER, METADATA_KEY, TABLE_FILE, data_folder, is_dataset
from safe_rl.data.journal import EpisodeJournal, disk_errors
from safe_rl.data.minari_files import (
    MAIN_FILE,
    RAW_IMAGES_METADATA,
    RAW_IMAGES_OPTION,
    append_episodes,
    has_jpeg_images,
)
from safe_rl.errors import UserError
from safe_rl.storage import MANIFEST, clear_leftovers, staged_folder

Mode = Literal["create", "append", "overwrite"]
_FLUSH_TRANSITIONS = 5000
_FLUSH_SEC = 2.0
_TABLE_BYTES = 64 << 20
"""Images are not stored twice: there the reading of HDF5 is a small part of the whole."""


class OfflineDatasetWriter:
    """Gathers episodes in a journal beside the dataset and makes the dataset of them in one move.

    A process that is killed loses the last two seconds at most; ``resume`` goes on after the last complete chunk. The
    dataset at ``path`` stays as it was until ``commit``.
    """

    def __init__(
        self, path: Path, observation_space: gym.Space[Any], action_space: gym.Space[Any], journal: EpisodeJournal
    ) -> None:
        """Use ``begin`` or ``resume``."""
        self.path = path
        self.observation_space = observation_space
        self.action_space = action_space
        self.journal = journal
        self._pending: list[Episode] = []
        self._pending_transitions = 0
        self._last_flush = time.monotonic()

    @classmethod
    def begin(
        cls,
        path: Path,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        *,
        env_id: str = "",
        env_spec: EnvSpec | None = None,
        mode: Mode = "create",
        description: dict[str, Any] | None = None,
    ) -> OfflineDatasetWriter:
        """Starts a collection.

        Args:
            path: Folder of the dataset.
            observation_space: Box or Dict.
            action_space: Box or Discrete.
            env_id: Name of the environment.
            env_spec: How Gymnasium makes it, so that Minari can recover it.
            mode: What to do with a dataset at ``path``: raise, add to it, or replace it on ``commit``.
            description: JSON values to keep with the dataset, how it was collected for example.

        Raises:
            UserError: There is something at ``path`` that ``mode`` does not allow for, or it cannot be written.
        """
        leaf_spaces(observation_space)
        require_action_space(action_space)
        clear_leftovers(path.parent, path.name)
        base = _check_output(path, mode, observation_space, action_space)
        header = {
            "mode": mode,
            "env": env_id,
            "env_spec": _spec_json(env_spec),
            "description": description or {},
            "base_episodes": base.num_episodes if base else 0,
            "base_sha256": base.sha256 if base else None,
        }
        return cls(path, observation_space, action_space, EpisodeJournal.begin(path, header))

    @classmethod
    def resume(
        cls, path: Path, observation_space: gym.Space[Any], action_space: gym.Space[Any]
    ) -> OfflineDatasetWriter:
        """Goes on with a collection that was cut.

        Raises:
            UserError: There is none, it is damaged, or another process is at it.
        """
        clear_leftovers(path.parent, path.name)
        return cls(path, observation_space, action_space, EpisodeJournal.resume(path))

    @property
    def num_episodes(self) -> int:
        """Episodes of this collection, those of a dataset that is added to not counted."""
        return self.journal.num_episodes + len(self._pending)

    @property
    def num_transitions(self) -> int:
        """Transitions of this collection."""
        return self.journal.num_transitions + self._pending_transitions

    @property
    def first_episode(self) -> int:
        """Number that the first episode of this collection has in the dataset."""
        return int(self.journal.header["base_episodes"])

    def add(self, episode: Episode) -> None:
        """Appends an episode; it is on disk after the next ``flush``, which happens every two seconds by itself.

        Raises:
            UserError: The episode does not fit the spaces, or the disk is full.
        """
        self._check(episode)
        self._pending.append(episode)
        self._pending_transitions += len(episode)
        if self._pending_transitions >= _FLUSH_TRANSITIONS or time.monotonic() - self._last_flush >= _FLUSH_SEC:
            self.flush()

    def flush(self) -> None:
        """Puts the episodes added so far on disk.

        Raises:
            UserError: The disk is full; the episodes of former flushes are kept.
        """
        self._last_flush = time.monotonic()
        if self._pending:
            self.journal.append(EpisodeTable.from_episodes(self._pending))
            self._pending, self._pending_transitions = [], 0

    def commit(self) -> OfflineDataset:
        """Makes the dataset and removes the journal.

        Raises:
            UserError: There are no episodes, the dataset to add to has changed, or the disk is full; the former dataset
                and the journal are kept.
        """
        self.flush()
        if not self.num_episodes:
            raise UserError(f"no episode was collected for {self.path}")
        if not self._is_committed():
            base = self._base()
            with staged_folder(self.path) as staging, disk_errors(self.path):
                self._write_episodes(base, staging)
                self._write_table(base, staging)
                self._write_metadata(base, data_folder(staging))
        self.journal.remove()
        return OfflineDataset.open(self.path)

    def close(self) -> None:
        """Lets another process go on with the collection."""
        self.journal.close()

    def _is_committed(self) -> bool:
        """Whether a process was killed after it had added its episodes, before it could remove the journal."""
        if self.journal.header["mode"] != "append":
            return False
        present = OfflineDataset.open(self.path)
        collections = present.metadata.get(METADATA_KEY, {}).get("collections", [None])
        same_size = present.num_episodes == self.first_episode + self.num_episodes
        return same_size and collections[-1] == self.journal.header["description"]

    def _base(self) -> OfflineDataset | None:
        if self.journal.header["mode"] != "append":
            return None
        base = OfflineDataset.open(self.path)
        if base.sha256 != self.journal.header["base_sha256"]:
            raise UserError(
                f"dataset {self.path} has changed since this collection began: "
                f"delete {self.journal.folder} and collect again"
            )
        return base

    def _write_episodes(self, base: OfflineDataset | None, staging: Path) -> None:
        """Makes Minari's files, or adds to a copy of the dataset and of what else its owner keeps in the folder."""
        if base is not None:
            _copy_folder(self.path, staging)
            append_episodes(data_folder(staging) / MAIN_FILE, self._episodes(), first_id=base.num_episodes)
            return
        spec = self.journal.header["env_spec"]
        MinariStorage.new(
            staging / DATA_FOLDER,
            observation_space=self.observation_space,
            action_space=self.action_space,
            env_spec=EnvSpec.from_json(spec) if spec else None,
            **RAW_IMAGES_OPTION,
        )
        append_episodes(staging / DATA_FOLDER / MAIN_FILE, self._episodes(), first_id=0)

    def _episodes(self) -> Iterator[Episode]:
        for table in self.journal.tables():
            yield from table

    def _write_table(self, base: OfflineDataset | None, staging: Path) -> None:
        """Thousands of short episodes take a second to read from HDF5, and a hundredth of that from one table."""
        (staging / TABLE_FILE).unlink(missing_ok=True)
        if self.journal.nbytes > _TABLE_BYTES:
            return
        table = EpisodeTable.concatenate([*([base.table()] if base else []), *self.journal.tables()])
        if table.nbytes <= _TABLE_BYTES:
            with (staging / TABLE_FILE).open("wb") as file:
                table.save(file)

    def _write_metadata(self, base: OfflineDataset | None, folder: Path) -> None:
        header = self.journal.header
        former = base.metadata if base else {}
        collections = former.get(METADATA_KEY, {}).get("collections", [])
        storage = MinariStorage.read(folder.resolve())  # its get_size fails on a relative path
        update = {
            "total_steps": self.num_transitions + (base.num_transitions if base else 0),
            "total_episodes": self.num_episodes + self.first_episode,
            "dataset_size": float(storage.get_size()),
            METADATA_KEY: {
                "env": header["env"],
                "cost_key": header["description"].get("cost_key", "cost"),
                "collections": [*collections, header["description"]],
            },
        }
        if not former:
            update |= {
                **RAW_IMAGES_METADATA,
                "dataset_id": _minari_id(self.path),
                "minari_version": minari.__version__,
                "algorithm_name": str(header["description"].get("policy", "unknown")),
                "description": f"Offline data of {header['env']}; infos: cost, success, task_action where it differs",
            }
        storage.update_metadata(update)

    def _check(self, episode: Episode) -> None:
        length = len(episode)
        actions = (length, *(self.action_space.shape or ()))
        expected = {path: (length + 1, *leaf.shape) for path, leaf in leaf_spaces(self.observation_space).items()}
        shapes = {path: array.shape for path, array in episode.obs.items()}
        if shapes != expected or length == 0:
            raise UserError(f"an episode of {length} steps has observations of shapes {shapes}: expected {expected}")
        for name in ("action", "task_action"):
            if (shape := getattr(episode, name).shape) != actions:
                raise UserError(f"an episode of {length} steps has {name}s of shape {shape}: expected {actions}")


def _check_output(
    path: Path, mode: Mode, observation_space: gym.Space[Any], action_space: gym.Space[Any]
) -> OfflineDataset | None:
    """Checks that ``mode`` is possible at ``path``; returns the dataset to add to."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file: choose another --output")
    present = is_dataset(path) or ((path / MANIFEST).is_file() and (path / DATA_FOLDER).is_dir())
    if not present and path.exists() and any(path.iterdir()):
        raise UserError(f"{path} holds other files and no dataset: choose another --output")
    if mode == "create" and present:
        raise UserError(
            f"{path} already holds a dataset: add to it with --append, replace it with --overwrite, "
            "or choose another --output"
        )
    if mode == "append" and not present:
        raise UserError(f"there is no dataset at {path} to add to: leave --append out")
    if mode != "overwrite" and EpisodeJournal.exists(path):
        cure = "by deleting that folder" if mode == "append" else "with --overwrite"
        raise UserError(
            f"an interrupted collection of {path} lies beside it, in {path.name}.partial: "
            f"go on with --resume, or give it up {cure}"
        )
    if mode != "append":
        return None
    base = OfflineDataset.open(path)
    theirs = (observation_space, action_space)
    require_compatible(f"dataset {path}", (base.observation_space, base.action_space), "the environment", theirs)
    if base.storage.FORMAT != "hdf5" or has_jpeg_images(base.storage):
        raise UserError(f"dataset {path} is in a format that cannot be added to: collect into another --output")
    return base


def _copy_folder(source: Path, target: Path) -> None:
    """Copies what is below ``source``; unlike ``shutil.copytree`` it stops at the first error and raises that one."""
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(exist_ok=True)
        elif path.name != MANIFEST:
            shutil.copy2(path, copy)


def _spec_json(spec: EnvSpec | None) -> str | None:
    """The spec as Minari keeps it; None where the environment is made by arguments that JSON cannot hold."""
    try:
        return spec.to_json() if spec is not None else None
    except (TypeError, ValueError):
        return None


def _minari_id(path: Path) -> str:
    """Minari wants ``name-v0``, of letters, digits, ``-`` and ``_``."""
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in path.resolve().name)
    _, dash_v, version = name.rpartition("-v")
    return name if dash_v and version.isdecimal() else f"{name}-v0"
