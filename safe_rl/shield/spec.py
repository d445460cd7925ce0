"""What stands in ``bundle.json``: dataclasses that check themselves, so that a damaged file never reaches a robot."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from safe_rl.errors import UserError

FORMAT_VERSION = 1

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Format version -> what turns its content into the next version's; older bundles pass through all that follow."""

LARGEST_FLOAT32 = (2 - 2**-23) * 2.0**127
LARGEST_EPS_RISK = 1 - 2**-24
"""What is larger is 1 in float32, which the switch compares in: no risk would be above it."""

Section = TypeVar("Section")


class SpecError(UserError):
    """An entry of ``bundle.json`` that cannot be; the message names entry and value."""


def _require(condition: bool, name: str, value: object, need: str) -> None:
    if not condition:
        raise SpecError(f"{name} is {value}: it must be {need}")


def _finite(values: typing.Iterable[float]) -> bool:
    """Whether all are finite in float32, which actions are in."""
    return all(abs(value) <= LARGEST_FLOAT32 for value in values)


@dataclass(frozen=True)
class SwitchSpec:
    """When the recovery policy takes over, and when it gives back."""

    eps_risk: float
    """Largest tolerated ``Q_risk`` of a proposed action."""
    recovery_must_help: bool = False
    """Hand over only where the recovery action is less risky than the proposed one."""
    release_risk: float | None = None
    """Once handed over, give back at this ``Q_risk`` or less (default: at eps_risk); below eps_risk it is a hysteresis
    against chattering."""
    min_recovery_sec: float = 0.0
    """Least time that the recovery policy acts, in seconds."""

    def __post_init__(self) -> None:
        """Validates the values."""
        _require(0 <= self.eps_risk <= LARGEST_EPS_RISK, "switch.eps_risk", self.eps_risk, "at least 0 and less than 1")
        if self.release_risk is not None:
            need = f"between 0 and switch.eps_risk ({self.eps_risk})"
            _require(0 <= self.release_risk <= self.eps_risk, "switch.release_risk", self.release_risk, need)
        ok = self.min_recovery_sec >= 0 and math.isfinite(self.min_recovery_sec)
        _require(ok, "switch.min_recovery_sec", self.min_recovery_sec, "at least 0")


@dataclass(frozen=True)
class LimitSpec:
    """What no executed action may exceed, whoever proposed it; units are those of the environment's actions."""

    low: tuple[float, ...]
    """(act_dim,) least action."""
    high: tuple[float, ...]
    """(act_dim,) largest action."""
    max_rate: tuple[float, ...] | None = None
    """(act_dim,) largest change a second, counted as max_rate * control_period_sec a decision."""
    control_period_sec: float | None = None
    """Time between two decisions, in seconds; needed where max_rate is given."""

    def __post_init__(self) -> None:
        """Validates the values."""
        _require(len(self.low) == len(self.high) > 0, "limits.low", self.low, "as long as limits.high")
        _require(_finite(self.low + self.high), "limits", (self.low, self.high), "finite")
        ordered = all(low <= high for low, high in zip(self.low, self.high, strict=True))
        _require(ordered, "limits.low", self.low, f"at most limits.high ({self.high})")
        if self.max_rate is not None:
            ok = len(self.max_rate) == len(self.low) and _finite(self.max_rate) and min(self.max_rate) > 0
            _require(ok, "limits.max_rate", self.max_rate, f"{len(self.low)} positive numbers")
            _require(self.control_period_sec is not None, "limits.control_period_sec", None, "given with max_rate")
        if self.control_period_sec is not None:
            ok = self.control_period_sec > 0 and math.isfinite(self.control_period_sec)
            _require(ok, "limits.control_period_sec", self.control_period_sec, "positive")


@dataclass(frozen=True)
class StopSpec:
    """What STOP means for this robot."""

    kind: Literal["zero", "hold", "action"] = "zero"
    """``zero``: the zero command (right for velocities). ``hold``: the last command again (right for positions); zero
    where there was none. ``action``: the given one. All within the limits."""
    action: tuple[float, ...] | None = None
    """(act_dim,) the action of kind ``action``."""

    def __post_init__(self) -> None:
        """Validates the values."""
        _require((self.action is not None) == (self.kind == "action"), "stop.action", self.action, "given for 'action'")
        _require(self.action is None or _finite(self.action), "stop.action", self.action, "finite")


