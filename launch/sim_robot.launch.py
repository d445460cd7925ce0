"""Starts a simulated robot: `ros2 launch safe_rl sim_robot.launch.py env:=safe_rl/Maze-v0`.

`--show-args` lists the arguments; `python -m ros_nodes.start sim_robot` does the same without ros2.
"""

from launch import LaunchDescription

from ros_nodes.launch_actions import launch_node
from ros_nodes.launch_description import SIM_ROBOT


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch`."""
    return launch_node(SIM_ROBOT)
