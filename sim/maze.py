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
from sim.planar import FloatArray, PlanarEnv

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
START_X, START_Y = (-0.22, -0.13), (-0.22, 0.22)
CHAMBERS_X = ((-0.275, -0.145), (-0.055, 0.055), (0.145, 0.275))
"""Where the robot's centre is free of walls, from the start's chamber to the goal's."""
CHAMBERS_Y = 0.275
"""The same along y, either side of 0."""

_HALF, _THICKNESS = 0.3, 0.02
MAZE_MAP = PlaneMap(
    bounds=Box2D(-_HALF - _THICKNESS, _HALF + _THICKNESS, -_HALF - _THICKNESS, _HALF + _THICKNESS),
    obstacles=(
        *(
            Box2D(x - 0.02, x + 0.02, y - 0.2, y + 0.2)
            for x, y in ((-0.1, 0.42), (-0.1, -0.33), (0.1, 0.48), (0.1, -0.17))
        ),
        Box2D(-_HALF - _THICKNESS, -_HALF, -_HALF - _THICKNESS, _HALF + _THICKNESS),
        Box2D(_HALF, _HALF + _THICKNESS, -_HALF - _THICKNESS, _HALF + _THICKNESS),
        Box2D(-_HALF, _HALF, -_HALF - _THICKNESS, -_HALF),
        Box2D(-_HALF, _HALF, _HALF, _HALF + _THICKNESS),
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

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self._client = pybullet.connect(pybullet.DIRECT)
        if self._client < 0:
            raise UserError("PyBullet has no physics client left: close environments that are no longer needed")
        self._disconnect = weakref.finalize(self, _disconnect, self._client)
        self._robot = _build_world(self._client)
        self._empty = pybullet.saveState(physicsClientId=self._client)

    def step(self, action: FloatArray) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """Holds the force (2,), clipped to [-0.1, 0.1], for 0.2 s.

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
        rms_distance = math.hypot(x - GOAL[0], y - GOAL[1]) * _RMS
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
        for low, high in CHAMBERS_X:
            if low + _CLEAR < x < high - _CLEAR and abs(y) < CHAMBERS_Y - _CLEAR:
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
            x, y = self.np_random.uniform((START_X[0], START_Y[0]), (START_X[1], START_Y[1])).tolist()
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
        """Returns a random or an expert segment from any of the three chambers; each makes half of the transitions.

        Random ones start near a wall and are pushed one way for at most 10 steps; experts head, with noise, for the
        gaps or their edges for at most 20.
        """
        random = rng.random() < RANDOM_SEGMENTS
        while True:
            low, high = CHAMBERS_X[rng.integers(3)]
            x, y = rng.uniform(low, high), rng.uniform(-CHAMBERS_Y, CHAMBERS_Y)
            if not self.touches_obstacle(x, y) and (not random or self.touches_obstacle(x, y, margin=BOUNDARY)):
                break
        policy = _pushing_policy(rng) if random else _noisy_expert(LANE_Y + rng.uniform(-LANE_SPREAD, LANE_SPREAD))
        return OfflineSegment(np.array((x, y)), policy, RANDOM_STEPS if random else EXPERT_STEPS)

    def expert_action(self, obs: npt.NDArray[Any]) -> FloatArray:
        """Returns the force (2,) of a robot that lines up with both gaps, passes them and turns to the goal."""
        return np.array(_expert_force(float(obs[0]), float(obs[1]), LANE_Y), np.float32)


def _build_world(client: int) -> int:
    """Builds walls and robot in an empty client and returns the robot's id."""
    pybullet.setPhysicsEngineParameter(
        fixedTimeStep=SUBSTEPS * SUBSTEP_SEC,
        numSubSteps=SUBSTEPS,
        deterministicOverlappingPairs=1,
        physicsClientId=client,
    )
    pybullet.setGravity(0.0, 0.0, 0.0, physicsClientId=client)
    for box in MAZE_MAP.obstacles:
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


def _expert_force(x: float, y: float, lane: float) -> tuple[float, float]:
    left, middle, right = CHAMBERS_X
    clearance = 0.01
    if x >= right[0]:
        target_x, target_y = GOAL
    elif abs(y - lane) < 0.03 or x > middle[1]:
        target_x, target_y = right[0] + clearance, lane
    elif x < left[1]:
        target_x, target_y = left[1] - clearance, lane
    else:
        target_x, target_y = min(max(x, middle[0] + clearance), middle[1] - clearance), lane
    return (
        min(max((target_x - x) / TRAVEL, -MAX_FORCE), MAX_FORCE),
        min(max((target_y - y) / TRAVEL, -MAX_FORCE), MAX_FORCE),
    )


def _noisy_expert(lane: float) -> Policy:
    def policy(obs: npt.NDArray[Any], rng: np.random.Generator) -> FloatArray:
        force = np.array(_expert_force(float(obs[0]), float(obs[1]), lane)) + 0.03 * rng.standard_normal(2)
        return np.clip(force, -MAX_FORCE, MAX_FORCE).astype(np.float32)

    return policy


def _pushing_policy(rng: np.random.Generator) -> Policy:
    """Returns uniformly random forces around a random push that the whole segment shares: it soon meets some wall."""
    push = rng.uniform(-MAX_FORCE, MAX_FORCE, 2)

    def policy(obs: npt.NDArray[Any], rng: np.random.Generator) -> FloatArray:
        force = push + rng.uniform(-MAX_FORCE, MAX_FORCE, 2)
        return np.clip(force, -MAX_FORCE, MAX_FORCE).astype(np.float32)

    return policy
