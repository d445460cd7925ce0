"""Planar environments seen by a camera: RGB uint8 pictures and nothing else."""

from __future__ import annotations

import os
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from safe_rl.envs.protocols import OfflineSegment, PlaneMap
from safe_rl.errors import UserError
from sim.drawn import FloatArray, checked_state, damaged_state
from sim.picture_stream import IMAGE_SIZE, PictureStream
from sim.planar import PlanarEnv
from sim.plane_view import RENDERERS, Look, Picture, PlaneRenderer, make_plane_renderer
from sim.randomization import Randomization


class ImageEnv(gym.Env[Picture, FloatArray]):
    """A planar environment whose observation is what a camera above it sees.

    An observation is (image_size, image_size, 3 * frames) uint8, the oldest of the frames first. What the state's
    environment offers, offline segments, an expert, a map, it offers too: they look at the state behind the picture.

    Args:
        env: The environment of the state; it is this one's own from now on.
        renderer: ``"opencv"``, ``"tiny"`` or ``"egl"``: see ``sim.plane_view``. Made with the first picture.
        image_size: Height and width in pixels.
        frames: How many pictures, of this step and the ones before, make an observation.
        colours: See ``sim.randomization.Randomization``, and so for the rest.
        light: Likewise.
        camera: Likewise.
        noise: Likewise.
        latency: Likewise.

    Raises:
        UserError: A value is out of its range.
    """

    metadata: dict[str, Any] = PlanarEnv.metadata

    def __init__(
        self,
        env: PlanarEnv,
        *,
        renderer: str = "opencv",
        image_size: int = IMAGE_SIZE,
        frames: int = 1,
        colours: float = 0.0,
        light: float = 0.0,
        camera: float = 0.0,
        noise: float = 0.0,
        latency: float = 0.0,
    ) -> None:
        if renderer not in RENDERERS:
            raise UserError(f"unknown renderer {renderer!r}: use one of {', '.join(RENDERERS)}")
        self.env = env
        self.renderer, self.image_size, self.frames = renderer, image_size, frames
        self.randomization = Randomization(colours, light, camera, noise, latency)
        self._stream = PictureStream(self.randomization, image_size, frames)
        self.render_mode = env.render_mode
        self.observation_space = self._stream.space
        self.action_space = env.action_space
        self._look = Look()
        self._drawer: PlaneRenderer | None = None
        self._drawer_process = 0
        self._closed = False

    # Episodes

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Picture, dict[str, Any]]:
        """Starts an episode, with colours, light and camera of its own where those are randomised.

        Args:
            seed: Seeds the robot's and the camera's random numbers; without it they go on.
            options: As the environment of the state takes them: ``{"state": [x, y]}`` starts there.

        Raises:
            UserError: The state is not usable, or the machine cannot offer the renderer.
        """
        super().reset(seed=seed)
        _, info = self.env.reset(seed=seed, options=options)
        self._stream.seed(seed)
        look = self.randomization.sample_look(self._stream.rng)
        if look != self._look:
            self._look = look
            if self._drawer is not None:
                self._drawer.set_look(look)
        self._stream.begin(self._take())
        return self._stream.observation(), info

    def step(self, action: FloatArray) -> tuple[Picture, float, bool, bool, dict[str, Any]]:
        """Steps the robot and takes a picture.

        Returns:
            Observation, reward, terminated, truncated and info, all but the first as the environment of the state.

        Raises:
            ResetNeeded: The episode is over.
            UserError: The action is not finite.
        """
        _, reward, terminated, truncated, info = self.env.step(action)
        self._stream.add(self._take())
        return self._stream.observation(), float(reward), terminated, truncated, info

    def get_state(self) -> dict[str, Any]:
        """Returns what ``set_state`` needs to go on from here: random numbers, camera, pictures too (JSON-able)."""
        return {
            "environment": type(self).__name__,
            "robot": self.env.get_state(),
            "look": self._look.to_json(),
            **self._stream.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a state of ``get_state``.

        Raises:
            UserError: The state is of another environment, of other pictures, or damaged; nothing is changed.
        """
        state = checked_state(self, state)
        before = self._stream.get_state()
        try:
            look = Look.from_json(state["look"])
            self._stream.set_state(state)
            self.env.set_state(state["robot"])
        except (KeyError, TypeError, ValueError) as error:
            self._stream.set_state(before)
            raise damaged_state(self, error) from None
        except UserError:
            self._stream.set_state(before)
            raise
        self._look = look
        if self._drawer is not None:
            self._drawer.set_look(look)

    @property
    def state(self) -> FloatArray:
        """The robot's point (2,), which the pictures show."""
        return np.array(self.env.position, np.float32)

    def close(self) -> None:
        """Frees renderer, physics and window; the environment cannot be used afterwards."""
        self._closed = True
        if self._drawer is not None and self._drawer_process == os.getpid():
            self._drawer.close()
        self._drawer = None
        self.env.close()

    def __getstate__(self) -> dict[str, Any]:
        """Copies make a renderer of their own when they need one."""
        return {**self.__dict__, "_drawer": None}

    # Pictures

    def _take(self) -> Picture:
        return self._drawing().draw(*self.env.position)

    def _drawing(self) -> PlaneRenderer:
        """The renderer, made where there is none yet; a forked process cannot use its parent's OpenGL."""
        if self._closed:
            raise UserError("the environment is closed: make a new one")
        if self._drawer is None or self._drawer_process != os.getpid():
            self._drawer = make_plane_renderer(self.renderer, self.env.plane_map, self.image_size)
            self._drawer_process = os.getpid()
            self._drawer.set_look(self._look)
        return self._drawer

    def set_overlay(self, mode: str | None, risk: float | None = None, eps_risk: float | None = None) -> None:
        """Says who acts from now on, so that ``render`` shows it: see ``PlanarEnv.set_overlay``."""
        self.env.set_overlay(mode, risk, eps_risk)

    def render(self) -> Picture | None:
        """Draws the map for people, as the environment of the state does; policies see ``reset``'s and ``step``'s."""
        return self.env.render()

    # Offline data, expert and map

    def sample_offline_segment(self, rng: np.random.Generator) -> OfflineSegment:
        """Returns a segment of the environment of the state whose start the camera sees."""
        bounds = self.env.plane_map.bounds
        while True:
            segment = self.env.sample_offline_segment(rng)
            x, y = segment.state
            if bounds.x_min <= x <= bounds.x_max and bounds.y_min <= y <= bounds.y_max:
                break

        def policy(obs: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
            return segment.policy(self.state, rng)

        return OfflineSegment(segment.state, policy, segment.max_steps)

    def expert_action(self, obs: npt.NDArray[Any]) -> FloatArray:
        """Returns the expert's action (2,) for the present state, whatever the observation."""
        return self.env.expert_action(self.state)

    @property
    def plane_map(self) -> PlaneMap:
        """The static map."""
        return self.env.plane_map

    def plane_observation(self, points: npt.NDArray[np.float64]) -> Picture:
        """Returns flat observations (N, size * size * 3 * frames) of the robot at rest, without noise, in this look."""
        drawing, size = self._drawing(), self.image_size
        rows = np.empty((len(points), size, size, self.frames, 3), np.uint8)
        for row, (x, y) in zip(rows, points, strict=True):
            row[:] = drawing.draw(float(x), float(y))[:, :, None]
        return rows.reshape(len(points), -1)

    def plane_position(self, obs: npt.NDArray[Any]) -> tuple[float, float]:
        """Returns the robot's present point, whatever the observation."""
        return self.env.position
