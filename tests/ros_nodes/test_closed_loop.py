"""The loop closed over topics: simulated robot, shield and constraint monitor as processes, over DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
import yaml
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from floor_env import STEP
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Bool, Float32MultiArray, Float64MultiArray, Int32
from std_srvs.srv import Trigger

from safe_rl.shield import Shield

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("ros")]

HERE = Path(__file__).parent
PATIENCE_SEC = 20.0
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SHIELD = {
    "autostart": True,
    "engine": "onnx",
    "rate_hz": 20.0,
    "observation.sources": "[obs]",
    "observation.obs.topic": "observation",
    "observation.obs.type": "std_msgs/msg/Float32MultiArray",
    "observation.obs.fields": "[data]",
    "observation.obs.timeout_sec": 0.6,
    "action.topic": "command",
    "action.type": "std_msgs/msg/Float64MultiArray",
}
ROBOT = {"env": "floor_env:Floor", "rate_hz": 20.0, "pause_sec": 0.2, "settle_sec": 0.1, "command_timeout_sec": 0.4}


class World:
    """Processes in a namespace of their own, and what they say."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.node = rclpy.create_node("watcher", namespace=namespace)
        self.seen: dict[str, list[Any]] = {}
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def start(self, module: str, remap: str = "", **parameters: Any) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(HERE.parents[1]), str(HERE), os.environ.get("PYTHONPATH", "")])
        line = [sys.executable, "-m", f"ros_nodes.{module}", "--ros-args", "-r", f"__ns:=/{self.namespace}"]
        line += ["-r", remap] if remap else []
        for name, value in parameters.items():
            line += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
        self.processes[module] = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        return self.processes[module]

    def listen(self, kind: Any, topic: str, qos: Any = 100) -> list[Any]:
        """What comes from now on, by a list that grows."""
        messages = self.seen[topic] = []
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SEC
        while not condition():
            tail = {topic: messages[-2:] for topic, messages in self.seen.items()}
            assert time.monotonic() < deadline, f"{what} did not come about: {tail}"
            self._executor.spin_once(timeout_sec=0.02)

    def spin(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.02)

    def call(self, name: str) -> Any:
        client = self.node.create_client(Trigger, name)
        self.wait(client.service_is_ready, f"service {name}")
        future = client.call_async(Trigger.Request())
        self.wait(future.done, f"answer of {name}")
        return future.result()

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.communicate()
        self._executor.shutdown()
        self.node.destroy_node()


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World("".join(letter for letter in request.node.name if letter.isalnum()))
    yield made
    made.close()


def places(messages: list[Any]) -> np.ndarray:
    return np.array([message.data[:2] for message in messages])


def test_the_shield_drives_the_robot_and_the_robot_stands_when_it_is_killed(world: World, bundle: Path) -> None:
    observations = world.listen(Float32MultiArray, "observation")
    commands = world.listen(Float64MultiArray, "command")
    shield_process = world.start("shield_node", bundle=bundle, **SHIELD)
    robot_process = world.start("sim_robot_node", **ROBOT)

    def driving() -> list[Any]:
        return [message.data for message in commands if any(message.data)]  # STOP is zero

    # Either topic may be heard first; what is compared comes after both are.
    world.wait(lambda: len(driving()) >= 40 and len(observations) >= 40, "forty commands and forty observations")
    shield = Shield.load(bundle)
    decided = np.array([shield.decide(np.float32(message.data)).action for message in observations])
    sent = np.array(driving())[-20:]
    fitting = [np.abs(decided - command).max(axis=1).min() < 1e-5 for command in sent]
    assert np.mean(fitting) > 0.8  # an observation may have been lost on its way to us
    steps = np.diff(places(observations), axis=0) / STEP
    moved = steps[np.abs(steps).max(axis=1) > 1e-3]
    known = np.vstack([sent, decided])
    assert len(moved) > 5
    assert np.mean([np.abs(known - step).max(axis=1).min() < 1e-3 for step in moved]) > 0.8

    shield_process.kill()
    shield_process.wait()
    world.spin(1.0)  # the robot's command time-out, and some
    stands = len(observations)
    world.wait(lambda: len(observations) >= stands + 10, "observations of a robot that stands")
    assert np.ptp(places(observations[stands:]), axis=0).max() == 0.0

    robot_process.send_signal(signal.SIGINT)
    output, _ = robot_process.communicate(timeout=PATIENCE_SEC)
    assert robot_process.returncode == 0, output


