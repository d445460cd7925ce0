"""What makes a robot an environment: sections of a parameter file beside the mapping. Without ROS.

::

    cost: {topic: violation, type: std_msgs/msg/Bool, fields: [data]}      # above zero violates
    reward: {goal: [0.25, 0.0], tolerance: 0.03}                           # or a topic, or function: module:name
    robot_env:
      max_episode_steps: 100
      reset: {kind: service, service: sim_robot/reset}
      emergency_stop: {topic: emergency_stop, type: std_msgs/msg/Bool, fields: [data]}
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ros_nodes.mapping import MappingSpec, SourceSpec, build_section, read_parameters
from safe_rl.errors import UserError

SERVICE_TYPES = ("std_srvs/srv/Trigger", "std_srvs/srv/Empty")
HOLDING_TYPE = "trajectory_msgs/msg/JointTrajectory"


def _require(condition: bool, where: str, value: object, need: str) -> None:
    if not condition:
        raise UserError(f"{where} is {value}: it must be {need}")


@dataclass(frozen=True)
class ResetSpec:
    """What brings the robot to the start of an episode."""

    kind: str = "operator"
    """service: a service does; operator: a person, who then presses Enter or calls ~/start_episode; motion: the robot
    drives a fixed sequence of actions; none: the next episode begins where the last one ended."""
    service: str = ""
    """Name of the service, for kind service."""
    service_type: str = "std_srvs/srv/Trigger"
    """std_srvs/srv/Trigger, or std_srvs/srv/Empty, which cannot refuse."""
    timeout_sec: float = 10.0
    """How long to wait for the service and for its answer, in s. The operator has all the time in the world."""
    motion: tuple[float, ...] = ()
    """For kind motion: a duration in s and an action, then the next duration and action, and so on."""

    def validate(self, where: str) -> None:
        """Checks the values; raises ``UserError``."""
        kinds = ("service", "operator", "motion", "none")
        _require(self.kind in kinds, f"{where}.kind", self.kind, " or ".join(kinds))
        _require(bool(self.service) == (self.kind == "service"), f"{where}.service", repr(self.service),
                 "given for kind service, and only for it")  # fmt: skip
        _require(
            self.service_type in SERVICE_TYPES, f"{where}.service_type", self.service_type, " or ".join(SERVICE_TYPES)
        )
        _require(self.timeout_sec > 0, f"{where}.timeout_sec", self.timeout_sec, "positive")
        _require(bool(self.motion) == (self.kind == "motion"), f"{where}.motion", list(self.motion),
                 "given for kind motion, and only for it")  # fmt: skip

    def phases(self, act_dim: int) -> list[tuple[float, tuple[float, ...]]]:
        """The motion as durations, in s, and actions; raises ``UserError`` where it is none."""
        where, size = "robot_env.reset.motion", 1 + act_dim
        _require(len(self.motion) % size == 0, where, f"of {len(self.motion)} numbers",
                 f"a duration and {act_dim} components of an action, as often as you like")  # fmt: skip
        rows = [self.motion[start : start + size] for start in range(0, len(self.motion), size)]
        for row in rows:
            _require(all(map(math.isfinite, row)) and row[0] > 0, where, list(row), "finite, the duration positive")
        return [(row[0], row[1:]) for row in rows]


@dataclass(frozen=True)
class GoalSpec:
    """A reward without code: minus the distance to a goal, and success near it."""

    goal: tuple[float, ...]
    """Where the robot should be, in the units of the observation."""
    tolerance: float
    """Distance below which it is there: success, and the end of the episode."""
    indices: tuple[int, ...] = ()
    """Which numbers of the flat observation are the position; the first ones where it is left out."""

    def validate(self, where: str) -> None:
        """Checks the values; raises ``UserError``."""
        sound = bool(self.goal) and all(map(math.isfinite, self.goal))
        _require(sound, f"{where}.goal", list(self.goal), "finite numbers")
        _require(self.tolerance > 0, f"{where}.tolerance", self.tolerance, "positive")
        _require(len(self.indices) in (0, len(self.goal)), f"{where}.indices", list(self.indices),
                 f"{len(self.goal)} numbers, as many as goal has")  # fmt: skip
        _require(all(index >= 0 for index in self.indices), f"{where}.indices", list(self.indices), "at least 0")


@dataclass(frozen=True)
class FunctionSpec:
    """A reward that a function of yours computes."""

    function: str
    """``package.module:name`` of ``name(obs, action, next_obs, info)``, which returns the reward, or the reward,
    whether the episode ends, and whether the task is done."""

    def validate(self, where: str) -> None:
        """Checks the values; raises ``UserError``."""
        module, _, name = self.function.partition(":")
        _require(bool(module and name), f"{where}.function", repr(self.function), "like package.module:name")


@dataclass(frozen=True)
class EnvSpec:
    """How the environment runs."""

    rate_hz: float = 20.0
    """Steps a second, in Hz; where it is left out, the file's rate_hz."""
    pace: str = "clock"
    """What ends a step: clock, the period's end; sensors, a message of every source after at least three quarters of a
    period and at most two, for robots that act in step with their sensors."""
    max_episode_steps: int = 200
    """Steps after which an episode is truncated."""
    patience_sec: float = 10.0
    """How long a reset waits for sensors that are silent, and for an emergency stop to be released, in s."""
    max_faults: int = 3
    """Episodes in a row that may end by a fault before the run is saved and ended."""
    watchdog_periods: int = 3
    """Periods between two steps after which the robot is stopped and the episode ends."""
    stop: str = "auto"
    """The stop command: zero; hold, which sends nothing and leaves the robot its last goal; auto: hold for a
    JointTrajectory, else zero."""
    emergency_stop_violates: bool = False
    """Whether an emergency stop counts as a violation."""
    allow_other_publishers: bool = False
    """Whether others may publish to the action's topic; otherwise that is a fault."""
    dry_run: bool = False
    """Send no command and call no reset service."""

    def validate(self, where: str) -> None:
        """Checks the values; raises ``UserError``."""
        _require(0.1 <= self.rate_hz <= 1000, f"{where}.rate_hz", self.rate_hz, "between 0.1 and 1000")
        _require(self.pace in ("clock", "sensors"), f"{where}.pace", self.pace, "clock or sensors")
        _require(self.stop in ("auto", "zero", "hold"), f"{where}.stop", self.stop, "auto, zero or hold")
        _require(self.patience_sec > 0, f"{where}.patience_sec", self.patience_sec, "positive")
        for name in ("max_episode_steps", "max_faults"):
            _require(getattr(self, name) >= 1, f"{where}.{name}", getattr(self, name), "at least 1")
        _require(self.watchdog_periods >= 2, f"{where}.watchdog_periods", self.watchdog_periods, "at least 2")

    @property
    def period_sec(self) -> float:
        """Duration of a step."""
        return 1 / self.rate_hz


