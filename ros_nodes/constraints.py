"""What counts as a violation on a robot, told from its sensors; without ROS: `constraint_monitor_node` wraps it.

Constraints are declared by parameters, in the form of a mapping's sources with limits beside them::

    constraints: [bumper, front, tilt, yard]
    bumper: {topic: bumper, type: std_msgs/msg/Bool, fields: [data]}
    front: {topic: scan, type: sensor_msgs/msg/LaserScan, fields: ["ranges[0:360]"], min: 0.2}
    tilt: {topic: imu, type: sensor_msgs/msg/Imu, fields: [roll(orientation), pitch(orientation)], min: -0.5, max: 0.5}
    yard: {topic: odom, type: nav_msgs/msg/Odometry, fields: [pose.pose.position.x, pose.pose.position.y],
           polygon: [0.0, 0.0, 5.0, 0.0, 5.0, 5.0, 0.0, 5.0]}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from ros_nodes.fields import FieldError, FieldPath
from ros_nodes.mapping import SourceSpec, build_section
from ros_nodes.sources import Arrival, Now, Source, StaleError
from safe_rl.errors import UserError

OTHER_SECTIONS = ("action", "cost", "reward", "success")
"""Sections of a shared parameter file that are the mapping's."""


@dataclass(frozen=True)
class ConstraintSpec:
    """A topic, what is read from it, and the limits: above ``max``, below ``min`` or outside of ``polygon`` violates.

    Without any limit a number above zero violates: a bumper, a button.
    """

    topic: str
    """Topic, relative unless it begins with a slash."""
    type: str
    """Message type, such as sensor_msgs/msg/LaserScan."""
    fields: tuple[str, ...] = ()
    """Paths to numbers; see ros_nodes.fields. Any of them may violate. For a polygon: x and y."""
    max: float = math.inf
    """Largest number that is no violation."""
    min: float = -math.inf
    """Smallest number that is no violation."""
    polygon: tuple[float, ...] = ()
    """Corners x, y, x, y, ... of the region to stay in; its edge is inside."""
    keep_out: bool = False
    """Whether the polygon is a region to stay out of instead; its edge then violates."""
    hold_sec: float = 0.0
    """How long a violation is reported after the last message that showed it."""
    ignore_below: float = -math.inf
    """Numbers below this are no measurements, as the 0.0 of a laser that saw nothing."""
    max_invalid_share: float = 0.0
    """Share of a message's numbers that may be NaN or ignored before nothing is known."""
    frame_id: str = ""
    """Frame that the header must name; empty accepts any."""
    timeout_sec: float = 0.5
    """Age, by arrival and by header stamp, above which the sensor counts as silent."""
    max_future_sec: float = 0.1
    """How far ahead of the clock a header stamp may lie."""

    def validate(self, where: str) -> None:
        """Checks the values.

        Raises:
            UserError: One cannot be; the message says which.
        """
        self.source(where)
        limits = [*self.polygon, *(limit for limit in (self.min, self.max) if not math.isinf(limit))]
        if not all(math.isfinite(number) for number in [*limits, self.hold_sec]):
            raise UserError(f"{where}: limits and hold_sec must be numbers")
        if self.min > self.max:
            raise UserError(f"{where}.min is {self.min}: it must be at most max, {self.max}")
        if self.hold_sec < 0:
            raise UserError(f"{where}.hold_sec is {self.hold_sec}: it must be at least 0")
        if not 0 <= self.max_invalid_share < 1:
            raise UserError(
                f"{where}.max_invalid_share is {self.max_invalid_share}: it must be at least 0, less than 1"
            )
        if self.polygon:
            if len(self.polygon) < 6 or len(self.polygon) % 2:
                raise UserError(
                    f"{where}.polygon has {len(self.polygon)} numbers: it needs x and y of 3 corners or more"
                )
            if not math.isinf(self.min) or not math.isinf(self.max):
                raise UserError(f"{where}: give either polygon or min and max")
            if len(self.fields) != 2:
                raise UserError(f"{where}.fields is {list(self.fields)}: a polygon needs two, x and y")
        elif self.keep_out:
            raise UserError(f"{where}.keep_out needs a polygon")

    def source(self, where: str) -> SourceSpec:
        """The part that says where messages come from; raises ``UserError``."""
        shared = {entry.name: getattr(self, entry.name) for entry in fields(SourceSpec) if hasattr(self, entry.name)}
        spec = SourceSpec(**shared)
        spec.validate(where)
        if spec.is_image:
            raise UserError(f"{where}.type is {spec.type}: no violation can be read from a picture")
        return spec


class Status(Enum):
    """What is known of a constraint."""

    SAFE = "safe"
    VIOLATED = "violated"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class ConstraintState:
    """A constraint at one moment."""

    name: str
    status: Status
    reason: str
    """Of an unknown one what is wrong with the sensor, such as front_silent; of a violated one which limit."""
    value: float
    """The number nearest to its limit or furthest beyond it; of a polygon the distance out of the allowed region, below
    zero within it. NaN while nothing is known."""
    limit: float
    """The limit that the value belongs to."""


