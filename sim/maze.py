"""Maze: a cylinder pushed by planar forces through two gaps, with PyBullet's contacts (Recovery RL, arXiv 2010.15920).

The robot rests at the start of each step and the action, a force, is held for the 0.2 s of the step; a full force
moves it 2.55 cm along an axis. Touching a wall is a violation.
"""

from __future__ import annotations

import math
import weakref
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from safe_rl.envs.protocols import Box2D, OfflineSegment, PlaneMap, Policy
from safe_rl.errors import UserError
from sim.bullet import pybullet
from sim.drawn import FloatArray
from sim.planar import PlanarEnv

MAX_FORCE = 0.1
"""Largest force along an axis, in newtons."""
ROBOT_RADIUS = 0.025
ROBOT_HEIGHT = 0.05
ROBOT_MASS = 0.08
"""In kilograms: a solid wooden cylinder."""
SUBSTEPS = 48
SUBSTEP_SEC = 1.0 / 240.0
"""Bullet's usual rate; 48 substeps are the 0.2 s of a step."""
TRAVEL = SUBSTEP_SEC**2 * SUBSTEPS * (SUBSTEPS + 1) / 2 / ROBOT_MASS
"""Metres a step travels for each newton (semi-implicit Euler from rest)."""

GOAL = (0.25, 0.0)
GOAL_RMS_DISTANCE = 0.03
START = Box2D(-0.22, -0.13, -0.22, 0.22)
LEFT, MIDDLE, RIGHT = (
    Box2D(low, high, -0.275, 0.275) for low, high in ((-0.275, -0.145), (-0.055, 0.055), (0.145, 0.275))
)
"""Where the robot's centre is free of walls, from the start's chamber to the goal's."""

_HALF, _THICKNESS = 0.3, 0.02
OUTER_WALLS = (
    Box2D(-_HALF - _THICKNESS, -_HALF, -_HALF - _THICKNESS, _HALF + _THICKNESS),
    Box2D(_HALF, _HALF + _THICKNESS, -_HALF - _THICKNESS, _HALF + _THICKNESS),
    Box2D(-_HALF, _HALF, -_HALF - _THICKNESS, -_HALF),
    Box2D(-_HALF, _HALF, _HALF, _HALF + _THICKNESS),
)
MAZE_MAP = PlaneMap(
    bounds=Box2D(-_HALF - _THICKNESS, _HALF + _THICKNESS, -_HALF - _THICKNESS, _HALF + _THICKNESS),
    obstacles=(
        *(
            Box2D(x - 0.02, x + 0.02, y - 0.2, y + 0.2)
            for x, y in ((-0.1, 0.42), (-0.1, -0.33), (0.1, 0.48), (0.1, -0.17))
        ),
        *OUTER_WALLS,
    ),
    goal=GOAL,
    goal_radius=GOAL_RMS_DISTANCE / 0.5**0.5,
    unit="m",
    robot_radius=ROBOT_RADIUS,
)
LANE_Y = 0.125
"""The middle of what both gaps share."""
LANE_SPREAD = 0.11
"""Offline experts aim this far beside it, so that some hit the edges of the gaps (free: 0.07)."""

EXPERT_STEPS = 20
RANDOM_STEPS = 10
BOUNDARY = 0.02
"""Random segments start at most this far from touching a wall."""
RANDOM_SEGMENTS = 0.74
"""Share of segments that are random: they soon touch a wall, so it takes more of them for half of the transitions."""

_ORIGIN = (0.0, 0.0, 0.0)
_UPRIGHT = (0.0, 0.0, 0.0, 1.0)
_PUSHED = 1e-6
"""Metres off the free motion that only a contact explains."""
_CLEAR = 0.002
"""Metres from a wall beyond which Bullet keeps no contact points."""
_RMS = 0.5**0.5
"""Root mean square over two axes for each metre of Euclidean distance."""


