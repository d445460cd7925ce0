"""The observation space as the shield knows it: without Gymnasium, and checking what it is given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from safe_rl.errors import UserError

FloatArray = npt.NDArray[np.float32]
FLOAT32 = np.dtype(np.float32)


class ObservationError(ValueError):
    """An observation that cannot be decided on; the message is one of ``safe_rl.shield.decision.Reason``'s values."""


def is_finite(row: FloatArray) -> bool:
    """Whether all of a row's numbers are; the method ``all`` takes twice the time, a sum may overflow."""
    return bool(np.logical_and.reduce(np.isfinite(row)))


@dataclass(frozen=True)
class Box:
    """One array of an observation."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def write(self, value: Any, out: FloatArray) -> None:
        """Checks ``value`` and writes it flat into ``out``.

        Raises:
            ObservationError: Wrong shape or dtype, or a masked array that lacks numbers.
        """
        if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
            raise ObservationError("observation_unreadable")  # what stands below a mask is no measurement
        array = np.asarray(value)
        if array.shape != self.shape:
            raise ObservationError("observation_wrong_shape")
        if array.dtype is FLOAT32 is self.dtype:
            out[:] = array.reshape(-1)
            return
        if array.dtype != self.dtype and not np.can_cast(array.dtype, self.dtype, "same_kind"):
            raise ObservationError("observation_wrong_dtype")
        with np.errstate(over="ignore"):  # what overflows float32 is found as infinity
            out[:] = array.reshape(-1)


class ObservationLayout:
    """How an observation becomes one flat float32 row: Dict entries in alphabetical order, as in training."""

    def __init__(self, description: dict[str, Any]) -> None:
        """Reads ``safe_rl.envs.spaces.space_to_json``'s description.

        Raises:
            UserError: It describes something else than a Box or a Dict of such.
        """
        self._entries: list[tuple[tuple[str, ...], Box, slice]] = []
        self.size = 0
        self._add(description, ())

    def _add(self, description: Any, path: tuple[str, ...]) -> None:
        try:
            if description["type"] == "Dict":
                for key, entry in sorted(description["spaces"].items()):
                    self._add(entry, (*path, key))
                return
            if description["type"] != "Box":
                raise UserError(f"observation space of kind {description['type']!r}: it must be a Box or a Dict")
            shape = description["shape"]
            if not all(type(length) is int and length >= 0 for length in shape):
                raise ValueError(f"shape {shape}")
            box = Box(tuple(shape), np.dtype(description["dtype"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"damaged description of the observation space ({error!r})") from error
        end = self.size + math.prod(box.shape)
        self._entries.append((path, box, slice(self.size, end)))
        self.size = end

    def flatten(self, obs: Any, out: FloatArray) -> None:
        """Writes an observation into ``out`` (size,).

        Raises:
            ObservationError: It is of another shape, dtype or structure, or holds NaN or infinity.
        """
        for path, box, place in self._entries:
            value = obs
            for key in path:
                if not isinstance(value, Mapping) or key not in value:
                    raise ObservationError("observation_entry_missing")
                value = value[key]
            box.write(value, out[place])
        if not is_finite(out):
            raise ObservationError("observation_not_finite")

    def unflatten(self, row: FloatArray) -> Any:
        """Makes the observation again that ``flatten`` wrote into ``row`` (size,)."""
        obs: dict[str, Any] = {}
        for path, box, place in self._entries:
            value = row[place].reshape(box.shape).astype(box.dtype)
            if not path:
                return value
            entry = obs
            for key in path[:-1]:
                entry = entry.setdefault(key, {})
            entry[path[-1]] = value
        return obs
