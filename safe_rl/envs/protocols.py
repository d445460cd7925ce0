"""What an environment may offer beyond Gymnasium's interface.

All of it is optional and looked up on ``env.unwrapped``: an environment without these methods still trains; it then has
no boundary starts to collect from, no scripted expert and no risk map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import numpy.typing as npt

Policy = Callable[[npt.NDArray[Any], np.random.Generator], npt.NDArray[Any]]
"""``policy(obs, rng) -> action``, both as the environment's own spaces describe them."""


@dataclass(frozen=True)
class OfflineSegment:
    """A short episode worth collecting because it is close to the constraint boundary.

    Start it with ``env.reset(options={"state": segment.state})`` and follow ``segment.policy`` for at most
    ``segment.max_steps`` steps.
    """

    state: npt.NDArray[np.float64]
    policy: Policy
    max_steps: int


@runtime_checkable
class OffersOfflineSegments(Protocol):
    """An environment that knows where its constraint boundary is."""

    def sample_offline_segment(self, rng: np.random.Generator) -> OfflineSegment:
        """Returns the next segment of an offline data set, drawn with ``rng`` alone."""
        ...


@runtime_checkable
class OffersExpert(Protocol):
    """An environment with a scripted policy that solves its task without violating the constraint."""

    def expert_action(self, obs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Returns the expert's action for one observation."""
        ...


def repeats_itself(env: gym.Env[Any, Any]) -> bool:
    """Whether a seed and actions bring the same episode again: so it is unless ``env.unwrapped.repeats_itself`` denies.

    A robot denies it; an interrupted episode is then given up instead of driven again.
    """
    return bool(getattr(env.unwrapped, "repeats_itself", True))


@dataclass(frozen=True)
class Box2D:
    """An axis-aligned rectangle, in the units of the plane."""

    x_min: float
    x_max: float
    y_min: float
    y_max: float


@dataclass(frozen=True)
class PlaneMap:
    """What is needed to draw an environment whose state is a point of a plane."""

    bounds: Box2D
    """The region worth drawing."""
    obstacles: tuple[Box2D, ...]
    """Entering one (its edge included) is a violation."""
    goal: tuple[float, float]
    goal_radius: float
    unit: str = ""
    """Unit of both axes, such as ``"m"``; empty where the plane has none."""
    robot_radius: float = 0.0
    """The robot's own radius: its centre violates where it is this near to an obstacle, or nearer."""


@runtime_checkable
class OffersPlaneMap(Protocol):
    """An environment whose state is a point of a plane."""

    @property
    def plane_map(self) -> PlaneMap:
        """The static map."""
        ...

    def plane_observation(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Observations ``(N, obs_dim)`` of the robot at rest at ``points`` ``(N, 2)``."""
        ...

    def plane_position(self, obs: npt.NDArray[Any]) -> tuple[float, float]:
        """The robot's point for one observation."""
        ...


@runtime_checkable
class OffersTasks(Protocol):
    """An environment that is a family of tasks, for meta-learning; what it observes need not tell which it is in."""

    def sample_task(self, rng: np.random.Generator) -> Any:
        """Returns a task of the family, drawn with ``rng`` alone."""
        ...

    def set_task(self, task: Any) -> None:
        """Sets the task of the next step on."""
        ...
