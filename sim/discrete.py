"""Navigation 2 with discrete actions: eight headings, as a king moves on a chessboard."""

from __future__ import annotations

import operator
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from safe_rl.envs.protocols import OfflineSegment, Policy
from safe_rl.errors import UserError
from sim.navigation import MAX_STEP, Navigation2
from sim.planar import FloatArray

HEADINGS: tuple[tuple[float, float], ...] = (
    (1.0, 0.0), (1.0, 1.0), (0.0, 1.0), (-1.0, 1.0), (-1.0, 0.0), (-1.0, -1.0), (0.0, -1.0), (1.0, -1.0),
)  # fmt: skip
"""The move (dx, dy) of each action, in units of the largest: east first, counter-clockwise."""
_ANGLE = 2.0 * np.pi / len(HEADINGS)
WANDERING = 0.25
"""Share of the steps of an offline segment with a heading at random, so that data know all of them near the block."""


class DiscreteNavigation2(Navigation2):
    """``Navigation2`` with the action space ``Discrete(8)``: one of ``HEADINGS``, at full speed; one cannot stand."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.action_space = spaces.Discrete(len(HEADINGS))  # type: ignore[assignment]

    def step(self, action: SupportsIndex) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """Moves one step along a heading; see ``Navigation.step``.

        Raises:
            ResetNeeded: The episode is over.
            UserError: The action is no whole number from 0 to 7.
        """
        try:
            number = operator.index(action)
        except TypeError:
            number = -1
        if not 0 <= number < len(HEADINGS):
            raise UserError(f"action {action!r} must be a whole number from 0 to {len(HEADINGS) - 1}")
        dx, dy = HEADINGS[number]
        return super().step(np.array((MAX_STEP * dx, MAX_STEP * dy), np.float32))

    def sample_offline_segment(self, rng: np.random.Generator) -> OfflineSegment:
        """Returns a segment of ``Navigation2`` with the headings nearest to its actions, or random ones in between."""
        segment = super().sample_offline_segment(rng)
        return OfflineSegment(segment.state, _wandering(segment.policy), segment.max_steps)

    def expert_action(self, obs: npt.NDArray[Any]) -> npt.NDArray[np.int64]:  # type: ignore[override]
        """Returns the heading nearest to what the expert of ``Navigation2`` does."""
        return nearest_heading(super().expert_action(obs))


def nearest_heading(move: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The number of the heading at the least angle to a move (2,); east where it does not move."""
    angle = np.arctan2(float(move[1]), float(move[0]))
    return np.array(round(angle / _ANGLE) % len(HEADINGS), np.int64)


def _wandering(policy: Policy) -> Policy:
    def headings(obs: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[np.int64]:
        wanted = nearest_heading(policy(obs, rng))
        return np.array(rng.integers(len(HEADINGS)), np.int64) if rng.random() < WANDERING else wanted

    return headings
