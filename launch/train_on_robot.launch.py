"""Trains on a robot: `ros2 launch safe_rl train_on_robot.launch.py params_file:=my_robot.yaml dataset:=data/run1`.

`--show-args` lists the arguments; `python -m ros_nodes.start train_on_robot` does the same without ros2.
"""

from launch import LaunchDescription

from ros_nodes.launch_actions import launch_node
from ros_nodes.launch_description import TRAIN_ON_ROBOT


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch`."""
    return launch_node(TRAIN_ON_ROBOT)
