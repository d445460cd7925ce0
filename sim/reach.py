"""Reach: an arm moves a stylus past blocks to a goal.

The physical task of Recovery RL (arXiv 2010.15920), image-based obstacle avoidance, with a simulated Franka Panda. The
stylus slides at one height over a table; touching a block or leaving the workspace is a violation.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from safe_rl.envs.protocols import Box2D, OfflineSegment, PlaneMap, Policy
from safe_rl.errors import UserError
from sim.arm import ArmEnv, Camera
from sim.drawn import FloatArray
from sim.reach_world import ARM_JOINTS, STYLUS_RADIUS, ReachWorld, joint_table

MAX_MOVE = 0.03
"""Largest move along an axis in a step, in metres; a step takes 0.1 s."""
GOAL = (0.5, 0.19)
GOAL_RADIUS = 0.03
START_X, START_Y = (0.42, 0.58), (-0.205, -0.145)
WORKSPACE = Box2D(0.35, 0.65, -0.25, 0.25)
BLOCKS = (Box2D(0.44, 0.56, -0.10, -0.06), Box2D(0.35, 0.455, 0.05, 0.09), Box2D(0.545, 0.65, 0.05, 0.09))
"""One across the straight way, and two that leave a gate of 9 cm behind it."""

_RIM = 0.02
REACH_MAP = PlaneMap(
    bounds=Box2D(WORKSPACE.x_min - _RIM, WORKSPACE.x_max + _RIM, WORKSPACE.y_min - _RIM, WORKSPACE.y_max + _RIM),
    obstacles=(
        *BLOCKS,
        Box2D(WORKSPACE.x_min - _RIM, WORKSPACE.x_min, WORKSPACE.y_min - _RIM, WORKSPACE.y_max + _RIM),
        Box2D(WORKSPACE.x_max, WORKSPACE.x_max + _RIM, WORKSPACE.y_min - _RIM, WORKSPACE.y_max + _RIM),
        Box2D(WORKSPACE.x_min, WORKSPACE.x_max, WORKSPACE.y_min - _RIM, WORKSPACE.y_min),
        Box2D(WORKSPACE.x_min, WORKSPACE.x_max, WORKSPACE.y_max, WORKSPACE.y_max + _RIM),
    ),
    goal=GOAL,
    goal_radius=GOAL_RADIUS,
    unit="m",
    robot_radius=STYLUS_RADIUS,
)

PUSH_STEPS, EXPERT_STEPS = 8, 15
PUSH_SEGMENTS = 0.75
"""Share of offline segments that push; the rest is the expert with noise."""
BOUNDARY = 0.03
"""Pushes start at most this far from touching something."""


class Reach(ArmEnv):
    """Observation (2,): the stylus's point (x, y) in metres; action (2,): its move, within 0.03 m along each axis.

    The reward is minus ten times the distance to the goal, in metres; within 0.03 m of it is a success.
    """

    MAX_ACTION: ClassVar[tuple[float, ...]] = (MAX_MOVE, MAX_MOVE)
    CAMERA: ClassVar[Camera] = Camera((0.95, 0.0, 0.85), (0.5, 0.0, 0.02), (-1.0, 0.0, 0.0), field_of_view_deg=34.0)
    LIGHT: ClassVar[tuple[tuple[float, float, float], float, float]] = ((0.0, 0.0, 1.0), 0.7, 0.3)
    PICTURE_SIZE: ClassVar[tuple[int, int]] = (400, 400)

    world: ReachWorld

    def __init__(self, render_mode: str | None = None, renderer: str = "tiny") -> None:
        super().__init__(ReachWorld(BLOCKS, WORKSPACE, GOAL, GOAL_RADIUS, renderer), render_mode)
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self._table = joint_table(WORKSPACE)
        self._joints: list[Any] = []
        self._x = self._y = 0.0
        self._start(np.array((0.5, -0.2)))

    def _act(self, action: list[float]) -> tuple[bool, bool]:
        move_x, move_y = action
        world = self.world
        world.set(self._joints, [])
        violation = world.move_arm(
            [angle for angle, _ in self._joints], self._table.joints(self._x + move_x, self._y + move_y)
        )
        self._joints, _ = world.get()
        self._x, self._y, _ = world.stylus_point()
        violation = violation or self._is_outside()
        return self._goal_distance() < GOAL_RADIUS and not violation, violation

    def _reward(self, success: bool) -> float:
        return -10.0 * self._goal_distance()

    def _goal_distance(self) -> float:
        return math.hypot(self._x - GOAL[0], self._y - GOAL[1])

    def _is_outside(self) -> bool:
        return not (
            WORKSPACE.x_min + STYLUS_RADIUS < self._x < WORKSPACE.x_max - STYLUS_RADIUS
            and WORKSPACE.y_min + STYLUS_RADIUS < self._y < WORKSPACE.y_max - STYLUS_RADIUS
        )

    def _observation(self) -> npt.NDArray[Any]:
        return np.array((self._x, self._y), np.float32)

    def _arguments(self) -> tuple[Any, ...]:
        return self.render_mode, self.world.renderer

    # Starts and states

    def _random_start(self) -> npt.NDArray[np.float64]:
        return self.np_random.uniform((START_X[0], START_Y[0]), (START_X[1], START_Y[1]))

    def _checked_start(self, state: Any) -> npt.NDArray[np.float64]:
        point = self._finite_vector(state, 2, "x and y")
        if self.touches_obstacle(*point):
            raise UserError(f"reset option state=({point[0]:g}, {point[1]:g}) touches an obstacle: start in free space")
        return point

    def _start(self, state: npt.NDArray[np.float64]) -> None:
        self._x, self._y = state.tolist()
        self._joints = [(angle, 0.0) for angle in self._table.joints(self._x, self._y)]

    def _physics(self) -> dict[str, Any]:
        return {"joints": self._joints, "point": [self._x, self._y]}

    def _set_physics(self, physics: dict[str, Any]) -> None:
        joints = [(float(angle), float(speed)) for angle, speed in physics["joints"]]
        x, y = map(float, physics["point"])
        if len(joints) != ARM_JOINTS or not np.isfinite([x, y, *np.ravel(joints)]).all():
            raise ValueError(f"it has not {ARM_JOINTS} joints of finite numbers")
        self._joints, self._x, self._y = joints, x, y

    def _pose_for_camera(self) -> None:
        self.world.set(self._joints, [])

    # The plane

    @property
    def plane_map(self) -> PlaneMap:
        """The static map; the workspace's edge counts as an obstacle."""
        return REACH_MAP

    def plane_observation(self, points: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        """Returns the observations (N, 2) of the stylus at rest at ``points`` (N, 2)."""
        return np.array(points, np.float32).reshape(-1, 2)

    def plane_position(self, obs: npt.NDArray[Any]) -> tuple[float, float]:
        """Returns the stylus's point for one observation (2,)."""
        return float(obs[0]), float(obs[1])

    def touches_obstacle(self, x: float, y: float, margin: float = 0.0) -> bool:
        """Tells whether the stylus's rim is within ``margin`` of a block or the edge at a point (geometry alone)."""
        if not (WORKSPACE.x_min < x < WORKSPACE.x_max and WORKSPACE.y_min < y < WORKSPACE.y_max):
            return True
        reach = STYLUS_RADIUS + margin
        return any(
            math.hypot(max(box.x_min - x, 0.0, x - box.x_max), max(box.y_min - y, 0.0, y - box.y_max)) <= reach
            for box in REACH_MAP.obstacles
        )

    # Offline data and expert

    def sample_offline_segment(self, rng: np.random.Generator) -> OfflineSegment:
        """Returns pushes one way from next to a block or the edge, or the expert with noise from anywhere."""
        push = rng.random() < PUSH_SEGMENTS
        while True:
            x, y = rng.uniform((WORKSPACE.x_min, WORKSPACE.y_min), (WORKSPACE.x_max, WORKSPACE.y_max)).tolist()
            if not self.touches_obstacle(x, y) and (not push or self.touches_obstacle(x, y, margin=BOUNDARY)):
                break
        policy = _pushing_policy(rng) if push else self._noisy_expert(rng.uniform(0.0, 0.3))
        return OfflineSegment(np.array((x, y)), policy, PUSH_STEPS if push else EXPERT_STEPS)

    def expert_action(self, obs: npt.NDArray[Any]) -> FloatArray:
        """Returns the action (2,) of a stylus that goes round the first block and through the gate."""
        x, y = self.plane_position(obs)
        return _towards(x, y, *_way_point(x, y))

    def _noisy_expert(self, share: float) -> Policy:
        def policy(obs: npt.NDArray[Any], rng: np.random.Generator) -> FloatArray:
            action = self.expert_action(obs) + 2 * MAX_MOVE * share * rng.standard_normal(2)
            return np.clip(action, -MAX_MOVE, MAX_MOVE).astype(np.float32)

        return policy


def _way_point(x: float, y: float) -> tuple[float, float]:
    """Returns where to go next in a straight line."""
    first, left, right = BLOCKS
    clearance = STYLUS_RADIUS + 0.018
    gate_x = (left.x_max + right.x_min) / 2
    side_x = first.x_min - clearance if x < (first.x_min + first.x_max) / 2 else first.x_max + clearance
    if y > left.y_max + STYLUS_RADIUS:
        return GOAL
    if abs(x - gate_x) < 0.012 and y > first.y_max + STYLUS_RADIUS:
        return gate_x, left.y_max + clearance
    if y > left.y_min - clearance - 0.004:  # beside the gate: back off first
        return (gate_x, y) if abs(x - gate_x) < 0.03 else (x, left.y_min - clearance - 0.01)
    if y > first.y_max + clearance - 0.004:
        return gate_x, y
    if y > first.y_max:
        return x, first.y_max + clearance
    if abs(x - side_x) < 0.012 or not first.x_min - clearance < x < first.x_max + clearance:
        return x, first.y_max + clearance
    if y > first.y_min - clearance + 0.004:
        return x, first.y_min - clearance
    return side_x, y


def _towards(x: float, y: float, target_x: float, target_y: float) -> FloatArray:
    """Returns the largest action (2,) along the straight line to a target, stopping there."""
    delta = np.array((target_x - x, target_y - y))
    return (delta / max(1.0, np.abs(delta).max() / MAX_MOVE)).astype(np.float32)


def _pushing_policy(rng: np.random.Generator) -> Policy:
    """Returns random actions around a random push that the whole segment shares."""
    push = rng.uniform(-MAX_MOVE, MAX_MOVE, 2)

    def policy(obs: npt.NDArray[Any], rng: np.random.Generator) -> FloatArray:
        return np.clip(push + rng.uniform(-MAX_MOVE, MAX_MOVE, 2) / 2, -MAX_MOVE, MAX_MOVE).astype(np.float32)

    return policy
