"""Makes steps and episodes of the synchronised topics of one unbroken part of a recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from ros_nodes.bags.synchronise import SEC, Sync, Times, grid, runs, sample
from ros_nodes.mapping import SourceSpec
from ros_nodes.readers import SourceError, stack_readings
from safe_rl.data.episodes import Episode
from safe_rl.errors import UserError

Array = npt.NDArray[Any]
Reading = Array | SourceError


@dataclass
class Series:
    """What was read of one topic, by time on the common clock."""

    times_ns: Times
    """(n,) sorted."""
    readings: Sequence[Reading]


@dataclass
class Part:
    """What lies between two cuts."""

    sources: dict[str, Series]
    commands: Series
    proposed: Series | None = None
    """The commands before a shield or another filter; None where only the executed ones are known."""
    cost: Series | None = None


@dataclass(frozen=True)
class StepSettings:
    """How steps are made."""

    rate_hz: float
    sync: Sync
    tolerance_ns: dict[str, int]
    """Of each source, and of ``cost``."""
    command_timeout_ns: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    no_cost: bool
    """Nothing is a violation."""
    cost_events: bool
    """The cost topic speaks only at violations."""
    end_at_violation: bool


@dataclass
class Tally:
    """What became of the steps."""

    kept: int = 0
    violations: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Steps by the reason why they are not in the dataset."""
    lost_violations: int = 0
    """Dropped steps that violated the constraint."""
    clipped: int = 0
    """Steps with a command beyond the limits."""


class Layout:
    """The observation space that a mapping's sources make, as ``ros_nodes.control`` fills a bundle's."""

    def __init__(self, sources: dict[str, SourceSpec], shapes: dict[str, tuple[int, ...]]) -> None:
        """Works the space out.

        Args:
            sources: The mapping's.
            shapes: Of one reading of each.

        Raises:
            UserError: The sources do not fit together.
        """
        self.stacks = {name: spec.stack for name, spec in sources.items()}
        self.shapes = shapes
        self.entries: dict[str, list[str]] = {}
        for name, spec in sources.items():
            self.entries.setdefault(spec.entry, []).append(name)
        if "" in self.entries and len(self.entries) > 1:
            raise UserError(
                f"mapping: observation.{self.entries[''][0]} has no entry while others have one: give each source "
                "an entry, for a Dict observation, or none"
            )
        for entry, names in self.entries.items():
            pictures = [name for name in names if sources[name].is_image]
            if pictures and len(names) > 1:
                raise UserError(f"mapping: observation.{pictures[0]} is a picture: give it an entry of its own")
            if any(other.startswith(f"{entry}/") for other in self.entries):
                raise UserError(f"mapping: the entry {entry} holds a source and other entries: rename one")
        leaves = {entry: self._box(names, sources) for entry, names in self.entries.items()}
        self.space: gym.Space[Any] = leaves[""] if "" in leaves else _nested(leaves)

    def _box(self, names: list[str], sources: dict[str, SourceSpec]) -> spaces.Box:
        shapes = [(*self.shapes[name][:-1], self.shapes[name][-1] * self.stacks[name]) for name in names]
        if sources[names[0]].is_image:
            return spaces.Box(0, 255, shapes[0], np.uint8)
        return spaces.Box(-np.inf, np.inf, (sum(shape[0] for shape in shapes),), np.float32)

    def faults(self, name: str, series: Series) -> list[str]:
        """Why an observation cannot end with each message of a source; empty where it can."""
        single = [self._fault(name, reading) for reading in series.readings]
        stack = self.stacks[name]
        return [
            next(filter(None, single[last - stack + 1 : last + 1]), "") if last >= stack - 1 else "too_few_messages"
            for last in range(len(single))
        ]

    def _fault(self, name: str, reading: Reading) -> str:
        if isinstance(reading, SourceError):
            return reading.reason
        if reading.shape != self.shapes[name]:
            return "wrong_size"
        return "" if np.isfinite(reading).all() else "not_finite"

    def leaf(self, entry: str, sources: dict[str, Series], indices: dict[str, npt.NDArray[np.int64]]) -> Array:
        """Puts an entry's observations (m, ...) together.

        Args:
            entry: Which.
            sources: The readings.
            indices: Of each source the last message (m,) of each observation.
        """
        parts = []
        for name in self.entries[entry]:
            readings: Any = sources[name].readings
            stack = self.stacks[name]
            parts.append(np.stack([stack_readings(readings[i - stack + 1 : i + 1]) for i in indices[name]]))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _nested(leaves: dict[str, spaces.Box]) -> spaces.Dict:
    tree: dict[str, Any] = {}
    for entry, box in leaves.items():
        *path, last = entry.split("/")
        place = tree
        for key in path:
            place = place.setdefault(key, {})
        place[last] = box

    def build(node: dict[str, Any]) -> spaces.Dict:
        return spaces.Dict({key: build(value) if isinstance(value, dict) else value for key, value in node.items()})

    return build(tree)


