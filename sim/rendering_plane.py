"""Planar scenes drawn by PyBullet: see ``sim.plane_view``."""

from __future__ import annotations

import weakref

from safe_rl.envs.protocols import PlaneMap
from sim.bullet import mesh_file, pybullet
from sim.plane_view import Look, Picture, PlaneCamera, drawn_radius, view_extent
from sim.rendering import capture, connect, disconnect

SMOOTHING = {"tiny": 3, "egl": 4}
"""How many times larger PyBullet draws before the picture is averaged down."""

_LAYER = 1e-3
"""Distance between floor, goal, walls and robot, in widths of the view: far enough apart to tell which is on top."""
_UPRIGHT = (0.0, 0.0, 0.0, 1.0)


class BulletPlaneRenderer:
    """Draws a map by PyBullet, in a client of its own that holds nothing but what is seen."""

    def __init__(self, plane_map: PlaneMap, size: int, renderer: str = "tiny") -> None:
        self.plane_map, self.size, self.renderer = plane_map, size, renderer
        self._client = connect(renderer)
        self._disconnect = weakref.finalize(self, disconnect, self._client)
        extent, radius = view_extent(plane_map), drawn_radius(plane_map)
        bounds = plane_map.bounds
        middle = ((bounds.x_min + bounds.x_max) / 2, (bounds.y_min + bounds.y_max) / 2)
        self._floor = self._piece("square.obj", (2 * extent, 2 * extent), (*middle, -4 * _LAYER * extent))
        goal_radius = (plane_map.goal_radius, plane_map.goal_radius)
        self._goal = self._piece("disc.obj", goal_radius, (*plane_map.goal, -3 * _LAYER * extent))
        self._walls = [
            self._piece(
                "square.obj",
                ((box.x_max - box.x_min) / 2, (box.y_max - box.y_min) / 2),
                ((box.x_min + box.x_max) / 2, (box.y_min + box.y_max) / 2, -2 * _LAYER * extent),
            )
            for box in plane_map.obstacles
        ]
        self._robot = self._piece("disc.obj", (radius, radius), (0.0, 0.0, -_LAYER * extent))
        self.set_look(Look())

    def set_look(self, look: Look) -> None:
        """See ``PlaneRenderer``."""
        colours = look.colours
        for body, colour in (
            (self._floor, colours.floor),
            (self._goal, colours.goal),
            (self._robot, colours.robot),
            *((wall, colours.wall) for wall in self._walls),
        ):
            shares = [channel / 255 for channel in colour]
            pybullet.changeVisualShape(body, -1, rgbaColor=[*shares, 1.0], physicsClientId=self._client)
        camera = PlaneCamera(self.plane_map, look.pose, self.size)
        self._view = camera.view.T.reshape(-1).tolist()
        self._projection = camera.projection.T.reshape(-1).tolist()

    def draw(self, x: float, y: float) -> Picture:
        """See ``PlaneRenderer``."""
        pybullet.resetBasePositionAndOrientation(self._robot, (x, y, 0.0), _UPRIGHT, physicsClientId=self._client)
        return capture(
            self._client,
            self.renderer,
            (self.size, self.size),
            self._view,
            self._projection,
            smoothing=SMOOTHING[self.renderer],
        )

    def close(self) -> None:
        """Frees the client."""
        self._disconnect()

    def _piece(self, mesh: str, half_size: tuple[float, float], place: tuple[float, float, float]) -> int:
        """Adds a flat piece.

        The place is that of the shape in its body: the plugin takes two shapes of one mesh for the same one, whatever
        their sizes, unless they lie elsewhere in their bodies.
        """
        shape = pybullet.createVisualShape(
            pybullet.GEOM_MESH,
            fileName=mesh_file(mesh),
            meshScale=[*half_size, 1.0],
            visualFramePosition=place,
            specularColor=[0.0, 0.0, 0.0],
            physicsClientId=self._client,
        )
        return int(pybullet.createMultiBody(0.0, -1, shape, physicsClientId=self._client))
