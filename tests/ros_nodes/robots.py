"""A robot of two topics in the test's process, and the shield as a process of its own, over DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import yaml
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import TwistStamped
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time as RosTime
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import LaserScan
from std_srvs.srv import Trigger

from ros_nodes.launch_description import SHIELD

RATE_HZ = 20.0
TIMEOUT_SEC = 0.6
"""Of the sources and the commander: long, since the machine may be busy."""
PATIENCE_SEC = 20.0
LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""Deep, so that a state that is soon followed by another is not lost."""
MAPPING = {
    "observation": {
        "sources": ["odom", "scan"],
        "odom": {
            "topic": "odom",
            "type": "nav_msgs/msg/Odometry",
            "fields": ["pose.pose.position.x", "twist.twist.linear.x"],
            "timeout_sec": TIMEOUT_SEC,
        },
        "scan": {
            "topic": "scan",
            "type": "sensor_msgs/msg/LaserScan",
            "fields": ["ranges"],
            "timeout_sec": TIMEOUT_SEC,
        },
    },
    "action": {
        "topic": "cmd_vel",
        "type": "geometry_msgs/msg/TwistStamped",
        "fields": ["twist.linear.x", "twist.angular.z"],
    },
}


def write_parameters(folder: Path, bundle: Path | str, **changes: Any) -> Path:
    """A parameter file for any node in any namespace."""
    parameters = {
        "bundle": str(bundle),
        "engine": "onnx",
        "rate_hz": RATE_HZ,
        "command_timeout_sec": TIMEOUT_SEC,
        **MAPPING,
        **changes,
    }
    path = Path(tempfile.mkdtemp(dir=folder)) / "robot.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}), encoding="utf-8")
    return path


