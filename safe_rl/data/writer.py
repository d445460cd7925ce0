"""Writes offline datasets so that neither a crash nor a full disk leaves a half-written one."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from minari.dataset.minari_storage import MinariStorage

from safe_rl.data.dataset import (
    DATA_FOLDER,
    METADATA_KEY,
    TABLE_FILE,
    OfflineDataset,
    clear_leftovers,
    data_folder,
    is_dataset,
    partial_folder,
    require_compatible,
)
from safe_rl.data.episodes import Episode, EpisodeTable, leaf_spaces, require_action_space
from safe_rl.data.minari_files import MAIN_FILE, append_episodes, has_jpeg_images
from safe_rl.errors import UserError
from safe_rl.storage import MANIFEST, staged_folder

logger = logging.getLogger(__name__)

Mode = Literal["create", "append", "overwrite"]
JOURNAL = "journal.json"
_CHUNK = "chunk-{:09d}.npz"
_FLUSH_TRANSITIONS = 5000
_FLUSH_SEC = 2.0
_TABLE_BYTES = 64 << 20
"""Images are not stored twice: there the reading of HDF5 is a small part of the whole."""


class OfflineDatasetWriter:
    """Gathers episodes in ``<path>.partial`` and makes the dataset of them in one move.

    The partial folder is a journal: a description, and chunks of whole episodes that are each written completely or not at all.
    A process that is killed loses the last two seconds at most; ``resume`` goes on after the last complete chunk. The dataset
    at ``path`` stays as it was until ``commit``.
    """

    def __init__(self, path: Path, observation_space: gym.Space[Any], action_space: gym.Space[Any], journal: dict[str, Any]) -> None:
        """Use ``begin`` or ``resume``."""
        self.path = path
        self.partial = partial_folder(path)
        self.observation_space, self.action_space = observation_space, action_space
        self.journal = journal
        self._pending: list[Episode] = []
        self._pending_transitions = 0
        self._last_flush = time.monotonic()
        self._lock: int | None = _lock(self.partial)
        self._chunks = self._count_chunks()
        self.num_episodes = sum(len(lengths) for lengths in self._chunks.values())
        """Episodes of this collection, those of a dataset that is appended to not counted."""
        self.num_transitions = sum(int(lengths.sum()) for lengths in self._chunks.values())
        """Transitions of this collection."""

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
        clear_leftovers(path)
        base = _check_output(path, mode, observation_space, action_space)
        journal = {
            "mode": mode,
            "env": env_id,
            "env_spec": _spec_json(env_spec),
            "description": description or {},
            "base_episodes": base.num_episodes if base else 0,
            "base_sha256": base.sha256 if base else None,
        }
        partial = partial_folder(path)
        with _disk_errors(partial):
            if partial.exists():  # given up with --overwrite, or killed before its first word
                shutil.rmtree(partial)
            partial.mkdir(parents=True)
            _write_atomically(partial / JOURNAL, json.dumps(journal, indent=1).encode())
        return cls(path, observation_space, action_space, journal)

    @classmethod
    def resume(cls, path: Path, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> OfflineDatasetWriter:
        """Goes on with a collection that was cut.

        Raises:
            UserError: There is none, or it is damaged.
        """
        clear_leftovers(path)
        try:
            journal = json.loads((partial_folder(path) / JOURNAL).read_text())
        except FileNotFoundError as error:
            raise UserError(f"no interrupted collection of {path} to resume: leave --resume out to start one") from error
        except ValueError as error:
            raise _damaged_partial(partial_folder(path), JOURNAL) from error
        return cls(path, observation_space, action_space, journal)

    @property
    def first_episode(self) -> int:
        """Number that the first episode of this collection has in the dataset."""
        return int(self.journal["base_episodes"])

    def add(self, episode: Episode) -> None:
        """Appends an episode; it is on disk after the next ``flush``, which happens every two seconds by itself.

        Raises:
            UserError: The episode does not fit the spaces, or the disk is full.
        """
        self._check(episode)
        self._pending.append(episode)
        self._pending_transitions += len(episode)
        self.num_episodes += 1
        self.num_transitions += len(episode)
        if self._pending_transitions >= _FLUSH_TRANSITIONS or time.monotonic() - self._last_flush >= _FLUSH_SEC:
            self.flush()

    def flush(self) -> None:
        """Puts the episodes added so far on disk.

        Raises:
            UserError: The disk is full; the episodes of former flushes are kept.
        """
        self._last_flush = time.monotonic()
        if not self._pending:
            return
        table = EpisodeTable.from_episodes(self._pending)
        # Named by its first episode: a flush that Ctrl-C cut short is repeated under the same name.
        name = _CHUNK.format(self.num_episodes - len(self._pending))
        with _disk_errors(self.partial):
            _write_atomically(self.partial / name, table)
        self._chunks[name] = table.lengths
        self._pending, self._pending_transitions = [], 0

    def commit(self) -> OfflineDataset:
        """Makes the dataset and removes the partial folder.

        Raises:
            UserError: There are no episodes, the dataset to append to has changed, or the disk is full; the former dataset and
                the partial folder are kept.
        """
        self.flush()
        if not self.num_episodes:
            raise UserError(f"no episode was collected for {self.path}")
        if not self._is_committed():
            base = self._base()
            with staged_folder(self.path) as staging, _disk_errors(self.path):
                if base is None:
                    total = self._write_new(staging / DATA_FOLDER)
                else:
                    total = self._write_appended(base, staging)
                self._write_table(base, staging)
                self._update_metadata(staging, total)
        self.close()
        with _disk_errors(self.partial):
            shutil.rmtree(self.partial)
        return OfflineDataset.open(self.path)

    def close(self) -> None:
        """Lets another process go on with the collection."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _is_committed(self) -> bool:
        """Whether a process was killed after it had appended, before it could remove the partial folder."""
        if self.journal["mode"] != "append":
            return False
        present = OfflineDataset.open(self.path)
        collections = present.metadata.get(METADATA_KEY, {}).get("collections", [])
        last = collections[-1] if collections else None
        return last == self.journal["description"] and present.num_episodes == self.first_episode + self.num_episodes

    def _base(self) -> OfflineDataset | None:
        if self.journal["mode"] != "append":
            return None
        base = OfflineDataset.open(self.path)
        if base.sha256 != self.journal["base_sha256"]:
            raise UserError(f"dataset {self.path} has changed since this collection began: delete {self.partial} and collect again")
        return base

    def _write_new(self, folder: Path) -> int:
        spec = self.journal["env_spec"]
        MinariStorage.new(
            folder,
            observation_space=self.observation_space,
            action_space=self.action_space,
            env_spec=EnvSpec.from_json(spec) if spec else None,
            jpeg_encoding=False,
        )
        append_episodes(folder / MAIN_FILE, self._episodes(), first_id=0)
        return self.num_transitions

    def _write_appended(self, base: OfflineDataset, staging: Path) -> int:
        """Copies the dataset, with what else the user keeps in its folder, and adds to the copy."""
        shutil.copytree(self.path, staging, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        append_episodes(data_folder(staging) / MAIN_FILE, self._episodes(), first_id=base.num_episodes)
        return base.num_transitions + self.num_transitions

    def _write_table(self, base: OfflineDataset | None, staging: Path) -> None:
        """Thousands of short episodes take a second to read from HDF5, and a hundredth of that from one table."""
        (staging / TABLE_FILE).unlink(missing_ok=True)
        if sum((self.partial / name).stat().st_size for name in self._chunks) > _TABLE_BYTES:
            return
        tables = [base.table()] if base else []
        table = EpisodeTable.concatenate([*tables, *(_read_chunk(self.partial / name) for name in sorted(self._chunks))])
        if table.nbytes <= _TABLE_BYTES:
            with (staging / TABLE_FILE).open("wb") as file:
                table.save(file)

    def _update_metadata(self, staging: Path, total_steps: int) -> None:
        storage = MinariStorage.read(data_folder(staging))
        metadata = MinariStorage.read_raw_metadata(storage.data_path)
        former = metadata.get(METADATA_KEY, {})
        update: dict[str, Any] = {
            "total_steps": total_steps,
            "total_episodes": self.first_episode + self.num_episodes,
            "dataset_size": float(storage.get_size()),
            METADATA_KEY: {
                "env": self.journal["env"],
                "cost_key": self.journal["description"].get("cost_key", "cost"),
                "collections": [*former.get("collections", []), self.journal["description"]],
            },
        }
        if "dataset_id" not in metadata:
            import minari

            update |= {
                "dataset_id": _minari_id(self.path),
                "minari_version": minari.__version__,
                "algorithm_name": str(self.journal["description"].get("policy", "unknown")),
                "description": f"Offline data of {self.journal['env'] or 'an environment'}; infos: cost, success, task_action.",
            }
        storage.update_metadata(update)

    def _episodes(self) -> Iterator[Episode]:
        for name in sorted(self._chunks):
            yield from _read_chunk(self.partial / name)

    def _count_chunks(self) -> dict[str, np.ndarray[Any, np.dtype[np.int64]]]:
        chunks: dict[str, np.ndarray[Any, np.dtype[np.int64]]] = {}
        expected = 0
        for path in sorted(self.partial.glob("chunk-*.npz")):
            lengths = _read_chunk(path).lengths
            if path.name != _CHUNK.format(expected):
                raise _damaged_partial(self.partial, _CHUNK.format(expected))
            chunks[path.name] = lengths
            expected += len(lengths)
        return chunks

    def _check(self, episode: Episode) -> None:
        length, leaves = len(episode), leaf_spaces(self.observation_space)
        shapes = {path: array.shape for path, array in episode.obs.items()}
        expected = {path: (length + 1, *space.shape) for path, space in leaves.items()}
        if shapes != expected or length == 0:
            raise UserError(f"an episode of {length} steps has observations of shapes {shapes}: expected {expected}")
        actions = (length, *(self.action_space.shape or ()))
        if episode.action.shape != actions or episode.task_action.shape != actions:
            raise UserError(f"an episode of {length} steps has actions of shape {episode.action.shape}: expected {actions}")


def _check_output(
    path: Path, mode: Mode, observation_space: gym.Space[Any], action_space: gym.Space[Any]
) -> OfflineDataset | None:
    """Returns the dataset to append to."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file: choose another --output")
    present = is_dataset(path)
    if not present and path.exists() and any(path.iterdir()) and not (path / MANIFEST).is_file():
        raise UserError(f"{path} holds other files and no dataset: choose another --output")
    if mode == "append":
        if not present:
            raise UserError(f"there is no dataset at {path} to append to: leave --append out")
    elif mode == "create" and (present or (path / MANIFEST).is_file()):
        raise UserError(
            f"{path} already holds a dataset: add to it with --append, replace it with --overwrite, or choose another --output"
        )
    partial = partial_folder(path)
    if (partial / JOURNAL).exists() and mode != "overwrite":
        raise UserError(
            f"{partial} holds an interrupted collection: go on with --resume, or give it up "
            + ("by deleting that folder" if mode == "append" else "with --overwrite")
        )
    if mode != "append":
        return None
    base = OfflineDataset.open(path)
    require_compatible(
        f"dataset {path}", (base.observation_space, base.action_space), "the environment", (observation_space, action_space)
    )
    if base.metadata["data_format"] != "hdf5" or has_jpeg_images(base._storage):
        raise UserError(f"dataset {path} is in a format that cannot be added to: collect into another --output")
    return base


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


def _write_atomically(path: Path, content: bytes | EpisodeTable) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        if isinstance(content, EpisodeTable):
            content.save(file)
        else:
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _read_chunk(path: Path) -> EpisodeTable:
    try:
        return EpisodeTable.load(path)
    except ValueError as error:
        raise _damaged_partial(path.parent, path.name) from error


def _damaged_partial(folder: Path, name: str) -> UserError:
    return UserError(f"{folder / name} of the interrupted collection is missing or damaged: delete {folder} and collect again")


def _lock(partial: Path) -> int:
    """Keeps two processes from writing one collection; the system lifts the lock when the process ends."""
    with _disk_errors(partial):
        descriptor = os.open(partial / "lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise UserError(f"another process is collecting into {partial}: wait for it or choose another --output") from error
    return descriptor


class _disk_errors:
    """Turns the errors of a full or forbidden disk into a ``UserError``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        # h5py reports a write that failed when a file is closed as a RuntimeError
        if isinstance(error, (OSError, RuntimeError)):
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise UserError(
                f"cannot write {self._path}: {reason}; what was complete before is kept: free some space and use --resume"
            ) from error

