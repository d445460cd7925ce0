"""What lies between a camera and an observation: the episode's light, noise, late pictures, stacked frames."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from gymnasium import spaces

from safe_rl.errors import UserError
from sim.drawn import Picture
from sim.randomization import Lighting, Randomization, light_factors

IMAGE_SIZE = 64

_CAMERA_STREAM = 0xCA3E7A
"""Keeps the camera's random numbers apart from those of the robot, which come from the same seed."""


class PictureStream:
    """Makes observations, (size, size, 3 * frames) uint8 with the oldest frame first, of one picture a step.

    Args:
        randomization: What differs.
        size: Height and width of the pictures in pixels.
        frames: How many pictures, of this step and the ones before, make an observation.

    Attributes:
        rng: The camera's random numbers.

    Raises:
        UserError: A value is out of its range.
    """

    def __init__(self, randomization: Randomization, size: int, frames: int) -> None:
        if not isinstance(size, int) or not 16 <= size <= 512:
            raise UserError(f"image_size={size!r} must be a whole number between 16 and 512")
        if not isinstance(frames, int) or not 1 <= frames <= 16:
            raise UserError(f"frames={frames!r} must be a whole number between 1 and 16")
        self.randomization, self.size, self.frames = randomization, size, frames
        self.rng = np.random.default_rng()
        self._set_light(None)
        self._taken: Picture | None = None
        """What the camera took at this step, late or not."""
        self._shown: list[Picture] = []
        """The frames of the present observation."""

    @property
    def space(self) -> spaces.Space[Picture]:
        """What its observations are in."""
        return spaces.Box(0, 255, (self.size, self.size, 3 * self.frames), np.uint8)

    def seed(self, seed: int | None) -> None:
        """Seeds the camera's random numbers; without a seed they go on."""
        if seed is not None:
            self.rng = np.random.default_rng([_CAMERA_STREAM, seed])

    def begin(self, picture: Picture) -> None:
        """Takes the first picture (size, size, 3) of an episode, which gets a light of its own."""
        self._set_light(self.randomization.sample_light(self.rng))
        self._taken = self._spoil(picture)
        self._shown = [self._taken] * self.frames

    def add(self, picture: Picture) -> None:
        """Takes a step's picture (size, size, 3), and shows it or, if it is late, the one before."""
        before, self._taken = self._taken, self._spoil(picture)
        latency = self.randomization.latency
        late = latency > 0 and self.rng.random() < latency
        self._shown = [*self._shown[1:], before if before is not None and late else self._taken]

    def observation(self) -> Picture:
        """Returns the frames, stacked in the channels; the caller's own."""
        return self._shown[0].copy() if self.frames == 1 else np.concatenate(self._shown, axis=2)

    def get_state(self) -> dict[str, Any]:
        """Returns what ``set_state`` needs to go on from here (JSON-able)."""
        return {
            "rng": self.rng.bit_generator.state,
            "light": None if self._light is None else list(self._light),
            "taken": None if self._taken is None else _text(self._taken),
            "shown": [_text(picture) for picture in self._shown],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a state of ``get_state``; a state that does not fit changes nothing.

        Raises:
            KeyError: Something is missing.
            TypeError: Something is no picture, light or random generator.
            ValueError: The pictures have another size, or there are more or fewer of them.
        """
        if len(state["shown"]) not in (0, self.frames):
            raise ValueError(f"{len(state['shown'])} frames instead of {self.frames}")
        shown = [self._picture(text) for text in state["shown"]]
        taken = None if state["taken"] is None else self._picture(state["taken"])
        light = None
        if state["light"] is not None:
            overall, slope, angle = map(float, state["light"])
            light = (overall, slope, angle)
        generator = np.random.PCG64()
        generator.state = state["rng"]  # raises where it is none
        self.rng = np.random.Generator(generator)
        self._set_light(light)
        self._taken, self._shown = taken, shown

    def _set_light(self, light: Lighting | None) -> None:
        self._light = light
        self._factors = None if light is None else light_factors(light, self.size)

    def _spoil(self, picture: Picture) -> Picture:
        return self.randomization.spoil(picture, self._factors, self.rng)

    def _picture(self, text: str) -> Picture:
        return np.frombuffer(base64.b64decode(text, validate=True), np.uint8).reshape(self.size, self.size, 3)


def _text(picture: Picture) -> str:
    return base64.b64encode(picture.tobytes()).decode("ascii")