class Maze(PlanarEnv):
    """State ``(x, y)`` in metres, action a force in ``[-0.1, 0.1]^2`` newtons, reward ``-rms distance`` to the goal.

    Success is an rms distance below 0.03. Each instance has its own physics client; ``close`` frees it.
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": 10}  # noqa: RUF012
    PLANE_MAP: ClassVar[PlaneMap] = MAZE_MAP
    MAX_ACTION: ClassVar[float] = MAX_FORCE
    START: ClassVar[Box2D] = START
    CHAMBERS: ClassVar[tuple[Box2D, ...]] = (LEFT, MIDDLE, RIGHT)
    LANE_Y: ClassVar[float] = LANE_Y
    LANE_SPREAD: ClassVar[float] = LANE_SPREAD
    RANDOM_SEGMENTS: ClassVar[float] = RANDOM_SEGMENTS
    BOUNDARY: ClassVar[float] = BOUNDARY

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self._client = pybullet.connect(pybullet.DIRECT)
        if self._client < 0:
            raise UserError("PyBullet has no physics client left: close environments that are no longer needed")
        self._disconnect = weakref.finalize(self, _disconnect, self._client)
        self._robot = _build_world(self._client, self.PLANE_MAP)
        self._goal_x, self._goal_y = self.PLANE_MAP.goal
        self._empty = pybullet.saveState(physicsClientId=self._client)

    def step(self, action: FloatArray) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """Holds the force (2,), clipped to the action space, for 0.2 s.

        Returns:
            Observation (2,), reward, terminated, truncated (always False: the registered time limit truncates) and an
            info with ``cost`` and ``success``.

        Raises:
            ResetNeeded: The episode is over.
            UserError: The action is not finite.
        """
        force_x, force_y = self._checked_action(action)
        client, robot = self._client, self._robot
        pybullet.resetBaseVelocity(robot, _ORIGIN, _ORIGIN, physicsClientId=client)
        pybullet.applyExternalForce(
            robot, -1, (force_x, force_y, 0.0), _ORIGIN, pybullet.LINK_FRAME, physicsClientId=client
        )
        pybullet.stepSimulation(physicsClientId=client)
        (x, y, _), _ = pybullet.getBasePositionAndOrientation(robot, physicsClientId=client)
        # A contact within the step, over or not, has left the robot off its free path.
        violation = (
            abs(x - self._x - TRAVEL * force_x) > _PUSHED
            or abs(y - self._y - TRAVEL * force_y) > _PUSHED
            or self._in_contact(x, y)
        )
        self._x, self._y = x, y
        rms_distance = math.hypot(x - self._goal_x, y - self._goal_y) * _RMS
        success = rms_distance < GOAL_RMS_DISTANCE and not violation
        self._ended = success or violation
        if self.render_mode is not None:
            self._after_step(success, violation)
        obs = np.array((x, y), np.float32)
        return obs, -rms_distance, self._ended, False, {"cost": float(violation), "success": success}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles and copies go on from the same state in a physics client of their own."""
        return type(self), (self.render_mode,), self.get_state()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.set_state(state)

    def _in_contact(self, x: float, y: float) -> bool:
        """Asks Bullet whether the robot, at ``(x, y)``, touches a wall now."""
        for free in self.CHAMBERS:
            if free.x_min + _CLEAR < x < free.x_max - _CLEAR and free.y_min + _CLEAR < y < free.y_max - _CLEAR:
                return False  # out of every wall's reach: spare the call
        pybullet.performCollisionDetection(physicsClientId=self._client)
        contacts = pybullet.getContactPoints(self._robot, physicsClientId=self._client)
        return any(contact[8] <= 0.0 for contact in contacts)

    def close(self) -> None:
        """Frees the physics client; the environment cannot be used afterwards."""
        super().close()
        self._ended = True
        self._disconnect()

    def _random_start(self) -> tuple[float, float]:
        while True:
            start = self.START
            x, y = self.np_random.uniform((start.x_min, start.y_min), (start.x_max, start.y_max)).tolist()
            if not self.touches_obstacle(x, y):
                return x, y

    def _place(self, x: float, y: float) -> None:
        if not self._disconnect.alive:
            raise UserError("the environment is closed: make a new one")
        self._x, self._y = x, y
        # The saved world has no contacts: nothing Bullet caches for warm starts crosses from one episode to the next.
        pybullet.restoreState(self._empty, physicsClientId=self._client)
        pybullet.resetBasePositionAndOrientation(self._robot, (x, y, 0.0), _UPRIGHT, physicsClientId=self._client)

    # Offline data and expert

    def sample_offline_segment(self, rng: np.random.Generator) -> OfflineSegment:
        """Returns a random or an expert segment from any of the chambers; each makes half of the transitions.

        Random ones start near a wall and are pushed one way for at most 10 steps; experts head, with noise, for the
        gaps or their edges for at most 20.
        """
        random = rng.random() < self.RANDOM_SEGMENTS
        while True:
            free = self.CHAMBERS[rng.integers(len(self.CHAMBERS))]
            x, y = rng.uniform(free.x_min, free.x_max), rng.uniform(free.y_min, free.y_max)
            if not self.touches_obstacle(x, y) and (not random or self.touches_obstacle(x, y, margin=self.BOUNDARY)):
                break
        if random:
            policy = _pushing_policy(rng, self.MAX_ACTION)
        else:
            policy = self._noisy_expert(self.LANE_Y + rng.uniform(-self.LANE_SPREAD, self.LANE_SPREAD))
        return OfflineSegment(np.array((x, y)), policy, RANDOM_STEPS if random else EXPERT_STEPS)

    def expert_action(self, obs: npt.NDArray[Any]) -> FloatArray:
        """Returns the force (2,) of a robot that lines up with both gaps, passes them and turns to the goal."""
        return np.array(self._expert_force(float(obs[0]), float(obs[1]), self.LANE_Y), np.float32)

    def _expert_force(self, x: float, y: float, lane: float) -> tuple[float, float]:
        """Returns the force towards the next point on the way through both gaps at height ``lane``."""
        clearance = 0.01
        if x >= RIGHT.x_min:
            return self._towards(x, y, GOAL)
        if abs(y - lane) < 0.03 or x > MIDDLE.x_max:
            return self._towards(x, y, (RIGHT.x_min + clearance, lane))
        if x < LEFT.x_max:
            return self._towards(x, y, (LEFT.x_max - clearance, lane))
        return self._towards(x, y, (min(max(x, MIDDLE.x_min + clearance), MIDDLE.x_max - clearance), lane))

    def _towards(self, x: float, y: float, target: tuple[float, float]) -> tuple[float, float]:
        limit = self.MAX_ACTION
        return (
            min(max((target[0] - x) / TRAVEL, -limit), limit),
            min(max((target[1] - y) / TRAVEL, -limit), limit),
        )

    def _noisy_expert(self, lane: float) -> Policy:
        limit, expert_force = self.MAX_ACTION, self._expert_force

        def policy(obs: npt.NDArray[Any], rng: np.random.Generator) -> FloatArray:
            force = np.array(expert_force(float(obs[0]), float(obs[1]), lane)) + 0.3 * limit * rng.standard_normal(2)
            return np.clip(force, -limit, limit).astype(np.float32)

        return policy