def drive(world: World, command: list[float]) -> None:
    publisher = world.node.create_publisher(Float64MultiArray, "command", 1)
    world.node.create_timer(0.02, lambda: publisher.publish(Float64MultiArray(data=command)))


def test_a_commander_drives_into_the_wall_and_the_next_episode_begins(world: World) -> None:
    violations = world.listen(Bool, "violation")
    episodes = world.listen(Int32, "episode", LATCHED)
    observations = world.listen(Float32MultiArray, "observation")
    drive(world, [1.0, 0.0])
    world.start("sim_robot_node", **{**ROBOT, "rate_hz": 100.0})
    world.wait(lambda: any(message.data for message in violations), "a violation")
    world.wait(lambda: episodes and episodes[-1].data == 2, "the next episode")
    assert places(observations)[:, 0].max() == pytest.approx(0.51)  # 51 steps of 0.01 are beyond 0.505
    world.wait(lambda: not violations[-1].data, "an observation without violation")
    answer = world.call("sim_robot/reset")
    assert (answer.success, answer.message) == (True, "episode 3")
    world.wait(lambda: episodes[-1].data == 3, "the third episode")


def test_the_monitor_labels_and_falls_silent_with_its_sensor(world: World) -> None:
    labels = world.listen(Bool, "label")
    states = world.listen(DiagnosticArray, "constraint_monitor/state", LATCHED)
    fence = {
        "constraints": "[fence]",
        "fence.topic": "observation",
        "fence.type": "std_msgs/msg/Float32MultiArray",
        "fence.fields": "['data[0]']",
        "fence.max": 0.25,
        "fence.timeout_sec": 0.6,
        "autostart": True,
    }
    monitor = world.start("constraint_monitor_node", "violation:=label", **fence)

    def messages() -> list[str]:
        return [array.status[0].message for array in states]

    world.wait(lambda: "unknown fence_never_seen" in messages(), "a state before the sensor speaks")
    assert not labels
    drive(world, [1.0, 0.0])
    robot = world.start("sim_robot_node", **ROBOT)
    world.wait(lambda: any(label.data for label in labels), "a violation")
    assert not labels[0].data  # it began within
    world.wait(lambda: "violated above_max" in messages(), "the state of a violation")
    state = next(array for array in states if array.status[0].message == "violated above_max")
    values = {entry.key: entry.value for entry in state.status[0].values}
    assert float(values["value"]) == pytest.approx(0.26, abs=0.005)
    assert (values["limit"], state.status[0].level) == ("0.25", DiagnosticStatus.ERROR)
    assert state.header.stamp.sec > 0

    robot.kill()
    world.wait(lambda: messages()[-1] == "unknown fence_silent", "silence to be told")
    assert states[-1].status[0].level == DiagnosticStatus.STALE
    before = len(labels)
    world.spin(0.5)
    assert len(labels) == before
    monitor.send_signal(signal.SIGINT)
    output, _ = monitor.communicate(timeout=PATIENCE_SEC)
    assert monitor.returncode == 0, output


def test_drop_outs_of_the_robot_stop_the_shield_until_they_end(world: World, bundle: Path) -> None:
    # Both in one list, in the order in which they come.
    heard = world.listen(DiagnosticStatus, "shield/state", LATCHED)
    world.node.create_subscription(Float64MultiArray, "command", heard.append, 100)
    world.start("shield_node", bundle=bundle, **SHIELD)
    world.start(
        "sim_robot_node", **{**ROBOT, "observation_drop_rate": 0.05, "observation_drop_sec": 1.5, "seed": 3},
        observation_delay_sec=0.03, observation_jitter_sec=0.02,
    )  # fmt: skip

    def phases() -> list[tuple[DiagnosticStatus, list[list[float]]]]:
        """The states that the shield changed to, each with the commands that came until the next."""
        found: list[tuple[DiagnosticStatus, list[list[float]]]] = []
        for message in heard:
            if isinstance(message, Float64MultiArray):
                if found:
                    found[-1][1].append(list(message.data))
            elif not found or found[-1][0].message != message.message:
                found.append((message, []))
        return found

    def happened() -> bool:
        """The task drove, a silence that was no mere hiccup stopped it, and then it drove again."""
        kinds = iter([(state.message, len(commands)) for state, commands in phases()])
        wanted = [("TASK", 3), ("STOP obs_silent", 10), ("TASK", 3)]
        return all(any(kind == message and num >= least for kind, num in kinds) for message, least in wanted)

    world.wait(happened, "a stop and a recovery from it")
    drove = stopped = 0
    for state, commands in phases():
        sure = commands[2:-2]  # topics overtake each other
        if state.message == "TASK":
            assert state.level == DiagnosticStatus.OK
            drove += any(any(command) for command in sure)
        elif state.message == "STOP obs_silent":
            assert state.level == DiagnosticStatus.ERROR
            assert not np.any(sure)
            stopped += bool(sure)
    assert drove >= 1
    assert stopped >= 1


