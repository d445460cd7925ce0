"""Another stack, as a process of its own: the same command at 20 Hz on cmd_vel_in."""

import sys

import rclpy
from geometry_msgs.msg import TwistStamped

rclpy.init()
node = rclpy.create_node("commander", namespace=sys.argv[1])
publisher = node.create_publisher(TwistStamped, "cmd_vel_in", 1)


def publish() -> None:
    message = TwistStamped()
    message.header.stamp = node.get_clock().now().to_msg()
    message.twist.linear.x, message.twist.angular.z = float(sys.argv[2]), float(sys.argv[3])
    publisher.publish(message)


node.create_timer(0.05, publish)
rclpy.spin(node)
