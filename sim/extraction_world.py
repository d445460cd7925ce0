"""The world of Object Extraction: three bricks on a shelf, a Cartesian gripper that reaches in, and a second arm."""

from __future__ import annotations

from collections.abc import Sequence

from sim.arm import SUBSTEP_SEC, World
from sim.bullet import pybullet
from sim.extraction_scene import (
    BRICK_HALF,
    BRICK_MASS,
    FINGER_HALF,
    FOREARM_HALF,
    FOREARM_X,
    PALM_HALF,
    PALM_X,
    ROD_LENGTH,
    ROD_RADIUS,
    Triple,
)

GRIPPER_JOINTS = 5
"""x, y, z, left and right jaw (each the distance of its pad from the middle)."""
GRIPPER_FORCES = (30.0, 30.0, 50.0, 20.0, 20.0)
"""Largest forces of the motors, in newtons."""
GRIPPER_SPEEDS = (0.3, 0.3, 0.3, 0.2, 0.2)
"""Largest speeds, in metres a second."""
POSITION_GAIN = 0.2
"""Share of the way to its target that a motor would go in a substep."""

ROD_SPEED_FORCE = 500.0
"""In newtons: the second arm does not give way."""
SHELF_FRONT = -0.065

_NO_TURN = (0.0, 0.0, 0.0, 1.0)

_WOOD = (0.80, 0.68, 0.52, 1.0)
_WOOD_SIDE = (0.72, 0.60, 0.45, 1.0)
_BRICK_COLOURS = ((0.25, 0.45, 0.75, 1.0), (0.85, 0.18, 0.15, 1.0), (0.25, 0.45, 0.75, 1.0))
_STEEL = (0.35, 0.37, 0.42, 1.0)
_PAD = (0.12, 0.12, 0.14, 1.0)
_ROD = (0.95, 0.60, 0.10, 1.0)


