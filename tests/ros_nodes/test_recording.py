"""Recordings as they are written: read by `rosbags`, by our own reader, and after everything that ends them early."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rosbags")
pytest.importorskip("mcap")

import numpy as np
import yaml
from mcap.reader import make_reader
from mcap.records import Message
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from ros_nodes.bags.cut_files import cut_records
from ros_nodes.bags.reading import open_bag
from ros_nodes.mapping import MappingSpec
from ros_nodes.message_text import definition, header_stamp_ns
from ros_nodes.recorded_topics import RecordedTopic, recorded_topics
from ros_nodes.recording import RecordingThread, RecordingWriter
from safe_rl.errors import UserError

pytestmark = pytest.mark.bags

ROOT = Path(__file__).parents[2]
STORE = get_typestore(Stores.ROS2_HUMBLE)
INT = "std_msgs/msg/Int32"
IMAGE = "sensor_msgs/msg/CompressedImage"


def text(kind: str) -> str:
    return STORE.generate_msgdef(kind, ros_version=2)[0]


def number(value: int) -> bytes:
    return bytes(STORE.serialize_cdr(STORE.types[INT](data=value), INT))


def write_numbers(writer: RecordingWriter, count: int, topic: str = "/count") -> None:
    writer.add_topic(topic, INT, text(INT))
    for value in range(count):
        writer.write(topic, 1000 + value, 500 + value, number(value))


def numbers(path: Path, topic: str = "/count") -> list[int]:
    bag = open_bag(path, {topic: INT}, lambda _, message: message.data)
    return [message.content for message in bag.messages]


def test_rosbags_and_mcap_read_it_back(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "run", chunk_bytes=1000)
    write_numbers(writer, 300)
    writer.add_topic("/silent", INT, text(INT))
    writer.close()
    with Reader(tmp_path / "run") as reader:
        assert (reader.start_time, reader.end_time, reader.message_count) == (1000, 1300, 300)
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
        assert counts == {"/count": 300, "/silent": 0}
        values = [STORE.deserialize_cdr(raw, INT).data for _, _, raw in reader.messages()]
    assert values == list(range(300))
    with (tmp_path / "run/run_0.mcap").open("rb") as file:
        reader = make_reader(file)
        assert reader.get_header().profile == "ros2"
        summary = reader.get_summary()
        assert len(summary.chunk_indexes) > 5
        assert {index.compression for index in summary.chunk_indexes} == {"zstd"}
        assert summary.schemas[1].encoding == "ros2msg"
        first = next(iter(reader.iter_messages()))[2]
        assert (first.log_time, first.publish_time) == (1000, 500)


def test_metadata_is_of_the_version_that_humble_knows(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "run")
    write_numbers(writer, 3)
    writer.close()
    raw = (tmp_path / "run/metadata.yaml").read_text()
    content = yaml.safe_load(raw)["rosbag2_bagfile_information"]
    assert content["version"] == 5
    assert content["storage_identifier"] == "mcap"
    assert content["relative_file_paths"] == ["run_0.mcap"]
    assert content["starting_time"] == {"nanoseconds_since_epoch": 1000}
    assert content["duration"] == {"nanoseconds": 2}
    assert content["files"][0]["message_count"] == content["message_count"] == 3
    assert isinstance(content["topics_with_message_count"][0]["topic_metadata"]["offered_qos_profiles"], str)
    assert "&" not in raw  # no YAML anchors


def test_no_compression(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "run", "none")
    write_numbers(writer, 10)
    writer.close()
    assert number(7)[4:] in writer.file.read_bytes()
    assert numbers(tmp_path / "run") == list(range(10))


def test_an_empty_recording_says_so_when_it_is_read(tmp_path: Path) -> None:
    RecordingWriter(tmp_path / "run").close()
    with pytest.raises(UserError, match="holds no message"):
        numbers(tmp_path / "run")


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    kept = tmp_path / "run/notes.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(UserError, match=f"{kept.parent} already holds something: name another folder"):
        RecordingWriter(kept.parent)
    assert [path.name for path in kept.parent.iterdir()] == ["notes.txt"]
    assert kept.read_text() == "mine"
    with pytest.raises(UserError, match=f"cannot record to {kept}: File exists"):
        RecordingWriter(kept)
    with pytest.raises(UserError, match=f"cannot record to {kept}/run: Not a directory"):
        RecordingWriter(kept / "run")


def test_an_empty_folder_may_be_there(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path)
    write_numbers(writer, 2)
    writer.close()
    assert numbers(tmp_path) == [0, 1]


def test_what_was_flushed_is_on_disk_and_the_chunk_that_is_cut_is_read_in_part(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "run", chunk_bytes=10**9)
    write_numbers(writer, 100)
    writer.flush()
    flushed = writer.num_bytes
    for value in range(100, 5000):
        writer.write("/count", 1000 + value, 0, number(value))
    assert writer.file.stat().st_size == flushed  # the second chunk waits
    assert numbers(tmp_path / "run") == list(range(100))
    writer.flush()
    whole = writer.file.read_bytes()
    assert len(whole) > flushed
    for cut in (flushed + 5, flushed + (len(whole) - flushed) // 3, len(whole) - 5):
        writer.file.write_bytes(whole[:cut])
        got = numbers(tmp_path / "run")
        assert got == list(range(len(got)))
        assert len(got) >= 100
    assert len(got) == 5000  # only the index behind the chunk was cut


# A process with a limit on the size of files stands for a full disk: writes fail with EFBIG in place of ENOSPC.
LIMITED = """
import resource, sys, time
from pathlib import Path
from ros_nodes.recording import RecordingThread, RecordingWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
thread = RecordingThread(RecordingWriter(Path(sys.argv[1]), "none", chunk_bytes=10_000), flush_sec=0.01)
thread.add_topic("/noise", "std_msgs/msg/Int32", "int32 data")
taken = 0
deadline = time.monotonic() + 20
while not thread.fault and time.monotonic() < deadline:
    taken += thread.put("/noise", taken, taken, b"\\x00\\x01\\x00\\x00" + taken.to_bytes(4, "little"))
    if taken % 50 == 0: time.sleep(0.001)
