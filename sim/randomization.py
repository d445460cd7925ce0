"""What may differ from picture to picture, so that a policy does not cling to one camera, one light, one paint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from safe_rl.errors import UserError
from sim.plane_view import CameraPose, Colour, Colours, Look, Picture

Lighting = tuple[float, float, float]
"""Brightness in the middle of a picture, its slope across the picture, and which way that goes, in radians."""

_LARGEST = {"colours": 1.0, "light": 1.0, "camera": 0.2, "noise": 255.0, "latency": 1.0}


@dataclass(frozen=True)
class Randomization:
    """How much is randomised; zeros, the default, for nothing at all.

    Attributes:
        colours: Every colour's channels differ by up to this share of the full scale; drawn each episode.
        light: Brightness differs by up to this share, over the picture and across it; drawn each episode.
        camera: The camera is off by up to this share of the view's width along both axes, zooms by as much, and is
            turned and tilted by as many radians; drawn each episode.
        noise: Standard deviation of the noise of every channel of every pixel, of 255.
        latency: Probability that a picture comes a step late; 1 for always.
    """

    colours: float = 0.0
    light: float = 0.0
    camera: float = 0.0
    noise: float = 0.0
    latency: float = 0.0

    def __post_init__(self) -> None:
        """Validates the values."""
        for field in fields(self):
            value, largest = getattr(self, field.name), _LARGEST[field.name]
            if not isinstance(value, (int, float)) or not 0 <= value <= largest:
                raise UserError(f"randomisation {field.name}={value!r} must be a number between 0 and {largest:g}")

    def sample_look(self, rng: np.random.Generator) -> Look:
        """Draws an episode's colours and camera."""
        look = Look()
        if self.colours > 0:
            colours = look.colours
            look = Look(
                Colours(
                    floor=self._repaint_levels(colours.floor, rng),
                    goal=self._repaint_levels(colours.goal, rng),
                    wall=self._repaint_levels(colours.wall, rng),
                    robot=self._repaint_levels(colours.robot, rng),
                )
            )
        return Look(look.colours, self.sample_pose(rng))

    def sample_pose(self, rng: np.random.Generator) -> CameraPose:
        """Draws how an episode's camera is off."""
        if self.camera == 0:
            return CameraPose()
        shift_x, shift_y, tilt_x, tilt_y, roll, zoom = rng.uniform(-self.camera, self.camera, 6).tolist()
        return CameraPose(shift_x, shift_y, tilt_x, tilt_y, roll, 1.0 + zoom)

    def repaint(
        self, colour: Sequence[float], rng: np.random.Generator, full_scale: float = 1.0
    ) -> tuple[float, float, float]:
        """Draws an episode's colour in place of one whose channels go up to ``full_scale``."""
        off = full_scale * rng.uniform(-self.colours, self.colours, 3)
        red, green, blue = np.clip(np.array(colour) + off, 0.0, full_scale).tolist()
        return red, green, blue

    def _repaint_levels(self, colour: Colour, rng: np.random.Generator) -> Colour:
        red, green, blue = self.repaint(colour, rng, 255.0)
        return round(red), round(green), round(blue)

    def sample_light(self, rng: np.random.Generator) -> Lighting | None:
        """Draws an episode's light, or None for the same everywhere."""
        if self.light == 0:
            return None
        low, high = (1.0 - self.light, 0.0, 0.0), (1.0 + self.light, self.light, 2.0 * math.pi)
        overall, slope, angle = rng.uniform(low, high).tolist()
        return overall, slope, angle

    def spoil(self, picture: Picture, light: npt.NDArray[np.float32] | None, rng: np.random.Generator) -> Picture:
        """Returns a picture (size, size, 3) with its light, as ``light_factors`` has it, and its noise."""
        if light is None and self.noise == 0:
            return picture
        levels = picture * light if light is not None else picture.astype(np.float32)
        if self.noise > 0:
            levels += np.float32(self.noise) * rng.standard_normal(picture.shape, dtype=np.float32)
        spoilt: Picture = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
        return spoilt


def light_factors(light: Lighting, size: int) -> npt.NDArray[np.float32]:
    """Returns by what a light multiplies each pixel, (size, size, 1)."""
    overall, slope, angle = light
    across = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    gradient = across * math.cos(angle) + across[:, None] * math.sin(angle)
    factors: npt.NDArray[np.float32] = (overall * (1.0 + slope * gradient)).astype(np.float32)[:, :, None]
    return factors
