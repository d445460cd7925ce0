"""`shield_node`: a policy bundle in the control loop of a robot, as a lifecycle node.

In *policy* mode the bundle's task policy drives; in *filter* mode another stack's commands come in by ``command_topic``
and are passed, replaced or stopped. A timer on the steady clock decides at a fixed rate, whatever arrives or does not;
a command, or a new observation, is decided on at once. The logic is in ``ros_nodes.control``.

Publishes the mapping's action topic, ``~/state`` (latched, at a fixed rate and on change), ``/diagnostics`` and, with
``marker_frame``, ``~/risk``. Offers ``~/trip`` and ``~/reset`` of an emergency stop.
"""

from __future__ import annotations

import ros_nodes.require_ros  # noqa: F401  (before what it requires)

# isort: split
import math
import sys
import time
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger
from visualization_msgs.msg import Marker

from ros_nodes.control import Command, ControlLoop
from ros_nodes.managed_node import ManagedNode
from ros_nodes.markers import risk_marker
from ros_nodes.messages import command_message, command_source, message_class, stamp_sec, state_message
from ros_nodes.parameters import ShieldParameters, read
from ros_nodes.qos import COMMAND_QOS, LATCHED_QOS, SENSOR_QOS
from ros_nodes.runtime import run
from ros_nodes.sources import Arrival, Now, Source
from safe_rl.errors import UserError
from safe_rl.shield import Mode, Shield

MAX_EARLY_TURNS = 10
"""Decisions on arrivals between two turns of the timer: a flood of messages is not followed."""
REPORT_EVERY_SEC = 1.0
"""Time between two messages of diagnostics."""


