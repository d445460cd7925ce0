"""Recordings of ROS 2's own recorder: a TurtleBot3 under Nav2, with simulation time in its headers.

They are no part of this repository: a folder ``shared/data/rosbags`` beside it, or SAFE_RL_RECORDINGS.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags")
pytest.importorskip("mcap")

from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from ros_nodes.bags.convert import Config, collect
from ros_nodes.bags.reading import open_bag
from ros_nodes.mapping import MappingSpec

ROOT = Path(__file__).parents[3]
RECORDINGS = Path(os.environ.get("SAFE_RL_RECORDINGS", ROOT.parent / "shared" / "data" / "rosbags"))
MAPPING = ROOT / "launch" / "config" / "turtlebot3.yaml"

pytestmark = [
    pytest.mark.bags,
    pytest.mark.skipif(not RECORDINGS.is_dir(), reason=f"no recordings at {RECORDINGS}"),
]


def reference(name: str) -> dict[str, list[tuple[int, int, object]]]:
    """(receive time, stamp, message) of each topic, by rosbags alone."""
    store = get_typestore(Stores.ROS2_JAZZY)
    topics: dict[str, list[tuple[int, int, object]]] = {}
    with Reader(RECORDINGS / name) as reader:
        for connection, received, raw in reader.messages(reader.connections):
            message = store.deserialize_cdr(raw, connection.msgtype)
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            topics.setdefault(connection.topic, []).append((received, stamp, message))
    return topics


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("turtlebot3_a", {"/cmd_vel": 232, "/odom": 624, "/amcl_pose": 20, "/initialpose": 2}),
        ("turtlebot3_b", {"/cmd_vel": 744, "/odom": 1655, "/amcl_pose": 26, "/initialpose": 1}),
    ],
)
def test_counts_and_time_span(name: str, counts: dict[str, int]) -> None:
    bag = open_bag(RECORDINGS / name, {"/odom": "nav_msgs/msg/Odometry"}, lambda topic, message: message)
    expected = reference(name)
    assert dict(bag.counts) == counts == {topic: len(messages) for topic, messages in expected.items()}
    with Reader(RECORDINGS / name) as reader:
        assert bag.start_ns == reader.start_time
        assert bag.end_ns == reader.end_time - 1  # theirs lies after the last message
    assert [entry.received_ns for entry in bag.messages] == [received for received, _, _ in expected["/odom"]]


@pytest.mark.parametrize("name", ["turtlebot3_a", "turtlebot3_b"])
def test_values_are_those_of_the_messages(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every step is looked up again, message by message."""
    dataset, lines = collect(Config((RECORDINGS / name,), MAPPING, tmp_path / "data"))
    for topic in ("/odom", "/cmd_vel", "/amcl_pose"):
        assert f"the header stamps of {topic} lie 1755" in caplog.text
    assert any("pose_silent" in line for line in lines)
    topics = reference(name)
    commands = topics["/cmd_vel"]
    rate_hz = dataset.metadata["safe_rl"]["collections"][0]["rate_hz"]
    stamps = sorted({stamp for _, stamp, _ in commands})
    assert rate_hz == pytest.approx(1e9 / np.median(np.diff(stamps)))

    def last(topic: str, at: int) -> tuple[int, object]:
        return max(((s, m) for _, s, m in topics[topic] if s <= at), key=lambda entry: entry[0])

    transitions = dataset.transitions()
    first_command = commands[0][1]
    limits = [first_command + round(i * 1e9 / rate_hz) for i in range(2000)]
    # The first step that has a pose not older than five seconds.
    start = next(i for i, at in enumerate(limits) if at - last("/amcl_pose", at)[0] <= 5_000_000_000)
    for row in range(0, dataset.episode_lengths[0], 7):
        at, middle = limits[start + row], (limits[start + row] + limits[start + row + 1]) // 2
        pose, odometry = last("/amcl_pose", at)[1].pose.pose, last("/odom", at)[1].twist.twist
        yaw = 2 * np.arctan2(pose.orientation.z, pose.orientation.w)
        expected = [pose.position.x, pose.position.y, (yaw + np.pi) % (2 * np.pi) - np.pi]
        expected += [odometry.linear.x, odometry.angular.z]
        np.testing.assert_allclose(transitions.obs[row], expected, rtol=1e-4, atol=1e-5)
        # Of commands with one stamp the last one counts.
        twist = [m for _, s, m in commands if s <= middle][-1].twist
        np.testing.assert_allclose(transitions.action[row], [twist.linear.x, twist.angular.z], rtol=1e-5)
    np.testing.assert_allclose(
        transitions.obs[1 : dataset.episode_lengths[0]], transitions.next_obs[: dataset.episode_lengths[0] - 1]
    )


def test_leaving_the_map_part_ends_the_second_recording(tmp_path: Path) -> None:
    dataset, _ = collect(Config((RECORDINGS / "turtlebot3_b",), MAPPING, tmp_path / "data"))
    transitions = dataset.transitions()
    assert dataset.num_violations == 1
    assert transitions.terminated[-1]
    assert transitions.obs[-1, 0] > 0 > transitions.next_obs[-1, 0]


def test_both_at_once_and_by_receive_time(tmp_path: Path) -> None:
    paths = (RECORDINGS / "turtlebot3_a", RECORDINGS / "turtlebot3_b")
    settings = {"clock": "receive", "mark_topics": ("/initialpose",), "rate_hz": 10.0}
    dataset, lines = collect(Config(paths, MAPPING, tmp_path / "data", **settings))
    assert dataset.num_episodes >= 2
    assert sum("mark" in line for line in lines) == 2


def test_half_of_a_recording(tmp_path: Path) -> None:
    (file,) = (RECORDINGS / "turtlebot3_b").glob("*.mcap")
    (tmp_path / "bag").mkdir()
    whole = file.read_bytes()
    (tmp_path / "bag" / file.name).write_bytes(whole[: len(whole) // 2])
    dataset, lines = collect(Config((tmp_path / "bag",), MAPPING, tmp_path / "data"))
    assert 50 < dataset.num_transitions < 319
    assert any("cut short" in line for line in lines)


def test_the_mapping_says_what_the_shield_needs() -> None:
    mapping = MappingSpec.load(MAPPING)
    assert list(mapping.sources) == ["pose", "odom"]
    assert len(mapping.action.low) == 2
