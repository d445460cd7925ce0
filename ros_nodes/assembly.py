"""Puts what the sources say together as a bundle's observation space wants it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ros_nodes.mapping import MappingSpec
from safe_rl.errors import UserError
from safe_rl.shield.observation import ObservationLayout

Assemble = Callable[[Mapping[str, npt.NDArray[Any]]], Any]


def make_assembler(mapping: MappingSpec, space: dict[str, Any]) -> Assemble:
    """Returns what puts the sources' arrays together as the observation space wants them.

    Raises:
        UserError: Entries are missing or unknown.
    """
    ObservationLayout(space)  # a space that the shield knows
    if space["type"] == "Box":
        named = [name for name, spec in mapping.sources.items() if spec.entry]
        if named:
            raise UserError(
                f"mapping: observation.{named[0]}.entry is given, but the bundle's observation is one array"
            )
        shape = tuple(space["shape"])
        return lambda parts: _joined(list(parts.values()), shape)
    wanted = _leaves(space, "")
    by_entry: dict[str, list[str]] = {}
    for name, spec in mapping.sources.items():
        if spec.entry not in wanted:
            raise UserError(
                f"mapping: observation.{name}.entry is {spec.entry!r}: the bundle's entries are {', '.join(wanted)}"
            )
        by_entry.setdefault(spec.entry, []).append(name)
    missing = [entry for entry in wanted if entry not in by_entry]
    if missing:
        raise UserError(f"mapping: no source fills the bundle's entry {missing[0]}: give one entry: {missing[0]}")

    def assemble(parts: Mapping[str, npt.NDArray[Any]]) -> Any:
        obs: dict[str, Any] = {}
        for entry, names in by_entry.items():
            place = obs
            *path, last = entry.split("/")
            for key in path:
                place = place.setdefault(key, {})
            place[last] = _joined([parts[name] for name in names], wanted[entry])
        return obs

    return assemble


def _joined(parts: list[npt.NDArray[Any]], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The parts one after the other, in the space's shape where their size fits it: the shield says if it does not."""
    joined = parts[0] if len(parts) == 1 else np.concatenate([part.reshape(-1) for part in parts])
    return joined.reshape(shape) if joined.size == math.prod(shape) else joined


def _leaves(space: dict[str, Any], path: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a Dict space's entries by path, such as robot/pose."""
    if space["type"] != "Dict":
        return {path: tuple(space["shape"])}
    leaves: dict[str, tuple[int, ...]] = {}
    for key, entry in sorted(space["spaces"].items()):
        leaves |= _leaves(entry, f"{path}/{key}" if path else key)
    return leaves
