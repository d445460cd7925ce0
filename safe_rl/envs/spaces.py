"""Flat views of Gymnasium spaces, and spaces as JSON."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from safe_rl.errors import UserError


def flat_dim(space: gym.Space[Any]) -> int:
    """Returns the length of a flattened observation.

    Raises:
        UserError: The space is neither a Box nor a Dict of such spaces.
    """
    if isinstance(space, spaces.Box):
        return int(np.prod(space.shape, dtype=int))
    if isinstance(space, spaces.Dict):
        return sum(flat_dim(subspace) for subspace in space.spaces.values())
    raise UserError(
        f"observation space {space} is not supported: it must be a Box or a Dict of Boxes; wrap the environment with "
        "gymnasium.wrappers.FlattenObservation"
    )


def image_shape(space: gym.Space[Any]) -> tuple[int, int, int] | None:
    """Height, width and channels where an observation is an image, a Box of uint8 with three dimensions; else None."""
    if isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3:
        height, width, channels = space.shape
        return height, width, channels
    return None


def require_no_image(space: gym.Space[Any], method: str) -> None:
    """Raises ``UserError`` where observations are images, for methods whose networks have no encoder."""
    if image_shape(space) is not None:
        raise UserError(f"{method} cannot learn from images: train recovery-rl, unconstrained, impact or ppo")


def flat_dtype(space: gym.Space[Any]) -> type[np.uint8] | type[np.float32]:
    """The type of a flattened observation: images stay bytes, all else becomes float32."""
    return np.float32 if image_shape(space) is None else np.uint8


def flatten_observation(space: gym.Space[Any], obs: Any) -> npt.NDArray[Any]:
    """Flattens one observation, the entries of a Dict in alphabetical order: a space that was stored has lost its own.

    Args:
        space: The observation's space.
        obs: One observation of it.

    Returns:
        (obs_dim,) a copy, of the type ``flat_dtype``.
    """
    if isinstance(space, spaces.Dict):
        return np.concatenate(
            [flatten_observation(sub, obs[key]) for key, sub in sorted(space.spaces.items())], dtype=np.float32
        )
    return np.array(obs, dtype=flat_dtype(space)).reshape(-1)


def flatten_observations(space: gym.Space[Any], obs: Any) -> npt.NDArray[Any]:
    """Flattens observations ``(N, ...)``, for a Dict a dictionary of such, to ``(N, obs_dim)`` of ``flat_dtype``."""
    if isinstance(space, spaces.Dict):
        parts = [flatten_observations(sub, obs[key]) for key, sub in sorted(space.spaces.items())]
        return np.concatenate(parts, axis=1, dtype=np.float32)
    array = np.asarray(obs, dtype=flat_dtype(space))
    return array.reshape(len(array), -1)


def space_to_json(space: gym.Space[Any]) -> dict[str, Any]:
    """Describes a Box, Discrete or Dict space by JSON values; infinite bounds become strings."""
    if isinstance(space, spaces.Box):
        return {
            "type": "Box",
            "low": _bounds_to_json(space.low),
            "high": _bounds_to_json(space.high),
            "shape": list(space.shape),
            "dtype": str(space.dtype),
        }
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {key: space_to_json(sub) for key, sub in space.spaces.items()}}
    raise UserError(f"space {space} is not supported: use Box, Discrete or a Dict of them")


def space_from_json(description: dict[str, Any]) -> gym.Space[Any]:
    """Builds the space that ``space_to_json`` described.

    Raises:
        UserError: The description is not one of ``space_to_json``.
    """
    try:
        kind = description["type"]
        if kind == "Box":
            shape, dtype = tuple(description["shape"]), np.dtype(description["dtype"])
            low, high = (_bounds_from_json(description[key], shape, dtype) for key in ("low", "high"))
            return spaces.Box(low, high, shape, dtype.type)
        if kind == "Discrete":
            return spaces.Discrete(description["n"], start=description["start"])
        if kind == "Dict":
            return spaces.Dict({key: space_from_json(sub) for key, sub in description["spaces"].items()})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"damaged description of a space ({error!r}): write the file again") from error
    raise UserError(f"unknown kind of space {kind!r}: expected Box, Discrete or Dict")


def _bounds_to_json(bounds: npt.NDArray[Any]) -> Any:
    """One number where all bounds are equal (an image's, say), else one a component."""
    flat = [value if np.isfinite(value) else str(value) for value in bounds.reshape(-1).tolist()]
    return flat[0] if flat and all(value == flat[0] for value in flat) else flat


def _bounds_from_json(bounds: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    flat = np.array(bounds, dtype=dtype).reshape(-1)
    return np.broadcast_to(flat, (int(np.prod(shape)),)).reshape(shape)
