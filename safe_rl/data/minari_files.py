"""Reads and writes the episodes of Minari's HDF5 files.

Minari's own functions make every array of every episode through h5py's convenient interface: with thousands of episodes
of a few steps that takes seconds, and a resizable, mostly empty chunk each. Here the same groups and arrays go through
h5py's low-level interface, faster and several times smaller; Minari reads them as its own. Minari's other formats it
reads itself.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5p, h5s, h5t
from minari.dataset.minari_storage import MinariStorage, is_image_space

from safe_rl.data.episodes import STEP_FIELDS, Array, Episode, EpisodeTable, leaf, leaf_spaces
from safe_rl.errors import UserError

MAIN_FILE = "main_data.hdf5"
_RAW_IMAGES: dict[str, Any] = {"jpeg_encoding": False}
_ASKS_FOR_ENCODING = "jpeg_encoding" in inspect.signature(MinariStorage.new).parameters
"""Minari 0.5.3, the last one for Python 3.10, takes every image for JPEG: it cannot show ours, later ones can."""
RAW_IMAGES_OPTION = _RAW_IMAGES if _ASKS_FOR_ENCODING else {}
"""What to tell ``MinariStorage.new`` so that images are stored as they are."""
RAW_IMAGES_METADATA = {} if _ASKS_FOR_ENCODING else _RAW_IMAGES
"""What to add to the metadata, so that this reader and a later Minari know that they are."""
_COMPACT_BYTES = 32 * 1024
"""Arrays up to this size stand in the file's directory itself; HDF5 allows 64 KiB."""
_SUCCESS_KEYS = ("success", "is_success")


