"""Starts a recorder: `ros2 launch safe_rl record.launch.py params_file:=my_robot.yaml output:=data/run1`.

`--show-args` lists the arguments; `python -m ros_nodes.start recorder` does the same without ros2.
"""

from launch import LaunchDescription

from ros_nodes.launch_actions import launch_node
from ros_nodes.launch_description import RECORDER


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch`."""
    return launch_node(RECORDER)