class Robot:
    """Sensors at 50 Hz while the test waits for something, commands and states as they came, and the shield."""

    def __init__(self, namespace: str, params_file: Path, *, starter: bool = False, **arguments: str) -> None:
        self.namespace = namespace
        self.obs = np.zeros(3, dtype=np.float32)
        self.speaking = True
        self.stamp: Callable[[], Time] = self.present
        self.ranges: Callable[[], list[float]] = lambda: [float(self.obs[2])]
        self.command: np.ndarray | None = None
        """What this process commands in filter mode."""
        self.commands: list[tuple[float, float]] = []
        self.command_stamps_sec: list[float] = []
        """When the shield sent them."""
        self.states: list[DiagnosticStatus] = []
        self.clock_sec: float | None = None
        """Simulated time, published where it is given."""
        self.clock_runs = True
        self.node = rclpy.create_node("robot", namespace=namespace)
        self._odom = self.node.create_publisher(Odometry, "odom", 5)
        self._scan = self.node.create_publisher(LaserScan, "scan", 5)
        self._command = self.node.create_publisher(TwistStamped, "cmd_vel_in", 1)
        self._clock = self.node.create_publisher(Clock, "/clock", 1)
        self.node.create_subscription(TwistStamped, "cmd_vel", self._on_command, 100)
        self.node.create_subscription(DiagnosticStatus, "shield/state", self.states.append, LATCHED)
        self.node.create_timer(0.02, self.speak)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        given = {"params_file": str(params_file), "namespace": namespace, **arguments}
        self.process = self.start(SHIELD.command_line(SHIELD.values(given))) if not starter else self.start(
            [sys.executable, "-m", "ros_nodes.start", "shield", *(f"{name}:={value}" for name, value in given.items())]
        )  # fmt: skip

    # -------------------------------------------------------------- processes

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        # A pipe that nobody reads would fill up and hold the node.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        return subprocess.Popen(command, stdout=self._output, stderr=subprocess.STDOUT)

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Sends a signal and waits, listening; returns exit code and output."""
        self.process.send_signal(number)
        self.wait(lambda: self.process.poll() is not None, "the end of the process")
        return self.process.returncode, self.output

    @property
    def output(self) -> str:
        """What the process has written so far."""
        return os.pread(self._output.fileno(), 1_000_000, 0).decode()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._output.close()
        self._executor.shutdown()
        self.node.destroy_node()

    # ---------------------------------------------------------------- waiting

    def wait(self, condition: Callable[[], Any], what: str = "") -> None:
        """Speaks and listens until something holds."""
        deadline = time.monotonic() + PATIENCE_SEC
        while not condition():
            assert time.monotonic() < deadline, f"{what or 'it'} did not come about; {self.commands[-3:]} {self.values}"
            self._executor.spin_once(timeout_sec=0.02)

    def listen(self, seconds: float) -> None:
        """Speaks and listens for a while."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.02)

    def wait_commands(self, number: int) -> list[tuple[float, float]]:
        """The next commands."""
        before = len(self.commands)
        self.wait(lambda: len(self.commands) >= before + number, f"{number} commands")
        return self.commands[before : before + number]

    def wait_command(self, expected: np.ndarray) -> None:
        """Waits for a command from now on; states and commands travel apart, so some from before may come first."""
        before = len(self.commands)
        self.wait(lambda: any(np.allclose(c, expected, atol=1e-5) for c in self.commands[before:]), str(expected))

    def wait_state(self, mode: str, reason: str) -> dict[str, str]:
        """The next state of a mode and a reason."""
        before = len(self.states)
        wanted = f"{mode} {reason}".strip()

        def come() -> bool:
            return any(state.message == wanted for state in self.states[before:])

        self.wait(come, wanted)
        return to_values(next(state for state in self.states[before:] if state.message == wanted))

    @property
    def values(self) -> dict[str, str]:
        """The last state."""
        return to_values(self.states[-1]) if self.states else {}

    # --------------------------------------------------------------- services

    def call(self, kind: Any, name: str, request: Any) -> Any:
        client = self.node.create_client(kind, name)
        self.wait(client.service_is_ready, f"service {name}")
        future = client.call_async(request)
        self.wait(future.done, f"answer of {name}")
        self.node.destroy_client(client)
        return future.result()

    def trigger(self, name: str) -> Any:
        return self.call(Trigger, f"shield/{name}", Trigger.Request())

    def change_state(self, transition: int) -> bool:
        request = ChangeState.Request()
        request.transition.id = transition
        return self.call(ChangeState, "shield/change_state", request).success

    def set_parameter(self, name: str, value: Any) -> Any:
        from rcl_interfaces.srv import SetParameters

        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call(SetParameters, "shield/set_parameters", request).results[0]

    # ----------------------------------------------------------------- topics

    def present(self, ahead_sec: float = 0.0) -> Time:
        """A stamp."""
        if self.clock_sec is not None:
            return RosTime(nanoseconds=int((self.clock_sec + ahead_sec) * 1e9)).to_msg()
        return RosTime(nanoseconds=self.node.get_clock().now().nanoseconds + int(ahead_sec * 1e9)).to_msg()

    def _on_command(self, message: TwistStamped) -> None:
        self.commands.append((message.twist.linear.x, message.twist.angular.z))
        self.command_stamps_sec.append(message.header.stamp.sec + message.header.stamp.nanosec * 1e-9)

    def speak(self) -> None:
        if self.clock_sec is not None:
            self.clock_sec += 0.02 * self.clock_runs
            self._clock.publish(Clock(clock=self.present()))
        if self.speaking:
            odom = Odometry()
            odom.header.stamp = self.stamp()
            odom.pose.pose.position.x, odom.twist.twist.linear.x = map(float, self.obs[:2])
            self._odom.publish(odom)
            scan = LaserScan(ranges=self.ranges())
            scan.header.stamp = self.present()
            self._scan.publish(scan)
        if self.command is not None:
            command = TwistStamped()
            command.header.stamp = self.present()
            command.twist.linear.x, command.twist.angular.z = map(float, self.command)
            self._command.publish(command)


def to_values(state: DiagnosticStatus) -> dict[str, str]:
    """The numbers of a state message."""
    return {entry.key: entry.value for entry in state.values}