def append_episodes(path: Path, episodes: Iterable[Episode], first_id: int) -> None:
    """Adds episodes to an HDF5 file of Minari's, which is made if it is empty or missing.

    The infos are laid out as Minari's collector does it: one row for the reset, then one a step. ``task_action`` is
    stored only where it differs from the action.

    Raises:
        OSError: The disk is full, for example.
    """
    mode = "a" if first_id else "w"
    with _disk_errors(path), h5py.File(path, mode, track_order=True) as file:
        write = _ArrayWriter()
        for number, episode in enumerate(episodes, start=first_id):
            group = h5g.create(file.id, f"episode_{number}".encode())
            attributes = {"id": number, "total_steps": len(episode), "seed": episode.seed}
            for name, value in attributes.items():
                if value is not None:
                    write.attribute(group, name, value)
            for obs_path, array in episode.obs.items():
                write(group, f"observations/{obs_path}".rstrip("/"), array)
            write(group, "actions", episode.action)
            write(group, "rewards", episode.reward)
            write(group, "terminations", episode.terminated)
            write(group, "truncations", episode.truncated)
            write(group, "infos/cost", _with_reset_row(episode.cost))
            write(group, "infos/success", _with_reset_row(episode.success))
            if not np.array_equal(episode.task_action, episode.action):
                write(group, "infos/task_action", _with_reset_row(episode.task_action))


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """HDF5 reports a full disk as any of three errors, with the system's number within the text."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        number = re.search(r"errno = (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _with_reset_row(array: Array) -> Array:
    return np.concatenate([np.zeros_like(array[:1]), array])


class _ArrayWriter:
    """Writes arrays below a group; keeps what HDF5 needs for each kind of array."""

    def __init__(self) -> None:
        self._types: dict[np.dtype[Any], h5t.TypeID] = {}
        self._scalar = h5s.create(h5s.SCALAR)
        self._links = h5p.create(h5p.LINK_CREATE)
        self._links.set_create_intermediate_group(True)
        self._compact = _properties()
        self._compact.set_layout(h5d.COMPACT)

    def __call__(self, group: h5g.GroupID, name: str, array: Array) -> None:
        array = np.ascontiguousarray(array)
        if array.dtype not in self._types:
            self._types[array.dtype] = h5t.py_create(array.dtype, logical=True)
        properties = self._compact if array.nbytes <= _COMPACT_BYTES else _compressed(array.shape)
        space = h5s.create_simple(array.shape)
        dataset = h5d.create(group, name.encode(), self._types[array.dtype], space, properties, lcpl=self._links)
        dataset.write(h5s.ALL, h5s.ALL, array)

    def attribute(self, group: h5g.GroupID, name: str, value: int) -> None:
        h5a.create(group, name.encode(), h5t.STD_I64LE, self._scalar).write(np.array(value, dtype=np.int64))


def _properties() -> h5p.PropDCID:
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)  # equal data, equal files
    return properties


def _compressed(shape: tuple[int, ...]) -> h5p.PropDCID:
    """Images shrink several times; one row a chunk, so that single frames can be read."""
    properties = _properties()
    properties.set_layout(h5d.CHUNKED)
    properties.set_chunk((1, *shape[1:]) if len(shape) > 2 else shape)
    properties.set_shuffle()
    properties.set_deflate(1)
    return properties


def read_episodes(storage: MinariStorage, cost_key: str) -> EpisodeTable:
    """Reads all episodes of a Minari dataset.

    Args:
        storage: The opened dataset, in any of Minari's formats.
        cost_key: The entry of the infos that is the constraint.

    Raises:
        UserError: An episode is damaged, or its infos hold no cost.
        OSError, KeyError, ValueError, RuntimeError: The files are damaged.
    """
    collector = _TableCollector(storage, cost_key)
    if storage.FORMAT == "hdf5" and not has_jpeg_images(storage):
        with h5py.File(Path(storage.data_path) / MAIN_FILE, "r") as file:
            reader = _ArrayReader()
            for number in range(storage.total_episodes):
                group = h5g.open(file.id, f"episode_{number}".encode())
                collector.add(_Hdf5Episode(group, reader), _seed(group))
    else:
        for episode in storage.get_episodes(range(storage.total_episodes)):
            collector.add(_DictEpisode(episode), None)
    return collector.table()


def has_jpeg_images(storage: MinariStorage) -> bool:
    """Tells whether Minari has compressed the observations as JPEG, which only Minari unpacks."""
    encoded = bool(storage.metadata.get("jpeg_encoding", True))
    return encoded and any(is_image_space(space) for space in leaf_spaces(storage.observation_space).values())


def _seed(group: h5g.GroupID) -> int | None:
    if not h5a.exists(group, b"seed"):
        return None
    value = np.empty((), dtype=np.int64)
    h5a.open(group, b"seed").read(value)
    return int(value)


class _ArrayReader:
    """Reads arrays below a group; remembers the NumPy type of the array it has read before by that name."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[h5t.TypeID, np.dtype[Any]]] = {}

    def __call__(self, group: h5g.GroupID, name: str) -> Array:
        dataset = h5d.open(group, name.encode())
        stored = dataset.get_type()
        last = self._last.get(name)
        if last is None or not last[0].equal(stored):
            last = self._last[name] = (stored, dataset.dtype)
        array = np.empty(dataset.get_space().get_simple_extent_dims(), dtype=last[1])
        dataset.read(h5s.ALL, h5s.ALL, array, stored)
        return array


class _Hdf5Episode:
    """An episode of an HDF5 file, by the names that Minari uses."""

    def __init__(self, group: h5g.GroupID, read: _ArrayReader) -> None:
        self._group, self._read = group, read
        self._infos = h5g.open(group, b"infos") if b"infos" in group else None

    def array(self, name: str, path: str = "") -> Array:
        return self._read(self._group, f"{name}/{path}".rstrip("/"))

    def info(self, name: str) -> Array | None:
        if self._infos is None or name.encode() not in self._infos:
            return None
        return self._read(self._infos, name)

    def info_names(self) -> list[str]:
        return [] if self._infos is None else [name.decode() for name in self._infos]