assert not thread.put("/noise", 0, 0, b"")
thread.close()
print(taken, thread.fault)
"""


def test_a_full_disk_ends_the_recording_and_leaves_whole_records(tmp_path: Path) -> None:
    output = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "run")], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    taken, fault = output.strip().split(" ", 1)
    assert fault == "File too large"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run_0.mcap"]
    got = [r.log_time for r in cut_records(tmp_path / "run/run_0.mcap") if isinstance(r, Message)]
    assert got == list(range(len(got)))
    assert 500 < len(got) < int(taken)
    bag = open_bag(tmp_path / "run", {"/noise": ""}, lambda *_: None)
    assert bag.counts["/noise"] == len(got)
    # Cut at a record's end: the last bytes are no torn chunk.
    assert (tmp_path / "run/run_0.mcap").stat().st_size < 50_000


def test_a_full_device_is_told_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = RecordingWriter(tmp_path / "run", chunk_bytes=100)

    def full(data: bytes) -> int:
        with open("/dev/full", "wb", buffering=0) as device:
            return device.write(data)

    thread = RecordingThread(writer, flush_sec=0.01)
    thread.add_topic("/count", INT, text(INT))
    thread.put("/count", 1, 1, number(1))
    wait_for(lambda: thread.waiting_bytes == 0)  # a chunk of a hundred bytes is written at once
    monkeypatch.setattr(writer._stream, "_file", Faulty(writer._stream._file, full))
    thread.put("/count", 2, 2, number(2))
    wait_for(lambda: thread.fault)
    thread.close()
    assert thread.fault == "No space left on device"
    assert numbers(tmp_path / "run") == [1]


class Faulty:
    """A file whose writing is another's."""

    def __init__(self, file: object, write: object) -> None:
        self._file, self.write = file, write

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_thread_flushes_by_time_and_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("ros_nodes.recording.SYNC_EVERY_SEC", 0.05)
    monkeypatch.setattr("os.fdatasync", synced.append)
    thread = RecordingThread(RecordingWriter(tmp_path / "run"), flush_sec=0.05)
    thread.add_topic("/count", INT, text(INT))
    assert thread.put("/count", 1, 1, number(1))
    wait_for(lambda: (tmp_path / "run/run_0.mcap").stat().st_size > 200)  # 8 bytes are far from a chunk
    assert numbers(tmp_path / "run") == [1]
    wait_for(lambda: len(synced) > 1)
    thread.close()
    assert thread.fault == ""
    assert thread.waiting_bytes == 0


def test_what_a_slow_disk_holds_up_waits_and_beyond_the_buffer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    gate = threading.Event()
    real = RecordingWriter.write

    def slow(self: RecordingWriter, *arguments: object) -> None:
        gate.wait(20)
        real(self, *arguments)

    monkeypatch.setattr(RecordingWriter, "write", slow)
    thread = RecordingThread(RecordingWriter(tmp_path / "run"), buffer_bytes=80)
    thread.add_topic("/count", INT, text(INT))
    taken = [thread.put("/count", value, value, number(value)) for value in range(15)]
    assert taken == [True] * 10 + [False] * 5  # 8 bytes each
    assert thread.waiting_bytes == 80
    gate.set()
    wait_for(lambda: thread.waiting_bytes == 0)
    assert thread.put("/count", 15, 15, number(15))
    thread.close()
    assert numbers(tmp_path / "run") == [*range(10), 15]


