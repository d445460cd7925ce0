"""Message types by name, commands as messages, and the shield's state as one."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from ros_nodes.control import Command
from ros_nodes.mapping import ActionSpec, SourceSpec
from safe_rl.errors import UserError
from safe_rl.switch import Mode


def message_class(name: str) -> Any:
    """Looks a message type up, such as ``nav_msgs/msg/Odometry``.

    Raises:
        UserError: Its package is not installed, or has no such message.
    """
    package, _, kind = name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind)
    except ModuleNotFoundError as error:
        raise UserError(
            f"message package {package} is not installed: apt-get install ros-$ROS_DISTRO-{package.replace('_', '-')}"
        ) from error
    except AttributeError as error:
        raise UserError(f"message package {package} has no message {kind}") from error


def stamp_sec(message: Any) -> float | None:
    """The header's stamp in seconds; None where the type has no header."""
    header = getattr(message, "header", None)
    return None if header is None else header.stamp.sec + header.stamp.nanosec * 1e-9


def command_source(action: ActionSpec, topic: str, timeout_sec: float, max_future_sec: float) -> SourceSpec:
    """How another stack's commands on ``topic`` are read in filter mode: as the action's own messages."""
    fields = {
        "trajectory_msgs/msg/JointTrajectory": ("points[0].positions",),
        "std_msgs/msg/Float64MultiArray": ("data",),
    }.get(action.type, action.fields)
    return SourceSpec(
        topic, action.type, fields, frame_id="", timeout_sec=timeout_sec, max_future_sec=max_future_sec
    )  # fmt: skip


def command_message(action: npt.NDArray[np.float32], spec: ActionSpec, stamp: Any) -> Any:
    """An action (act_dim,) as a message of the mapping's type.

    Args:
        action: The action.
        spec: The mapping's ``action``.
        stamp: ``builtin_interfaces/Time`` for messages with a header.
    """
    message = message_class(spec.type)()
    if hasattr(message, "header"):
        message.header.stamp = stamp
        message.header.frame_id = spec.frame_id
    values = [float(value) for value in action]
    if spec.type == "std_msgs/msg/Float64MultiArray":
        message.data = values
    elif spec.type == "trajectory_msgs/msg/JointTrajectory":
        point = message_class("trajectory_msgs/msg/JointTrajectoryPoint")()
        point.positions = values
        seconds = math.floor(spec.horizon_sec)
        point.time_from_start.sec = seconds
        point.time_from_start.nanosec = round((spec.horizon_sec - seconds) * 1e9)
        message.joint_names = list(spec.fields)
        message.points = [point]
    else:
        for path, value in zip(spec.fields, values, strict=True):
            *owners, name = path.split(".")
            owner = message
            for part in owners:
                owner = getattr(owner, part)
            setattr(owner, name, value)
    return message


LEVELS = {Mode.TASK: DiagnosticStatus.OK, Mode.RECOVERY: DiagnosticStatus.WARN, Mode.STOP: DiagnosticStatus.ERROR}


def state_message(command: Command, name: str, bundle: str, mode: str) -> DiagnosticStatus:
    """The state topic's message: ``message`` is the mode and its reason, ``values`` the numbers."""
    values = {
        "mode": command.mode.name,
        "reason": command.reason,
        "risk": f"{command.risk:.6g}",
        "distribution_score": f"{command.distribution_score:.6g}",
        "proposed": _numbers(command.proposed),
        "executed": _numbers(command.action),
        "solve_time_ms": f"{1e3 * command.solve_time_sec:.4f}",
        **{f"age_sec.{source}": f"{age:.4f}" for source, age in command.ages_sec.items()},
        "control": mode,
    }
    status = DiagnosticStatus()
    status.level = LEVELS[command.mode]
    status.name = name
    status.message = f"{command.mode.name} {command.reason}".strip()
    status.hardware_id = bundle
    status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
    return status


def _numbers(values: npt.NDArray[np.float32]) -> str:
    return " ".join(f"{value:.6g}" for value in values)
