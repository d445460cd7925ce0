"""Replay of transitions, kept as rows of one array so that a batch is a single gather."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from safe_rl.errors import UserError
from safe_rl.transitions import Transitions

Source = Literal["online", "all"]


@dataclass
class Batch:
    """``B`` transitions as float32 tensors; the actions are scaled to [-1, 1], discrete ones are one-hot rows."""

    obs: torch.Tensor
    """(B, obs_dim), not normalised."""
    task_action: torch.Tensor
    """(B, act_dim) what the task policy proposed."""
    action: torch.Tensor
    """(B, act_dim) what was executed."""
    next_obs: torch.Tensor
    """(B, obs_dim), not normalised."""
    reward: torch.Tensor
    """(B,)"""
    cost: torch.Tensor
    """(B,) constraint indicator."""
    terminated: torch.Tensor
    """(B,) 1.0 where the episode reached an absorbing state."""

    @classmethod
    def from_rows(cls, rows: torch.Tensor, obs_dim: int, act_dim: int) -> Batch:
        """Views the columns of ``rows`` (B, 2 * obs_dim + 2 * act_dim + 3) as fields; copies nothing."""
        obs, task_action, action, next_obs, scalars = rows.split([obs_dim, act_dim, act_dim, obs_dim, 3], dim=1)
        reward, cost, terminated = scalars.unbind(dim=1)
        return cls(obs, task_action, action, next_obs, reward, cost, terminated)


class ReplayBuffer:
    """Offline transitions that stay, and a ring of online ones behind them.

    Both learners draw from the same rows: the task learner from the online ones (``source="online"``), the risk learner
    from all. A row is written once and read by one gather, whatever the number of fields.
    """

    def __init__(
        self, capacity: int, obs_dim: int, act_dim: int, *, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        """Makes an empty buffer.

        Args:
            capacity: Largest number of online transitions; the oldest is overwritten first.
            obs_dim: Length of a flat observation.
            act_dim: Length of an action.
            seed: Seed of the sampling.
            device: Where the rows live.
        """
        self.capacity, self.obs_dim, self.act_dim = capacity, obs_dim, act_dim
        self.device = torch.device(device)
        self.num_offline = 0
        self.num_online = 0
        self._next = 0
        self._rng = np.random.default_rng(seed)
        self._offline_digest = ""
        self._rows = self._allocate(capacity)
        self._violations = _IndexSet(capacity)

    def __len__(self) -> int:
        return self.num_offline + self.num_online

    @property
    def rows(self) -> torch.Tensor:
        """(offline + capacity, width) the storage; only the first ``len(self)`` rows hold transitions."""
        return self._rows

    @property
    def num_violations(self) -> int:
        """How many of the transitions violate the constraint."""
        return len(self._violations)

    @property
    def bytes_per_transition(self) -> int:
        """Memory of one transition."""
        return self._rows.element_size() * self._rows.shape[1]

    def add_offline(self, transitions: Transitions) -> None:
        """Stores transitions that are never overwritten; must come before the first online one."""
        if self.num_online or self.num_offline:
            raise ValueError("offline transitions must be added once, before any online one")
        rows = self._to_rows(transitions)
        self._offline_digest = hashlib.sha256(rows.cpu().numpy().data).hexdigest()
        storage = self._allocate(len(rows) + self.capacity)
        storage[: len(rows)] = rows
        self._rows, self.num_offline = storage, len(rows)
        self._violations = _IndexSet(len(storage))
        for index in np.flatnonzero(transitions.cost > 0):
            self._violations.add(int(index))

    def add(self, transitions: Transitions) -> None:
        """Appends online transitions, over the oldest where the ring is full."""
        for row, cost in zip(self._to_rows(transitions), transitions.cost, strict=True):
            index = self.num_offline + self._next
            self._rows[index] = row
            self._violations.discard(index)
            if cost > 0:
                self._violations.add(index)
            self._next = (self._next + 1) % self.capacity
            self.num_online = min(self.num_online + 1, self.capacity)

    def sample_indices(
        self, batch_size: int, source: Source = "all", positive_fraction: float | None = None
    ) -> npt.NDArray[np.int64]:
        """Draws rows with replacement.

        Args:
            batch_size: How many.
            source: From the online transitions alone, or from all.
            positive_fraction: If given, that share of the rows violate the constraint and the rest do not (where both
                kinds exist), drawn from all.

        Returns:
            (batch_size,) indices into ``rows``.
        """
        start = self.num_offline if source == "online" else 0
        if len(self) <= start:
            raise UserError(f"the replay buffer holds no {source} transitions to sample from: collect some first")
        indices = self._rng.integers(start, len(self), batch_size)
        if positive_fraction is not None and 0 < self.num_violations < len(self):
            num_positive = round(positive_fraction * batch_size)
            indices[:num_positive] = self._violations.sample(num_positive, self._rng)
            while (wrong := np.flatnonzero(self._violations.contains(indices[num_positive:]))).size:
                indices[num_positive + wrong] = self._rng.integers(0, len(self), wrong.size)
        return indices

    def batch(self, indices: torch.Tensor) -> Batch:
        """Gathers the rows ``indices`` (B,)."""
        return Batch.from_rows(self._rows.index_select(0, indices), self.obs_dim, self.act_dim)

    def actions(self, indices: torch.Tensor) -> torch.Tensor:
        """The executed actions (B, act_dim) of the rows ``indices`` (B,)."""
        return Batch.from_rows(self._rows.index_select(0, indices), self.obs_dim, self.act_dim).action

    def ends(self) -> npt.NDArray[np.bool_]:
        """(len(self),) whether each transition led to an absorbing state."""
        ended: npt.NDArray[np.bool_] = self._rows[: len(self), -1].cpu().numpy() > 0
        return ended

    def sample(self, batch_size: int, source: Source = "all", positive_fraction: float | None = None) -> Batch:
        """Draws a batch; see ``sample_indices``."""
        indices = torch.from_numpy(self.sample_indices(batch_size, source, positive_fraction))
        return self.batch(indices.to(self.device))

    @property
    def random_state(self) -> dict[str, Any]:
        """The sampling's state, as JSON values."""
        return dict(self._rng.bit_generator.state)

    @random_state.setter
    def random_state(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: the online rows, the ring's position and the sampling's state.

        The offline rows are not repeated in every checkpoint, their hash stands for them: they are the dataset's.
        """
        return {
            "online": self._rows[self.num_offline : len(self)].cpu(),
            "next": self._next,
            "num_offline": self.num_offline,
            "offline_digest": self._offline_digest,
            "violations": self._violations.members.copy(),
            "rng": self.random_state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores ``state_dict``; the offline transitions must have been added already.

        Raises:
            UserError: The offline transitions are not those of the checkpoint, or the capacity differs.
        """
        online = state["online"]
        if state["num_offline"] != self.num_offline:
            raise UserError(
                f"the checkpoint was written with {state['num_offline']} offline transitions, "
                f"the dataset has {self.num_offline}: resume with the same --dataset"
            )
        if state["offline_digest"] != self._offline_digest:
            raise UserError(
                "the checkpoint was written with other offline transitions than the dataset's: "
                "resume with the same --dataset"
            )
        # A ring that has turned over ends at its capacity: in a larger one the rows would be out of order.
        if len(online) > self.capacity or (len(online) < self.capacity and state["next"] != len(online)):
            raise UserError(
                f"the checkpoint's {len(online)} online transitions do not fit the replay capacity {self.capacity}: "
                "resume with the capacity of the run"
            )
        self._rows[self.num_offline : self.num_offline + len(online)] = online.to(self.device)
        self.num_online, self._next = len(online), state["next"]
        self._violations.members = np.asarray(state["violations"])
        self.random_state = state["rng"]

    def _allocate(self, num_rows: int) -> torch.Tensor:
        width = 2 * self.obs_dim + 2 * self.act_dim + 3
        try:
            return torch.empty((num_rows, width), device=self.device)
        except RuntimeError as error:
            raise UserError(
                f"a replay of {num_rows} transitions, {num_rows * width * 4 / 2**30:.0f} GiB, does not fit the memory "
                f"of {self.device}: lower --replay-capacity"
            ) from error

    def _to_rows(self, transitions: Transitions) -> torch.Tensor:
        scalars = np.stack([transitions.reward, transitions.cost, transitions.terminated], axis=1)
        fields = (transitions.obs, transitions.task_action, transitions.action, transitions.next_obs, scalars)
        return torch.from_numpy(np.concatenate(fields, axis=1, dtype=np.float32)).to(self.device)


class _IndexSet:
    """A set of row numbers that adds, discards and samples in constant time."""

    def __init__(self, size: int) -> None:
        self._members = np.empty(0, dtype=np.int64)
        self._slot = np.full(size, -1, dtype=np.int64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def members(self) -> npt.NDArray[np.int64]:
        """(len(self),) in the order that sampling depends on."""
        return self._members[: self._count]

    @members.setter
    def members(self, members: npt.NDArray[np.int64]) -> None:
        self._members, self._count = members.astype(np.int64), len(members)
        self._slot[:] = -1
        self._slot[self._members] = np.arange(self._count)

    def add(self, index: int) -> None:
        if self._count == len(self._members):
            self._members = np.resize(self._members, max(64, 2 * self._count))
        self._members[self._count] = index
        self._slot[index] = self._count
        self._count += 1

    def discard(self, index: int) -> None:
        slot = self._slot[index]
        if slot >= 0:
            self._count -= 1
            last = self._members[self._count]
            self._members[slot], self._slot[last] = last, slot
            self._slot[index] = -1

    def contains(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        return self._slot[indices] >= 0

    def sample(self, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        return self._members[rng.integers(0, self._count, count)]
