"""Descriptions of nodes as actions of ROS 2's launch system; `launch/*.launch.py` are calls of ``launch_nodes``.

A node configures itself, so one that died is back in service after its restart.
"""

from __future__ import annotations

from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, LogInfo, OpaqueFunction, RegisterEventHandler, TimerAction
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from ros_nodes.launch_description import PACKAGE, NodeDescription


def launch_node(description: NodeDescription) -> LaunchDescription:
    """What a launch file returns: the arguments, the node, and its companions."""
    arguments = [
        DeclareLaunchArgument(
            argument.name,
            default_value=argument.default,
            description=argument.description,
            choices=list(argument.choices) or None,
        )
        for argument in description.arguments
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_set_up, args=[description])])


def _set_up(context: LaunchContext, description: NodeDescription) -> list[Any]:
    """Reads the arguments."""
    given = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in description.arguments}
    return [action for one, values in description.group(given) for action in _start(one, values)]


def _start(description: NodeDescription, values: dict[str, str], num_restarts: int = 0) -> list[Any]:
    """The node, and what follows when it ends."""
    overrides = {
        name: ParameterValue(value, value_type=type(value)) for name, value in description.overrides(values).items()
    }
    node = Node(
        package=PACKAGE,
        executable=description.executable,
        name=description.name,
        namespace=values["namespace"] or None,
        parameters=[*([values["params_file"]] if values["params_file"] else []), overrides],
        ros_arguments=["--log-level", values["log_level"]],
        output="screen",
    )

    def on_exit(event: ProcessExited, context: LaunchContext) -> list[Any]:
        if context.is_shutdown:  # Ctrl-C: nothing to add, and the exit code stays 0
            return []
        if event.returncode == 0:
            return [EmitEvent(event=Shutdown(reason=f"{description.name} was asked to end"))]
        if not description.restarts(event.returncode, num_restarts):
            raise RuntimeError(f"{description.name} ended with {event.returncode}")  # the exit code of launch is 1
        count = f"restart {num_restarts + 1} of {description.max_restarts}"
        again = _start(description, values, num_restarts + 1)
        return [
            LogInfo(msg=f"{description.name} ended with {event.returncode}: {count}"),
            TimerAction(period=description.restart_delay_sec, actions=again),
        ]

    return [node, RegisterEventHandler(OnProcessExit(target_action=node, on_exit=on_exit))]
