"""The observation space as the shield knows it: without Gymnasium, and checking what it is given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from safe_rl.errors import UserError

FloatArray = npt.NDArray[np.float32]
FLOAT32 = np.dtype(np.float32)


UINT8 = np.dtype(np.uint8)


class ObservationError(ValueError):
    """An observation that cannot be decided on.

    Args:
        reason: One of ``safe_rl.shield.decision.Reason``'s values; the error's message.
        detail: What came and what should have, in one line for a log.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.detail = detail


def is_finite(row: FloatArray) -> bool:
    """Whether all of a row's numbers are; the method ``all`` takes twice the time, a sum may overflow."""
    return bool(np.logical_and.reduce(np.isfinite(row)))


@dataclass(frozen=True)
class Box:
    """One array of an observation."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def is_image(self) -> bool:
        """Whether it is what training takes for an image; see ``safe_rl.envs.spaces.image_shape``."""
        return self.dtype == UINT8 and len(self.shape) == 3

    def write(self, value: Any, out: npt.NDArray[Any]) -> None:
        """Checks ``value`` and writes it flat into ``out``.

        Raises:
            ObservationError: Wrong shape or dtype, or a masked array that lacks numbers.
        """
        if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
            raise ObservationError("observation_unreadable")  # what stands below a mask is no measurement
        array = np.asarray(value)
        if array.shape != self.shape:
            raise ObservationError("observation_wrong_shape", self._misfit(array))
        if array.dtype is FLOAT32 is self.dtype:
            out[:] = array.reshape(-1)
            return
        # Bytes would silently keep the last eight bits of a larger integer.
        casting: Literal["safe", "same_kind"] = "safe" if out.dtype == UINT8 else "same_kind"
        if array.dtype != self.dtype and not np.can_cast(array.dtype, self.dtype, casting):
            raise ObservationError("observation_wrong_dtype", self._misfit(array))
        with np.errstate(over="ignore"):  # what overflows float32 is found as infinity
            out[:] = array.reshape(-1)

    def _misfit(self, array: npt.NDArray[Any]) -> str:
        what = "image" if self.is_image else "array"
        line = f"{array.dtype}{array.shape} came where the policy was trained on an {what} {self.dtype}{self.shape}"
        if self.is_image and array.shape != self.shape and sorted(array.shape) == sorted(self.shape):
            line += ": the order must be height, width, channels"
        return line


class ObservationLayout:
    """How an observation becomes one flat row: Dict entries in alphabetical order, as in training.

    The row is uint8 where the observation is an image, else float32.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        """Reads ``safe_rl.envs.spaces.space_to_json``'s description.

        Raises:
            UserError: It describes something else than a Box or a Dict of such.
        """
        self._entries: list[tuple[tuple[str, ...], Box, slice]] = []
        self.size = 0
        self._add(description, ())
        self.image_shape: tuple[int, int, int] | None = None
        """Height, width and channels where the observation is an image."""
        if len(self._entries) == 1 and self._entries[0][0] == () and self._entries[0][1].is_image:
            height, width, channels = self._entries[0][1].shape
            self.image_shape = height, width, channels
        self.dtype = FLOAT32 if self.image_shape is None else UINT8
        """The type of a row."""

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

    def flatten(self, obs: Any, out: npt.NDArray[Any]) -> None:
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
        if out.dtype is FLOAT32 and not is_finite(out):
            raise ObservationError("observation_not_finite")

    def unflatten(self, row: npt.NDArray[Any]) -> Any:
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
