"""The world of Reach: a Franka Panda that moves a stylus over a table with blocks."""

from __future__ import annotations

import functools
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from safe_rl.envs.protocols import Box2D
from safe_rl.errors import UserError
from sim.arm import SUBSTEP_SEC, World
from sim.bullet import mesh_file, pybullet

Vector = npt.NDArray[np.float64]
Rgb = tuple[float, float, float]

STYLUS_RADIUS = 0.012
STYLUS_LENGTH = 0.09
"""Below the fingertips, in metres."""
TIP_Z = 0.03
"""Height of the stylus's tip above the table; the fingers stay above the blocks."""
BLOCK_HEIGHT = 0.08
ARM_JOINTS = 7
LOOKS, SUBSTEPS = 8, 3
"""How often in a step the world is asked for contacts, and Bullet's steps between."""
MOVING_LOOKS = 6
"""By then the motors' targets are at the end of the step's way; in the rest of its time the arm settles there."""
MAX_TORQUES = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)
"""In newton metres."""
POSITION_GAIN = 0.3
"""Share of the way to its target that a motor would go in a substep."""

COLOURS: dict[str, Rgb] = {
    "table": (0.55, 0.57, 0.60),
    "sheet": (0.93, 0.91, 0.86),
    "goal": (0.15, 0.65, 0.30),
    "blocks": (0.80, 0.20, 0.15),
    "stylus": (0.10, 0.35, 0.85),
    "arm": (1.0, 1.0, 1.0),
}
"""RGB colours of the parts, each channel in [0, 1]."""

_CUBE = "cube.obj"
"""Of half-width 1. OpenGL's renderer shades Bullet's own boxes as if they were balls."""

_ELBOW_UP = (0.0, -0.4, 0.0, -2.2, 0.0, 1.9, 0.785)
_FINGERTIP_Z = 0.112
"""Of the hand's frame."""
_DEGREE = 7
"""Of the polynomials that give the joints for a point."""


def _material(part: str) -> str:
    """Returns the paint of a part as URDF has it, without a gloss, which OpenGL's renderer would show."""
    red, green, blue = COLOURS[part]
    colour = f'<color rgba="{red} {green} {blue} 1"/><specular rgb="0 0 0"/>'
    return f'<material name="{part}_paint">{colour}</material>'


_STYLUS = f"""
  <link name="stylus">
    <inertial><mass value="0.05"/><inertia ixx="1e-4" ixy="0" ixz="0" iyy="1e-4" iyz="0" izz="1e-4"/></inertial>
    <visual>
      <geometry><cylinder radius="{STYLUS_RADIUS}" length="{STYLUS_LENGTH}"/></geometry>
      {_material("stylus")}
    </visual>
    <collision><geometry><cylinder radius="{STYLUS_RADIUS}" length="{STYLUS_LENGTH}"/></geometry></collision>
  </link>
  <joint name="stylus_joint" type="fixed">
    <parent link="panda_hand"/>
    <child link="stylus"/>
    <origin rpy="0 0 0" xyz="0 0 {_FINGERTIP_Z + STYLUS_LENGTH / 2}"/>
  </joint>
</robot>
"""