@dataclass(frozen=True)
class DistributionSpec:
    """When an input counts as unlike the data that the risk critic has seen; the arrays are in their own file."""

    threshold: float
    """Largest score that passes."""
    stop: bool
    """Whether a larger one leads to STOP; else it is only reported."""

    def __post_init__(self) -> None:
        """Validates the values."""
        _require(self.threshold > 0 and math.isfinite(self.threshold), "distribution.threshold", self.threshold, "> 0")


@dataclass(frozen=True)
class BundleSpec:
    """Everything about a bundle but its weights."""

    method: str
    """What trained it."""
    env: str
    """The environment it was trained in."""
    observation_space: dict[str, Any]
    """See ``safe_rl.envs.spaces.space_to_json``."""
    action_space: dict[str, Any]
    """The same; a Box."""
    recovery: Literal["model-free", "q-sampling"]
    """How the recovery policy acts."""
    gamma_risk: float
    """Discount of ``Q_risk``."""
    switch: SwitchSpec
    limits: LimitSpec
    stop: StopSpec = field(default_factory=StopSpec)
    deadline_sec: float | None = None
    """A decision that took longer leads to STOP."""
    distribution: DistributionSpec | None = None
    calibration: dict[str, Any] | None = None
    """The promise: what ``safe-rl calibrate`` was asked for, what it found, and on which data."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """The training: run, seed, settings, versions."""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        """Validates what concerns several sections."""
        act_dim = len(self.limits.low)
        _require(self.action_space.get("shape") == [act_dim], "limits.low", self.limits.low, "as long as an action")
        if self.stop.action is not None:
            ok = len(self.stop.action) == act_dim
            _require(ok, "stop.action", self.stop.action, f"{act_dim} numbers")
        if self.deadline_sec is not None:
            _require(self.deadline_sec > 0, "deadline_sec", self.deadline_sec, "positive")
        _require(0 <= self.gamma_risk <= 1, "gamma_risk", self.gamma_risk, "between 0 and 1")

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Any) -> BundleSpec:
        """Reads what ``to_json`` wrote, of this format version or an older one.

        Raises:
            SpecError: An entry is missing, unknown, of the wrong kind, or the version is newer than this program.
        """
        if not isinstance(content, dict) or not isinstance(content.get("format_version"), int):
            raise SpecError("it has no format_version")
        version = content["format_version"]
        if version > FORMAT_VERSION:
            raise SpecError(f"it is of the newer format {version}, this safe_rl reads up to {FORMAT_VERSION}: update")
        while version < FORMAT_VERSION:
            if version not in UPGRADES:
                raise SpecError(f"format {version} is unknown")
            content = UPGRADES[version](content)
            version += 1
        return _build(cls, content | {"format_version": version}, "")


def _build(kind: type[Section], content: Any, path: str) -> Section:
    """Makes a section's dataclass from JSON values; every entry must be known and of its declared type."""
    where = f"entry {path}" if path else "the file"
    if not isinstance(content, dict):
        raise SpecError(f"{where} must be an object")
    hints = typing.get_type_hints(kind)
    for name in content:
        if name not in hints:
            raise SpecError(f"{where} has an unknown entry {name!r}")
    prefix = f"{path}." if path else ""
    values = {name: _convert(hints[name], value, prefix + name) for name, value in content.items()}
    missing = [
        f.name
        for f in dataclasses.fields(typing.cast(Any, kind))
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise SpecError(f"{where} has no {missing[0]}")
    return kind(**values)


def _convert(hint: Any, value: Any, path: str) -> Any:
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(option for option in hint.__args__ if option is not type(None))
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, path)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        _require(value in arguments, path, repr(value), " or ".join(map(repr, arguments)))
        return value
    if origin is tuple:
        _require(isinstance(value, (list, tuple)), path, type(value).__name__, "a list")
        return tuple(_convert(arguments[0], item, path) for item in value)
    expected = origin or hint
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) <= LARGEST_FLOAT32 else math.inf
    _require(type(value) is expected, path, type(value).__name__, f"of type {expected.__name__}")
    _require(expected is not float or math.isfinite(value), path, value, "finite")
    return value
