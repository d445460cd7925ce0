"""Pictures of planar scenes with OpenCV: obstacles, goal, trail, robot and who acts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from safe_rl.envs.protocols import Box2D, PlaneMap
from safe_rl.envs.screen import screen_fault
from safe_rl.errors import UserError

Picture = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

MODE_COLOURS: dict[str | None, Colour] = {
    None: (37, 99, 235),
    "TASK": (22, 150, 80),
    "RECOVERY": (240, 130, 20),
    "STOP": (214, 40, 40),
}
"""RGB colour of the robot and its trail for who acts."""

OUTCOME_COLOURS: dict[str, Colour] = {"success": (176, 122, 0), "violation": (190, 24, 93)}
"""RGB colour of the ring about the robot at the end of an episode."""

PAPER: Colour = (250, 250, 247)
GRID: Colour = (232, 233, 231)
WALL: Colour = (71, 80, 97)
WALL_STRIPE: Colour = (84, 94, 113)
WALL_EDGE: Colour = (45, 52, 66)
GOAL: Colour = (214, 158, 20)
INK: Colour = (52, 58, 70)
FAINT_INK: Colour = (150, 155, 163)

SMOOTHING = 4
"""The static map is drawn this many times larger and averaged down."""
SHIFT = 6
"""Binary digits of the sub-pixel positions that OpenCV is given."""
STRIP_HEIGHT = 44


@dataclass(frozen=True)
class Scene:
    """What changes from picture to picture."""

    robot: tuple[float, float]
    trail: Sequence[tuple[float, float, str | None]]
    """Points ``(x, y, mode)``; the mode is that of the step that led there."""
    mode: str | None = None
    risk: float | None = None
    eps_risk: float | None = None
    outcome: str | None = None
    """How the episode ended, ``"success"`` or ``"violation"``; None while it goes on."""


class MapPainter:
    """Draws scenes on one map; the map itself is drawn once.

    The picture is about ``size`` pixels along its longer side, both sides even as video encoders want them.
    """

    def __init__(self, plane_map: PlaneMap, size: int = 480) -> None:
        self.plane_map = plane_map
        bounds = plane_map.bounds
        extent = max(bounds.x_max - bounds.x_min, bounds.y_max - bounds.y_min)
        self._scale = size / extent
        self.width = _even((bounds.x_max - bounds.x_min) * self._scale)
        self.map_height = _even((bounds.y_max - bounds.y_min) * self._scale)
        self.height = self.map_height + STRIP_HEIGHT
        self._robot_radius = max(plane_map.robot_radius * self._scale, 6.0)
        self._background = self._draw_background()

    def draw(self, scene: Scene) -> Picture:
        """Returns the (height, width, 3) uint8 RGB picture of a scene."""
        picture = self._background.copy()
        colour = MODE_COLOURS[scene.mode]
        map_part = picture[: self.map_height]
        self._draw_trail(map_part, scene.trail)
        centre = self._pixel(*scene.robot)
        _disc(map_part, (centre[0], centre[1] + 1.5), self._robot_radius + 1.0, _mix(PAPER, INK, 0.25))
        _disc(map_part, centre, self._robot_radius + 1.5, (255, 255, 255))
        _disc(map_part, centre, self._robot_radius, colour)
        if scene.outcome is not None:
            _disc(map_part, centre, self._robot_radius + 6.0, OUTCOME_COLOURS[scene.outcome], ring=3.0)
        note = scene.outcome or (f"step {len(scene.trail) - 1}" if scene.trail else "")
        draw_strip(picture[self.map_height :], scene.mode, scene.risk, scene.eps_risk, note)
        return picture

    def _pixel(self, x: float, y: float, scale: float = 1.0) -> tuple[float, float]:
        bounds = self.plane_map.bounds
        return (x - bounds.x_min) * self._scale * scale, (bounds.y_max - y) * self._scale * scale

    def _draw_background(self) -> Picture:
        width, height = self.width * SMOOTHING, self.map_height * SMOOTHING
        canvas: Picture = np.full((height, width, 3), PAPER, np.uint8)
        self._draw_grid(canvas)
        self._draw_goal(canvas)
        walls = np.zeros((height, width), np.uint8)
        for box in self.plane_map.obstacles:
            cv2.rectangle(walls, *self._corners(box), 255, cv2.FILLED)
        rows, columns = np.ogrid[:height, :width]
        period = 14 * SMOOTHING
        stripes = (rows + columns) % period < period // 2
        canvas[walls > 0] = WALL
        canvas[(walls > 0) & stripes] = WALL_STRIPE
        outlines, _ = cv2.findContours(walls, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, outlines, -1, WALL_EDGE, 2 * SMOOTHING)
        small = cv2.resize(canvas, (self.width, self.map_height), interpolation=cv2.INTER_AREA)
        strip = np.full((STRIP_HEIGHT, self.width, 3), 255, np.uint8)
        strip[0] = GRID
        return np.concatenate((small, strip))

    def _corners(self, box: Box2D) -> tuple[tuple[int, int], tuple[int, int]]:
        left, top = self._pixel(box.x_min, box.y_max, SMOOTHING)
        right, bottom = self._pixel(box.x_max, box.y_min, SMOOTHING)
        return (round(left), round(top)), (round(right) - 1, round(bottom) - 1)

    def _draw_grid(self, canvas: Picture) -> None:
        bounds = self.plane_map.bounds
        spacing = _grid_spacing(max(bounds.x_max - bounds.x_min, bounds.y_max - bounds.y_min))
        for k in range(int(np.ceil(bounds.x_min / spacing)), int(np.floor(bounds.x_max / spacing)) + 1):
            x = round(self._pixel(k * spacing, 0.0, SMOOTHING)[0])
            cv2.line(canvas, (x, 0), (x, canvas.shape[0]), GRID, SMOOTHING)
        for k in range(int(np.ceil(bounds.y_min / spacing)), int(np.floor(bounds.y_max / spacing)) + 1):
            y = round(self._pixel(0.0, k * spacing, SMOOTHING)[1])
            cv2.line(canvas, (0, y), (canvas.shape[1], y), GRID, SMOOTHING)

    def _draw_goal(self, canvas: Picture) -> None:
        centre = self._pixel(*self.plane_map.goal, SMOOTHING)
        radius = self.plane_map.goal_radius * self._scale * SMOOTHING
        _disc(canvas, centre, radius, _mix(PAPER, GOAL, 0.25))
        _disc(canvas, centre, radius, GOAL, ring=2.0 * SMOOTHING)
        _disc(canvas, centre, radius * 0.3, GOAL)

    def _draw_trail(self, picture: Picture, trail: Sequence[tuple[float, float, str | None]]) -> None:
        if not trail:
            return
        points = [self._pixel(x, y) for x, y, _ in trail]
        for start, end, (_, _, mode) in zip(points, points[1:], trail[1:], strict=False):
            colour = _mix(PAPER, MODE_COLOURS[mode], 0.65)
            cv2.line(picture, _fixed(start), _fixed(end), colour, 2, cv2.LINE_AA, SHIFT)
        if len(points) <= 400:
            for point, (_, _, mode) in zip(points[1:], trail[1:], strict=True):
                _disc(picture, point, 2.4, MODE_COLOURS[mode])
        _disc(picture, points[0], 4.0, PAPER)
        _disc(picture, points[0], 4.0, INK, ring=2.0)


def draw_strip(
    strip: Picture,
    mode: str | None,
    risk: float | None = None,
    eps_risk: float | None = None,
    note: str = "",
) -> None:
    """Draws who acts, the risk and a note at the right end into the white strip (STRIP_HEIGHT, width, 3) of a picture.

    Args:
        strip: Drawn into.
        mode: A key of ``MODE_COLOURS``.
        risk: Length of the bar in [0, 1]; no bar without it.
        eps_risk: A mark on the bar.
        note: A key of ``OUTCOME_COLOURS`` is drawn in its colour, anything else faintly.
    """
    middle, width = STRIP_HEIGHT // 2, strip.shape[1]
    if mode is not None:
        text_width, _ = _text_size(mode, 0.5)
        _pill(strip, 14, middle, text_width + 22, 24, MODE_COLOURS[mode])
        _text(strip, mode, 14 + 11, middle, 0.5, (255, 255, 255))
    if risk is not None:
        _draw_risk(strip, risk, eps_risk)
    text_width, _ = _text_size(note, 0.45)
    _text(strip, note, width - 14 - text_width, middle, 0.45, OUTCOME_COLOURS.get(note, FAINT_INK))


def _draw_risk(strip: Picture, risk: float, eps_risk: float | None) -> None:
    left, length, middle = 176, strip.shape[1] - 176 - 96, STRIP_HEIGHT // 2
    _text(strip, "risk", left - 40, middle, 0.45, INK)
    share = float(np.clip(risk, 0.0, 1.0)) if np.isfinite(risk) else 1.0
    over = eps_risk is not None and not risk <= eps_risk
    _pill(strip, left, middle, length, 8, GRID)
    _pill(strip, left, middle, max(8.0, share * length), 8, MODE_COLOURS["RECOVERY" if over else "TASK"])
    if eps_risk is not None:
        x = left + round(float(np.clip(eps_risk, 0.0, 1.0)) * length)
        cv2.line(strip, (x, middle - 9), (x, middle + 9), INK, 2)


def show(picture: Picture, title: str, frames_per_sec: float) -> None:
    """Shows a picture in a window.

    Raises:
        UserError: There is no display, or OpenCV was built without windows.
    """
    fault = screen_fault()
    if fault is not None:
        raise UserError(f'render_mode="human" needs a display and {fault}: use render_mode="rgb_array"')
    try:
        cv2.imshow(title, picture[:, :, ::-1])
        cv2.waitKey(max(1, round(1000 / frames_per_sec)))
    except cv2.error as error:
        raise UserError(
            'render_mode="human" needs an OpenCV with windows: install opencv-python instead of '
            'opencv-python-headless, or use render_mode="rgb_array"'
        ) from error


def close_window(title: str) -> None:
    """Closes a window of ``show``; none being there is fine."""
    try:
        cv2.destroyWindow(title)
    except cv2.error:
        return


def _fixed(point: tuple[float, float]) -> tuple[int, int]:
    """Returns a point as OpenCV's fixed-point numbers; its pixel centres lie at whole numbers, ours at halves."""
    return round((point[0] - 0.5) * (1 << SHIFT)), round((point[1] - 0.5) * (1 << SHIFT))