def test_robot_time_faster_than_the_clock(world: World) -> None:
    clocks = world.listen(Clock, "/clock")
    observations = world.listen(Float32MultiArray, "observation")
    world.start("sim_robot_node", **ROBOT, publish_clock=True, real_time_factor=4.0)
    world.wait(lambda: len(clocks) > 5, "a clock")
    began, first, num_seen = time.monotonic(), clocks[-1].clock, len(observations)
    world.wait(lambda: len(clocks) > 100, "a hundred periods")
    elapsed = time.monotonic() - began

    def seconds(stamp: Time) -> float:
        return stamp.sec + stamp.nanosec * 1e-9

    gone_by = seconds(clocks[-1].clock) - seconds(first)
    assert gone_by == pytest.approx((len(observations) - num_seen) / 20.0, abs=0.11)  # a period each
    assert gone_by > 1.5 * elapsed


@pytest.mark.parametrize(
    ("module", "parameters", "message"),
    [
        ("sim_robot_node", {"env": "Nowhere-v0"}, "no environment 'Nowhere-v0'"),
        ("sim_robot_node", {**ROBOT, "real_time_factor": 2.0}, "needs publish_clock"),
        ("sim_robot_node", {**ROBOT, "rate_hz": 0.0}, "parameter rate_hz"),
        ("constraint_monitor_node", {"autostart": True}, "constraints is None: it must be a list of names"),
        ("constraint_monitor_node", {"constraints": "[front]", "autostart": True}, "constraint front is not declared"),
        (
            "constraint_monitor_node",
            {
                "constraints": "[a]",
                "a.topic": "x",
                "a.type": "nobodys_msgs/msg/Thing",
                "a.fields": "[data]",
                "autostart": True,
            },
            "message package nobodys_msgs is not installed",
        ),
    ],
)
def test_what_cannot_be_is_one_line_and_code_2(world: World, module: str, parameters: dict, message: str) -> None:
    process = world.start(module, **parameters)
    output, _ = process.communicate(timeout=PATIENCE_SEC)
    assert process.returncode == 2
    assert message in output
    assert len(output.strip().splitlines()) == 1


def test_robot_and_shield_from_one_command_end_together(world: World, tmp_path: Path, bundle: Path) -> None:
    numbers = {"topic": "observation", "type": "std_msgs/msg/Float32MultiArray", "fields": ["data"]}
    command = {"topic": "command", "type": "std_msgs/msg/Float64MultiArray"}
    mapping = {"observation": {"sources": ["odom"], "odom": numbers}, "action": command}
    path = tmp_path / "both.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": {"env": "Pendulum-v1", **mapping}}}))
    states = world.listen(DiagnosticStatus, "shield/state", LATCHED)
    line = [sys.executable, "-m", "ros_nodes.start", "sim_robot", f"params_file:={path}", f"bundle:={bundle}"]
    process = subprocess.Popen([*line, f"namespace:={world.namespace}"], stderr=subprocess.PIPE, text=True)
    world.processes["both"] = process
    world.wait(lambda: any(not state.message.startswith("STOP odom") for state in states), "a state of the shield")
    children = Path(f"/proc/{process.pid}/task").glob("*/children")
    assert sum(len(path.read_text().split()) for path in children) == 2
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_SEC) == 0
    assert "Traceback" not in process.stderr.read()
