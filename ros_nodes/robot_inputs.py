"""What reaches a robot's environment: observations, labels, an emergency stop. Without ROS."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from ros_nodes.fields import FieldPath
from ros_nodes.mapping import SourceSpec
from ros_nodes.readers import SourceError, read_message
from ros_nodes.robot_settings import RobotSettings
from ros_nodes.sources import Arrival, Now, Source, StaleError
from safe_rl.errors import UserError


class Label(Source):
    """A source of which every message counts, not only the last: a bumper that was touched between two steps."""

    def __init__(self, name: str, spec: SourceSpec) -> None:
        super().__init__(name, spec)
        self._peak = self._level = -math.inf

    def receive(self, arrival: Arrival) -> None:
        """Takes a message; one that cannot be read is told by ``value``."""
        super().receive(arrival)
        try:
            values = read_message(arrival.message, self.spec)
        except SourceError:
            return
        self._level = float(np.max(values, initial=-math.inf, where=~np.isnan(values)))
        self._peak = max(self._peak, self._level)

    def forget(self) -> None:
        """Drops all messages."""
        super().forget()
        self._peak = self._level = -math.inf

    def value(self, now: Now) -> npt.NDArray[np.float32]:
        """The last message's numbers.

        Raises:
            StaleError: They cannot be believed.
        """
        self.require_fresh(now)
        values = self.read()
        if not np.isfinite(values).all():
            raise StaleError(f"{self.name}_not_finite")
        return values

    @property
    def was_set(self) -> bool:
        """Whether a message since ``clear`` said so, or the last one before."""
        return max(self._peak, self._level) > 0

    def clear(self) -> None:
        """Begins to look anew."""
        self._peak = -math.inf


class Inputs:
    """All that comes in, by topics and by services."""

    def __init__(self, settings: RobotSettings) -> None:
        self.sources = {name: Source(name, spec) for name, spec in settings.mapping.sources.items()}
        self.cost = Label("cost", settings.cost)
        self.success = Label("success", settings.success) if settings.success else None
        self.reward = Label("reward", settings.reward) if isinstance(settings.reward, SourceSpec) else None
        self.emergency_stop = Label("emergency_stop", settings.emergency_stop) if settings.emergency_stop else None
        self.tripped = False
        """An emergency stop by service, until it is released by service."""
        self.start_asked = False
        """The operator wants the episode to begin, by service."""

    def labels(self) -> Iterator[Label]:
        """Everything but the observation."""
        yield from (label for label in (self.emergency_stop, self.cost, self.success, self.reward) if label is not None)

    def all(self) -> Iterator[Source]:
        """Labels first: who has the observation has them."""
        yield from self.labels()
        yield from self.sources.values()

    def forget(self) -> None:
        """What comes next must be fresh; an emergency stop holds."""
        for source in self.all():
            if source is not self.emergency_stop:
                source.forget()

    def require_fresh(self, now: Now) -> None:
        """Raises ``StaleError`` where something cannot be believed, labels included."""
        for source in self.sources.values():
            source.require_fresh(now)
        for label in self.labels():
            label.value(now)

    def emergency(self, now: Now) -> str:
        """Why the robot must stand; empty where it need not."""
        if self.tripped:
            return "emergency_stop"
        if self.emergency_stop is None:
            return ""
        if self.emergency_stop.was_set:
            return "emergency_stop"
        try:
            self.emergency_stop.value(now)
        except StaleError as error:
            return error.reason
        return ""


def reading_shape(name: str, spec: SourceSpec, template: object) -> tuple[int, ...] | None:
    """The shape of one reading, where the mapping tells it; None where only a message can.

    Args:
        name: Of the source.
        spec: The source.
        template: A message of its type, as it is made, empty.

    Raises:
        UserError: A field does not exist.
    """
    if spec.is_image:
        channels = 1 if spec.encoding == "mono8" else 3
        if spec.resize:
            return (*spec.resize, channels)
        if spec.crop:
            return (spec.crop[2] - spec.crop[0], spec.crop[3] - spec.crop[1], channels)
        return None
    lengths = [_length(FieldPath.parse(text), template, f"observation.{name}.fields") for text in spec.fields]
    return None if None in lengths else (sum(length for length in lengths if length is not None),)


def _length(path: FieldPath, template: object, where: str) -> int | None:
    value = template
    for part, index in path.parts:
        if not hasattr(value, part):
            raise UserError(f"{where}: {path.text}: {type(template).__name__} has no {part}")
        value = getattr(value, part)
        if index is None:
            continue
        if isinstance(index, slice):
            bounds = (index.start or 0, index.stop, index.step or 1)
            known = index.stop is not None and min(bounds) >= 0
            return len(range(*bounds)) if known else None
        return 1
    if path.function is not None or not hasattr(value, "__len__"):
        return 1
    return len(value) or None


def check_finite(obs: Mapping[str, object] | npt.NDArray[np.generic]) -> None:
    """Raises ``StaleError`` where an observation holds NaN or infinity."""
    if isinstance(obs, Mapping):
        for entry in obs.values():
            check_finite(entry)  # type: ignore[arg-type]
    elif not np.isfinite(obs).all():
        raise StaleError("observation_not_finite")
