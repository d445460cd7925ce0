"""Recordings of every storage and compression, and what is left of damaged ones."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("rosbags")
pytest.importorskip("mcap")

from recordings import BOOL, ODOM, TWIST, drive, image, odom, write_bag, write_mcap

from ros_nodes.bags.reading import Bag, open_bag
from safe_rl.errors import UserError

pytestmark = pytest.mark.bags

WANTED = {"/odom": ODOM, "/cmd_vel": TWIST, "/bumper": ""}
COUNTS = Counter({"/odom": 20, "/cmd_vel": 20, "/bumper": 20})


def opened(path: Path) -> Bag:
    return open_bag(path, WANTED, lambda topic, message: message)


def positions(bag: Bag) -> list[float]:
    return [entry.content.pose.pose.position.x for entry in bag.messages if entry.topic == "/odom"]


@pytest.mark.parametrize("compression", ["none", "file", "message"])
@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_every_storage_and_compression(tmp_path: Path, storage: str, compression: str) -> None:
    bag = opened(write_bag(tmp_path / "bag", drive(), storage, compression))
    assert bag.counts == COUNTS
    assert bag.types["/bumper"] == BOOL
    assert positions(bag) == list(range(20))
    assert (bag.start_ns, bag.end_ns) == (99_990_000_000, 101_900_000_000)
    assert bag.damage == []
    assert all(len(digest) == 64 for digest in bag.sha256.values())
    received = [entry.received_ns for entry in bag.messages]
    assert received == sorted(received)
    assert [entry.content for entry in bag.messages if entry.topic == "/bumper"] == [None] * 20


@pytest.mark.parametrize("compression", ["none", "file", "message"])
@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_without_metadata(tmp_path: Path, storage: str, compression: str) -> None:
    path = write_bag(tmp_path / "bag", drive(), storage, compression)
    (path / "metadata.yaml").unlink()
    bag = opened(path)
    assert bag.counts == COUNTS
    assert positions(bag) == list(range(20))
    assert "metadata.yaml" in bag.damage[0]


def test_damaged_metadata(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", drive())
    (path / "metadata.yaml").write_text("rosbag2_bagfile_information:\n  vers")
    assert opened(path).counts == COUNTS


@pytest.mark.parametrize("compression", ["NONE", "LZ4", "ZSTD"])
def test_killed_before_its_end(tmp_path: Path, compression: str) -> None:
    """What the recorder had put on disk is there: all but the last chunk."""
    folder = tmp_path / "bag"
    folder.mkdir()
    write_mcap(folder / "bag_0.mcap", drive(20.0), finish=False, compression=compression, chunk_size=1024)
    bag = opened(folder)
    read = positions(bag)
    assert read == list(range(len(read)))
    assert 190 <= len(read) <= 200
    assert any("cut short" in line for line in bag.damage)


@pytest.mark.parametrize("compression", ["NONE", "LZ4", "ZSTD"])
@pytest.mark.parametrize("chunk_size", [1024, 1 << 20])
def test_cut_anywhere(tmp_path: Path, compression: str, chunk_size: int) -> None:
    whole = write_mcap(tmp_path / "whole.mcap", drive(5.0), compression=compression, chunk_size=chunk_size).read_bytes()
    cut = tmp_path / "cut.mcap"
    counts = []
    for share in (0.3, 0.6, 0.9, 1.0):
        cut.write_bytes(whole[: int(share * len(whole)) - 1])
        try:
            read = positions(opened(cut))
        except UserError as error:  # the first block of the only chunk is not complete
            assert "holds no message" in str(error)
            read = []
        assert read == list(range(len(read)))
        counts.append(len(read))
    assert counts == sorted(counts)
    assert counts[-1] == 50
    if chunk_size == 1024 or compression == "NONE":
        assert 5 <= counts[0] < counts[1] < 50


def test_split_recording_with_ten_files_and_more(tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    folder.mkdir()
    for number in range(12):
        write_mcap(folder / f"bag_{number}.mcap", drive(0.5, start=100.0 + number))
    bag = opened(folder)
    assert bag.counts["/odom"] == 60
    assert list(bag.sha256)[-1] == "bag_11.mcap"


def test_log_of_a_killed_database(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", drive(), "sqlite3")
    (file,) = path.glob("*.db3")
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute(
        "INSERT INTO messages (topic_id, timestamp, data) SELECT topic_id, timestamp + 1, data FROM messages"
    )
    database.commit()
    killed = tmp_path / "killed"
    shutil.copytree(path, killed)
    database.close()
    before = (killed / file.name).read_bytes()
    assert opened(killed).counts == Counter({topic: 40 for topic in COUNTS})
    assert (killed / file.name).read_bytes() == before  # a recording is never written to


def test_truncated_database_gives_what_it_has(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", drive(20.0), "sqlite3")
    (file,) = path.glob("*.db3")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=r"holds no message .*damaged after 0 messages"):
        opened(path)


def test_unknown_type(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", drive(), "sqlite3")
    (file,) = path.glob("*.db3")
    database = sqlite3.connect(file)
    database.execute("DELETE FROM message_definitions")
    database.execute("UPDATE topics SET type = 'my_msgs/msg/Pose' WHERE name = '/odom'")
    database.commit()
    database.close()
    with pytest.raises(
        UserError, match="/odom is of type my_msgs/msg/Pose, which neither the recording nor ROS 2 defines"
    ):
        open_bag(path, {"/odom": "my_msgs/msg/Pose"}, lambda topic, message: message)
    bag = opened(path)  # of another type than wanted: not read, and told by require
    assert positions(bag) == []
    with pytest.raises(UserError, match="/odom is of type my_msgs/msg/Pose, the mapping says nav_msgs/msg/Odometry"):
        bag.require("/odom", ODOM, "the mapping")


def test_message_that_is_not_as_its_type_says(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", drive(), "sqlite3")
    (file,) = path.glob("*.db3")
    database = sqlite3.connect(file)
    database.execute("UPDATE messages SET data = x'00010000ff' WHERE id = 1")
    database.commit()
    database.close()
    with pytest.raises(UserError, match="message 1 of topic /odom cannot be read as nav_msgs/msg/Odometry"):
        opened(path)


def test_require(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", [(1.0, "/odom", odom(1.0, 0))], empty_topics=[("/bumper", BOOL)])
    bag = opened(path)
    bag.require("/odom", ODOM, "the test")
    bag.require("/bumper", "", "the test")
    with pytest.raises(UserError, match="bag holds no topic /cmd_vel, which the test names: it holds /bumper, /odom"):
        bag.require("/cmd_vel", TWIST, "the test")
    with pytest.raises(UserError, match="holds no message of topic /bumper"):
        bag.require("/bumper", BOOL, "the test")


def test_only_what_is_taken_is_kept(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", [(1.0, "/camera", image(1.0, 7))])
    bag = open_bag(path, {"/camera": "sensor_msgs/msg/Image"}, lambda topic, message: int(message.data[0]))
    assert [entry.content for entry in bag.messages] == [7]


def test_what_is_no_recording(tmp_path: Path) -> None:
    for path, says in (
        (tmp_path / "none", "no recording at"),
        (tmp_path, "holds no .mcap or .db3 file"),
        (Path(__file__), "is no recording"),
    ):
        with pytest.raises(UserError, match=says):
            opened(path)


@pytest.mark.parametrize("content", [b"", b"\x89MCAP0\r\n", b"something else entirely"])
@pytest.mark.parametrize("name", ["bag.mcap", "bag.db3"])
def test_files_without_a_message(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="holds no message") as caught:
        opened(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_lost_file_of_a_split_recording(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", drive())
    (path / "bag.mcap").rename(path / "other.mcap")
    with pytest.raises(UserError, match=r"lacks bag\.mcap"):
        opened(path)


def test_empty_recording(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no message"):
        opened(write_bag(tmp_path / "bag", [], empty_topics=[("/odom", ODOM)]))