class Constraint:
    """One constraint and the last messages of its sensor."""

    def __init__(self, name: str, spec: ConstraintSpec) -> None:
        self.name = name
        self.spec = spec
        self.source = Source(name, spec.source(name))
        self._paths = [FieldPath.parse(text) for text in spec.fields]
        self._corners = np.array(spec.polygon, np.float64).reshape(-1, 2)
        unlimited = math.isinf(spec.max) and math.isinf(spec.min) and not spec.polygon
        self._max = 0.0 if unlimited else spec.max
        self.forget()

    def forget(self) -> None:
        """Begins anew: no message counts."""
        self.source.forget()
        self._reading: tuple[float, float, str] | None = None  # value, limit, which limit is broken
        self._fault = ""
        self._violated: tuple[float, ConstraintState] | None = None
        self._unreported = False

    def receive(self, arrival: Arrival) -> None:
        """Takes a message of the sensor and judges it; one that cannot be read tells nothing."""
        self.source.receive(arrival)
        frame = getattr(getattr(arrival.message, "header", None), "frame_id", "")
        if self.spec.frame_id and frame != self.spec.frame_id:
            self._reading, self._fault = None, "wrong_frame"
            return
        try:
            values = np.concatenate([path.read(arrival.message) for path in self._paths])
        except FieldError:
            self._reading, self._fault = None, "unreadable"
            return
        invalid = np.isnan(values) | (values < self.spec.ignore_below)
        if self.spec.polygon:
            invalid |= not np.isfinite(values).all() or len(values) != 2
        too_many = invalid.all() or invalid.mean() > self.spec.max_invalid_share
        self._fault = "no_measurement" if too_many else ""
        # What remains may still prove a violation, but not its absence.
        self._reading = None if invalid.all() else self._judge(values[~invalid])
        if self._reading is not None and self._reading[2]:
            value, limit, which = self._reading
            state = ConstraintState(self.name, Status.VIOLATED, which, value, limit)
            self._violated = (arrival.received_sec, state)
            self._unreported = True

    def state(self, now: Now) -> ConstraintState:
        """What is known now. A violation is reported at least once, however short it was."""
        if self._violated is not None:
            at, state = self._violated
            if self._unreported or now.monotonic_sec - at < self.spec.hold_sec:
                self._unreported = False
                return state
        try:
            self.source.require_fresh(now)
        except StaleError as error:
            return ConstraintState(self.name, Status.UNKNOWN, error.reason, math.nan, math.nan)
        if self._reading is None or (self._fault and not self._reading[2]):
            return ConstraintState(self.name, Status.UNKNOWN, f"{self.name}_{self._fault}", math.nan, math.nan)
        value, limit, broken = self._reading
        return ConstraintState(self.name, Status.VIOLATED if broken else Status.SAFE, broken, value, limit)

    def _judge(self, values: npt.NDArray[np.float64]) -> tuple[float, float, str]:
        if self.spec.polygon:
            distance = distance_outside(values, self._corners)
            if self.spec.keep_out:
                return -distance, 0.0, "inside" if distance <= 0 else ""
            return distance, 0.0, "outside" if distance > 0 else ""
        low, high = float(values.min()), float(values.max())
        if high > self._max:
            return high, self._max, "above_max"
        if low < self.spec.min:
            return low, self.spec.min, "below_min"
        if self._max - high <= low - self.spec.min:
            return high, self._max, ""
        return low, self.spec.min, ""


class ConstraintMonitor:
    """All constraints together."""

    def __init__(self, specs: Mapping[str, ConstraintSpec]) -> None:
        self.constraints = {name: Constraint(name, spec) for name, spec in specs.items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ConstraintMonitor:
        """Reads nested parameters: ``constraints`` lists the names, each of which is a section.

        Raises:
            UserError: An entry is missing, unknown, or cannot be; the message names it.
        """
        names = content.get("constraints")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise UserError(f"constraints is {names}: it must be a list of names, each a section of its own")
        forgotten = [
            key
            for key, section in content.items()
            if key not in (*names, *OTHER_SECTIONS) and isinstance(section, dict) and "topic" in section
        ]
        if forgotten:
            raise UserError(f"{forgotten[0]} is not among constraints: add or remove it")
        specs = {}
        for name in names:
            if name not in content:
                raise UserError(f"constraint {name} is not declared: it needs {name}.topic, {name}.type, {name}.fields")
            try:
                specs[name] = build_section(ConstraintSpec, content[name], name)
            except UserError as error:
                raise UserError(f"constraint {str(error).removeprefix('mapping: ')}") from error
        return cls(specs)

    def forget(self) -> None:
        """Begins anew: no message counts."""
        for constraint in self.constraints.values():
            constraint.forget()

    def states(self, now: Now) -> list[ConstraintState]:
        """All constraints, in their order."""
        return [constraint.state(now) for constraint in self.constraints.values()]


def verdict(states: list[ConstraintState]) -> Status:
    """Of all constraints together: one that is violated decides, then one of which nothing is known."""
    for status in (Status.VIOLATED, Status.UNKNOWN):
        if any(state.status is status for state in states):
            return status
    return Status.SAFE


def distance_outside(point: npt.NDArray[np.float64], corners: npt.NDArray[np.float64]) -> float:
    """How far a point (2,) is outside of a polygon with ``corners`` (n, 2); below zero inside, 0 on the edge."""
    ends = np.roll(corners, -1, axis=0)
    edges = ends - corners
    lengths = np.maximum((edges**2).sum(axis=1), 1e-300)
    along = np.clip(((point - corners) * edges).sum(axis=1) / lengths, 0.0, 1.0)
    distance = float(np.hypot(*(corners + along[:, None] * edges - point).T).min())
    x, y = point
    crosses = (corners[:, 1] > y) != (ends[:, 1] > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = corners[:, 0] + (y - corners[:, 1]) / edges[:, 1] * edges[:, 0]
    inside = np.count_nonzero(crosses & (x < at)) % 2 == 1
    return -distance if inside else distance
