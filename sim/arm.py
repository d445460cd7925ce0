"""What the environments share whose robot is an arm in a PyBullet world, seen by a camera."""

from __future__ import annotations

import dataclasses
import math
import weakref
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.error import ResetNeeded

from safe_rl.errors import UserError
from sim.bullet import pybullet
from sim.drawn import DrawnEnv, FloatArray, Picture, checked_state, damaged_state
from sim.plane_view import CameraPose

SUBSTEP_SEC = 1.0 / 240.0
"""Bullet's usual rate."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera."""

    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    """The point in the middle of the picture."""
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)
    field_of_view_deg: float = 40.0
    """Vertical."""
    near: float = 0.05
    far: float = 5.0

    def view_matrix(self) -> list[float]:
        """Returns OpenGL's view matrix, 16 numbers, column by column."""
        return list(pybullet.computeViewMatrix(self.eye, self.target, self.up))

    def projection_matrix(self, aspect: float) -> list[float]:
        """Returns OpenGL's projection matrix, 16 numbers, column by column, for a width over height."""
        return list(pybullet.computeProjectionMatrixFOV(self.field_of_view_deg, aspect, self.near, self.far))

    def moved(self, pose: CameraPose) -> Camera:
        """Returns this camera in a pose, whose widths are those of the square that it sees at its target."""
        target = np.array(self.target, np.float64)
        back = np.array(self.eye, np.float64) - target
        distance = float(np.linalg.norm(back))
        back /= distance
        right = np.cross(self.up, back)
        right /= np.linalg.norm(right)
        above = np.cross(back, right)
        half = math.tan(math.radians(self.field_of_view_deg) / 2)
        target = target + 2 * half * distance * (pose.shift_x * right + pose.shift_y * above)
        away = back + math.tan(pose.tilt_x_rad) * right + math.tan(pose.tilt_y_rad) * above
        return dataclasses.replace(
            self,
            eye=tuple((target + distance * away / np.linalg.norm(away)).tolist()),
            target=tuple(target.tolist()),
            up=tuple((math.cos(pose.roll_rad) * above - math.sin(pose.roll_rad) * right).tolist()),
            field_of_view_deg=math.degrees(2 * math.atan(half / pose.zoom)),
        )


class World:
    """A physics client with joints and free bodies whose state can be read, as plain numbers, and set.

    Bullet keeps contact points from step to step, and no call reads or sets them. ``set`` drops them, so what follows
    depends on the given state alone: an environment that sets its own state before each of its steps goes on exactly
    as any other that is given this state.

    Attributes:
        client: Bullet's number of the client.
        renderer: What draws it, ``"tiny"`` or ``"egl"`` (see ``sim.rendering``).
    """

    def __init__(self, renderer: str = "tiny") -> None:
        self.renderer = renderer
        if renderer == "tiny":
            self.client: int = pybullet.connect(pybullet.DIRECT)
            if self.client < 0:
                raise UserError("PyBullet has no physics client left: close environments that are no longer needed")
            self._disconnect = weakref.finalize(self, disconnect, self.client)
        else:
            from sim import rendering

            self.client = rendering.connect(renderer)
            self._disconnect = weakref.finalize(self, rendering.disconnect, self.client)
        self._joints: list[tuple[int, list[int]]] = []
        self._bodies: list[int] = []
        self._colliding: list[tuple[int, int]] = []

    @property
    def is_open(self) -> bool:
        """Whether the client is there."""
        return bool(self._disconnect.alive)

    def track(self, joints: list[tuple[int, list[int]]], bodies: list[int], colliding: list[tuple[int, int]]) -> None:
        """Names what makes up the state.

        Args:
            joints: Bodies and the indices of their joints.
            bodies: Those that move freely.
            colliding: Links (body, index; -1 is the base) of the joints that may touch something.
        """
        self._joints, self._bodies = joints, bodies
        self._colliding = [*colliding, *((body, -1) for body in bodies)]

    def get(self) -> tuple[list[tuple[float, float]], list[tuple[tuple[float, ...], ...]]]:
        """Returns position and speed of each joint; point, quaternion, speed and turning rate of each body."""
        client = self.client
        joints = [
            (state[0], state[1])
            for robot, indices in self._joints
            for state in pybullet.getJointStates(robot, indices, physicsClientId=client)
        ]
        bodies = [
            pybullet.getBasePositionAndOrientation(body, physicsClientId=client)
            + pybullet.getBaseVelocity(body, physicsClientId=client)
            for body in self._bodies
        ]
        return joints, bodies

    def set(self, joints: list[Any], bodies: list[Any]) -> None:
        """Brings the world to a state of ``get``, without contacts."""
        client = self.client
        for body, link in self._colliding:
            # To set the filter, even to what it is, has Bullet forget what the link touched.
            pybullet.setCollisionFilterGroupMask(body, link, 1, -1, physicsClientId=client)
        first = 0
        for robot, indices in self._joints:
            values = joints[first : first + len(indices)]
            first += len(indices)
            # One call for all: each has Bullet work out where every link is.
            pybullet.resetJointStatesMultiDof(
                robot,
                indices,
                [[position] for position, _ in values],
                [[speed] for _, speed in values],
                physicsClientId=client,
            )
        for body, (point, turn, speed, turning) in zip(self._bodies, bodies, strict=True):
            pybullet.resetBasePositionAndOrientation(body, point, turn, physicsClientId=client)
            pybullet.resetBaseVelocity(body, speed, turning, physicsClientId=client)

    def touches(self, body: int, other: int | None = None) -> bool:
        """Whether a body pressed on another, or on anything, when Bullet last looked for contacts."""
        bodies = (body,) if other is None else (body, other)
        contacts = pybullet.getContactPoints(*bodies, physicsClientId=self.client)
        # A pressed shape may keep its margin of a millimetre: the distance then stays above zero, but there is a force.
        return any(contact[8] <= 0.0 or contact[9] > 0.0 for contact in contacts)

    def close(self) -> None:
        """Frees the client."""
        self._disconnect()


