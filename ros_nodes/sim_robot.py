"""A Gymnasium environment that behaves like a robot, without ROS: `sim_robot_node` carries its messages.

It goes on at its own pace with the last command whatever anyone sends, stands still once commands stay away, and starts
a new episode by itself some time after one has ended.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from safe_rl.envs.factory import CostEnv
from safe_rl.envs.protocols import OffersPlaneMap
from safe_rl.envs.spaces import flat_dim
from safe_rl.errors import UserError

FloatArray = npt.NDArray[np.float32]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Moment:
    """What the robot's sensors tell after one period."""

    obs: Any
    """As the environment's observation space describes it."""
    violation: bool
    """Whether this observation violates the constraint; stays until the next episode."""
    success: bool
    """Whether the task is done; stays until the next episode."""
    episode: int
    """Number of the episode, from 1."""
    phase: Literal["starting", "moving", "ended"]
    """Whether the robot stands at the start of an episode, moves, or stands at its end."""


class SimRobot:
    """The robot; time goes by in ``tick``, one period each."""

    def __init__(
        self,
        env: CostEnv,
        *,
        rate_hz: float = 20.0,
        seed: int | None = None,
        command_timeout_sec: float = 0.5,
        auto_reset: bool = True,
        time_limit: bool = True,
        pause_sec: float = 0.5,
        settle_sec: float = 0.2,
    ) -> None:
        """Starts the first episode.

        Args:
            env: The environment.
            rate_hz: Its steps a second of the robot's time.
            seed: Seed of the first episode; the later ones follow from it.
            command_timeout_sec: Age of a command above which the robot stands still.
            auto_reset: Whether a new episode follows by itself.
            time_limit: Whether the environment's time limit ends an episode; otherwise whoever drives says when.
            pause_sec: How long the robot stands at the end of an episode.
            settle_sec: How long it stands at the start of one, whatever it is commanded.

        Raises:
            UserError: Its actions are no Box.
        """
        if not isinstance(env.action_space, spaces.Box):
            raise UserError(
                f"environment {env.name} has actions {env.action_space}: a simulated robot takes Box actions only"
            )
        self.env = env
        self._space = env.action_space
        self._rate_hz = rate_hz
        self._auto_reset = auto_reset
        self._time_limit = time_limit
        self._zero = np.clip(np.zeros(self._space.shape, np.float32), self._space.low, self._space.high)
        self._command_ticks = self._num_ticks(command_timeout_sec)
        self._pause_ticks = self._num_ticks(pause_sec)
        self._settle_ticks = self._num_ticks(settle_sec)
        self._num_episodes = 0
        self._ticks = 0
        self._seed = seed
        self.reset()

    @property
    def act_dim(self) -> int:
        """Number of components of a command."""
        return math.prod(self._space.shape)

    @property
    def moment(self) -> Moment:
        """What the sensors tell now."""
        return Moment(self._obs, self._violation, self._success, self._num_episodes, self._phase)

    @property
    def time_sec(self) -> float:
        """The robot's time: periods gone by, counted from one since ROS takes zero for no time."""
        return (self._ticks + 1) / self._rate_hz

    def reset(self) -> Moment:
        """Starts an episode: forgets the last command and stands for ``settle_sec``."""
        self._obs, _ = self.env.reset(seed=self._seed)
        self._seed = None  # the environment's generator goes on
        self._num_episodes += 1
        self._violation = self._success = False
        self._command: FloatArray | None = None
        self._command_age = 0
        self._phase: Literal["starting", "moving", "ended"] = "starting"
        self._standing = self._settle_ticks
        return self.moment

    def command(self, values: npt.NDArray[Any]) -> bool:
        """Takes a command (act_dim,), in the units of the environment's actions; beyond its limits it is clipped.

        Returns:
            False where it was dropped: another size, or not finite.
        """
        flat = np.asarray(values, np.float32).reshape(-1)
        if flat.size != self.act_dim or not np.isfinite(flat).all():
            return False
        self._command = np.clip(flat.reshape(self._space.shape), self._space.low, self._space.high)
        self._command_age = 0
        return True

    def tick(self) -> Moment:
        """Lets one period go by.

        Raises:
            EnvironmentFault: The environment raised, or returned something unusable.
        """
        self._ticks += 1
        if self._phase == "ended":
            self._standing -= 1
            if self._standing < 0 and self._auto_reset:
                return self.reset()
            return self.moment
        if self._phase == "starting":
            self._standing -= 1
            if self._standing >= 0:
                return self.moment
            self._phase = "moving"
        action = self._command if self._command is not None and self._command_age < self._command_ticks else self._zero
        self._command_age += 1
        self._obs, _, terminated, truncated, info = self.env.step(np.array(action, dtype=self._space.dtype))
        self._violation, self._success = info["cost"] > 0, info["success"]
        if terminated or (truncated and self._time_limit):
            self._phase = "ended"
            self._standing = self._pause_ticks
        return self.moment

    def position(self) -> tuple[float, float] | None:
        """Where the robot is in the plane; None where the environment has none."""
        inner = self.env.unwrapped
        return inner.plane_position(self._obs) if isinstance(inner, OffersPlaneMap) else None

    def _num_ticks(self, seconds: float) -> int:
        return math.ceil(seconds * self._rate_hz - 1e-9)


