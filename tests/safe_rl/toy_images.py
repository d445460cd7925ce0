"""Toy environments whose observations are images; the tests of the core reach them as ``toy_images:<factory>``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from toys import Corridor, Steps, recovery_config, unconstrained_config

from safe_rl.config import AgentConfig
from safe_rl.transitions import Transitions

SIDE = 16
STACK = 2


class Seen(gym.ObservationWrapper):
    """The corridor as a camera above it sees it: the point red, the cliffs grey, the goal green, on (side, side, 3).

    The camera shows x from -0.4 to 1.2 and y from -0.45 to 0.45.
    """

    def __init__(self, side: int = SIDE, corridor: type[Corridor] = Corridor) -> None:
        super().__init__(corridor())
        self.side = side
        self.observation_space = spaces.Box(0, 255, (side, side, 3), np.uint8)
        self._x = np.linspace(-0.4, 1.2, side)
        self._y = np.linspace(-0.45, 0.45, side)[:, None]
        scene = np.zeros((side, side, 3))
        scene[np.broadcast_to(abs(self._y) > 0.3, (side, side))] = 90
        scene[:, self._x >= 1.0, 1] = 160
        self._scene = scene

    def observation(self, observation: np.ndarray) -> np.ndarray:
        x, y = observation
        blob = np.exp(-(((self._x - x) / 0.1) ** 2) - ((self._y - y) / 0.06) ** 2)
        image = self._scene * (1 - blob)[..., None]
        image[..., 0] += 255 * blob
        return np.clip(np.rint(image), 0, 255).astype(np.uint8)


class SeenSteps(Seen):
    """The corridor on foot, seen from above."""

    def __init__(self) -> None:
        super().__init__(corridor=Steps)


class Stacked(gym.Wrapper):
    """The last two images, one behind the other along the channels, the newest last."""

    def __init__(self) -> None:
        super().__init__(Seen())
        self.observation_space = spaces.Box(0, 255, (SIDE, SIDE, 3 * STACK), np.uint8)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(**kwargs)
        self._last = [obs] * STACK
        return np.concatenate(self._last, axis=2), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, *rest = self.env.step(action)
        self._last = [*self._last[1:], obs]
        return np.concatenate(self._last, axis=2), *rest


class Small(Seen):
    """Sees half as many pixels."""

    def __init__(self) -> None:
        super().__init__(SIDE // 2)


class ChannelsFirst(gym.ObservationWrapper):
    """Gives (3, side, side), as PyTorch's users do."""

    def __init__(self) -> None:
        super().__init__(Seen())
        self.observation_space = spaces.Box(0, 255, (3, SIDE, SIDE), np.uint8)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation.transpose(2, 0, 1)


class Floats(gym.ObservationWrapper):
    """Says that it gives bytes, and gives floats from 0 to 1."""

    def __init__(self) -> None:
        super().__init__(Seen())

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation.astype(np.float32) / 255


ENCODER = {"encoder__channels": (8, 8), "encoder__feature_dim": 16}
"""An encoder that sees the toy."""


def image_config(method: str = "recovery-rl", **changes: Any) -> AgentConfig:
    """Small settings for images; see ``toys.recovery_config``."""
    make = recovery_config if method == "recovery-rl" else unconstrained_config
    return make(**{**ENCODER, **changes})


def walk(env: gym.Env, steps: int, *, seed: int = 0) -> Transitions:
    """Random steps in an environment, episode after episode, as flat images."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[Any, ...]] = []
    obs, _ = env.reset(seed=seed)
    while len(rows) < steps:
        action = rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32)
        next_obs, reward, terminated, truncated, info = env.step(action)
        rows.append((obs.reshape(-1), action, reward, info["cost"], next_obs.reshape(-1), terminated, truncated))
        obs = env.reset()[0] if terminated or truncated else next_obs
    obs_, action, reward, cost, next_obs, terminated, truncated = (np.array(c) for c in zip(*rows, strict=True))
    return Transitions(
        obs_, action, action, reward.astype(np.float32), cost.astype(np.float32), next_obs, terminated, truncated
    )