class ReachWorld(World):
    """Table, blocks and arm. The arm carries its own weight, as its controller's gravity compensation would have it.

    Attributes:
        arm: Bullet's number of the arm.
        blocks: Those of the blocks.
        stylus: Index of the stylus's link.
    """

    def __init__(
        self,
        blocks: Sequence[Box2D],
        workspace: Box2D,
        goal: tuple[float, float],
        goal_radius: float,
        renderer: str = "tiny",
    ) -> None:
        super().__init__(renderer)
        pybullet.setPhysicsEngineParameter(
            fixedTimeStep=SUBSTEPS * SUBSTEP_SEC,
            numSubSteps=SUBSTEPS,
            deterministicOverlappingPairs=1,
            physicsClientId=self.client,
        )
        self.arm, self.stylus = load_panda(self.client)
        self.blocks = [self._build_block(box) for box in blocks]
        self._parts = {
            **self._draw_table(workspace, goal, goal_radius),
            "blocks": [(self._draw_box("blocks", box, 0.0, BLOCK_HEIGHT), -1) for box in blocks],
            "stylus": [(self.arm, self.stylus)],
            "arm": [(self.arm, link) for link in self._seen_links() if link != self.stylus],
        }
        self.track([(self.arm, list(range(ARM_JOINTS)))], [], [(self.arm, self.stylus)])

    def paint(self, colours: Mapping[str, Rgb]) -> None:
        """Gives the parts of ``COLOURS`` other colours."""
        for part, colour in colours.items():
            for body, link in self._parts[part]:
                pybullet.changeVisualShape(body, link, rgbaColor=[*colour, 1.0], physicsClientId=self.client)

    def drive_arm(self, joints: Sequence[float]) -> None:
        """Sets where the motors go (7,), in radians."""
        pybullet.setJointMotorControlArray(
            self.arm,
            range(ARM_JOINTS),
            pybullet.POSITION_CONTROL,
            targetPositions=joints,
            forces=MAX_TORQUES,
            positionGains=[POSITION_GAIN] * ARM_JOINTS,
            physicsClientId=self.client,
        )

    def stylus_point(self) -> tuple[float, float, float]:
        """Returns the middle of the stylus."""
        state = pybullet.getLinkState(self.arm, self.stylus, computeForwardKinematics=1, physicsClientId=self.client)
        x, y, z = state[4]
        return x, y, z

    def move_arm(self, start: Sequence[float], end: Sequence[float]) -> bool:
        """Lets a step's 0.1 s pass; the targets of the motors go from the joints ``start`` (7,) to ``end`` (7,).

        Returns:
            Whether the arm touched a block on the way.
        """
        touched = False
        for look in range(1, LOOKS + 1):
            share = min(look / MOVING_LOOKS, 1.0)
            self.drive_arm([a + share * (b - a) for a, b in zip(start, end, strict=True)])
            pybullet.stepSimulation(physicsClientId=self.client)
            touched = touched or self.touches(self.arm)
        return touched

    def _draw_table(
        self, workspace: Box2D, goal: tuple[float, float], goal_radius: float
    ) -> dict[str, list[tuple[int, int]]]:
        """Adds what is only seen, since nothing of the arm is meant to reach it; returns its parts."""
        x, y = (workspace.x_min + workspace.x_max) / 2, (workspace.y_min + workspace.y_max) / 2
        table = self._draw_box("table", Box2D(x - 0.9, x + 0.9, y - 0.9, y + 0.9), -0.023, 0.02)
        sheet = self._draw_box("sheet", workspace, -0.002, 0.002)
        shape = pybullet.createVisualShape(
            pybullet.GEOM_CYLINDER,
            radius=goal_radius,
            length=0.004,
            rgbaColor=[*COLOURS["goal"], 1.0],
            specularColor=[0.0, 0.0, 0.0],
            physicsClientId=self.client,
        )
        disc = pybullet.createMultiBody(0.0, -1, shape, basePosition=(*goal, 0.002), physicsClientId=self.client)
        return {"table": [(table, -1)], "sheet": [(sheet, -1)], "goal": [(int(disc), -1)]}

    def _draw_box(self, part: str, box: Box2D, bottom: float, height: float) -> int:
        """Adds a box that is only seen.

        The place is that of the shape in its body: OpenGL's renderer takes two shapes of one mesh for the same one,
        whatever their sizes, unless they lie elsewhere in their bodies.
        """
        shape = pybullet.createVisualShape(
            pybullet.GEOM_MESH,
            fileName=mesh_file(_CUBE),
            meshScale=[(box.x_max - box.x_min) / 2, (box.y_max - box.y_min) / 2, height / 2],
            visualFramePosition=[(box.x_min + box.x_max) / 2, (box.y_min + box.y_max) / 2, bottom + height / 2],
            rgbaColor=[*COLOURS[part], 1.0],
            specularColor=[0.0, 0.0, 0.0],
            physicsClientId=self.client,
        )
        return int(pybullet.createMultiBody(0.0, -1, shape, physicsClientId=self.client))

    def _build_block(self, box: Box2D) -> int:
        """Adds what the arm touches of a block."""
        half = [(box.x_max - box.x_min) / 2, (box.y_max - box.y_min) / 2, BLOCK_HEIGHT / 2]
        shape = pybullet.createCollisionShape(pybullet.GEOM_BOX, halfExtents=half, physicsClientId=self.client)
        centre = [(box.x_min + box.x_max) / 2, (box.y_min + box.y_max) / 2, BLOCK_HEIGHT / 2]
        block = int(pybullet.createMultiBody(0.0, shape, basePosition=centre, physicsClientId=self.client))
        # Bullet would draw it in white, in the place of what is there to be seen.
        pybullet.changeVisualShape(block, -1, rgbaColor=[0.0, 0.0, 0.0, 0.0], physicsClientId=self.client)
        return block

    def _seen_links(self) -> list[int]:
        return sorted({shape[1] for shape in pybullet.getVisualShapeData(self.arm, physicsClientId=self.client)})