def _build_world(client: int, plane_map: PlaneMap) -> int:
    """Builds walls and robot in an empty client and returns the robot's id."""
    pybullet.setPhysicsEngineParameter(
        fixedTimeStep=SUBSTEPS * SUBSTEP_SEC,
        numSubSteps=SUBSTEPS,
        deterministicOverlappingPairs=1,
        physicsClientId=client,
    )
    pybullet.setGravity(0.0, 0.0, 0.0, physicsClientId=client)
    for box in plane_map.obstacles:
        half = [(box.x_max - box.x_min) / 2, (box.y_max - box.y_min) / 2, ROBOT_HEIGHT]
        shape = pybullet.createCollisionShape(pybullet.GEOM_BOX, halfExtents=half, physicsClientId=client)
        centre = [(box.x_min + box.x_max) / 2, (box.y_min + box.y_max) / 2, 0.0]
        pybullet.createMultiBody(0.0, shape, basePosition=centre, useMaximalCoordinates=1, physicsClientId=client)
    shape = pybullet.createCollisionShape(
        pybullet.GEOM_CYLINDER, radius=ROBOT_RADIUS, height=ROBOT_HEIGHT, physicsClientId=client
    )
    far_above = [0.0, 0.0, 10.0]
    robot = int(
        pybullet.createMultiBody(
            ROBOT_MASS, shape, basePosition=far_above, useMaximalCoordinates=1, physicsClientId=client
        )
    )
    pybullet.changeDynamics(
        robot,
        -1,
        mass=ROBOT_MASS,
        localInertiaDiagonal=(1.0, 1.0, 1.0),  # as good as infinite: it slides, it does not tumble
        linearDamping=0.0,
        angularDamping=0.0,
        lateralFriction=0.0,
        restitution=0.0,
        activationState=pybullet.ACTIVATION_STATE_DISABLE_SLEEPING,
        physicsClientId=client,
    )
    return robot


def _disconnect(client: int) -> None:
    if pybullet.isConnected(client):
        pybullet.disconnect(client)


def _pushing_policy(rng: np.random.Generator, limit: float) -> Policy:
    """Returns uniformly random forces around a random push that the whole segment shares: it soon meets some wall."""
    push = rng.uniform(-limit, limit, 2)

    def policy(obs: npt.NDArray[Any], rng: np.random.Generator) -> FloatArray:
        force = push + rng.uniform(-limit, limit, 2)
        return np.clip(force, -limit, limit).astype(np.float32)

    return policy