class ExtractionWorld(World):
    """Bricks, shelf and gripper, and the rod of a second arm where asked for.

    Attributes:
        gripper: Bullet's number of the gripper.
        bricks: Those of the bricks, from the smallest y to the largest.
        rod: That of the second arm, or None.
    """

    def __init__(self, *, with_rod: bool, substeps: int) -> None:
        super().__init__()
        pybullet.setPhysicsEngineParameter(
            fixedTimeStep=substeps * SUBSTEP_SEC,
            numSubSteps=substeps,
            deterministicOverlappingPairs=1,
            physicsClientId=self.client,
        )
        pybullet.setGravity(0.0, 0.0, -9.81, physicsClientId=self.client)
        self._build_shelf()
        self.bricks = [self._build_brick(colour, 10.0 + i) for i, colour in enumerate(_BRICK_COLOURS)]
        self.gripper = self._build_gripper()
        self.rod = self._build_rod() if with_rod else None
        joints = [(self.gripper, list(range(GRIPPER_JOINTS)))]
        colliding = [(self.gripper, link) for link in (2, 3, 4)]
        if self.rod is not None:
            joints.append((self.rod, [0, 1, 2]))
            colliding.append((self.rod, 2))
        self.track(joints, self.bricks, colliding)

    def drive_gripper(self, targets: list[float]) -> None:
        """Sets where the gripper's motors go: x, y, z, left and right jaw."""
        for joint, target in enumerate(targets):
            pybullet.setJointMotorControl2(
                self.gripper,
                joint,
                pybullet.POSITION_CONTROL,
                targetPosition=target,
                force=GRIPPER_FORCES[joint],
                maxVelocity=GRIPPER_SPEEDS[joint],
                positionGain=POSITION_GAIN,
                velocityGain=1.0,
                physicsClientId=self.client,
            )

    def arms_touch(self) -> bool:
        """Whether the gripper touches the second arm."""
        return self.rod is not None and self.touches(self.gripper, self.rod)

    def drive_rod(self, speeds: Sequence[float]) -> None:
        """Sets the speeds of the second arm along x, y and z, in metres a second."""
        pybullet.setJointMotorControlArray(
            self.rod,
            [0, 1, 2],
            pybullet.VELOCITY_CONTROL,
            targetVelocities=speeds,
            forces=[ROD_SPEED_FORCE] * 3,
            physicsClientId=self.client,
        )

    def _build_shelf(self) -> None:
        back, side, top, thick = 0.16, 0.30, 0.44, 0.01
        middle, depth = (back + SHELF_FRONT) / 2, (back - SHELF_FRONT) / 2
        for half, centre, colour in (
            ((depth, side, thick), (middle, 0.0, -thick), _WOOD),
            ((depth, side, thick), (middle, 0.0, top + thick), _WOOD),
            ((thick, side, top / 2), (back + thick, 0.0, top / 2), _WOOD_SIDE),
            ((depth, thick, top / 2), (middle, side + thick, top / 2), _WOOD_SIDE),
            ((depth, thick, top / 2), (middle, -side - thick, top / 2), _WOOD_SIDE),
        ):
            body = pybullet.createMultiBody(
                0.0,
                self._box(half),
                self._seen_box(half, colour),
                basePosition=centre,
                useMaximalCoordinates=1,
                physicsClientId=self.client,
            )
            pybullet.changeDynamics(body, -1, lateralFriction=1.0, physicsClientId=self.client)

    def _build_brick(self, colour: tuple[float, ...], height: float) -> int:
        brick = int(
            pybullet.createMultiBody(
                BRICK_MASS,
                self._box(BRICK_HALF),
                self._seen_box(BRICK_HALF, colour),
                basePosition=(0.0, 0.0, height),
                physicsClientId=self.client,
            )
        )
        pybullet.changeDynamics(
            brick,
            -1,
            lateralFriction=0.5,
            restitution=0.0,
            activationState=pybullet.ACTIVATION_STATE_DISABLE_SLEEPING,
            physicsClientId=self.client,
        )
        return brick

    def _build_gripper(self) -> int:
        finger = [FINGER_HALF[0] + PALM_HALF[0], 0.0, 0.0]
        finger_y = FINGER_HALF[1]
        gripper = int(
            pybullet.createMultiBody(
                0.0,
                linkMasses=[0.1, 0.1, 0.8, 0.05, 0.05],
                linkCollisionShapeIndices=[-1, -1, self._palm(), self._box(FINGER_HALF), self._box(FINGER_HALF)],
                linkVisualShapeIndices=[
                    -1,
                    -1,
                    self._seen_palm(),
                    self._seen_box(FINGER_HALF, _PAD),
                    self._seen_box(FINGER_HALF, _PAD),
                ],
                linkPositions=[
                    [0.0, 0.0, 0.0],
                    [0.0, 0.0, 0.0],
                    [PALM_X, 0.0, 0.0],
                    [finger[0], finger_y, 0.0],
                    [finger[0], -finger_y, 0.0],
                ],
                linkOrientations=[_NO_TURN] * 5,
                linkInertialFramePositions=[[0.0, 0.0, 0.0]] * 5,
                linkInertialFrameOrientations=[_NO_TURN] * 5,
                linkParentIndices=[0, 1, 2, 3, 3],
                linkJointTypes=[pybullet.JOINT_PRISMATIC] * 5,
                linkJointAxis=[[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0], [0, -1, 0]],
                flags=pybullet.URDF_USE_SELF_COLLISION_EXCLUDE_ALL_PARENTS,
                physicsClientId=self.client,
            )
        )
        for joint in range(GRIPPER_JOINTS):
            pybullet.changeDynamics(
                gripper,
                joint,
                linearDamping=0.0,
                angularDamping=0.0,
                jointDamping=0.0,
                lateralFriction=1.5 if joint >= 3 else 0.5,
                physicsClientId=self.client,
            )
        return gripper

    def _palm(self) -> int:
        shape = pybullet.createCollisionShapeArray(
            shapeTypes=[pybullet.GEOM_BOX] * 2,
            halfExtents=[list(PALM_HALF), list(FOREARM_HALF)],
            collisionFramePositions=[[0.0, 0.0, 0.0], [FOREARM_X - PALM_X, 0.0, 0.0]],
            physicsClientId=self.client,
        )
        return int(shape)

    def _seen_palm(self) -> int:
        shape = pybullet.createVisualShapeArray(
            shapeTypes=[pybullet.GEOM_BOX] * 2,
            halfExtents=[list(PALM_HALF), list(FOREARM_HALF)],
            visualFramePositions=[[0.0, 0.0, 0.0], [FOREARM_X - PALM_X, 0.0, 0.0]],
            rgbaColors=[_STEEL, (0.86, 0.87, 0.88, 1.0)],
            physicsClientId=self.client,
        )
        return int(shape)

    def _build_rod(self) -> int:
        """Builds a rod that hangs from above and slides along x, y and z; its point is the middle of its lower end."""
        size = {"radius": ROD_RADIUS, "physicsClientId": self.client}
        shape = pybullet.createCollisionShape(pybullet.GEOM_CYLINDER, height=ROD_LENGTH, **size)
        seen = pybullet.createVisualShape(pybullet.GEOM_CYLINDER, length=ROD_LENGTH, rgbaColor=_ROD, **size)
        rod = int(
            pybullet.createMultiBody(
                0.0,
                linkMasses=[1.0, 1.0, 1.0],
                linkCollisionShapeIndices=[-1, -1, shape],
                linkVisualShapeIndices=[-1, -1, seen],
                linkPositions=[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, ROD_LENGTH / 2]],
                linkOrientations=[_NO_TURN] * 3,
                linkInertialFramePositions=[[0.0, 0.0, 0.0]] * 3,
                linkInertialFrameOrientations=[_NO_TURN] * 3,
                linkParentIndices=[0, 1, 2],
                linkJointTypes=[pybullet.JOINT_PRISMATIC] * 3,
                linkJointAxis=[[1, 0, 0], [0, 1, 0], [0, 0, 1]],
                physicsClientId=self.client,
            )
        )
        for joint in range(3):
            pybullet.changeDynamics(
                rod, joint, linearDamping=0.0, angularDamping=0.0, jointDamping=0.0, physicsClientId=self.client
            )
        return rod

    def _box(self, half: Triple) -> int:
        return int(
            pybullet.createCollisionShape(pybullet.GEOM_BOX, halfExtents=list(half), physicsClientId=self.client)
        )

    def _seen_box(self, half: Triple, colour: tuple[float, ...]) -> int:
        return int(
            pybullet.createVisualShape(
                pybullet.GEOM_BOX, halfExtents=list(half), rgbaColor=colour, physicsClientId=self.client
            )
        )