class _DictEpisode:
    """An episode as Minari returns it."""

    def __init__(self, episode: dict[str, Any]) -> None:
        self._episode = episode

    def array(self, name: str, path: str = "") -> Array:
        return np.asarray(leaf(self._episode[name], path))

    def info(self, name: str) -> Array | None:
        infos = self._episode.get("infos") or {}
        return np.asarray(infos[name]) if name in infos else None

    def info_names(self) -> list[str]:
        return list(self._episode.get("infos") or {})


class _TableCollector:
    """Lays episodes end to end and checks that their arrays fit together."""

    def __init__(self, storage: MinariStorage, cost_key: str) -> None:
        self._path, self._cost_key = Path(storage.data_path), cost_key
        self._leaves = leaf_spaces(storage.observation_space)
        self._act_shape = storage.action_space.shape or ()
        self._obs: dict[str, list[Array]] = {path: [] for path in self._leaves}
        self._steps: dict[str, list[Array]] = {name: [] for name in STEP_FIELDS}
        self._seeds: list[int] = []
        self._num_seen = 0

    def add(self, episode: _Hdf5Episode | _DictEpisode, seed: int | None) -> None:
        """Appends an episode."""
        number = self._num_seen
        self._num_seen += 1
        reward = episode.array("rewards").reshape(-1)
        length = len(reward)
        if length == 0:  # an episode that was reset and never stepped
            return
        action = self._fit(number, "actions", episode.array("actions"), length, self._act_shape)
        cost = self._info(number, episode, self._cost_key, length)
        if cost is None:
            names = ", ".join(sorted(episode.info_names())) or "none"
            raise UserError(
                f"episode {number} of {self._path} has no info {self._cost_key!r} (its infos: {names}): "
                "name the constraint with --cost-key"
            )
        success = next(
            (s for key in _SUCCESS_KEYS if (s := self._info(number, episode, key, length)) is not None), None
        )
        task_action = self._info(number, episode, "task_action", length, self._act_shape)
        for path, space in self._leaves.items():
            array = episode.array("observations", path)
            self._obs[path].append(self._fit(number, "observations", array, length + 1, space.shape))
        values = {
            "action": action,
            "task_action": action if task_action is None else task_action,
            "reward": reward,
            "cost": cost,
            "success": np.zeros(length, dtype=np.bool_) if success is None else success.astype(np.bool_),
            "terminated": self._fit(number, "terminations", episode.array("terminations"), length, ()).astype(np.bool_),
            "truncated": self._fit(number, "truncations", episode.array("truncations"), length, ()).astype(np.bool_),
        }
        for name, array in values.items():
            self._steps[name].append(array)
        self._seeds.append(-1 if seed is None else seed)

    def _info(
        self, number: int, episode: _Hdf5Episode | _DictEpisode, key: str, length: int, shape: tuple[int, ...] = ()
    ) -> Array | None:
        """The rows of an info that belong to steps: Minari's collector stores the info of the reset before them."""
        array = episode.info(key)
        if array is None:
            return None
        if array.ndim and len(array) == length + 1:
            array = array[1:]
        return self._fit(number, f"infos/{key}", array, length, shape)

    def _fit(self, number: int, name: str, array: Array, length: int, shape: tuple[int, ...]) -> Array:
        if array.size != length * int(np.prod(shape, dtype=int)) or array.dtype.kind not in "buif":
            raise UserError(
                f"episode {number} of {self._path} is damaged: its {name} are {array.dtype}{array.shape}, expected "
                f"numbers of shape {(length, *shape)}: restore the dataset or collect it again"
            )
        return array.reshape(length, *shape)

    def table(self) -> EpisodeTable:
        """Joins what was added."""
        if not self._seeds:
            raise UserError(f"{self._path} holds no episodes: collect some with safe-rl collect")
        return EpisodeTable(
            lengths=np.array([len(reward) for reward in self._steps["reward"]], dtype=np.int64),
            seeds=np.array(self._seeds, dtype=np.int64),
            obs={path: np.concatenate(arrays) for path, arrays in self._obs.items()},
            steps={name: np.concatenate(arrays) for name, arrays in self._steps.items()},
        )
