"""How messages become an observation, and an action a message: declared once, used by shield, recorder and conversion.

A mapping is the part of a parameter file between ``observation`` and ``cost``::

    observation:
      sources: [scan, odom]                 # in the order of the flat observation
      scan: {topic: scan, type: sensor_msgs/msg/LaserScan, fields: ["ranges[0:360:10]"], clip: [0.0, 3.5]}
      odom: {topic: odom, type: nav_msgs/msg/Odometry, fields: ["twist.twist.linear.x", "twist.twist.angular.z"]}
    action: {topic: cmd_vel, type: geometry_msgs/msg/TwistStamped, fields: ["twist.linear.x", "twist.angular.z"]}
    cost: {topic: violation, type: std_msgs/msg/Bool, fields: [data]}
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Mapping as Dictionary
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ros_nodes.fields import FieldPath
from safe_rl.errors import UserError

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
ACTION_TYPES = (
    "geometry_msgs/msg/Twist",
    "geometry_msgs/msg/TwistStamped",
    "trajectory_msgs/msg/JointTrajectory",
    "std_msgs/msg/Float64MultiArray",
)

Section = TypeVar("Section")


def _require(condition: bool, where: str, value: object, need: str) -> None:
    if not condition:
        raise UserError(f"mapping: {where} is {value}: it must be {need}")


@dataclass(frozen=True)
class SourceSpec:
    """A topic and what is read from its messages."""

    topic: str
    """Topic, relative unless it begins with a slash."""
    type: str
    """Message type, such as sensor_msgs/msg/LaserScan."""
    fields: tuple[str, ...] = ()
    """Paths to numbers, one after the other; see ros_nodes.fields. Not for images."""
    entry: str = ""
    """Entry of a Dict observation that this source fills, such as robot/pose; empty for a Box observation."""
    scale: float = 1.0
    """Factor on the numbers."""
    offset: float = 0.0
    """Added after the factor."""
    clip: tuple[float, ...] = ()
    """Least and largest number, before factor and offset; infinity (a laser that sees nothing) becomes the largest. NaN
    stays."""
    frame_id: str = ""
    """Frame that the header must name; empty accepts any."""
    encoding: str = "rgb8"
    """Encoding that an image must have or is converted to: rgb8, bgr8 or mono8."""
    crop: tuple[int, ...] = ()
    """Top, left, bottom, right of the part of an image, in pixels."""
    resize: tuple[int, ...] = ()
    """Height and width that an image is scaled to, in pixels."""
    stack: int = 1
    """Number of last messages that make up the entry, the oldest first."""
    timeout_sec: float = 0.5
    """Age, by arrival and by header stamp, above which the source counts as silent."""
    max_future_sec: float = 0.1
    """How far ahead of the clock a header stamp may lie."""

    def validate(self, where: str) -> None:
        """Checks the values.

        Raises:
            UserError: One cannot be; the message says which.
        """
        _require(bool(self.topic), f"{where}.topic", repr(self.topic), "a topic")
        _require(
            bool(re.fullmatch(r"\w+/msg/\w+", self.type)), f"{where}.type", self.type, "like nav_msgs/msg/Odometry"
        )
        if self.is_image:
            _require(not self.fields, f"{where}.fields", list(self.fields), "left out: an image is read whole")
            known = ("rgb8", "bgr8", "mono8")
            _require(self.encoding in known, f"{where}.encoding", self.encoding, " or ".join(known))
            _require(len(self.crop) in (0, 4), f"{where}.crop", list(self.crop), "top, left, bottom, right")
            _require(len(self.resize) in (0, 2), f"{where}.resize", list(self.resize), "height and width")
            _require(all(n > 0 for n in self.resize), f"{where}.resize", list(self.resize), "positive")
        else:
            _require(bool(self.fields), f"{where}.fields", list(self.fields), "at least one path")
        for field in self.fields:
            FieldPath.parse(field)
        clip_ok = not self.clip or (len(self.clip) == 2 and self.clip[0] < self.clip[1])
        _require(clip_ok, f"{where}.clip", list(self.clip), "the least and the largest number")
        for name in ("scale", "offset"):
            _require(math.isfinite(getattr(self, name)), f"{where}.{name}", getattr(self, name), "finite")
        _require(self.stack >= 1, f"{where}.stack", self.stack, "at least 1")
        _require(self.timeout_sec > 0, f"{where}.timeout_sec", self.timeout_sec, "positive")
        _require(self.max_future_sec >= 0, f"{where}.max_future_sec", self.max_future_sec, "at least 0")

    @property
    def is_image(self) -> bool:
        """Whether messages are pictures."""
        return self.type in IMAGE_TYPES


@dataclass(frozen=True)
class ActionSpec:
    """The topic that carries commands, and which of its fields are the action's components."""

    topic: str
    """Topic, relative unless it begins with a slash."""
    type: str
    """One of Twist, TwistStamped (geometry_msgs/msg), JointTrajectory (trajectory_msgs/msg), Float64MultiArray
    (std_msgs/msg)."""
    fields: tuple[str, ...] = ()
    """Of a Twist one path for each component; of a JointTrajectory the joints' names; of an array nothing."""
    frame_id: str = ""
    """Frame that stamped commands name."""
    horizon_sec: float = 0.1
    """Of a JointTrajectory: time_from_start of its single point."""
    low: tuple[float, ...] = ()
    """Least value of each component, needed to make a dataset of recordings; a bundle has limits of its own."""
    high: tuple[float, ...] = ()
    """Largest value of each component."""

    def validate(self, where: str) -> None:
        """Checks the values; raises ``UserError``."""
        _require(bool(self.topic), f"{where}.topic", repr(self.topic), "a topic")
        _require(self.type in ACTION_TYPES, f"{where}.type", self.type, " or ".join(ACTION_TYPES))
        if self.type.endswith("MultiArray"):
            _require(not self.fields, f"{where}.fields", list(self.fields), "left out: an array is the action itself")
        else:
            _require(bool(self.fields), f"{where}.fields", list(self.fields), "one for each component of the action")
        if "Twist" in self.type:
            prefix = "twist." if self.type.endswith("Stamped") else ""
            known = [f"{prefix}{kind}.{axis}" for kind in ("linear", "angular") for axis in "xyz"]
            for field in self.fields:
                _require(field in known, f"{where}.fields", field, f"one of {', '.join(known)}")
        _require(self.horizon_sec > 0, f"{where}.horizon_sec", self.horizon_sec, "positive")
        size = len(self.fields) or len(self.low)
        for name in ("low", "high"):
            limits = getattr(self, name)
            sound = all(math.isfinite(limit) for limit in limits) and len(limits) in (0, size)
            _require(sound, f"{where}.{name}", list(limits), f"{size} finite numbers")
        _require(len(self.low) == len(self.high), f"{where}.high", list(self.high), "given together with low")
        ordered = all(low < high for low, high in zip(self.low, self.high, strict=True))
        _require(ordered, f"{where}.high", list(self.high), f"above low, {list(self.low)}")


