"""Object Extraction: a gripper lifts a brick out of a row without toppling any (Recovery RL, arXiv 2010.15920).

Three upright bricks stand side by side on a shelf. The gripper reaches in from the front, closes about the middle one,
the red one, and lifts it by friction alone. A brick tilted by more than 15 degrees is a violation. In the dynamic
version a second arm, a rod that hangs from above, sweeps past in front of the shelf; touching it is one too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from safe_rl.envs.protocols import OfflineSegment
from safe_rl.errors import UserError
from sim.arm import ArmEnv, Camera
from sim.bullet import pybullet
from sim.drawn import FloatArray
from sim.extraction_expert import expert_action, sample_segment
from sim.extraction_scene import (
    BRICK_HALF,
    GRIPPER_RANGE,
    JAW_RANGE,
    LIFT,
    MAX_JAW_MOVE,
    MAX_MOVE,
    MOTIONS,
    POSES,
    ROD,
    SWEEP_END,
    TARGET,
    progress,
    random_state,
)
from sim.extraction_world import GRIPPER_JOINTS, ExtractionWorld

SUBSTEPS = 24
"""Of a step's 0.1 s."""
ROD_LOOKS = 4
"""How often in a step a world with a second arm is asked whether the arms touch."""
MAX_TILT_DEG = 15.0
SUCCESS_REWARD = 25.0
"""Of the dense reward."""
_MIN_UPRIGHT = math.cos(math.radians(MAX_TILT_DEG))

_OVERLAP = 0.005
_MEANING = (
    "gripper x, y, z, left jaw, right jaw, jaw target, (x, y, z, quaternion) of each brick, and velocity and angular "
    "velocity of each"
)
_MEANING_WITH_ROD = f"{_MEANING}, and the second arm's point and velocity"