class StepMaker:
    """Makes episodes of parts and counts what it drops."""

    def __init__(self, layout: Layout, settings: StepSettings) -> None:
        self.layout = layout
        self.settings = settings
        self.tally = Tally()

    def episodes(self, part: Part) -> list[Episode]:
        """Makes the episodes of a part.

        Steps lie on a grid that begins with the part's first command. A step's observation is sampled at its start, its
        action is the command in force at its middle: with at most one change within the step that is the one in force
        the longest, and in a recorded control loop the one that answers the observation. It violates the constraint if
        the cost was above zero at any moment of it, a cost message being in force until the next. Every step that lacks
        something ends the episode.
        """
        times = part.commands.times_ns
        if not len(times):
            return []
        limits = grid(int(times[0]), int(times[-1]), self.settings.rate_hz)
        middles = limits[:-1] + np.diff(limits) // 2
        indices, row_faults = self._observations(part, limits)
        actions, action_faults = self._commands(part.commands, middles)
        task_actions = self._proposed(part.proposed, middles, actions)
        cost, cost_faults = self._costs(part.cost, limits)
        faults = [row_faults[i] or action_faults[i] or cost_faults[i] or row_faults[i + 1] for i in range(len(middles))]
        self.tally.lost_violations += sum(1 for i, fault in enumerate(faults) if fault and cost[i] > 0)
        self.tally.dropped.update(fault for fault in faults if fault)
        episodes = []
        for start, end in self._spans(np.array([not fault for fault in faults], dtype=np.bool_), cost):
            steps = slice(start, end)
            rows = {name: index[start : end + 1] for name, index in indices.items()}
            episodes.append(self._episode(part, rows, actions[steps], task_actions[steps], cost[steps]))
        return episodes

    def _observations(self, part: Part, at: Times) -> tuple[dict[str, npt.NDArray[np.int64]], list[str]]:
        """Of each source the message (m,) of each moment, and what each moment lacks."""
        indices: dict[str, npt.NDArray[np.int64]] = {}
        faults = [""] * len(at)
        for name, series in part.sources.items():
            index = sample(series.times_ns, at, self.settings.sync, self.settings.tolerance_ns[name])
            message_faults = [*self.layout.faults(name, series), "silent"]  # the last for index -1
            for row, message in enumerate(index.tolist()):
                if not faults[row] and message_faults[message]:
                    faults[row] = f"{name}_{message_faults[message]}"
            indices[name] = index
        return indices, faults

    def _commands(self, series: Series, at: Times) -> tuple[Array, list[str]]:
        """The commands (n, act_dim) in force, clipped to the limits, and what is wrong with each."""
        index = sample(series.times_ns, at, "previous", self.settings.command_timeout_ns)
        actions = np.zeros((len(at), len(self.settings.low)), dtype=np.float32)
        faults = [""] * len(at)
        for step, message in enumerate(index.tolist()):
            reading = series.readings[message] if message >= 0 else None
            if reading is None:
                faults[step] = "command_silent"
            elif isinstance(reading, SourceError):
                faults[step] = f"command_{reading.reason}"
            elif reading.shape != actions.shape[1:]:
                faults[step] = "command_wrong_size"
            elif not np.isfinite(reading).all():
                faults[step] = "command_not_finite"
            else:
                actions[step] = reading
        clipped = np.clip(actions, *self._limits())
        self.tally.clipped += int((np.abs(clipped - actions) > 1e-6).any(axis=1).sum())
        return clipped, faults

    def _proposed(self, series: Series | None, at: Times, actions: Array) -> Array:
        """What was proposed (n, act_dim); what was executed where no proposal is known."""
        if series is None:
            return actions
        tally, self.tally = self.tally, Tally()  # a proposal beyond the limits is no news
        proposals, faults = self._commands(series, at)
        self.tally = tally
        return np.where(np.array([bool(fault) for fault in faults])[:, None], actions, proposals)

    def _limits(self) -> tuple[Array, Array]:
        return np.array(self.settings.low, np.float32), np.array(self.settings.high, np.float32)

    def _costs(self, series: Series | None, limits: Times) -> tuple[npt.NDArray[np.float32], list[str]]:
        """The constraint indicator (n,) of each step, and why it is not known."""
        count = len(limits) - 1
        cost, faults = np.zeros(count, dtype=np.float32), [""] * count
        if self.settings.no_cost or series is None:
            return cost, faults
        times = series.times_ns
        values = np.array([np.nan if isinstance(r, SourceError) else np.max(r) for r in series.readings])
        held = sample(times, limits[:-1], "previous", self.settings.tolerance_ns["cost"])
        first, last = np.searchsorted(times, limits[:-1]), np.searchsorted(times, limits[1:])
        for step in range(count):
            said = values[first[step] : last[step]]
            if held[step] >= 0 and not self.settings.cost_events:
                said = np.append(said, values[held[step]])
            if (said > 0).any():
                cost[step] = 1
            elif np.isnan(said).any():
                faults[step] = "cost_not_known"
            elif not len(said) and not self.settings.cost_events:
                faults[step] = "cost_silent"
        return cost, faults

    def _spans(self, valid: npt.NDArray[np.bool_], cost: npt.NDArray[np.float32]) -> list[tuple[int, int]]:
        """Where episodes begin and end: at what is dropped, and after violations."""
        if not self.settings.end_at_violation:
            return runs(valid)
        spans, violated = [], False
        for start, end in runs(valid):
            begin = start
            for step in range(start, end):
                if violated and cost[step] > 0:  # the state after a violation is absorbing
                    self.tally.dropped["after_violation"] += 1
                    begin = step + 1
                    continue
                violated = bool(cost[step] > 0)
                if violated:
                    spans.append((begin, step + 1))
                    begin = step + 1
            if begin < end:
                spans.append((begin, end))
        return spans

    def _episode(
        self,
        part: Part,
        rows: dict[str, npt.NDArray[np.int64]],
        actions: Array,
        task_actions: Array,
        cost: npt.NDArray[np.float32],
    ) -> Episode:
        length = len(cost)
        terminated, truncated = np.zeros(length, dtype=np.bool_), np.zeros(length, dtype=np.bool_)
        terminated[-1] = self.settings.end_at_violation and cost[-1] > 0
        truncated[-1] = not terminated[-1]
        self.tally.kept += length
        self.tally.violations += int(cost.sum())
        return Episode(
            obs={entry: self.layout.leaf(entry, part.sources, rows) for entry in self.layout.entries},
            action=actions,
            task_action=task_actions,
            reward=np.zeros(length),
            cost=cost,
            success=np.zeros(length, dtype=np.bool_),
            terminated=terminated,
            truncated=truncated,
        )


def seconds(value: float) -> int:
    """Seconds as nanoseconds."""
    return round(value * SEC)
