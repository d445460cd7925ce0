"""Image Maze: a maze of three pairs of walls, seen from above (Recovery RL, arXiv 2010.15920).

Action, start, goal, horizon and the three pairs are the paper's; where the walls stand is ours: two pairs across the
arena as in Maze, a third, perpendicular, as a door to the goal's corner.
"""

from __future__ import annotations

from typing import Any, ClassVar

from safe_rl.envs.protocols import Box2D, PlaneMap
from sim.image_env import ImageEnv
from sim.maze import GOAL_RMS_DISTANCE, LEFT, MAZE_MAP, MIDDLE, OUTER_WALLS, ROBOT_RADIUS, Maze

GOAL = (0.25, 0.25)
MAX_FORCE = 0.3
DOOR_X = 0.215
"""The middle of the door."""

IMAGE_MAZE_MAP = PlaneMap(
    bounds=MAZE_MAP.bounds,
    obstacles=(
        Box2D(-0.12, -0.08, 0.22, 0.30),
        Box2D(-0.12, -0.08, -0.30, -0.13),
        Box2D(0.08, 0.12, 0.10, 0.30),
        Box2D(0.08, 0.12, -0.30, -0.13),
        Box2D(0.12, 0.16, 0.14, 0.18),
        Box2D(0.27, 0.30, 0.14, 0.18),
        *OUTER_WALLS,
    ),
    goal=GOAL,
    goal_radius=GOAL_RMS_DISTANCE / 0.5**0.5,
    unit="m",
    robot_radius=ROBOT_RADIUS,
)
_HALL = Box2D(0.145, 0.275, -0.275, 0.115)
_CORNER = Box2D(0.145, 0.275, 0.205, 0.275)


class ThreeWallMaze(Maze):
    """Image Maze's robot and walls, with the state ``(x, y)`` in metres for the observation."""

    PLANE_MAP: ClassVar[PlaneMap] = IMAGE_MAZE_MAP
    MAX_ACTION: ClassVar[float] = MAX_FORCE
    START: ClassVar[Box2D] = Box2D(-0.04, 0.04, 0.0, 0.22)
    CHAMBERS: ClassVar[tuple[Box2D, ...]] = (LEFT, MIDDLE, _HALL, _CORNER)
    LANE_Y: ClassVar[float] = -0.015
    """The middle of what both gaps share."""
    LANE_SPREAD: ClassVar[float] = 0.11
    RANDOM_SEGMENTS: ClassVar[float] = 0.72
    BOUNDARY: ClassVar[float] = 0.06

    def _expert_force(self, x: float, y: float, lane: float) -> tuple[float, float]:
        clearance = 0.01
        if x < _HALL.x_min:
            if abs(y - lane) < 0.03 or x > MIDDLE.x_max:
                return self._towards(x, y, (_HALL.x_min + clearance, lane))
            if x < LEFT.x_max:
                return self._towards(x, y, (LEFT.x_max - clearance, lane))
            return self._towards(x, y, (min(max(x, MIDDLE.x_min + clearance), MIDDLE.x_max - clearance), lane))
        if y >= _CORNER.y_min:
            return self._towards(x, y, GOAL)
        if abs(x - DOOR_X) < 0.02 or y > _HALL.y_max:
            return self._towards(x, y, (DOOR_X, _CORNER.y_min + 2 * clearance))
        return self._towards(x, y, (DOOR_X, min(y, _HALL.y_max - clearance)))


class ImageMaze(ImageEnv):
    """The maze from images: action a force in ``[-0.3, 0.3]^2`` newtons, reward ``-rms distance`` to the goal."""

    metadata: dict[str, Any] = Maze.metadata

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        super().__init__(ThreeWallMaze(render_mode), **options)
