"""Recorded episodes in memory: one at a time, and many laid end to end."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from safe_rl.envs.spaces import flat_dim
from safe_rl.errors import UserError

Array = npt.NDArray[Any]
Leaves = dict[str, Array]
"""Arrays by the path of their space in a Dict, such as ``robot/pose``; a Box alone has the empty path."""


def leaf_spaces(space: gym.Space[Any]) -> dict[str, spaces.Box]:
    """Returns the Boxes of an observation space by path, in the order in which observations are flattened.

    Raises:
        UserError: The space is neither a Box nor a Dict of such spaces.
    """
    flat_dim(space)
    if isinstance(space, spaces.Box):
        return {"": space}
    leaves: dict[str, spaces.Box] = {}
    if isinstance(space, spaces.Dict):
        for key, subspace in sorted(space.spaces.items()):
            leaves |= {f"{key}/{path}".rstrip("/"): leaf for path, leaf in leaf_spaces(subspace).items()}
    return leaves


def require_action_space(space: gym.Space[Any]) -> None:
    """Raises ``UserError`` where the actions are neither Box nor Discrete."""
    if not isinstance(space, (spaces.Box, spaces.Discrete)):
        raise UserError(f"action space {space} is not supported: it must be a Box or Discrete")


def leaf(obs: Any, path: str) -> Any:
    """Looks up the part of one observation at ``path``."""
    for key in path.split("/") if path else ():
        obs = obs[key]
    return obs


@dataclass
class Episode:
    """``T`` steps as the environment gave them."""

    obs: Leaves
    """(T + 1, ...) observations, the final one included."""
    action: Array
    """(T, ...) executed actions."""
    task_action: Array
    """(T, ...) proposed actions."""
    reward: Array
    """(T,)"""
    cost: Array
    """(T,) above zero where the step violated the constraint."""
    success: Array
    """(T,) bool."""
    terminated: Array
    """(T,) bool."""
    truncated: Array
    """(T,) bool."""
    seed: int | None = None
    """What the environment was reset with."""

    def __len__(self) -> int:
        return len(self.reward)


STEP_FIELDS = ("action", "task_action", "reward", "cost", "success", "terminated", "truncated")


class EpisodeRecorder:
    """Collects the steps of one episode."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        self._leaves = leaf_spaces(observation_space)
        self._action_space = action_space
        self._obs: list[Any] = []
        self._steps: list[tuple[Any, ...]] = []

    def __len__(self) -> int:
        return len(self._steps)

    def reset(self, obs: Any) -> None:
        """Begins an episode."""
        self._obs, self._steps = [_copied(obs)], []

    def step(
        self,
        action: Any,
        task_action: Any,
        next_obs: Any,
        reward: float,
        cost: float,
        success: bool,
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Appends one step."""
        self._obs.append(_copied(next_obs))
        self._steps.append((np.array(action), np.array(task_action), reward, cost, success, terminated, truncated))

    def episode(self, seed: int | None = None) -> Episode:
        """Returns what was recorded since ``reset``; needs at least one step."""
        columns = dict(zip(STEP_FIELDS, zip(*self._steps, strict=True), strict=True))
        act_dtype, act_shape = self._action_space.dtype, self._action_space.shape or ()
        return Episode(
            obs={
                path: np.stack([np.asarray(leaf(obs, path), dtype=space.dtype) for obs in self._obs])
                for path, space in self._leaves.items()
            },
            action=np.stack(columns["action"]).astype(act_dtype).reshape(-1, *act_shape),
            task_action=np.stack(columns["task_action"]).astype(act_dtype).reshape(-1, *act_shape),
            reward=np.array(columns["reward"], dtype=np.float64),
            cost=np.array(columns["cost"], dtype=np.float32),
            success=np.array(columns["success"], dtype=np.bool_),
            terminated=np.array(columns["terminated"], dtype=np.bool_),
            truncated=np.array(columns["truncated"], dtype=np.bool_),
            seed=seed,
        )


def _copied(obs: Any) -> Any:
    """Some environments return the same array at every step."""
    return {key: _copied(value) for key, value in obs.items()} if isinstance(obs, dict) else np.array(obs)


@dataclass
class EpisodeTable:
    """``E`` episodes with ``N`` steps in all, laid end to end: a few large arrays in place of many small ones."""

    lengths: npt.NDArray[np.int64]
    """(E,) steps of each episode."""
    seeds: npt.NDArray[np.int64]
    """(E,) what each was reset with, -1 where not known."""
    obs: Leaves
    """(N + E, ...) observations, the final one of each episode included."""
    steps: dict[str, Array]
    """(N, ...) by the names of ``STEP_FIELDS``."""

    @property
    def num_steps(self) -> int:
        """Steps of all episodes."""
        return int(self.lengths.sum())

    @classmethod
    def from_episodes(cls, episodes: list[Episode]) -> EpisodeTable:
        """Lays at least one episode end to end."""
        return cls(
            lengths=np.array([len(episode) for episode in episodes], dtype=np.int64),
            seeds=np.array([-1 if e.seed is None else e.seed for e in episodes], dtype=np.int64),
            obs={path: np.concatenate([episode.obs[path] for episode in episodes]) for path in episodes[0].obs},
            steps={name: np.concatenate([getattr(episode, name) for episode in episodes]) for name in STEP_FIELDS},
        )

    @classmethod
    def concatenate(cls, tables: list[EpisodeTable]) -> EpisodeTable:
        """Joins at least one table."""
        return cls(
            lengths=np.concatenate([table.lengths for table in tables]),
            seeds=np.concatenate([table.seeds for table in tables]),
            obs={path: np.concatenate([table.obs[path] for table in tables]) for path in tables[0].obs},
            steps={name: np.concatenate([table.steps[name] for table in tables]) for name in STEP_FIELDS},
        )

    @property
    def nbytes(self) -> int:
        """Size of all arrays."""
        return sum(array.nbytes for array in self.to_arrays().values())

    def save(self, file: IO[bytes]) -> None:
        """Writes all arrays in NumPy's ``.npz`` format."""
        np.savez(file, **self.to_arrays())  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> EpisodeTable:
        """Reads what ``save`` wrote.

        Raises:
            ValueError: The file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls.from_arrays(dict(arrays))
        except (OSError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path.name}: {error}") from error

    def __iter__(self) -> Iterator[Episode]:
        """Yields the episodes, as views."""
        ends = np.cumsum(self.lengths)
        for number, (length, end) in enumerate(zip(self.lengths.tolist(), ends.tolist(), strict=True)):
            start, seed = end - length, int(self.seeds[number])
            yield Episode(
                obs={path: array[start + number : end + number + 1] for path, array in self.obs.items()},
                seed=None if seed < 0 else seed,
                **{name: array[start:end] for name, array in self.steps.items()},
            )

    def to_arrays(self) -> dict[str, Array]:
        """Names every array, for ``numpy.savez``."""
        obs = {f"obs:{path}": array for path, array in self.obs.items()}
        return {"lengths": self.lengths, "seeds": self.seeds, **obs, **self.steps}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> EpisodeTable:
        """Undoes ``to_arrays``."""
        return cls(
            lengths=arrays["lengths"],
            seeds=arrays["seeds"],
            obs={name.partition(":")[2]: array for name, array in arrays.items() if name.startswith("obs:")},
            steps={name: arrays[name] for name in STEP_FIELDS},
        )
