"""Starts a shield: `ros2 launch safe_rl shield.launch.py params_file:=my_robot.yaml`.

`--show-args` lists the arguments; `python -m ros_nodes.start shield` does the same without ros2.
"""

from launch import LaunchDescription

from ros_nodes.launch_actions import launch_node
from ros_nodes.launch_description import SHIELD


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch`."""
    return launch_node(SHIELD)