class ObjectExtraction(ArmEnv):
    """Lift the red brick.

    Observation (45,): the gripper's x, y, z, left jaw, right jaw and the opening that the jaws are told to take; then
    point and quaternion (x, y, z, w) of each brick; then velocity (m/s) and angular velocity (rad/s) of each: whether a
    brick that leans is held or falls. Action (4,): moves along x, y, z within 0.02 m and of the jaws within 0.01 m.

    Args:
        render_mode: As in Gymnasium.
        reward: ``"sparse"`` is the paper's, -1 a step and 0 for the step that succeeds: to topple a brick then ends a
            bad time. ``"dense"`` is how far the task is done, from 0 to below 1, and 25 for the step that succeeds,
            which with a discount of up to 0.96 is more than dawdling pays: to topple a brick ends a good time.
    """

    MAX_ACTION: ClassVar[tuple[float, ...]] = (MAX_MOVE, MAX_MOVE, MAX_MOVE, MAX_JAW_MOVE)
    CAMERA: ClassVar[Camera] = Camera((-0.62, -0.42, 0.52), (-0.03, 0.0, 0.14), field_of_view_deg=38.0)
    HAS_ROD: ClassVar[bool] = False

    world: ExtractionWorld

    def __init__(self, render_mode: str | None = None, reward: Literal["dense", "sparse"] = "dense") -> None:
        if reward not in ("dense", "sparse"):
            raise UserError(f"unknown reward {reward!r}: use 'dense' or 'sparse'")
        self.reward = reward
        substeps = SUBSTEPS // ROD_LOOKS if self.HAS_ROD else SUBSTEPS
        super().__init__(ExtractionWorld(with_rod=self.HAS_ROD, substeps=substeps), render_mode)
        self._size = ROD.stop if self.HAS_ROD else MOTIONS.stop
        self.observation_space = spaces.Box(-np.inf, np.inf, (self._size,), np.float32)
        self._joints: list[Any] = []
        self._bodies: list[Any] = []
        self._jaw = 0.0
        self._sweep: Sequence[float] = (0.0, 0.0, 0.0)
        self._start(random_state(np.random.default_rng(0), with_rod=self.HAS_ROD))

    def _act(self, action: list[float]) -> tuple[bool, bool]:
        *moves, jaw_move = action
        world, joints = self.world, self._joints
        world.set(joints, self._bodies)
        targets = [
            min(max(joint[0] + move, low), high)
            for joint, move, (low, high) in zip(joints, moves, GRIPPER_RANGE, strict=False)
        ]
        self._jaw = min(max(self._jaw + jaw_move, JAW_RANGE[0]), JAW_RANGE[1])
        world.drive_gripper([*targets, self._jaw, self._jaw])
        violation = self._simulate()
        self._joints, self._bodies = world.get()
        for _, (turn_x, turn_y, _, _), _, _ in self._bodies:
            violation = violation or 1.0 - 2.0 * (turn_x * turn_x + turn_y * turn_y) < _MIN_UPRIGHT
        success = self._bodies[TARGET][0][2] - BRICK_HALF[2] >= LIFT and not violation
        return success, violation

    def _reward(self, success: bool) -> float:
        if self.reward == "sparse":
            return 0.0 if success else -1.0
        if success:
            return SUCCESS_REWARD
        return progress([joint[0] for joint in self._joints[:3]], self._jaw, self._bodies[TARGET][0])

    def _arguments(self) -> tuple[Any, ...]:
        return self.render_mode, self.reward

    def _simulate(self) -> bool:
        """Lets the step's 0.1 s pass; tells whether the arms touched."""
        pybullet.stepSimulation(physicsClientId=self.world.client)
        return False

    def _observation(self) -> npt.NDArray[Any]:
        values = [joint[0] for joint in self._joints[:GRIPPER_JOINTS]]
        values.append(self._jaw)
        for point, turn, _, _ in self._bodies:
            values += point
            values += turn
        for _, _, velocity, spin in self._bodies:
            values += velocity
            values += spin
        return np.array(values, np.float32)

    # Starts and states

    def _random_start(self) -> npt.NDArray[np.float64]:
        return random_state(self.np_random, with_rod=self.HAS_ROD)

    def _checked_start(self, state: Any) -> npt.NDArray[np.float64]:
        vector = self._finite_vector(state, self._size, _MEANING_WITH_ROD if self.HAS_ROD else _MEANING)
        for value, (low, high), name in zip(
            vector, (*GRIPPER_RANGE, *[JAW_RANGE] * 3), ("x", "y", "z", "left jaw", "right jaw", "jaw"), strict=False
        ):
            if not low - 1e-3 <= value <= high + 1e-3:
                raise UserError(f"reset option state has the gripper's {name} at {value:g}: it reaches {low} to {high}")
        for brick in vector[POSES].reshape(3, 7):
            length = np.linalg.norm(brick[3:])
            if not 0.9 < length < 1.1:
                raise UserError(f"reset option state has the quaternion {brick[3:]}: its length must be 1")
            brick[3:] /= length
            if 1.0 - 2.0 * (brick[3] ** 2 + brick[4] ** 2) < _MIN_UPRIGHT:
                raise UserError("reset option state has a toppled brick: start without a violation")
        self._start(vector)
        if self._overlaps():
            raise UserError("reset option state has bodies inside one another: start in free space")
        return vector

    def _start(self, state: npt.NDArray[np.float64]) -> None:
        values = state.tolist()
        self._joints = [(value, 0.0) for value in values[:GRIPPER_JOINTS]]
        self._jaw = values[5]
        parts = np.hstack((state[POSES].reshape(3, 7), state[MOTIONS].reshape(3, 6)))
        self._bodies = [tuple(tuple(part.tolist()) for part in np.split(brick, (3, 7, 10))) for brick in parts]

    def _overlaps(self) -> bool:
        world = self.world
        world.set(self._joints, self._bodies)
        pybullet.performCollisionDetection(physicsClientId=world.client)
        movable = {world.gripper, world.rod, *world.bricks}
        contacts = pybullet.getContactPoints(physicsClientId=world.client)
        return any(contact[8] < -_OVERLAP and {contact[1], contact[2]} & movable for contact in contacts)

    def _physics(self) -> dict[str, Any]:
        return {"joints": self._joints, "bodies": self._bodies, "jaw": self._jaw, "sweep": self._sweep}

    def _set_physics(self, physics: dict[str, Any]) -> None:
        joints = [(float(position), float(speed)) for position, speed in physics["joints"]]
        bodies = [tuple(tuple(map(float, part)) for part in body) for body in physics["bodies"]]
        if (
            len(joints) != GRIPPER_JOINTS + 3 * self.HAS_ROD
            or [list(map(len, body)) for body in bodies] != [[3, 4, 3, 3]] * 3
        ):
            raise ValueError("it has another number of joints or bodies")
        jaw, sweep = float(physics["jaw"]), tuple(map(float, physics["sweep"]))
        if len(sweep) != 3 or not np.isfinite([jaw, *sweep, *np.ravel(joints), *np.concatenate(sum(bodies, ()))]).all():
            raise ValueError("it is not made of finite numbers")
        self._jaw, self._sweep = jaw, sweep
        self._joints, self._bodies = joints, bodies

    def _pose_for_camera(self) -> None:
        self.world.set(self._joints, self._bodies)

    # Offline data and expert

    def sample_offline_segment(self, rng: np.random.Generator) -> OfflineSegment:
        """Returns pushes from next to or among the bricks, or the noisy expert from any free place."""
        return sample_segment(rng, with_rod=self.HAS_ROD)

    def expert_action(self, obs: npt.NDArray[Any]) -> FloatArray:
        """Returns the action (4,) of a gripper that lines up, waits for the second arm, reaches in and lifts."""
        return expert_action(obs)


class ObjectExtractionDynamic(ObjectExtraction):
    """Lift the red brick when the second arm has passed.

    The observation (51,) goes on with the point of the rod's lower end and its velocity, zero once it has stopped.
    """

    HAS_ROD: ClassVar[bool] = True

    def _simulate(self) -> bool:
        world = self.world
        world.drive_rod(self._sweep)
        touched = False
        for _ in range(ROD_LOOKS):
            pybullet.stepSimulation(physicsClientId=world.client)
            touched = touched or world.arms_touch()
        y, _, _, _ = pybullet.getJointState(world.rod, 1, physicsClientId=world.client)
        if y * self._sweep[1] >= SWEEP_END * abs(self._sweep[1]):
            self._sweep = (0.0, 0.0, 0.0)
        return touched

    def _start(self, state: npt.NDArray[np.float64]) -> None:
        super()._start(state)
        rod = state[ROD].tolist()
        self._joints += [(value, 0.0) for value in rod[:3]]
        self._sweep = tuple(rod[3:])

    def _observation(self) -> npt.NDArray[Any]:
        rod = [joint[0] for joint in self._joints[GRIPPER_JOINTS:]]
        return np.concatenate((super()._observation(), np.array([*rod, *self._sweep], np.float32)))