@dataclass(frozen=True)
class RobotSettings:
    """Everything that a robot as an environment needs to know."""

    mapping: MappingSpec
    cost: SourceSpec
    reward: SourceSpec | GoalSpec | FunctionSpec
    env: EnvSpec
    reset: ResetSpec
    success: SourceSpec | None = None
    """Above zero the task is done."""
    emergency_stop: SourceSpec | None = None
    """Above zero the robot must stand."""
    use_sim_time: bool = False
    """Judge stamps by /clock."""

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RobotSettings:
        """Reads nested parameters; what else they hold is other nodes'.

        Raises:
            UserError: An entry is missing, unknown, or cannot be; the message names it.
        """
        mapping = MappingSpec.from_dict(content)
        if mapping.cost is None:
            raise UserError(
                "no section cost: say what a violation is, such as cost: {topic: violation, type: std_msgs/msg/Bool, "
                "fields: [data]}"
            )
        if not mapping.action.low:
            raise UserError("action.low and action.high are missing: a learner needs the limits of the commands")
        own = dict(content.get("robot_env") or {})
        reset = build_section(ResetSpec, own.pop("reset", {}), "robot_env.reset")
        reset.phases(len(mapping.action.low))
        stop = own.pop("emergency_stop", None)
        if "rate_hz" not in own and "rate_hz" in content:
            own["rate_hz"] = content["rate_hz"]
        env = build_section(EnvSpec, own, "robot_env")
        return cls(
            mapping,
            cost=_signal(mapping.cost, "cost"),
            reward=_reward(content),
            env=env,
            reset=reset,
            success=_optional_signal(content.get("success"), "success"),
            emergency_stop=_optional_signal(stop, "robot_env.emergency_stop"),
            use_sim_time=bool(content.get("use_sim_time", False)),
        )

    @classmethod
    def load(cls, path: Path, *, dry_run: bool = False) -> RobotSettings:
        """Reads a parameter file; raises ``UserError`` as ``from_dict``, and where the file is missing or no YAML.

        Args:
            path: The file.
            dry_run: Send nothing, whatever the file says.
        """
        content = read_parameters(path)
        if dry_run:
            content = {**content, "robot_env": {**(content.get("robot_env") or {}), "dry_run": True}}
        try:
            return cls.from_dict(content)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    @property
    def holds(self) -> bool:
        """Whether to stop means to leave the robot its last goal."""
        return self.env.stop == "hold" or (self.env.stop == "auto" and self.mapping.action.type == HOLDING_TYPE)

    def task(self) -> dict[str, Any]:
        """What a learner relies on, as JSON values: a run can go on only where it is the same."""
        unseen = {"topic", "timeout_sec", "max_future_sec", "frame_id"}

        def seen(spec: Any) -> Any:
            return {name: value for name, value in dataclasses.asdict(spec).items() if name not in unseen}

        return {
            "observation": {name: seen(spec) for name, spec in self.mapping.sources.items()},
            "action": seen(self.mapping.action),
            "cost": seen(self.cost),
            "reward": seen(self.reward),
            "success": seen(self.success) if self.success else None,
            "rate_hz": self.env.rate_hz,
        }


def _reward(content: Mapping[str, Any]) -> SourceSpec | GoalSpec | FunctionSpec:
    section = content.get("reward")
    if not isinstance(section, Mapping):
        raise UserError(
            "no section reward: give a topic (topic, type, fields), a goal (goal, tolerance) or a function of yours "
            "(function: module:name)"
        )
    if "goal" in section:
        return build_section(GoalSpec, section, "reward")
    if "function" in section:
        return build_section(FunctionSpec, section, "reward")
    return _signal(build_section(SourceSpec, section, "reward"), "reward")


def _optional_signal(section: Any, where: str) -> SourceSpec | None:
    return _signal(build_section(SourceSpec, section, where), where) if section else None


def _signal(spec: SourceSpec, where: str) -> SourceSpec:
    if spec.is_image:
        raise UserError(f"{where}.type is {spec.type}: a picture is no number")
    _require(spec.stack == 1, f"{where}.stack", spec.stack, "left out")
    return spec
