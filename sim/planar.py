"""What all environments share whose robot is a point, or a disc, of a plane."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.error import ResetNeeded

from safe_rl.envs.protocols import OfflineSegment, PlaneMap
from safe_rl.errors import UserError
from sim.drawn import DrawnEnv, FloatArray, Picture, checked_state, damaged_state


class PlanarEnv(DrawnEnv[FloatArray]):
    """A robot whose observation is its position ``(x, y)`` in a plane with obstacles and a goal.

    An episode ends when the robot reaches the goal or touches an obstacle; ``info["cost"]`` is 1.0 in the latter case.
    ``reset(options={"state": [x, y]})`` starts at a given point.
    """

    PLANE_MAP: ClassVar[PlaneMap]
    MAX_ACTION: ClassVar[float]

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(-self.MAX_ACTION, self.MAX_ACTION, (2,), np.float32)
        self._x = self._y = 0.0
        self._ended = True
        self._trail: list[tuple[float, float, str | None]] = []
        self._painter: Any = None

    # Episodes

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: Seeds the environment's generator; without it the generator goes on.
            options: ``{"state": [x, y]}`` starts there instead of at a random point.

        Raises:
            UserError: The state is not two finite numbers, or lies in an obstacle.
        """
        super().reset(seed=seed)
        state = None if options is None else options.get("state")
        if state is None:
            x, y = self._random_start()
        else:
            x, y = self._checked_start(state)
        self._place(x, y)
        self._ended = False
        self._forget_drawn()
        self._trail = [(self._x, self._y, None)]
        if self.render_mode == "human":
            self.render()
        return self._observation(), {"cost": 0.0, "success": False}

    def get_state(self) -> dict[str, Any]:
        """Returns what ``set_state`` needs to go on from here: the position and the random generator (JSON-able)."""
        return {
            "environment": type(self).__name__,
            "position": [self._x, self._y],
            "ended": self._ended,
            "rng": self.np_random.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a state of ``get_state``, the random generator included; the drawn trail starts anew.

        Raises:
            UserError: The state is of another environment or damaged; nothing is changed.
        """
        state = checked_state(self, state)
        try:
            x, y = map(float, state["position"])
            ended = bool(state["ended"])
            if not np.isfinite((x, y)).all():
                raise ValueError(f"the position is ({x}, {y})")
            self.np_random.bit_generator.state = state["rng"]  # raises where it is none
        except (KeyError, TypeError, ValueError) as error:
            raise damaged_state(self, error) from None
        self._place(x, y)
        self._ended = ended
        self._trail = [(self._x, self._y, None)]
        self._outcome = None

    def _random_start(self) -> tuple[float, float]:
        raise NotImplementedError  # abstract: each domain has its own starts

    def _place(self, x: float, y: float) -> None:
        """Puts the robot at a point, at rest."""
        self._x, self._y = x, y

    def _observation(self) -> FloatArray:
        return np.array((self._x, self._y), np.float32)

    def _checked_start(self, state: Any) -> tuple[float, float]:
        try:
            x, y = (float(value) for value in state)
        except (TypeError, ValueError):
            raise UserError(f"reset option state={state!r} must be two numbers, x and y") from None
        if not (np.isfinite(x) and np.isfinite(y)):
            raise UserError(f"reset option state={state!r} must be finite")
        if self.touches_obstacle(x, y):
            raise UserError(f"reset option state=({x:g}, {y:g}) touches an obstacle: start in free space")
        return x, y

    def _checked_action(self, action: Any) -> tuple[float, float]:
        """Returns the action as floats, clipped to the action space."""
        if self._ended:
            raise ResetNeeded("the episode is over: call reset before step")
        x, y = map(float, action)
        limit = self.MAX_ACTION
        if abs(x) <= limit and abs(y) <= limit:
            return x, y
        if not (np.isfinite(x) and np.isfinite(y)):
            raise UserError(f"action {action!r} is not finite")
        return min(max(x, -limit), limit), min(max(y, -limit), limit)

    def _after_step(self, success: bool, violation: bool) -> None:
        """Keeps trail, outcome and window up to date; needed only where something is drawn."""
        self._outcome = "violation" if violation else "success" if success else None
        self._trail.append((self._x, self._y, self._overlay[0]))
        if self.render_mode == "human":
            self.render()

    # Offline data and expert

    def sample_offline_segment(self, rng: np.random.Generator) -> OfflineSegment:
        """Returns the next segment of an offline data set."""
        raise NotImplementedError  # abstract

    def expert_action(self, obs: npt.NDArray[Any]) -> FloatArray:
        """Returns the expert's action (2,) for an observation (2,)."""
        raise NotImplementedError  # abstract

    # The plane

    @property
    def position(self) -> tuple[float, float]:
        """The robot's point."""
        return self._x, self._y

    @property
    def plane_map(self) -> PlaneMap:
        """The static map."""
        return self.PLANE_MAP

    def plane_observation(self, points: npt.NDArray[np.float64]) -> FloatArray:
        """Returns the observations (N, 2) of the robot at rest at ``points`` (N, 2)."""
        return np.array(points, np.float32).reshape(-1, 2)

    def plane_position(self, obs: npt.NDArray[Any]) -> tuple[float, float]:
        """Returns the robot's point for one observation (2,)."""
        return float(obs[0]), float(obs[1])

    def touches_obstacle(self, x: float, y: float, margin: float = 0.0) -> bool:
        """Tells whether the robot's rim is within ``margin`` of an obstacle at a point (geometry alone, no physics)."""
        radius = self.PLANE_MAP.robot_radius + margin
        for box in self.PLANE_MAP.obstacles:
            dx = max(box.x_min - x, 0.0, x - box.x_max)
            dy = max(box.y_min - y, 0.0, y - box.y_max)
            if dx * dx + dy * dy <= radius * radius:
                return True
        return False

    # Pictures

    def _draw(self) -> Picture:
        """Draws the map, the trail and the robot."""
        from sim.drawing import MapPainter, Scene

        if self._painter is None:
            self._painter = MapPainter(self.PLANE_MAP)
        picture: Picture = self._painter.draw(Scene((self._x, self._y), self._trail, *self._overlay, self._outcome))
        return picture
