"""Planar scenes drawn with OpenCV, thousands a second: see ``sim.plane_view``."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from safe_rl.envs.protocols import Box2D, PlaneMap
from sim.plane_view import Colour, Look, Picture, PlaneCamera, drawn_radius, view_extent

SMOOTHING = 8
"""Floor, goal and walls are drawn this many times larger and averaged down."""
SHIFT = 8
"""Binary digits of the sub-pixel positions that OpenCV is given."""
CIRCLE = 96
"""Corners of the goal."""


class Rasterizer:
    """Draws a map; all but the robot is drawn once a look, the robot by how much of each pixel it covers."""

    def __init__(self, plane_map: PlaneMap, size: int) -> None:
        self.plane_map, self.size = plane_map, size
        self._radius = drawn_radius(plane_map)
        self.set_look(Look())

    def set_look(self, look: Look) -> None:
        """See ``PlaneRenderer``."""
        size = self.size
        camera = self._camera = PlaneCamera(self.plane_map, look.pose, size)
        self._background = self._draw_background(look)
        # The plane's point under each pixel's centre: whether the robot covers it is then a distance in the plane.
        columns, rows = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
        points = camera.points(np.stack((columns.reshape(-1), rows.reshape(-1)), axis=1))
        self._x = np.ascontiguousarray(points[:, 0].reshape(size, size), np.float32)
        self._y = np.ascontiguousarray(points[:, 1].reshape(size, size), np.float32)
        self._homography = camera.homography.tolist()
        self._reach = self._radius / camera.pixel_size + 2.0
        self._edge = np.float32(self._radius / camera.pixel_size + 0.5)
        self._pixels = np.float32(1.0 / camera.pixel_size)
        self._robot = np.array(look.colours.robot, np.float32)

    def draw(self, x: float, y: float) -> Picture:
        """See ``PlaneRenderer``."""
        picture: Picture = self._background.copy()
        across, down, scale = (row[0] * x + row[1] * y + row[2] for row in self._homography)
        column, row, reach, size = across / scale, down / scale, self._reach, self.size
        left, right = max(0, int(column - reach)), min(size, int(column + reach) + 1)
        top, bottom = max(0, int(row - reach)), min(size, int(row + reach) + 1)
        if left >= right or top >= bottom:
            return picture
        dx = self._x[top:bottom, left:right] - np.float32(x)
        dy = self._y[top:bottom, left:right] - np.float32(y)
        share = self._edge - np.sqrt(dx * dx + dy * dy) * self._pixels
        np.clip(share, 0.0, 1.0, out=share)
        patch = picture[top:bottom, left:right]
        patch[:] = patch + share[:, :, None] * (self._robot - patch) + np.float32(0.5)
        return picture

    def close(self) -> None:
        """Holds nothing."""

    def _draw_background(self, look: Look) -> Picture:
        plane_map, colours, large = self.plane_map, look.colours, self.size * SMOOTHING
        canvas: Picture = np.full((large, large, 3), colours.floor, np.uint8)
        turns = np.linspace(0.0, 2.0 * np.pi, CIRCLE, endpoint=False)
        circle = np.array(plane_map.goal) + plane_map.goal_radius * np.stack((np.cos(turns), np.sin(turns)), axis=1)
        self._fill(canvas, circle, colours.goal)
        reach = 2.0 * view_extent(plane_map)
        middle = self._camera.points(np.array(((self.size / 2, self.size / 2),)))[0]
        for box in plane_map.obstacles:
            self._fill(canvas, _corners(box, middle, reach), colours.wall)
        small: Picture = cv2.resize(canvas, (self.size, self.size), interpolation=cv2.INTER_AREA).astype(np.uint8)
        return small

    def _fill(self, canvas: Picture, points: npt.NDArray[np.float64], colour: Colour) -> None:
        """Fills the convex polygon of points (N, 2) of the plane."""
        # OpenCV puts pixel centres at whole numbers and fills the outline's pixels too: half a pixel each.
        pixels = self._camera.pixels(points) * SMOOTHING - 0.5
        centre = pixels.mean(0)
        pixels -= 0.5 * np.sign(pixels - centre)
        cv2.fillConvexPoly(canvas, np.rint(pixels * (1 << SHIFT)).astype(np.int32), colour, cv2.LINE_8, SHIFT)


def _corners(box: Box2D, middle: npt.NDArray[np.float64], reach: float) -> npt.NDArray[np.float64]:
    """Returns the corners (4, 2) of a box, cut where no picture shows them: OpenCV's numbers are not endless."""
    left, right = np.clip((box.x_min, box.x_max), middle[0] - reach, middle[0] + reach)
    low, high = np.clip((box.y_min, box.y_max), middle[1] - reach, middle[1] + reach)
    return np.array(((left, low), (right, low), (right, high), (left, high)))
