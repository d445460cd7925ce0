"""What RViz shows of a decision."""

from __future__ import annotations

import math
from typing import Any

from visualization_msgs.msg import Marker

from ros_nodes.control import Command
from safe_rl.switch import Mode

DIAMETER = 0.4
"""In m."""


def risk_marker(command: Command, frame: str, stamp: Any) -> Marker:
    """A ball at the origin of ``frame``: green to red by risk, blue while recovery acts, black at STOP."""
    marker = Marker()
    marker.header.frame_id, marker.header.stamp = frame, stamp
    marker.ns, marker.id, marker.type, marker.action = "risk", 0, Marker.SPHERE, Marker.ADD
    marker.pose.orientation.w = 1.0
    marker.scale.x = marker.scale.y = marker.scale.z = DIAMETER
    risk = command.risk if math.isfinite(command.risk) else 1.0
    colors = {Mode.TASK: (risk, 1.0 - risk, 0.1), Mode.RECOVERY: (0.1, 0.4, 1.0), Mode.STOP: (0.0, 0.0, 0.0)}
    marker.color.r, marker.color.g, marker.color.b = colors[command.mode]
    marker.color.a = 0.7
    return marker