def test_a_killed_process_leaves_what_it_flushed(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom ros_nodes.recording import RecordingThread, RecordingWriter\n"
        "thread = RecordingThread(RecordingWriter(Path(sys.argv[1])), flush_sec=0.05)\n"
        "thread.add_topic('/time', 'std_msgs/msg/Int32', 'int32 data')\n"
        "while True:\n    now = time.time_ns()\n    thread.put('/time', now, now, bytes(8))\n    time.sleep(0.005)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], cwd=ROOT)
    file = tmp_path / "run/run_0.mcap"
    wait_for(lambda: file.exists() and file.stat().st_size > 3000)
    killed_ns = time.time_ns()
    process.send_signal(signal.SIGKILL)
    process.wait()
    bag = open_bag(tmp_path / "run", {"/time": ""}, lambda *_: None)
    assert "it has no metadata.yaml" in bag.damage[0]
    assert 0 <= killed_ns - bag.end_ns + 50_000_000 < 500_000_000


# ------------------------------------------------------------------------------------------------------- definitions


def test_definitions_are_gathered_from_what_is_installed(tmp_path: Path) -> None:
    own, base = tmp_path / "own/share/my_msgs/msg", tmp_path / "base/share/std_msgs/msg"
    for folder in (own, base):
        folder.mkdir(parents=True)
    (own / "Grip.msg").write_text(
        "# std_msgs/Comment none\nstd_msgs/Header header\nuint8 OPEN=0 # as Finger\nFinger[<=3] fingers\n"
        "my_msgs/msg/Finger thumb\nstring<=5 name \"a\"\n\nfloat64[36] covariance\n"
    )  # fmt: skip
    (own / "Finger.msg").write_text("float32 angle\n")
    (base / "Header.msg").write_text("uint32 stamp\nstring frame_id\n")
    found = definition("my_msgs/msg/Grip", [tmp_path / "own", tmp_path / "base"])
    assert found.count("MSG: my_msgs/Finger\nfloat32 angle") == 1
    assert found.count("MSG: std_msgs/Header") == 1
    types = get_types_from_msg(found, "my_msgs/msg/Grip")
    assert set(types) == {"my_msgs/msg/Grip", "my_msgs/msg/Finger", "std_msgs/msg/Header"}
    with pytest.raises(UserError, match="no definition of std_msgs/msg/Header is installed: apt-get install ros-"):
        definition("my_msgs/msg/Grip", [tmp_path / "own"])


def test_stamps_of_serialized_headers() -> None:
    header = STORE.types["std_msgs/msg/Header"]
    stamp = STORE.types["builtin_interfaces/msg/Time"]
    message = STORE.types[IMAGE](header(stamp(12, 34), "camera"), "jpeg", np.zeros(3, np.uint8))
    for little_endian in (True, False):
        raw = bytes(STORE.serialize_cdr(message, IMAGE, little_endian=little_endian))
        assert header_stamp_ns(raw) == 12_000_000_034
    message.header.stamp = stamp(0, 0)
    assert header_stamp_ns(bytes(STORE.serialize_cdr(message, IMAGE))) is None


# ------------------------------------------------------------------------------------------------------------ topics

MAPPING = MappingSpec.from_dict(
    {
        "observation": {
            "sources": ["odom"],
            "odom": {"topic": "odom", "type": "nav_msgs/msg/Odometry", "fields": ["pose.pose.position.x"]},
        },
        "action": {"topic": "cmd_vel", "type": "geometry_msgs/msg/TwistStamped", "fields": ["twist.linear.x"]},
        "cost": {"topic": "/violation", "type": "std_msgs/msg/Bool", "fields": ["data"]},
    }
)


def topics(**changes: str) -> dict[str, RecordedTopic]:
    given = {"command_topic": "", "shield_state_topic": "shield/state", "mark_topics": "episode", "extra_topics": ""}
    found = recorded_topics(MAPPING, **{**given, **changes}, full_name=lambda name: "/" + name.lstrip("/"))
    return {topic.topic: topic for topic in found}


def test_what_is_recorded() -> None:
    found = topics(extra_topics="/scan:sensor_msgs/msg/LaserScan map")
    assert {name: (topic.type, topic.needed) for name, topic in found.items()} == {
        "/odom": ("nav_msgs/msg/Odometry", True),
        "/cmd_vel": ("geometry_msgs/msg/TwistStamped", True),
        "/violation": ("std_msgs/msg/Bool", True),
        "/cmd_vel_in": ("geometry_msgs/msg/TwistStamped", False),
        "/shield/state": ("diagnostic_msgs/msg/DiagnosticStatus", False),
        "/episode": ("", False),
        "/scan": ("sensor_msgs/msg/LaserScan", True),
        "/map": ("", True),
    }
    assert "/plan" in topics(command_topic="plan")
    assert "/shield/state" not in topics(shield_state_topic="")


def test_topics_that_cannot_be() -> None:
    with pytest.raises(UserError, match="extra_topics has 'scan:LaserScan'"):
        topics(extra_topics="scan:LaserScan")
    with pytest.raises(UserError, match=r"/odom is wanted as nav_msgs/msg/Odometry by observation.odom, as std_msgs"):
        topics(extra_topics="odom:std_msgs/msg/Bool")
    assert topics(extra_topics="odom")["/odom"].type == "nav_msgs/msg/Odometry"