@dataclass(frozen=True)
class MappingSpec:
    """Everything between topics and a bundle's or a dataset's spaces."""

    sources: dict[str, SourceSpec]
    """By name, in the order of the observation."""
    action: ActionSpec
    cost: SourceSpec | None = None
    """Where the constraint indicator comes from; above zero is a violation."""

    @classmethod
    def from_dict(cls, content: Dictionary[str, Any]) -> MappingSpec:
        """Reads nested parameters; what else they hold (rates, the bundle) is not the mapping's.

        Raises:
            UserError: An entry is missing, unknown, or cannot be; the message names it.
        """
        observation = _section(content, "observation")
        names = observation.get("sources") or []
        _require(isinstance(names, list) and bool(names), "observation.sources", names, "a list of names")
        unknown = [name for name in observation if name != "sources" and name not in names]
        if unknown:
            raise UserError(f"mapping: observation.{unknown[0]} is not among observation.sources: add or remove it")
        sources = {
            name: build_section(SourceSpec, _section(observation, name), f"observation.{name}") for name in names
        }
        action = build_section(ActionSpec, _section(content, "action"), "action")
        cost = build_section(SourceSpec, content["cost"], "cost") if content.get("cost") else None
        return cls(sources, action, cost)

    @classmethod
    def load(cls, path: Path) -> MappingSpec:
        """Reads a YAML file: a mapping, or a ROS parameter file that holds one for some node.

        Raises:
            UserError: It is missing, no YAML, or holds no mapping.
        """
        content = read_parameters(path)
        try:
            return cls.from_dict(content)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


def read_parameters(path: Path) -> dict[str, Any]:
    """Reads the parameters of a YAML file that stand beside a mapping, on top or below some node's name.

    Raises:
        UserError: It is missing, no YAML, or holds no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"no mapping at {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())[:150]}") from error
    parameters = _find_mapping(content)
    if parameters is None:
        raise UserError(f"{path} holds no mapping: it needs the sections observation and action")
    return parameters


def _find_mapping(content: Any) -> dict[str, Any] | None:
    """The nearest dictionary with an observation in it: on top, or below a node's ros__parameters."""
    if not isinstance(content, dict):
        return None
    if "observation" in content:
        return content
    return next((found for value in content.values() if (found := _find_mapping(value)) is not None), None)


def _section(content: Dictionary[str, Any], name: str) -> Dictionary[str, Any]:
    value = content.get(name)
    if not isinstance(value, Dictionary):
        raise UserError(f"mapping: it has no section {name}" if value is None else f"mapping: {name} is no section")
    return value


def build_section(kind: type[Section], content: Any, where: str) -> Section:
    """Makes a dataclass with ``validate`` from a section of parameters.

    Raises:
        UserError: An entry is missing, unknown, or cannot be; the message names it.
    """
    if not isinstance(content, Dictionary):
        raise UserError(f"mapping: {where} is no section")
    hints = typing.get_type_hints(kind)
    values = {}
    for name, value in content.items():
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1)
            raise UserError(f"mapping: {where} has no {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
        values[name] = _convert(hints[name], value, f"{where}.{name}")
    for field in dataclasses.fields(typing.cast(Any, kind)):
        if field.name not in values and field.default is dataclasses.MISSING:
            raise UserError(f"mapping: {where} has no {field.name}")
    section = kind(**values)
    typing.cast(Any, section).validate(where)
    return section


def _convert(hint: Any, value: Any, where: str) -> Any:
    if typing.get_origin(hint) is tuple:
        values = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_convert(typing.get_args(hint)[0], item, where) for item in values)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    names: dict[type, str] = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}
    _require(type(value) is hint and not isinstance(hint, types.UnionType), where, repr(value), names[hint])
    return value
