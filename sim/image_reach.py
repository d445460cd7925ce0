"""Image Reach: Reach seen by a camera, RGB uint8 pictures and nothing else (Recovery RL, arXiv 2010.15920)."""

from __future__ import annotations

import math
from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.drawn import Picture
from sim.picture_stream import IMAGE_SIZE, PictureStream
from sim.plane_view import CameraPose, pose_from_json
from sim.randomization import Randomization
from sim.reach import Reach
from sim.reach_world import COLOURS, Rgb


@dataclass(frozen=True)
class ReachLook:
    """What an episode looks like, but for the arm's posture."""

    colours: dict[str, Rgb]
    """Of the parts in ``sim.reach_world.COLOURS``."""
    pose: CameraPose
    lamp: tuple[float, float, float]
    """Direction towards the light."""


class ImageReach(Reach):
    """Reach from pixels: the observation is the camera's RGB picture, (size, size, 3 * frames) uint8, and nothing else.

    Args:
        render_mode: As in Gymnasium.
        image_size: Width and height of the observation in pixels.
        renderer: ``"tiny"`` or ``"egl"``: see ``sim.rendering``.
        frames: How many pictures, of this step and the ones before, make an observation, the oldest first.
        colours: See ``sim.randomization.Randomization``, and so for the rest; table, sheet, blocks, goal, stylus and
            arm are painted.
        light: Likewise; the lamp also leans by up to as many radians along both axes.
        camera: Likewise.
        noise: Likewise.
        latency: Likewise.

    Raises:
        UserError: A value is out of its range, or the machine cannot offer the renderer.

    ``expert_action`` and the noisy expert, which no picture tells where the stylus is, look at the physics instead.
    ``render`` draws for people: in the episode's paint and light, by the usual camera.
    """

    def __init__(
        self,
        render_mode: str | None = None,
        image_size: int = IMAGE_SIZE,
        renderer: str = "tiny",
        frames: int = 1,
        colours: float = 0.0,
        light: float = 0.0,
        camera: float = 0.0,
        noise: float = 0.0,
        latency: float = 0.0,
    ) -> None:
        self.randomization = Randomization(colours, light, camera, noise, latency)
        self._stream = PictureStream(self.randomization, image_size, frames)
        self.image_size, self.frames = image_size, frames
        super().__init__(render_mode, renderer)
        self.observation_space = self._stream.space
        self._view = self.CAMERA
        self._look = ReachLook(COLOURS, CameraPose(), self.LIGHT[0])

    def _arguments(self) -> tuple[Any, ...]:
        options = astuple(self.randomization)
        return self.render_mode, self.image_size, self.world.renderer, self.frames, *options

    # Pictures

    def _first_observation(self, seed: int | None) -> Picture:
        self._stream.seed(seed)
        self._set_look(self._sample_look(self._stream.rng))
        self._stream.begin(self._take())
        return self._stream.observation()

    def _observation(self) -> Picture:
        self._stream.add(self._take())
        return self._stream.observation()

    def _take(self) -> Picture:
        return self.render_camera(self.image_size, self.image_size, self._view)

    def _sample_look(self, rng: np.random.Generator) -> ReachLook:
        randomization = self.randomization
        colours = COLOURS
        if randomization.colours > 0:
            colours = {part: randomization.repaint(colour, rng) for part, colour in COLOURS.items()}
        pose = randomization.sample_pose(rng)
        lamp = self.LIGHT[0]
        if randomization.light > 0:
            lean_x, lean_y = rng.uniform(-randomization.light, randomization.light, 2).tolist()
            across_x, across_y = math.tan(lean_x), math.tan(lean_y)
            length = math.sqrt(across_x * across_x + across_y * across_y + 1.0)
            lamp = (across_x / length, across_y / length, 1.0 / length)
        return ReachLook(colours, pose, lamp)

    def _set_look(self, look: ReachLook) -> None:
        if look.colours != self._look.colours:
            self.world.paint(look.colours)
        self._view = self.CAMERA.moved(look.pose)
        self._lamp = look.lamp
        self._look = look

    # States

    def _physics(self) -> dict[str, Any]:
        look = self._look
        return {
            **super()._physics(),
            "camera": {
                **self._stream.get_state(),
                "colours": {part: list(colour) for part, colour in look.colours.items()},
                "pose": asdict(look.pose),
                "lamp": list(look.lamp),
            },
        }

    def _set_physics(self, physics: dict[str, Any]) -> None:
        camera = physics["camera"]
        colours = {part: _three(camera["colours"][part]) for part in COLOURS}
        look = ReachLook(colours, pose_from_json(camera["pose"]), _three(camera["lamp"]))
        super()._set_physics(physics)
        self._stream.set_state(camera)
        self._set_look(look)

    # The plane

    def plane_observation(self, points: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        """Returns flat observations (N, size * size * 3 * frames) of a stylus at rest, noiseless, in this look."""
        rows = np.empty((len(points), self.image_size, self.image_size, self.frames, 3), np.uint8)
        joints = self._joints
        try:
            for row, (x, y) in zip(rows, points, strict=True):
                self._joints = [(angle, 0.0) for angle in self._table.joints(float(x), float(y))]
                row[:] = self._take()[:, :, None]
        finally:
            self._joints = joints
        return rows.reshape(len(points), -1)

    def plane_position(self, obs: npt.NDArray[Any]) -> tuple[float, float]:
        """Returns the stylus's present point, whatever the observation."""
        return self._x, self._y


def _three(values: Any) -> tuple[float, float, float]:
    first, second, third = map(float, values)
    return first, second, third
