"""A mapping run backwards: an observation as the messages that it would be read from.

Works on anything with the messages' fields as attributes; what cannot be turned round (a crop, a stack of messages, a
field whose length nobody knows) is refused before anything is sent.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from ros_nodes.fields import FieldPath
from ros_nodes.mapping import MappingSpec, SourceSpec
from ros_nodes.sim_robot import is_picture, leaves
from safe_rl.errors import UserError

MakeMessage = Callable[[str], Any]
"""Makes an empty message of a type's name."""


class ObservationMessages:
    """Writes observations of one space as the messages of a mapping's sources."""

    def __init__(self, mapping: MappingSpec, space: spaces.Space[Any], make_message: MakeMessage) -> None:
        """Divides the observation among the sources.

        Args:
            mapping: Its sources are filled in their order, as the shield reads them.
            space: The observation's.
            make_message: Makes an empty message of a type.

        Raises:
            UserError: The mapping cannot carry the space.
        """
        self._make = make_message
        self._writers: dict[str, _Writer] = {}
        boxes = leaves(space)
        for entry, box in boxes.items():
            names = [name for name, spec in mapping.sources.items() if spec.entry == entry]
            if not names:
                raise UserError(f"mapping: no source carries the observation's entry {entry or '(its only array)'}")
            start, size = 0, math.prod(box.shape)
            for name in names:
                writer = _Writer(name, mapping.sources[name], entry, box, start, rest=size - start)
                start += writer.size
                self._writers[name] = writer
            if start != size:
                raise UserError(
                    f"mapping: {', '.join(names)} carry {start} of the {size} numbers of the observation"
                    + (f"'s entry {entry}" if entry else "")
                )
        lost = [name for name in mapping.sources if name not in self._writers]
        if lost:
            raise UserError(
                f"mapping: observation.{lost[0]}.entry is {mapping.sources[lost[0]].entry!r}: the entries are "
                f"{', '.join(repr(entry) for entry in boxes)}"
            )

    def write(self, obs: Any) -> dict[str, Any]:
        """Messages by the sources' names; headers are the caller's."""
        return {name: writer.write(obs, self._make(writer.spec.type)) for name, writer in self._writers.items()}


class _Writer:
    """Writes one source's part."""

    def __init__(self, name: str, spec: SourceSpec, entry: str, box: spaces.Box, start: int, rest: int) -> None:
        self.spec = spec
        self._path = entry.split("/") if entry else []
        where = f"mapping: observation.{name}"
        if spec.stack != 1 or spec.crop:
            field = "crop" if spec.crop else "stack"
            raise UserError(f"{where}.{field}: a simulated robot cannot undo it; leave it out")
        if spec.is_image:
            if spec.type != "sensor_msgs/msg/Image":
                raise UserError(f"{where}.type is {spec.type}: a simulated robot sends sensor_msgs/msg/Image")
            if not is_picture(box) or (box.shape[-1] == 1) != (spec.encoding == "mono8") or start:
                raise UserError(f"{where}: {box.dtype} of shape {box.shape} is no {spec.encoding} picture")
            self.size = math.prod(box.shape)
            return
        if spec.scale == 0:
            raise UserError(f"{where}.scale is 0: a simulated robot cannot undo it")
        self._start = start
        self._fields = [FieldPath.parse(text) for text in spec.fields]
        self._lengths = [_length(path, spec.fields, rest, where) for path in self._fields]
        self.size = sum(self._lengths)

    def write(self, obs: Any, message: Any) -> Any:
        for key in self._path:
            obs = obs[key]
        if self.spec.is_image:
            _write_image(message, obs, self.spec.encoding)
            return message
        values = np.asarray(obs, np.float64).reshape(-1)[self._start : self._start + self.size]
        values = (values - self.spec.offset) / self.spec.scale
        place = 0
        for path, length in zip(self._fields, self._lengths, strict=True):
            write_field(message, path, values[place : place + length])
            place += length
        return message


def _length(path: FieldPath, all_fields: tuple[str, ...], rest: int, where: str) -> int:
    """How many numbers a field takes."""
    index = path.parts[-1][1]
    if any(inner is not None for _, inner in path.parts[:-1]):
        raise UserError(f"{where}.fields: {path.text} cannot be written: only its last part may have an index")
    if path.function not in (None, "yaw"):
        raise UserError(f"{where}.fields: {path.text} cannot be written: of the functions only yaw can")
    if isinstance(index, slice):
        if index.stop is None or min(index.start or 0, index.stop) < 0 or (index.step or 1) < 0:
            raise UserError(f"{where}.fields: {path.text} cannot be written: give it an end, such as [0:360]")
        return len(range(index.start or 0, index.stop, index.step or 1))
    if isinstance(index, int) and index < 0:
        raise UserError(f"{where}.fields: {path.text} cannot be written: count from the front")
    if path.parts[-1][0] in ("data", "ranges", "intensities", "position", "velocity", "effort") and index is None:
        if len(all_fields) > 1:
            raise UserError(f"{where}.fields: {path.text} takes all that is left: make it the only field, or slice it")
        return rest
    return 1


def write_field(message: Any, path: FieldPath, values: npt.NDArray[np.float64]) -> None:
    """Writes numbers to where a path reads them; of ``yaw(...)`` a rotation about the vertical.

    Raises:
        UserError: The message has no such field.
    """
    try:
        owner = message
        for name, _ in path.parts[:-1]:
            owner = getattr(owner, name)
        name, index = path.parts[-1]
        present = getattr(owner, name)
    except AttributeError as error:
        raise UserError(f"field {path.text}: {type(message).__name__} has no such field") from error
    if path.function == "yaw":
        present.x = present.y = 0.0
        present.z, present.w = math.sin(values[0] / 2), math.cos(values[0] / 2)
    elif index is None:
        whole = hasattr(present, "__len__")
        setattr(owner, name, values.tolist() if whole else float(values[0]))
    else:
        numbers = [float(value) for value in present]
        if isinstance(index, str):
            names = list(owner.name)
            if index not in names:
                owner.name = names = [*names, index]
            index = names.index(index)
        places = range(index, index + 1) if isinstance(index, int) else range(*_bounds(index))
        numbers += [math.nan] * (max(places) + 1 - len(numbers))  # nobody may take what was not written for a value
        for place, value in zip(places, values, strict=True):
            numbers[place] = float(value)
        setattr(owner, name, numbers)


def _bounds(index: slice) -> tuple[int, int, int]:
    return index.start or 0, index.stop, index.step or 1


def _write_image(message: Any, picture: npt.NDArray[np.uint8], encoding: str) -> None:
    message.height, message.width = picture.shape[:2]
    message.encoding = encoding
    message.step = picture.shape[1] * picture.shape[2]
    message.is_bigendian = 0
    message.data = array("B", np.ascontiguousarray(picture).tobytes())