def load_panda(client: int) -> tuple[int, int]:
    """Loads PyBullet's Panda with a stylus in closed fingers; returns its number and the index of the stylus's link.

    It is drawn by its collision meshes, which have a tenth of the corners: a picture takes a tenth of the time.

    Raises:
        UserError: PyBullet's data lacks the arm.
    """
    try:
        import pybullet_data
    except ImportError:
        raise UserError("the arm's model comes with PyBullet's pybullet_data: pip install 'safe_rl[sim]'") from None
    folder = Path(pybullet_data.getDataPath()) / "franka_panda"
    try:
        text = (folder / "panda.urdf").read_text()
    except OSError as error:
        raise UserError(f"cannot read the arm's model {folder / 'panda.urdf'}: {error.strerror}") from None
    text = text.replace("package://meshes/visual/", "package://meshes/collision/")
    text = text.replace("package://", f"{folder.as_posix()}/")
    text = re.sub(r'(panda_finger_joint\d)" type="prismatic"', r'\1" type="fixed"', text)
    text = re.sub(r'<material name="panda_\w+"(/>|>.*?</material>)', _material("arm"), text, flags=re.DOTALL)
    text = text.replace("</robot>", _STYLUS)
    for mesh in re.findall(r'<mesh filename="(.*?)"', text):
        if not Path(mesh).is_file():  # PyBullet says so in a dozen lines
            raise UserError(f"the arm's mesh {mesh} is missing: pip install --force-reinstall pybullet")
    with tempfile.TemporaryDirectory() as temporary:  # Bullet reads files only
        file = os.path.join(temporary, "panda.urdf")
        Path(file).write_text(text)
        try:
            arm = pybullet.loadURDF(file, useFixedBase=True, physicsClientId=client)
        except pybullet.error:
            raise UserError(f"PyBullet cannot load the arm's meshes in {folder}: reinstall pybullet") from None
    links = pybullet.getNumJoints(arm, physicsClientId=client)
    names = [pybullet.getJointInfo(arm, i, physicsClientId=client)[12].decode() for i in range(links)]
    for link in range(links):
        pybullet.changeDynamics(
            arm, link, linearDamping=0.0, angularDamping=0.0, jointDamping=0.0, physicsClientId=client
        )
    return int(arm), names.index("stylus")


class JointTable:
    """The arm's joints for each point of the stylus in a region, always the same for the same point.

    An arm of seven joints could take many postures; inverse kinematics from wherever it is would let it drift from one
    to the next. Polynomials in (x, y) are fitted to Bullet's inverse kinematics once.
    """

    def __init__(self, points: Vector, joints: Vector) -> None:
        self._middle, self._half = (points.max(0) + points.min(0)) / 2, np.ptp(points, axis=0) / 2
        features = np.array([self._features(x, y) for x, y in points])
        self._coefficients: Vector = np.linalg.lstsq(features, joints, rcond=None)[0]

    def joints(self, x: float, y: float) -> list[float]:
        """Returns the joints (7,), in radians, that bring the stylus's middle axis to a point."""
        joints: list[float] = (self._features(x, y) @ self._coefficients).tolist()
        return joints

    def _features(self, x: float, y: float) -> Vector:
        along_x = np.vander([(x - self._middle[0]) / self._half[0]], _DEGREE + 1)[0]
        along_y = np.vander([(y - self._middle[1]) / self._half[1]], _DEGREE + 1)[0]
        features: Vector = np.outer(along_x, along_y).ravel()
        return features


@functools.cache
def joint_table(region: Box2D) -> JointTable:
    """Returns the joints for the points of a region, and a little beyond; takes a second the first time."""
    client = pybullet.connect(pybullet.DIRECT)
    try:
        arm, stylus = load_panda(client)
        margin = 0.04
        points = np.array(
            [
                (x, y)
                for x in np.linspace(region.x_min - margin, region.x_max + margin, 14)
                for y in np.linspace(region.y_min - margin, region.y_max + margin, 18)
            ]
        )
        joints = [_inverse_kinematics(client, arm, stylus, x, y) for x, y in points]
    finally:
        pybullet.disconnect(client)
    return JointTable(points, np.array(joints))


def _inverse_kinematics(client: int, arm: int, stylus: int, x: float, y: float) -> list[float]:
    """Returns the joints (7,) that hold the stylus upright above a point, reached from the same posture each time."""
    for joint, angle in enumerate(_ELBOW_UP):
        pybullet.resetJointState(arm, joint, angle, physicsClientId=client)
    down = pybullet.getQuaternionFromEuler((np.pi, 0.0, 0.0))
    angles: list[float] = []
    for _ in range(5):
        angles = pybullet.calculateInverseKinematics(
            arm,
            stylus,
            (x, y, TIP_Z + STYLUS_LENGTH / 2),
            down,
            maxNumIterations=100,
            residualThreshold=1e-7,
            physicsClientId=client,
        )[:ARM_JOINTS]
        for joint, angle in enumerate(angles):
            pybullet.resetJointState(arm, joint, angle, physicsClientId=client)
    return list(angles)