def _disc(
    picture: Picture, centre: tuple[float, float], radius: float, colour: Colour, ring: float | None = None
) -> None:
    _capsule(picture, centre, centre, radius, colour, ring)


def _pill(picture: Picture, left: int, middle: int, width: float, height: int, colour: Colour) -> None:
    """Draws a bar with round ends."""
    radius = height / 2
    _capsule(picture, (left + radius, middle), (left + width - radius, middle), radius, colour)


def _capsule(
    picture: Picture,
    start: tuple[float, float],
    end: tuple[float, float],
    radius: float,
    colour: Colour,
    ring: float | None = None,
) -> None:
    """Draws the points within ``radius`` of a level segment, or a ring of the given width on their rim.

    Each pixel is blended by how far its centre lies inside: OpenCV's own small circles come out as diamonds.
    """
    height, width = picture.shape[:2]
    reach = radius + (ring or 0.0) + 1.0
    left, right = max(0, int(start[0] - reach)), min(width, int(end[0] + reach) + 1)
    top, bottom = max(0, int(start[1] - reach)), min(height, int(start[1] + reach) + 1)
    if left >= right or top >= bottom:
        return
    x = np.arange(left, right) + 0.5
    y = np.arange(top, bottom)[:, None] + 0.5
    distance = np.hypot(x - np.clip(x, start[0], end[0]), y - start[1])
    inside = radius - distance if ring is None else ring / 2 - np.abs(distance - radius)
    share = np.clip(inside + 0.5, 0.0, 1.0)[:, :, None]
    patch = picture[top:bottom, left:right]
    patch[:] = np.rint(patch * (1.0 - share) + np.array(colour) * share)


def _text_size(text: str, scale: float) -> tuple[int, int]:
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    return width, height


def _text(picture: Picture, text: str, left: int, middle: int, scale: float, colour: Colour) -> None:
    _, height = _text_size(text, scale)
    position: Any = (left, middle + height // 2)
    cv2.putText(picture, text, position, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round((1 - share) * a + share * b) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _even(length: float) -> int:
    return 2 * round(length / 2)


def _grid_spacing(extent: float) -> float:
    """Returns 1, 2 or 5 times a power of ten, for about ten lines."""
    power = 10.0 ** np.floor(np.log10(extent / 10.0))
    return float(next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= extent / 10.0))