def disconnect(client: int) -> None:
    """Frees a physics client; one that is gone is fine."""
    if pybullet.isConnected(client):
        pybullet.disconnect(client)


class ArmEnv(DrawnEnv[npt.NDArray[Any]]):
    """An arm in a world of its own; a step takes 0.1 s, an episode ends at success or violation.

    ``info["cost"]`` is 1.0 at a violation, ``info["success"]`` the task's. ``reset(options={"state": observation})``
    starts from the observation of a state at rest; ``get_state`` and ``set_state`` are for planners.

    Attributes:
        world: The physics.
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": 10}  # noqa: RUF012 - as Gymnasium
    CAMERA: ClassVar[Camera]
    LIGHT: ClassVar[tuple[tuple[float, float, float], float, float]] = ((-0.36, -0.5, 0.86), 0.6, 0.45)
    """Direction towards the light, its ambient and its diffuse share."""
    PICTURE_SIZE: ClassVar[tuple[int, int]] = (480, 360)
    """Width and height of what ``render`` draws, without the strip below it."""
    MAX_ACTION: ClassVar[tuple[float, ...]]

    def __init__(self, world: World, render_mode: str | None = None) -> None:
        try:
            super().__init__(render_mode)
        except UserError:
            world.close()
            raise
        self.world = world
        limit = np.array(self.MAX_ACTION, np.float32)
        self.action_space = spaces.Box(-limit, limit, dtype=np.float32)
        self._limit = limit.tolist()
        self._ended = True
        self._steps = 0
        self._lamp = self.LIGHT[0]

    # Episodes

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: Seeds the environment's generator; without it the generator goes on.
            options: ``{"state": numbers}`` starts at rest from this observation instead of a random one.

        Raises:
            UserError: The state does not fit, or the environment is closed.
        """
        super().reset(seed=seed)
        if not self.world.is_open:
            raise UserError("the environment is closed: make a new one")
        given = None if options is None else options.get("state")
        self._start(self._random_start() if given is None else self._checked_start(given))
        self._ended = False
        self._steps = 0
        self._forget_drawn()
        if self.render_mode == "human":
            self.render()
        return self._first_observation(seed), {"cost": 0.0, "success": False}

    def step(self, action: FloatArray) -> tuple[npt.NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Acts for 0.1 s.

        Args:
            action: As many numbers as the action space has; they are clipped to its limits.

        Returns:
            Observation, reward, terminated, truncated (always False: the registered time limit truncates) and an
            info with ``cost`` and ``success``.

        Raises:
            ResetNeeded: The episode is over.
            UserError: The action is not finite, or has another number of entries.
        """
        success, violation = self._act(self._checked_action(action))
        self._ended = success or violation
        self._steps += 1
        self._outcome = "violation" if violation else "success" if success else None
        if self.render_mode == "human":
            self.render()
        info = {"cost": float(violation), "success": success}
        return self._observation(), self._reward(success), self._ended, False, info

    def get_state(self) -> dict[str, Any]:
        """Returns what ``set_state`` needs to go on from here exactly, the random generator included (JSON-able)."""
        return {
            "environment": type(self).__name__,
            "ended": self._ended,
            "rng": self.np_random.bit_generator.state,
            "physics": self._physics(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a state of ``get_state``.

        Raises:
            UserError: The state is of another environment or damaged, or this one is closed; nothing is changed.
        """
        if not self.world.is_open:
            raise UserError("the environment is closed: make a new one")
        state = checked_state(self, state)
        before = self._physics()
        try:
            ended, rng = bool(state["ended"]), state["rng"]
            self._set_physics(state["physics"])
            self.np_random.bit_generator.state = rng  # raises where it is none, and is then as before
        except (KeyError, TypeError, ValueError) as error:
            self._set_physics(before)
            raise damaged_state(self, error) from None
        self._ended = ended
        self._outcome = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles and copies go on from the same state in a physics client of their own."""
        return type(self), self._arguments(), self.get_state()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.set_state(state)

    def close(self) -> None:
        """Frees the physics client, and closes the window where there is one; the environment cannot be used again."""
        self._ended = True
        self.world.close()
        super().close()

    def _arguments(self) -> tuple[Any, ...]:
        """What the constructor takes to make another like this."""
        return (self.render_mode,)

    def _random_start(self) -> npt.NDArray[np.float64]:
        raise NotImplementedError  # abstract: each domain has its own starts, as state observations

    def _checked_start(self, state: Any) -> npt.NDArray[np.float64]:
        raise NotImplementedError  # abstract: raises UserError where it is no start

    def _start(self, state: npt.NDArray[np.float64]) -> None:
        raise NotImplementedError  # abstract: brings the world to a state at rest

    def _act(self, action: list[float]) -> tuple[bool, bool]:
        raise NotImplementedError  # abstract: lets the step's 0.1 s pass; returns success and violation

    def _reward(self, success: bool) -> float:
        raise NotImplementedError  # abstract: that of the step that has just passed

    def _observation(self) -> npt.NDArray[Any]:
        raise NotImplementedError  # abstract: called once a step

    def _first_observation(self, seed: int | None) -> npt.NDArray[Any]:
        """Returns that of an episode's start, whose reset was given this seed."""
        return self._observation()

    def _physics(self) -> dict[str, Any]:
        raise NotImplementedError  # abstract: everything that decides what follows, as JSON values

    def _set_physics(self, physics: dict[str, Any]) -> None:
        raise NotImplementedError  # abstract: the opposite; KeyError, TypeError or ValueError where it does not fit

    def _checked_action(self, action: Any) -> list[float]:
        """Returns the action as floats, clipped to the action space."""
        if self._ended:
            raise ResetNeeded("the episode is over: call reset before step")
        values = [float(value) for value in action]
        if len(values) != len(self._limit):
            raise UserError(f"action {action!r} has {len(values)} numbers: it must have {len(self._limit)}")
        if not all(map(math.isfinite, values)):
            raise UserError(f"action {action!r} is not finite")
        return [min(max(value, -limit), limit) for value, limit in zip(values, self._limit, strict=True)]

    def _finite_vector(self, state: Any, size: int, meaning: str) -> npt.NDArray[np.float64]:
        """Returns a reset option's state (size,).

        Raises:
            UserError: It is something else.
        """
        try:
            vector = np.array(state, np.float64)
        except (TypeError, ValueError):
            raise UserError(f"reset option state={state!r} must be {size} numbers, {meaning}") from None
        if vector.shape != (size,):
            raise UserError(f"reset option state has shape {vector.shape}, it must be {size} numbers, {meaning}")
        if not np.isfinite(vector).all():
            raise UserError(f"reset option state={state!r} must be finite")
        return vector

    # Pictures

    def render_camera(self, width: int, height: int, camera: Camera | None = None) -> Picture:
        """Returns what a camera sees, (height, width, 3) uint8 RGB.

        Args:
            width: In pixels.
            height: In pixels.
            camera: Where from; the environment's own ``CAMERA`` without it.

        Raises:
            UserError: The environment is closed.
        """
        if not self.world.is_open:
            raise UserError("the environment is closed: make a new one")
        camera = camera or self.CAMERA
        self._pose_for_camera()
        from sim.rendering import Light, capture

        return capture(
            self.world.client,
            self.world.renderer,
            (width, height),
            camera.view_matrix(),
            camera.projection_matrix(width / height),
            light=Light(self._lamp, *self.LIGHT[1:]),
        )

    def _pose_for_camera(self) -> None:
        """Brings what the camera sees up to date where the world is not already."""

    def _draw(self) -> Picture:
        """Draws the scene with who acts below it."""
        from sim.drawing import STRIP_HEIGHT, draw_strip

        width, height = self.PICTURE_SIZE
        picture: Picture = np.full((height + STRIP_HEIGHT, width, 3), 255, np.uint8)
        picture[:height] = self.render_camera(width, height)
        draw_strip(picture[height:], *self._overlay, self._outcome or f"step {self._steps}")
        return picture
