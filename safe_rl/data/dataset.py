"""The offline dataset: a folder in the Minari format with a manifest of hashes beside it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from minari.dataset.minari_storage import MinariStorage

from safe_rl.data.episodes import Episode, EpisodeTable, leaf_spaces, require_action_space
from safe_rl.data.folders import METADATA_KEY, TABLE_FILE, data_folder, find_dataset
from safe_rl.data.minari_files import read_episodes
from safe_rl.envs.spaces import flat_dtype, image_shape
from safe_rl.errors import UserError
from safe_rl.storage import MANIFEST, verify_manifest
from safe_rl.transitions import Transitions

logger = logging.getLogger(__name__)


class OfflineDataset:
    """Recorded episodes to learn risk from.

    ``<path>/data`` is a Minari dataset that ``minari.MinariDataset`` opens; ``<path>/manifest.json`` holds the hash of
    every file. Other people's Minari data opens too, if its step infos hold a cost; it has no hashes to check.
    """

    def __init__(self, path: Path, storage: MinariStorage, cost_key: str) -> None:
        """Use ``OfflineDataset.open``."""
        self.path = path
        self.cost_key = cost_key
        self.storage = storage
        """Minari's view of it."""
        self.metadata: dict[str, Any] = MinariStorage.read_raw_metadata(storage.data_path)
        """Minari's metadata, as JSON values."""

    @classmethod
    def open(cls, path: Path | str, *, cost_key: str = "cost") -> OfflineDataset:
        """Opens a dataset.

        Args:
            path: Its folder, the ``data`` folder in it, or the id of a dataset among Minari's local ones.
            cost_key: The entry of the step infos that is the constraint: above zero counts as a violation.

        Raises:
            UserError: It is missing, damaged (the message names the file), no dataset, or its spaces are not supported.
        """
        folder = find_dataset(Path(path))
        if (folder / MANIFEST).is_file():
            verify_manifest(folder)
        storage = _open_storage(data_folder(folder))
        leaf_spaces(storage.observation_space)
        require_action_space(storage.action_space)
        return cls(folder, storage, _stored_cost_key(folder, cost_key))

    @property
    def observation_space(self) -> gym.Space[Any]:
        """The environment's observation space."""
        return self.storage.observation_space

    @property
    def action_space(self) -> gym.Space[Any]:
        """The environment's action space."""
        return self.storage.action_space

    @property
    def env_id(self) -> str:
        """Name of the environment it was collected in; empty where the dataset does not tell."""
        own = self.metadata.get(METADATA_KEY, {}).get("env")
        if own is None and self.metadata.get("env_spec"):
            own = json.loads(self.metadata["env_spec"]).get("id")
        return str(own or "")

    @property
    def num_transitions(self) -> int:
        """Steps of all episodes."""
        return int(self.metadata["total_steps"])

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return int(self.metadata["total_episodes"])

    @property
    def num_violations(self) -> int:
        """Transitions that violate the constraint."""
        return int(self.transitions().cost.sum())

    @cached_property
    def episode_lengths(self) -> npt.NDArray[np.int64]:
        """(num_episodes,) steps of each episode."""
        self.transitions()
        return self._lengths

    @cached_property
    def episode_successes(self) -> npt.NDArray[np.bool_]:
        """(num_episodes,) whether the task was done in each episode."""
        self.transitions()
        return self._successes

    def table(self) -> EpisodeTable:
        """Reads all episodes as they were stored: observations with their own keys, shapes and types.

        Raises:
            UserError: A file is damaged or an episode has no cost.
        """
        try:
            if (self.path / TABLE_FILE).is_file() and (self.path / MANIFEST).is_file():
                return EpisodeTable.load(self.path / TABLE_FILE)
            return read_episodes(self.storage, self.cost_key)
        except (OSError, KeyError, ValueError, RuntimeError, TypeError, AssertionError) as error:
            raise _damaged(self.path, error) from error

    def episodes(self) -> Iterator[Episode]:
        """Yields the episodes as they were stored; see ``table``."""
        return iter(self.table())

    def transitions(self) -> Transitions:
        """Returns all steps as one batch of flat observations, read once and then kept; do not write to it.

        A Discrete action is a column that holds its number. The last step of an episode that neither terminated nor was
        truncated counts as truncated.
        """
        return self._transitions

    def release(self) -> None:
        """Forgets what ``transitions`` keeps: who has taken them over need not hold images twice."""
        self.__dict__.pop("_transitions", None)

    @cached_property
    def _transitions(self) -> Transitions:
        table = self.table()
        steps, num_steps, ends = table.steps, table.num_steps, np.cumsum(table.lengths)
        self._lengths = table.lengths
        self._successes = np.logical_or.reduceat(steps["success"], ends - table.lengths)
        leaves = [table.obs[path].reshape(num_steps + len(ends), -1) for path in leaf_spaces(self.observation_space)]
        dtype = flat_dtype(self.observation_space)
        obs = leaves[0].astype(dtype, copy=False) if len(leaves) == 1 else np.concatenate(leaves, axis=1, dtype=dtype)
        final_obs = ends + np.arange(len(ends))
        first_obs = final_obs - table.lengths
        truncated = steps["truncated"].copy()
        truncated[ends - 1] |= ~steps["terminated"][ends - 1]
        return Transitions(
            obs=np.delete(obs, final_obs, axis=0),
            task_action=steps["task_action"].reshape(num_steps, -1).astype(np.float32),
            action=steps["action"].reshape(num_steps, -1).astype(np.float32),
            reward=steps["reward"].astype(np.float32),
            cost=_indicator(steps["cost"]),
            next_obs=np.delete(obs, first_obs, axis=0),
            terminated=steps["terminated"],
            truncated=truncated,
        )

    @cached_property
    def sha256(self) -> str:
        """Hash of the transitions: equal data, equal hash, however it is stored."""
        digest = hashlib.sha256()
        transitions = self.transitions()
        for field in fields(transitions):
            array = getattr(transitions, field.name)
            digest.update(f"{field.name}{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def check_compatible(self, env: gym.Env[Any, Any]) -> None:
        """Checks that the data fits an environment: equal observation shapes, equal action space.

        Raises:
            UserError: It does not; the message names what differs.
        """
        require_compatible(
            f"dataset {self.path} (of {self.env_id or 'an unnamed environment'})",
            (self.observation_space, self.action_space),
            f"environment {getattr(env, 'name', None) or env}",
            (env.observation_space, env.action_space),
        )
        name = getattr(env, "name", "")
        if name and self.env_id and name != self.env_id:
            logger.warning("dataset %s was collected in %s, not in %s", self.path, self.env_id, name)

    def validate_for_training(self) -> None:
        """Checks that a risk critic can learn from the data.

        Raises:
            UserError: A number is not finite, or nothing violates the constraint.
        """
        transitions = self.transitions()
        for field in fields(transitions):
            array = getattr(transitions, field.name)
            if array.dtype.kind != "f":
                continue
            rows = np.isfinite(array).reshape(len(array), -1).all(axis=1)
            if not rows.all():
                episode = int(np.searchsorted(np.cumsum(self.episode_lengths), int(np.argmin(rows)), side="right"))
                raise UserError(
                    f"dataset {self.path} is not finite in {int((~rows).sum())} transitions: the first is the "
                    f"{field.name} in episode {episode}; mend what returned NaN or infinity and collect again"
                )
        if not transitions.cost.any():
            raise UserError(
                f"dataset {self.path} holds no violation in its {len(transitions)} transitions, so no risk can be "
                "learned: collect nearer to the constraint boundary (--policy random, more --noise) or check --cost-key"
            )


def require_compatible(
    name: str, own: tuple[gym.Space[Any], gym.Space[Any]], other: str, theirs: tuple[gym.Space[Any], gym.Space[Any]]
) -> None:
    """Raises ``UserError`` where observation shapes or action spaces differ, or one has images and one numbers."""
    shapes, other_shapes = (
        {path: leaf.shape for path, leaf in leaf_spaces(observation_space).items()}
        for observation_space in (own[0], theirs[0])
    )
    if shapes != other_shapes:
        raise UserError(
            f"{name} has observations of shape {_shapes(shapes)}, {other} of {_shapes(other_shapes)}: "
            "they do not belong together"
        )
    for leaf, other_leaf in zip(*(leaf_spaces(space).values() for space in (own[0], theirs[0])), strict=True):
        if (image_shape(leaf) is None) != (image_shape(other_leaf) is None):
            raise UserError(
                f"{name} has observations of type {leaf.dtype}, {other} of {other_leaf.dtype}: they do not belong "
                "together; an image is a Box of uint8"
            )
    if not _equal_actions(own[1], theirs[1]):
        raise UserError(f"{name} has actions {own[1]}, {other} has {theirs[1]}: they do not belong together")


def _shapes(shapes: dict[str, tuple[int, ...]]) -> str:
    return str(shapes.get("", shapes))


def _equal_actions(first: gym.Space[Any], second: gym.Space[Any]) -> bool:
    if isinstance(first, spaces.Box) and isinstance(second, spaces.Box):
        return (
            first.shape == second.shape and np.allclose(first.low, second.low) and np.allclose(first.high, second.high)
        )
    return first == second


def _indicator(cost: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Above zero is a violation; NaN stays, for ``validate_for_training`` to name."""
    if cost.dtype.kind == "f":
        return np.where(np.isnan(cost), np.nan, cost > 0).astype(np.float32)
    return (cost > 0).astype(np.float32)


def _stored_cost_key(folder: Path, wanted: str) -> str:
    """A dataset written here holds the constraint as ``cost``, whatever the environment calls it."""
    collected = _read_metadata(folder).get(METADATA_KEY, {}).get("cost_key")
    if collected is None:
        return wanted
    if wanted not in ("cost", collected):
        raise UserError(
            f"dataset {folder} was collected with --cost-key {collected}, not {wanted}: leave the option out"
        )
    return "cost"


def _read_metadata(folder: Path) -> dict[str, Any]:
    try:
        metadata = MinariStorage.read_raw_metadata(data_folder(folder))
        metadata["total_steps"], metadata["total_episodes"], metadata["data_format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, error) from error
    return metadata


def _open_storage(folder: Path) -> MinariStorage:
    _read_metadata(folder)
    try:
        return MinariStorage.read(folder)
    except ImportError as error:
        raise UserError(f"dataset {folder} needs a package of Minari's: {_one_line(error)}") from error
    except gym.error.Error as error:
        raise UserError(
            f"dataset {folder} names no spaces, and its environment cannot be made: {_one_line(error)}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError, NotImplementedError) as error:
        raise _damaged(folder, error) from error


def _damaged(path: Path, error: BaseException) -> UserError:
    return UserError(
        f"dataset {path} is damaged ({type(error).__name__}: {_one_line(error)}): "
        "restore it or collect it again with --overwrite"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
