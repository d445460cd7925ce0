"""Paths into messages: ``twist.linear.x``, ``ranges[0:360:10]``, ``position[elbow_joint]``, ``yaw(pose.orientation)``.

They work on rclpy's messages and on those that ``rosbags`` reads alike: both are objects with the fields as attributes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from safe_rl.errors import UserError

Index = int | slice | str | None

_PATH = re.compile(r"(?:(?P<function>[a-z_]+)\()?(?P<path>[A-Za-z_][\w.]*(?:\[[^\[\]]+\])?(?:\.[\w.]+)?)(?P<end>\))?")
_PART = re.compile(r"(?P<name>\w+)(?:\[(?P<index>[^\[\]]+)\])?")


class FieldError(ValueError):
    """A message in which a path leads nowhere; the message says where it ends."""


def _roll(q: Any) -> float:
    return math.atan2(2 * (q.w * q.x + q.y * q.z), 1 - 2 * (q.x * q.x + q.y * q.y))


def _pitch(q: Any) -> float:
    sine = 2 * (q.w * q.y - q.z * q.x)
    return math.asin(min(1.0, max(-1.0, sine))) if math.isfinite(sine) else math.nan


def _yaw(q: Any) -> float:
    return math.atan2(2 * (q.w * q.z + q.x * q.y), 1 - 2 * (q.y * q.y + q.z * q.z))


def _norm(v: Any) -> float:
    return math.sqrt(v.x * v.x + v.y * v.y + v.z * v.z)


FUNCTIONS: dict[str, Callable[[Any], float]] = {"roll": _roll, "pitch": _pitch, "yaw": _yaw, "norm": _norm}
"""Of a quaternion its angles in rad (rotations about x, y, z in this order), of a vector its length."""


@dataclass(frozen=True)
class FieldPath:
    """A parsed path."""

    text: str
    parts: tuple[tuple[str, Index], ...]
    function: str | None = None

    @classmethod
    def parse(cls, text: str) -> FieldPath:
        """Reads a path.

        Raises:
            UserError: It is none.
        """
        match = _PATH.fullmatch(text.strip())
        if match is None or bool(match["function"]) != bool(match["end"]):
            raise UserError(f"field {text!r} is no path: write it like pose.position.x, ranges[0:360:10] or yaw(...)")
        if match["function"] and match["function"] not in FUNCTIONS:
            raise UserError(f"field {text!r}: unknown function {match['function']}, known are {', '.join(FUNCTIONS)}")
        parts = []
        for part in match["path"].split("."):
            piece = _PART.fullmatch(part)
            if piece is None:
                raise UserError(f"field {text!r} is no path: nothing is named {part!r}")
            parts.append((piece["name"], _parse_index(piece["index"], text)))
        return cls(text.strip(), tuple(parts), match["function"])

    def read(self, message: Any) -> npt.NDArray[np.float64]:
        """Returns the numbers (n,) that the path leads to.

        Raises:
            FieldError: It leads nowhere in this message, or not to numbers.
        """
        value = message
        for name, index in self.parts:
            if not hasattr(value, name):
                raise FieldError(f"{self.text}: no field {name}")
            owner, value = value, getattr(value, name)
            if index is not None:
                value = self._pick(owner, value, index)
        try:
            if self.function is not None:
                value = FUNCTIONS[self.function](value)
            return np.atleast_1d(np.asarray(value, dtype=np.float64)).reshape(-1)
        except (TypeError, ValueError, AttributeError) as error:
            raise FieldError(f"{self.text}: {type(value).__name__} is no number") from error

    def _pick(self, owner: Any, values: Any, index: int | slice | str) -> Any:
        if isinstance(index, str):  # a joint's name: JointState and JointTrajectory list them beside the values
            names = list(getattr(owner, "name", ()) or getattr(owner, "joint_names", ()))
            if index not in names:
                raise FieldError(f"{self.text}: no joint {index} among {', '.join(names) or 'none'}")
            index = names.index(index)
        try:
            return values[index]
        except (IndexError, TypeError) as error:
            raise FieldError(f"{self.text}: {type(values).__name__} of {_length(values)} has no {index}") from error


def _parse_index(text: str | None, whole: str) -> Index:
    if text is None:
        return None
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if ":" in text:
        bounds = text.split(":")
        if len(bounds) > 3 or not all(re.fullmatch(r"-?\d*", bound) for bound in bounds):
            raise UserError(f"field {whole!r}: {text!r} is no range of numbers like 0:360:10")
        return slice(*(int(bound) if bound not in ("", "-") else None for bound in bounds))
    return text.strip()


def _length(values: Any) -> str:
    return f"{len(values)} values" if hasattr(values, "__len__") else "one value"