class ShieldNode(ManagedNode):
    """See the module."""

    def __init__(self, name: str = "shield", **kwargs: Any) -> None:
        super().__init__(name, ShieldParameters, **kwargs)
        self._last: Command | None = None
        self._early_turns = 0
        self._next_state_sec = self._next_report_sec = -math.inf
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self.start()

    # --------------------------------------------------------------- lifecycle

    def configure(self) -> None:
        """Opens the bundle, checks the mapping against it, makes subscriptions and publishers."""
        parameters = read(self, ShieldParameters)
        self._settings = parameters
        mapping = self.mapping()
        shield = Shield.load(parameters.bundle, engine=parameters.engine, black_box=parameters.black_box or None)
        self._apply_eps_risk(shield, parameters.eps_risk)
        named, act_dim = len(mapping.action.fields), len(shield.bundle.spec.limits.low)
        if named not in (0, act_dim):
            raise UserError(f"mapping: action.fields names {named} components, the bundle's action has {act_dim}")
        self._mapping = mapping
        topic = parameters.command_topic or f"{mapping.action.topic}_in"
        commander = Source(
            "commander",
            command_source(mapping.action, topic, parameters.command_timeout_sec, parameters.command_max_future_sec),
        )
        self._loop = ControlLoop(shield, mapping, parameters.mode, commander)
        self._sources = [*self._loop.sources.values(), *([commander] if parameters.mode == "filter" else [])]
        kinds = {source.name: message_class(source.spec.type) for source in self._sources}
        self._subscriptions_ = [
            self.create_subscription(kinds[s.name], s.spec.topic, partial(self._on_message, s), SENSOR_QOS)
            for s in self._sources
        ]
        self._commands = self.create_publisher(message_class(mapping.action.type), mapping.action.topic, COMMAND_QOS)
        self._states = self.create_publisher(DiagnosticStatus, "~/state", LATCHED_QOS)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._markers = self.create_publisher(Marker, "~/risk", 10) if parameters.marker_frame else None
        self._services_ = [
            self.create_service(Trigger, "~/trip", self._on_trip),
            self.create_service(Trigger, "~/reset", self._on_reset),
        ]
        # On the steady clock: a simulated or adjusted clock that stands still must not stop the stopping.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self.create_timer(1 / parameters.rate_hz, self._on_timer, clock=steady)
        self._timer.cancel()

    def activate(self) -> None:
        """Begins to decide; messages from before do not count."""
        self._loop.forget()
        self._timer.reset()

    def deactivate(self, reason: str) -> None:
        """Sends the stop command and falls silent."""
        self._timer.cancel()
        self._send(self._loop.stop(reason))

    def release(self) -> None:
        """Closes the bundle's black box and the topics."""
        self._loop.shield.close()
        self.destroy_timer(self._timer)
        for subscription in self._subscriptions_:
            self.destroy_subscription(subscription)
        for service in self._services_:
            self.destroy_service(service)
        for publisher in (self._commands, self._states, self._diagnostics, self._markers):
            if publisher is not None:
                self.destroy_publisher(publisher)

    # -------------------------------------------------------------------- loop

    def _now(self) -> Now:
        return Now(time.monotonic(), self.get_clock().now().nanoseconds * 1e-9)

    def _on_message(self, source: Source, message: Any) -> None:
        source.receive(Arrival(message, time.monotonic(), stamp_sec(message)))
        wanted = self._settings.decide_on_arrival and self._early_turns < MAX_EARLY_TURNS
        if self.is_active and wanted and self._loop.is_due:
            self._early_turns += 1
            self._turn()

    def _on_timer(self) -> None:
        early, self._early_turns = self._early_turns, 0
        if not early:
            self._turn()

    def _turn(self) -> None:
        """Decides and sends."""
        shared = self.count_publishers(self._commands.topic_name) > 1 and not self._settings.allow_other_publishers
        self._send(self._loop.step(self._now(), "other_publisher" if shared else ""))

    def _send(self, command: Command) -> None:
        stamp = self.get_clock().now().to_msg()
        if not command.silent:
            self._commands.publish(command_message(command.action, self._mapping.action, stamp))
        changed = self._last is None or (self._last.mode, self._last.reason) != (command.mode, command.reason)
        if changed and command.mode is not Mode.TASK:
            self.get_logger().warning(f"{command.mode.name}: {command.reason}")
        self._last = command
        now_sec = time.monotonic()
        if changed or now_sec >= self._next_state_sec:
            self._next_state_sec = now_sec + 1 / self._settings.state_rate_hz
            self._states.publish(self._state(command))
        if now_sec >= self._next_report_sec:
            self._next_report_sec = now_sec + REPORT_EVERY_SEC
            self._report(command, stamp)
        if self._markers is not None:
            self._markers.publish(risk_marker(command, self._settings.marker_frame, stamp))

    def _report(self, command: Command, stamp: Any) -> None:
        """Sends the diagnostics, and says who is silent."""
        if command.reason.endswith("_never_seen"):
            for source in self._sources:
                if not source.has_spoken:
                    self.say_why_silent(source.spec.topic, source.spec.type)
        array = DiagnosticArray()
        array.header.stamp = stamp
        array.status = [self._state(command)]
        self._diagnostics.publish(array)

    def _state(self, command: Command) -> DiagnosticStatus:
        return state_message(command, self.get_fully_qualified_name(), self._settings.bundle, self._settings.mode)

    # ---------------------------------------------------------------- requests

    def _on_trip(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._loop.trip()
        if self.is_active:
            self._turn()
        response.success, response.message = True, "emergency stop"
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        refusal = self._loop.reset(self._now())
        response.success, response.message = not refusal, refusal or "emergency stop ended"
        return response

    def _on_set_parameters(self, changes: list[Parameter[Any]]) -> SetParametersResult:
        """Takes a tighter threshold while it runs; everything else waits for the next configuration."""
        for change in changes:
            if change.name == "eps_risk" and self.is_configured:
                try:
                    self._apply_eps_risk(self._loop.shield, change.value)
                except UserError as error:
                    return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _apply_eps_risk(self, shield: Shield, wanted: float) -> None:
        """Sets the threshold; below zero means the bundle's.

        Raises:
            UserError: It is looser than the bundle's and that is not allowed.
        """
        own = shield.bundle.spec.switch.eps_risk
        if wanted > own and not self._settings.allow_looser_threshold:
            raise UserError(f"eps_risk {wanted} is looser than the bundle's {own}: set allow_looser_threshold, or less")
        try:
            shield.eps_risk = own if wanted < 0 else wanted
        except ValueError as error:
            raise UserError(str(error)) from error


def main() -> int:
    """Runs the node."""
    return run(ShieldNode)


if __name__ == "__main__":
    sys.exit(main())
