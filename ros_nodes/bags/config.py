"""How recordings become a dataset: the options of `safe-rl collect --from-bag`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safe_rl.errors import UserError


@dataclass
class Config:
    """Makes an offline dataset of rosbag2 recordings."""

    from_bag: tuple[Path, ...]
    """Recordings: rosbag2 folders, or single .mcap or .db3 files."""
    mapping: Path
    """YAML file that tells which topics are observation, action and cost."""
    output: Path
    """Folder of the dataset."""
    rate_hz: float | None = None
    """Steps a second (default: the median rate of the commands)."""
    sync: Literal["nearest", "previous"] = "previous"
    """Which message of a source belongs to a step: the last one before it, as the robot has it, or the nearest one."""
    tolerance_sec: float | None = None
    """How far a message may lie from its step, for all sources (default: timeout_sec of each in the mapping)."""
    command_timeout_sec: float = 0.5
    """How long a command is in force when no other follows."""
    clock: Literal["header", "receive"] = "header"
    """Which times count: the header stamps, or when the recorder received the messages."""
    clock_tolerance_sec: float = 0.5
    """How far clocks may disagree before a warning, and header stamps go back before an episode is cut."""
    max_gap_sec: float = 1.0
    """Silence of all topics together, or leap of the clock, above which an episode is cut."""
    mark_topics: tuple[str, ...] = ()
    """Topics whose messages, of any type, cut an episode: resets, for instance. Where the counters episode and
    episode_mark (std_msgs/msg/Int32) were recorded, a new number cuts unasked."""
    proposed_topic: str = ""
    """Topic of the commands before the shield, of the action's type; the mapping's are then the executed ones."""
    namespace: str = ""
    """Namespace before the mapping's relative topics, such as robot1."""
    no_cost: bool = False
    """Count nothing as a violation, where the mapping has no cost."""
    cost_events: bool = False
    """The cost topic speaks only at violations; without this its silence means that nothing is known."""
    end_at_violation: bool = True
    """End an episode at its first violation; the next begins once nothing is violated."""
    append: bool = False
    """Add to the dataset in the output folder."""
    resume: bool = False
    """Repeat a conversion that was killed; equal recordings give equal data."""
    overwrite: bool = False
    """Replace the dataset in the output folder."""

    def __post_init__(self) -> None:
        """Validates the values."""
        self.from_bag = tuple(Path(path) for path in self.from_bag)
        self.mapping, self.output = Path(self.mapping), Path(self.output)
        if not self.from_bag:
            raise UserError("--from-bag names no recording")
        for name in ("rate_hz", "tolerance_sec", "command_timeout_sec", "clock_tolerance_sec", "max_gap_sec"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UserError(f"--{name.replace('_', '-')} is {value}: it must be positive")
        if self.overwrite and (self.append or self.resume):
            raise UserError("--overwrite is given with --append or --resume: choose one")
        names = [path.resolve() for path in self.from_bag]
        if len(set(names)) < len(names):
            raise UserError("--from-bag names a recording twice")

    def topic(self, name: str) -> str:
        """A topic's full name."""
        if name.startswith("/"):
            return name
        return "/" + "/".join(part for part in (self.namespace.strip("/"), name) if part)
