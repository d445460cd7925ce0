"""The recorder as a process, over DDS: what it takes and says, how it ends, and that its recordings become data."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("rosbags")

import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import TwistStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from mcap.reader import make_reader
from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import LaserScan
from std_msgs.msg import Bool, Float64MultiArray, Int32, String
from std_srvs.srv import Trigger

from ros_nodes.bags.convert import Config, collect
from ros_nodes.bags.reading import open_bag
from ros_nodes.launch_description import RECORDER
from ros_nodes.recording_qos import serves, subscription_qos

pytestmark = [pytest.mark.ros, pytest.mark.bags, pytest.mark.usefixtures("ros")]

HERE = Path(__file__).parent
PATIENCE_SEC = 20.0
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
BEST_EFFORT = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
ODOM = {"topic": "odom", "type": "nav_msgs/msg/Odometry", "fields": ["pose.pose.position.x"]}
SCAN = {"topic": "scan", "type": "sensor_msgs/msg/LaserScan", "fields": ["ranges"]}
MAPPING = {
    "observation": {"sources": ["odom", "scan"], "odom": ODOM, "scan": SCAN},
    "action": {"topic": "cmd_vel", "type": "geometry_msgs/msg/TwistStamped", "fields": ["twist.linear.x"]},
    "cost": {"topic": "violation", "type": "std_msgs/msg/Bool", "fields": ["data"]},
}


class Site:
    """A namespace with a node of this process and processes beside it."""

    def __init__(self, namespace: str, folder: Path) -> None:
        self.namespace, self.folder = namespace, folder
        self.output = folder / "run"
        self.node = rclpy.create_node("site", namespace=namespace)
        self.states: list[DiagnosticStatus] = []
        self.node.create_subscription(DiagnosticStatus, "recorder/state", self.states.append, LATCHED)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._logs: dict[str, Path] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, line: list[str], **options: Any) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(HERE.parents[1]), str(HERE), os.environ.get("PYTHONPATH", "")])
        self._logs[name] = self.folder / f"{name}.log"
        with self._logs[name].open("wb") as log:
            self.processes[name] = subprocess.Popen(
                line, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": path}, **options
            )
        return self.processes[name]

    def record(self, mapping: dict[str, Any] = MAPPING, *, limit: int = 0, **parameters: Any) -> None:
        path = self.folder / "robot.yaml"
        path.write_text(yaml.safe_dump({"/**": {"ros__parameters": {**mapping, **parameters}}}))
        values = RECORDER.values({"params_file": str(path), "output": str(self.output), "namespace": self.namespace})
        limits = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None
        self.start("recorder", RECORDER.command_line(values), preexec_fn=limits)

    def log(self, name: str = "recorder") -> str:
        return self._logs[name].read_text()

    def end(self, number: int = signal.SIGINT) -> int:
        self.processes["recorder"].send_signal(number)
        self.wait(lambda: self.processes["recorder"].poll() is not None, "the end of the recorder")
        return self.processes["recorder"].returncode

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SEC
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come about: {self.log()} {self.values()}"
            self._executor.spin_once(timeout_sec=0.02)

    def values(self) -> dict[str, str]:
        return {entry.key: entry.value for entry in self.states[-1].values} if self.states else {}

    def wait_heard(self, *publishers: Any) -> None:
        """Until the recorder listens to publishers, and both sides know it."""
        self.wait(lambda: all(publisher.get_subscription_count() for publisher in publishers), "a subscription")
        topics = [publisher.topic_name for publisher in publishers]
        self.wait(lambda: all(f"messages.{topic}" in self.values() for topic in topics), "the recorder's topics")

    def call(self, kind: Any, name: str, request: Any) -> Any:
        client = self.node.create_client(kind, name)
        self.wait(client.service_is_ready, f"service {name}")
        future = client.call_async(request)
        self.wait(future.done, f"answer of {name}")
        return future.result()

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        self._executor.shutdown()
        self.node.destroy_node()


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    made = Site("".join(letter for letter in request.node.name if letter.isalnum())[:40], tmp_path)
    yield made
    made.close()


def stamped(kind: Any, number: int) -> Any:
    message = kind()
    message.header.stamp.sec = number
    return message


def test_what_is_published_is_recorded_and_ctrl_c_ends_it(site: Site) -> None:
    names = [f"/{site.namespace}/{name}" for name in ("odom", "scan", "cmd_vel", "violation", "episode", "note")]
    odom = site.node.create_publisher(Odometry, "odom", 10)
    scan = site.node.create_publisher(LaserScan, "scan", BEST_EFFORT)
    command = site.node.create_publisher(TwistStamped, "cmd_vel", 10)
    violation = site.node.create_publisher(Bool, "violation", 10)
    note = site.node.create_publisher(String, "note", 10)
    episode = site.node.create_publisher(Int32, "episode", LATCHED)
    episode.publish(Int32(data=7))  # before anyone listens
    site.record(extra_topics="note", report_rate_hz=10.0)
    site.wait_heard(odom, scan, command, violation, note, episode)

    sent = [stamped(Odometry, number) for number in range(1, 201)]
    for message in sent:
        odom.publish(message)
        site.wait(lambda: True, "")
    for number in range(20):
        scan.publish(stamped(LaserScan, number))
    command.publish(stamped(TwistStamped, 5))
    violation.publish(Bool(data=True))
    note.publish(String(data="über"))
    site.wait(lambda: site.values().get(f"messages.{names[0]}") == "200", "two hundred messages")
    # Best effort may lose some; the state counts what came.
    site.wait(lambda: site.values().get(f"messages.{names[5]}") == "1", "the note")
    answer = site.call(Trigger, "recorder/mark", Trigger.Request())
    assert (answer.success, answer.message) == (True, "episode 1")

    def change(transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return site.call(ChangeState, "recorder/change_state", request).success

    assert change(Transition.TRANSITION_DEACTIVATE)
    assert not site.call(Trigger, "recorder/mark", Trigger.Request()).success
    site.wait(lambda: not odom.get_subscription_count(), "the pause")
    odom.publish(stamped(Odometry, 999))
    assert change(Transition.TRANSITION_ACTIVATE)  # which is a new episode
    site.wait(lambda: site.values()["episode"] == "2", "the second episode")
    values = site.values()
    assert site.states[-1].message == "recording"
    assert values["lost"] == "0"
    assert float(values["disk_free_mib"]) > 0
    assert site.states[-1].level == DiagnosticStatus.OK

    assert site.end() == 0
    assert "recorded" in site.log().splitlines()[-1]
    assert f"{names[0]} 200" in site.log().splitlines()[-1]
    assert (site.output / "metadata.yaml").exists()
    with Reader(site.output) as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
        latched = next(c for c in reader.connections if c.topic == names[4]).ext.offered_qos_profiles
        assert [profile.durability.name for profile in latched] == ["TRANSIENT_LOCAL"]
        raws = [bytes(raw) for connection, _, raw in reader.messages() if connection.topic == names[0]]
    marks = f"/{site.namespace}/episode_mark"
    assert {name: counts[name] for name in [names[0], *names[2:], marks]} == {
        names[0]: 200,
        **dict.fromkeys(names[2:4], 1),
        names[4]: 2,  # latched: after the pause it came again
        names[5]: 1,
        marks: 2,
    }
    assert [deserialize_message(raw, Odometry) for raw in raws] == sent
    with (site.output / "run_0.mcap").open("rb") as file:
        received = list(make_reader(file).iter_messages(topics=[names[0]]))
        schema = received[0][0]
    assert [message.publish_time for _, _, message in received] == [number * 10**9 for number in range(1, 201)]
    assert abs(received[0][2].log_time - time.time_ns()) < 120e9
    assert "MSG: geometry_msgs/" in schema.data.decode()


def test_another_type_and_no_publisher_are_told_and_the_rest_is_recorded(site: Site) -> None:
    other = rclpy.Context()  # a participant holds one type a topic
    rclpy.init(args=[], context=other)
    elsewhere = rclpy.create_node("elsewhere", namespace=site.namespace, context=other)
    elsewhere.create_publisher(LaserScan, "odom", 10)
    violation = site.node.create_publisher(Bool, "violation", 10)
    site.record(report_rate_hz=10.0)
    wrong = f"/{site.namespace}/odom is not recorded: it carries sensor_msgs/msg/LaserScan: observation.odom wants nav_"
    site.wait(lambda: wrong in site.log(), "a warning of the type")
    missing = f"/{site.namespace}/scan has no publisher: observation.scan wants sensor_msgs/msg/LaserScan"
    site.wait(lambda: missing in site.log(), "a warning of the topic")
    site.wait_heard(violation)
    violation.publish(Bool(data=True))
    site.wait(lambda: site.values().get(f"messages.{violation.topic_name}") == "1", "the message")
    assert site.states[-1].level == DiagnosticStatus.WARN
    assert f"not_recorded./{site.namespace}/odom" in site.values()
    # A publisher that a reliable subscription cannot hear; and one of the right type after all.
    loose = site.node.create_publisher(Bool, "violation", BEST_EFFORT)
    odom = site.node.create_publisher(Odometry, "odom", 10)
    site.wait_heard(loose, odom)
    site.wait(lambda: "only nav_msgs/msg/Odometry is recorded" in site.log(), "a warning of two types")

    def speak() -> bool:
        loose.publish(Bool(data=False))
        return int(site.values()[f"messages.{violation.topic_name}"]) > 3

    site.wait(speak, "messages of the second publisher")
    assert site.end() == 0
    elsewhere.destroy_node()
    rclpy.shutdown(context=other)
    assert site.log().count("is not recorded") == site.log().count("has no publisher: observation.scan") == 1


def test_a_full_disk_ends_the_recording_with_one_line_and_what_came_before_is_kept(site: Site) -> None:
    odom = site.node.create_publisher(Odometry, "odom", 10)
    site.record(limit=100_000, compression="none", flush_sec=0.02, report_rate_hz=10.0)
    site.wait_heard(odom)
    site.node.create_timer(0.005, lambda: odom.publish(stamped(Odometry, 1)))
    site.wait(lambda: site.processes["recorder"].poll() is not None, "the end")
    assert site.processes["recorder"].returncode == 2
    reason = f"cannot write to {site.output}: File too large"
    errors = [line for line in site.log().splitlines() if "recorder" in line and "INFO" not in line]
    assert errors == [f"recorder_node: error: recording stopped: {reason}; what was recorded until now is kept"]
    site.wait(lambda: site.states[-1].level == DiagnosticStatus.ERROR, "the state")
    assert reason.endswith(site.states[-1].message) or reason == site.states[-1].message
    bag = open_bag(site.output, {odom.topic_name: ""}, lambda *_: None)
    assert 10 < bag.counts[odom.topic_name] < 140  # of 720 bytes each


@pytest.mark.parametrize(
    ("parameters", "fault", "is_kept"),
    [
        ({}, "already holds something: name another folder", False),
        ({"min_free_mib": 1e9}, "less than min_free_mib; what was recorded until now is kept", True),
        ({"extra_topics": "a:b"}, "extra_topics has 'a:b'", False),
        ({"extra_topics": "a:no_msgs/msg/Such"}, "message package no_msgs is not installed", False),
    ],
)
def test_refusals(site: Site, parameters: dict[str, Any], fault: str, is_kept: bool) -> None:
    if not parameters:
        site.output.mkdir()
        (site.output / "run_0.mcap").write_text("mine")
    site.record(report_rate_hz=10.0, **parameters)
    site.wait(lambda: site.processes["recorder"].poll() is not None, "the refusal")
    assert site.processes["recorder"].returncode == 2
    assert len([line for line in site.log().splitlines() if "recorder_node: error: " in line and fault in line]) == 1
    assert (site.output / "metadata.yaml").exists() == is_kept
    if not parameters:
        assert (site.output / "run_0.mcap").read_text() == "mine"


def test_quality_of_service_is_the_best_that_all_offer() -> None:
    def offers(reliable: bool, latched: bool) -> SimpleNamespace:
        profile = QoSProfile(
            depth=1,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        return SimpleNamespace(qos_profile=profile)

    plain, latched, loose = offers(True, False), offers(True, True), offers(False, False)
    for publishers, reliability, durability in (
        ([plain], ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE),
        ([latched], ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL),
        ([latched, plain], ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE),
        ([latched, loose], ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE),
    ):
        qos = subscription_qos(publishers, 17)
        assert (qos.reliability, qos.durability, qos.depth) == (reliability, durability, 17)
    reliable = subscription_qos([plain], 5)
    assert serves(reliable, [plain, latched])
    assert not serves(reliable, [plain, loose])
    assert not serves(subscription_qos([latched], 5), [latched, plain])
    assert serves(subscription_qos([loose], 5), [plain])  # to change would lose messages and win little


FLOOR = {
    "observation": {
        "sources": ["obs"],
        "obs": {
            "topic": "observation",
            "type": "std_msgs/msg/Float32MultiArray",
            "fields": ["data"],
            "timeout_sec": 0.6,
        },
    },
    "action": {
        "topic": "command",
        "type": "std_msgs/msg/Float64MultiArray",
        "low": [-2.0, -2.0],
        "high": [2.0, 2.0],
    },
    "cost": {"topic": "violation", "type": "std_msgs/msg/Bool", "fields": ["data"], "timeout_sec": 0.6},
}


def test_from_a_killed_recorder_to_a_dataset(site: Site, bundle: Path) -> None:
    """Robot, shield as a filter and recorder; the commander wants more than the limits allow and drives at the wall."""
    pytest.importorskip("minari")
    proposals = site.node.create_publisher(Float64MultiArray, "command_in", 1)
    site.node.create_timer(0.02, lambda: proposals.publish(Float64MultiArray(data=[1.5, 0.0])))
    episodes: list[Int32] = []
    site.node.create_subscription(Int32, "episode", episodes.append, LATCHED)
    site.record(
        FLOOR,
        report_rate_hz=10.0,
        bundle=str(bundle),
        engine="onnx",
        mode="filter",
        autostart=True,
        rate_hz=50.0,
        command_timeout_sec=0.6,
        eps_risk=0.999,
        allow_looser_threshold=True,
        env="floor_env:Floor",
        pause_sec=0.2,
        settle_sec=0.1,
    )
    site.wait(lambda: site.values().get("episode") == "0", "the recorder")
    for module, name in (("shield_node", "shield"), ("sim_robot_node", "sim_robot")):
        line = [sys.executable, "-m", f"ros_nodes.{module}", "--ros-args", "-r", f"__ns:=/{site.namespace}"]
        site.start(name, [*line, "--params-file", str(site.folder / "robot.yaml")])
    site.wait(lambda: any(message.data == 3 for message in episodes), "the third episode")
    site.wait(lambda: int(site.values().get(f"messages./{site.namespace}/episode", 0)) >= 2, "episodes on record")
    assert site.call(Trigger, "recorder/mark", Trigger.Request()).success
    marked_sec = time.monotonic()
    site.wait(lambda: time.monotonic() > marked_sec + 0.6, "more than a flush")
    assert site.end(signal.SIGKILL) == -signal.SIGKILL
    assert not (site.output / "metadata.yaml").exists()

    dataset, lines = collect(
        Config(
            (site.output,),
            site.folder / "robot.yaml",
            site.folder / "data",
            rate_hz=20.0,
            namespace=site.namespace,
            proposed_topic="command_in",
        )
    )
    text = "\n".join(lines)
    assert "it has no metadata.yaml" in text
    assert "cuts: mark" in text
    counts = dataset.metadata["safe_rl"]["collections"][0]["recordings"][0]["messages"]
    assert {f"/{site.namespace}/{name}" for name in ("command_in", "command", "episode_mark", "shield/state")} <= set(
        counts
    )
    table = dataset.table()
    assert sum(episode.cost[-1] > 0 for episode in table) >= 1  # into the wall
    for episode in table:
        assert np.diff(episode.obs[""][:, 0]).min() >= -1e-6  # never across a reset
    action, proposed = table.steps["action"], table.steps["task_action"]
    assert len(action) > 5
    assert np.abs(action).max() <= 1.0 + 1e-6  # what the shield let through
    both = proposed[:, 0] > 1.2  # on a busy machine a proposal may be late once
    assert both.mean() > 0.8
    np.testing.assert_allclose(proposed[both], np.tile([1.5, 0.0], (both.sum(), 1)), atol=1e-6)
