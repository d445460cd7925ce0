"""What all environments share that draw their scene and who acts in it."""

from __future__ import annotations

from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from safe_rl.errors import UserError

ObsType = TypeVar("ObsType")
FloatArray = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]

MODES = ("TASK", "RECOVERY", "STOP")
"""Who may act, as ``DrawnEnv.set_overlay`` takes it."""


class DrawnEnv(gym.Env[ObsType, FloatArray]):
    """An environment that draws a picture, or shows it in a window, with who acts and at what risk."""

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": 20}  # noqa: RUF012 - as Gymnasium

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise UserError(f"unknown render_mode {render_mode!r}: use one of {self.metadata['render_modes']}")
        self.render_mode = render_mode
        self._overlay: tuple[str | None, float | None, float | None] = (None, None, None)
        self._outcome: str | None = None
        self._window_is_open = False

    def set_overlay(self, mode: str | None, risk: float | None = None, eps_risk: float | None = None) -> None:
        """Says who acts from now on, so that pictures show it; ``reset`` forgets it.

        Args:
            mode: ``"TASK"`` (green), ``"RECOVERY"`` (orange), ``"STOP"`` (red), or None for nobody in particular.
            risk: ``Q_risk`` of the proposed action in [0, 1], drawn as a bar where given.
            eps_risk: The threshold, a mark on that bar where given.

        Raises:
            UserError: The mode is unknown.
        """
        if mode is not None and mode not in MODES:
            raise UserError(f"unknown overlay mode {mode!r}: use one of {MODES}")
        self._overlay = (mode, risk, eps_risk)

    def render(self) -> Picture | None:
        """Draws the scene and who acts.

        Returns:
            (height, width, 3) uint8 RGB picture for ``render_mode="rgb_array"``; None otherwise.

        Raises:
            UserError: ``render_mode="human"`` without a display or with an OpenCV that has no windows.
        """
        if self.render_mode is None:
            gym.logger.warn(
                'render() draws nothing without a render_mode: make the environment with render_mode="rgb_array"'
            )
            return None
        picture = self._draw()
        if self.render_mode == "rgb_array":
            return picture
        from sim.drawing import show

        show(picture, type(self).__name__, self.metadata["render_fps"])
        self._window_is_open = True
        return None

    def close(self) -> None:
        """Closes the window where there is one."""
        if self._window_is_open:
            from sim.drawing import close_window

            close_window(type(self).__name__)
            self._window_is_open = False

    def _forget_drawn(self) -> None:
        """Forgets who acted and how the last episode ended."""
        self._overlay = (None, None, None)
        self._outcome = None

    def _draw(self) -> Picture:
        raise NotImplementedError  # abstract: the scene with who acts, ``_overlay``, and ``_outcome``


def checked_state(env: gym.Env[Any, Any], state: Any) -> dict[str, Any]:
    """Returns what ``set_state`` was given.

    Raises:
        UserError: It is no state, or of another environment.
    """
    name = type(env).__name__
    theirs = state.get("environment") if isinstance(state, dict) else None
    if theirs != name:
        raise UserError(f"set_state of {name} was given a state of {theirs or 'another environment'}")
    checked: dict[str, Any] = state
    return checked


def damaged_state(env: gym.Env[Any, Any], error: Exception) -> UserError:
    """Returns what ``set_state`` raises where a state of this environment lacks something, or holds something else."""
    return UserError(f"set_state of {type(env).__name__} was given a damaged state: {type(error).__name__}: {error}")
