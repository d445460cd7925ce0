"""Planar scenes as a camera above them sees them, by any of the renderers.

The scene is flat: floor, goal, walls and robot are pieces of one colour each, all but in one plane. A picture is then
settled by that plane's homography into the picture, whoever draws it, and a policy trained on one renderer's pictures
acts on another's.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from safe_rl.envs.protocols import PlaneMap
from safe_rl.errors import UserError

Picture = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
Matrix = npt.NDArray[np.float64]

RENDERERS = ("opencv", "tiny", "egl")
"""A rasteriser, PyBullet on the CPU and PyBullet by OpenGL."""
HEIGHT = 2.0
"""The camera's height above the plane, in widths of the view."""
LEAST_ROBOT = 0.03
"""A robot smaller than this is drawn with this radius, in widths of the view."""


@dataclass(frozen=True)
class Colours:
    """RGB colours of a scene."""

    floor: Colour = (214, 214, 208)
    goal: Colour = (214, 158, 20)
    wall: Colour = (71, 80, 97)
    robot: Colour = (37, 99, 235)


@dataclass(frozen=True)
class CameraPose:
    """How a camera differs from one that looks straight down on the middle of the map, its upper edge along y."""

    shift_x: float = 0.0
    """In widths of the view."""
    shift_y: float = 0.0
    tilt_x_rad: float = 0.0
    """The camera leans over the point it looks at, towards x."""
    tilt_y_rad: float = 0.0
    roll_rad: float = 0.0
    zoom: float = 1.0


@dataclass(frozen=True)
class Look:
    """What a scene looks like, but for the robot's place."""

    colours: Colours = Colours()
    pose: CameraPose = CameraPose()

    def to_json(self) -> dict[str, Any]:
        """Describes the look by JSON values."""
        return {
            "colours": {part: list(colour) for part, colour in asdict(self.colours).items()},
            "pose": asdict(self.pose),
        }

    @classmethod
    def from_json(cls, description: dict[str, Any]) -> Look:
        """Returns the look that ``to_json`` described.

        Raises:
            KeyError: Something is missing.
            TypeError: Something is no number.
            ValueError: Something is no number, or a colour has not three channels.
        """
        colours = {}
        for part in fields(Colours):
            red, green, blue = map(int, description["colours"][part.name])
            colours[part.name] = (red, green, blue)
        return cls(Colours(**colours), pose_from_json(description["pose"]))


def pose_from_json(description: dict[str, Any]) -> CameraPose:
    """Returns the pose whose fields a dictionary holds.

    Raises:
        KeyError: One is missing.
        TypeError: One is no number.
        ValueError: One is no number.
    """
    return CameraPose(**{field.name: float(description[field.name]) for field in fields(CameraPose)})


class PlaneCamera:
    """A pinhole camera above a map.

    Attributes:
        view: (4, 4) from the plane's coordinates to the camera's, as OpenGL has it.
        projection: (4, 4) from the camera's to the clip coordinates.
        homography: (3, 3) from ``(x, y, 1)`` of the plane to pixels; pixel centres lie at halves.
        pixel_size: Length of the plane that a pixel in the middle sees.
    """

    def __init__(self, plane_map: PlaneMap, pose: CameraPose, size: int) -> None:
        bounds = plane_map.bounds
        extent = view_extent(plane_map)
        target = np.array(
            (
                (bounds.x_min + bounds.x_max) / 2 + pose.shift_x * extent,
                (bounds.y_min + bounds.y_max) / 2 + pose.shift_y * extent,
                0.0,
            )
        )
        away = np.array((math.tan(pose.tilt_x_rad), math.tan(pose.tilt_y_rad), 1.0))
        eye = target + HEIGHT * extent * away / np.linalg.norm(away)
        self.view = _look_at(eye, target, np.array((-math.sin(pose.roll_rad), math.cos(pose.roll_rad), 0.0)))
        self.projection = _perspective(2.0 * HEIGHT * pose.zoom, near=extent, far=3.0 * HEIGHT * extent)
        clip = (self.projection @ self.view)[:, [0, 1, 3]]  # of points (x, y, 0, 1)
        self.homography: Matrix = np.stack(((clip[0] + clip[3]) * size / 2, (clip[3] - clip[1]) * size / 2, clip[3]))
        self.pixel_size = extent / size / pose.zoom

    def pixels(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns where points (N, 2) of the plane lie in the picture, (N, 2) columns and rows."""
        homogeneous = points @ self.homography[:, :2].T + self.homography[:, 2]
        found: npt.NDArray[np.float64] = homogeneous[:, :2] / homogeneous[:, 2:]
        return found

    def points(self, pixels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns the points (N, 2) of the plane that lie at pixels (N, 2)."""
        inverse = np.linalg.inv(self.homography)
        homogeneous = pixels @ inverse[:, :2].T + inverse[:, 2]
        found: npt.NDArray[np.float64] = homogeneous[:, :2] / homogeneous[:, 2:]
        return found


def view_extent(plane_map: PlaneMap) -> float:
    """Returns the width, and height, of the square of the plane that a camera sees."""
    bounds = plane_map.bounds
    return max(bounds.x_max - bounds.x_min, bounds.y_max - bounds.y_min)


def drawn_radius(plane_map: PlaneMap) -> float:
    """Returns the radius that the robot is drawn with, in the plane's units."""
    return max(plane_map.robot_radius, LEAST_ROBOT * view_extent(plane_map))


class PlaneRenderer(Protocol):
    """Draws one map."""

    def set_look(self, look: Look) -> None:
        """Takes colours and camera for the pictures to come."""
        ...

    def draw(self, x: float, y: float) -> Picture:
        """Returns the (size, size, 3) uint8 RGB picture with the robot at a point; the caller's own."""
        ...

    def close(self) -> None:
        """Frees what it holds."""
        ...


def make_plane_renderer(renderer: str, plane_map: PlaneMap, size: int) -> PlaneRenderer:
    """Makes a renderer of square pictures, ``size`` pixels wide, with the standard look.

    Raises:
        UserError: The renderer is unknown, or the machine cannot offer it.
    """
    if renderer not in RENDERERS:
        raise UserError(f"unknown renderer {renderer!r}: use one of {', '.join(RENDERERS)}")
    if renderer == "opencv":
        from sim.rasterizer import Rasterizer

        return Rasterizer(plane_map, size)
    from sim.rendering_plane import BulletPlaneRenderer

    return BulletPlaneRenderer(plane_map, size, renderer)


def _look_at(eye: Matrix, target: Matrix, up: Matrix) -> Matrix:
    """Returns OpenGL's view matrix (4, 4): the camera looks along its own -z."""
    back = (eye - target) / np.linalg.norm(eye - target)
    right = np.cross(up, back)
    right /= np.linalg.norm(right)
    axes = np.stack((right, np.cross(back, right), back))
    view = np.eye(4)
    view[:3, :3], view[:3, 3] = axes, -axes @ eye
    return view


def _perspective(focal: float, near: float, far: float) -> Matrix:
    """Returns OpenGL's projection matrix (4, 4) of square pictures; the focal length is in half-widths of a picture."""
    projection = np.zeros((4, 4))
    projection[0, 0] = projection[1, 1] = focal
    projection[2, 2], projection[2, 3] = (far + near) / (near - far), 2.0 * far * near / (near - far)
    projection[3, 2] = -1.0
    return projection
