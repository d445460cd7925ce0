"""`constraint_monitor_node`: tells from a robot's sensors whether a constraint is violated.

The constraints are parameters (see ``ros_nodes.constraints``). Publishes ``violation`` (``std_msgs/Bool``) at a fixed
rate, ``~/state`` (``diagnostic_msgs/DiagnosticArray``, stamped and latched, at that rate) with one status for each
constraint, and ``/diagnostics`` once a second. Of a constraint whose sensor is silent nothing is known: then
``violation`` is silent too, unless another constraint is violated, or ``on_unknown`` wants it to be true.
"""

from __future__ import annotations

import ros_nodes.require_ros  # noqa: F401  (before what it requires)

# isort: split
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from std_msgs.msg import Bool

from ros_nodes.constraints import Constraint, ConstraintMonitor, ConstraintState, Status, verdict
from ros_nodes.managed_node import ManagedNode
from ros_nodes.messages import message_class, stamp_sec
from ros_nodes.parameters import bounded, nested, read
from ros_nodes.qos import LATCHED_QOS, SENSOR_QOS
from ros_nodes.runtime import run
from ros_nodes.sources import Arrival, Now

LEVELS = {
    Status.SAFE: DiagnosticStatus.OK,
    Status.VIOLATED: DiagnosticStatus.ERROR,
    Status.UNKNOWN: DiagnosticStatus.STALE,
}


@dataclass
class ConstraintMonitorParameters:
    """Parameters of ``constraint_monitor_node`` beside the constraints (see ``ros_nodes.constraints``)."""

    rate_hz: float = bounded(20.0, 0.1, 1000.0)
    """Reports a second, in Hz."""
    on_unknown: Literal["silent", "violation"] = "silent"
    """What violation says while a sensor tells nothing and no constraint is known to be violated: nothing, or true."""
    autostart: bool = False
    """Configure and activate at once, without a lifecycle manager."""


class ConstraintMonitorNode(ManagedNode):
    """See the module."""

    def __init__(self, name: str = "constraint_monitor", **kwargs: Any) -> None:
        super().__init__(name, ConstraintMonitorParameters, **kwargs)
        self.start()

    # --------------------------------------------------------------- lifecycle

    def configure(self) -> None:
        """Reads the constraints, makes subscriptions and publishers."""
        self._settings = read(self, ConstraintMonitorParameters)
        self._monitor = ConstraintMonitor.from_dict(nested(self))
        kinds = {name: message_class(c.spec.type) for name, c in self._monitor.constraints.items()}
        self._violations = self.create_publisher(Bool, "violation", 10)
        self._states = self.create_publisher(DiagnosticArray, "~/state", LATCHED_QOS)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._sensors = [
            self.create_subscription(kinds[name], c.spec.topic, partial(self._on_message, c), SENSOR_QOS)
            for name, c in self._monitor.constraints.items()
        ]
        # On the steady clock: a simulated clock that stands still must not silence it.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self.create_timer(1 / self._settings.rate_hz, self._on_timer, clock=steady)
        self._timer.cancel()

    def activate(self) -> None:
        """Begins to report; messages from before do not count."""
        self._monitor.forget()
        self._last: list[tuple[Status, str]] = []
        self._turns = 0
        self._timer.reset()

    def deactivate(self, reason: str) -> None:
        """Falls silent: what nobody watches is unknown."""
        self._timer.cancel()

    def release(self) -> None:
        """Closes the topics."""
        self.destroy_timer(self._timer)
        for sensor in self._sensors:
            self.destroy_subscription(sensor)
        for publisher in (self._violations, self._states, self._diagnostics):
            self.destroy_publisher(publisher)

    # ----------------------------------------------------------------- reports

    def _on_message(self, constraint: Constraint, message: Any) -> None:
        constraint.receive(Arrival(message, time.monotonic(), stamp_sec(message)))

    def _on_timer(self) -> None:
        clock = self.get_clock().now()
        states = self._monitor.states(Now(time.monotonic(), clock.nanoseconds * 1e-9))
        status = verdict(states)
        if status is not Status.UNKNOWN or self._settings.on_unknown == "violation":
            self._violations.publish(Bool(data=status is not Status.SAFE))
        array = DiagnosticArray()
        array.header.stamp = clock.to_msg()
        array.status = [self._status(state) for state in states]
        self._states.publish(array)
        if self._turns % max(1, round(self._settings.rate_hz)) == 0:
            self._diagnostics.publish(array)
            for constraint in self._monitor.constraints.values():
                if not constraint.source.has_spoken:
                    self.say_why_silent(constraint.spec.topic, constraint.spec.type)
        self._turns += 1
        self._log(states)

    def _status(self, state: ConstraintState) -> DiagnosticStatus:
        values = {
            "status": state.status.value,
            "reason": state.reason,
            "value": f"{state.value:.6g}",
            "limit": f"{state.limit:.6g}",
        }
        status = DiagnosticStatus()
        status.level = LEVELS[state.status]
        status.name = f"{self.get_fully_qualified_name()}: {state.name}"
        status.message = f"{state.status.value} {state.reason}".strip()
        status.hardware_id = self._monitor.constraints[state.name].spec.topic
        status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
        return status

    def _log(self, states: list[ConstraintState]) -> None:
        """Says what has changed for the worse."""
        present = [(state.status, state.reason) for state in states]
        for index, state in enumerate(states):
            if state.status is not Status.SAFE and (not self._last or self._last[index] != present[index]):
                self.get_logger().warning(
                    f"{state.name}: {state.status.value} {state.reason} (value {state.value:.6g}, "
                    f"limit {state.limit:.6g})"
                )
        self._last = present


def main() -> int:
    """Runs the node."""
    return run(ConstraintMonitorNode)


if __name__ == "__main__":
    sys.exit(main())