class Link(Generic[Item]):
    """A lossy line with delay: what goes in comes out later, in order, or not at all."""

    def __init__(
        self, delay_sec: float, jitter_sec: float, drop_rate: float, drop_sec: float, rng: np.random.Generator
    ) -> None:
        self._delay_sec, self._jitter_sec = delay_sec, jitter_sec
        self._drop_rate, self._drop_sec = drop_rate, drop_sec
        self._rng = rng
        self._waiting: deque[tuple[float, Item]] = deque()
        self._silent_until = -math.inf
        self._last_due = -math.inf

    @property
    def is_plain(self) -> bool:
        """Whether nothing is delayed or lost."""
        return not (self._delay_sec or self._jitter_sec or self._drop_rate)

    def put(self, item: Item, now_sec: float) -> None:
        """Sends something off."""
        if self._drop_rate and now_sec >= self._silent_until and self._rng.random() < self._drop_rate:
            self._silent_until = now_sec + self._drop_sec
            return
        if now_sec < self._silent_until:
            return
        due = now_sec + self._delay_sec + self._jitter_sec * self._rng.random()
        self._last_due = max(self._last_due, due)
        self._waiting.append((self._last_due, item))

    def take(self, now_sec: float) -> list[Item]:
        """What has arrived until now, the oldest first."""
        arrived = []
        while self._waiting and self._waiting[0][0] <= now_sec:
            arrived.append(self._waiting.popleft()[1])
        return arrived


def default_mapping(env: CostEnv) -> dict[str, Any]:
    """A mapping for any environment: one topic for each array of the observation, an array for the command.

    Pictures (uint8, height x width x 1 or 3) are ``sensor_msgs/Image``, all else ``std_msgs/Float32MultiArray``. A Dict
    observation is sent on ``observation/<entry>``.
    """
    sources: dict[str, Any] = {}
    for entry, box in leaves(env.observation_space).items():
        topic = f"observation/{entry}" if entry else "observation"
        source: dict[str, Any] = {"topic": topic, "entry": entry}
        if is_picture(box):
            source |= {"type": "sensor_msgs/msg/Image", "encoding": "rgb8" if box.shape[-1] == 3 else "mono8"}
        else:
            source |= {"type": "std_msgs/msg/Float32MultiArray", "fields": ["data"]}
        sources[topic.replace("/", "_")] = source
    return {
        "observation": {"sources": list(sources), **sources},
        "action": {"topic": "command", "type": "std_msgs/msg/Float64MultiArray"},
    }


def leaves(space: Any, path: str = "") -> dict[str, spaces.Box]:
    """The boxes of an observation space by path, such as robot/pose; a Box alone has the empty path."""
    if not isinstance(space, spaces.Dict):
        flat_dim(space)  # raises UserError where it is no Box
        return {path: space}
    found: dict[str, spaces.Box] = {}
    for key, inner in sorted(space.spaces.items()):
        found |= leaves(inner, f"{path}/{key}" if path else key)
    return found


def is_picture(box: spaces.Box) -> bool:
    """Whether a box holds pictures that an Image message can carry."""
    return box.dtype == np.uint8 and len(box.shape) == 3 and box.shape[-1] in (1, 3)
