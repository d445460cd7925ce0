"""The batch of transitions that every part of the toolkit exchanges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


@dataclass
class Transitions:
    """A batch of ``N`` environment steps; every field has the leading dimension ``N``.

    Observations are flat (see ``safe_rl.envs.spaces.flatten_observation``), uint8 where they are images, else float32;
    actions are in the environment's units, discrete ones by their numbers: (N,), or (N, 1) of a dataset.
    ``task_action`` was proposed by the task policy, ``action`` was executed: not the same where recovery acted.
    """

    obs: npt.NDArray[Any]
    """(N, obs_dim) observation before the step."""
    task_action: npt.NDArray[Any]
    """(N, act_dim) action the task policy proposed."""
    action: npt.NDArray[Any]
    """(N, act_dim) action that was executed."""
    reward: FloatArray
    """(N,) reward of the step."""
    cost: FloatArray
    """(N,) constraint indicator of the step, in {0, 1}."""
    next_obs: npt.NDArray[Any]
    """(N, obs_dim) observation after the step; where the episode ended its last one, never that of the next reset."""
    terminated: BoolArray
    """(N,) the episode reached an absorbing state: do not bootstrap."""
    truncated: BoolArray
    """(N,) the episode was cut, by its time limit for example: bootstrap from ``next_obs``."""

    def __len__(self) -> int:
        return len(self.reward)

    def __getitem__(self, index: slice | npt.NDArray[np.generic]) -> Transitions:
        return Transitions(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def __iter__(self) -> Iterator[Transitions]:
        """Yields batches of one."""
        return (self[i : i + 1] for i in range(len(self)))

    def replace(self, **changes: npt.NDArray[Any]) -> Transitions:
        """Returns a copy with other values in the named fields; the other fields are shared."""
        return replace(self, **changes)

    @classmethod
    def concatenate(cls, batches: list[Transitions]) -> Transitions:
        """Joins batches along the leading dimension."""
        return cls(**{f.name: np.concatenate([getattr(b, f.name) for b in batches]) for f in fields(cls)})
