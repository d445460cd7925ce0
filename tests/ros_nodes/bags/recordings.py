"""Writes small recordings: a robot on a line, with commands, odometry and a bumper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

STORE = get_typestore(Stores.ROS2_JAZZY)
SEC = 1_000_000_000
ODOM, TWIST, BOOL, IMAGE = (
    "nav_msgs/msg/Odometry",
    "geometry_msgs/msg/TwistStamped",
    "std_msgs/msg/Bool",
    "sensor_msgs/msg/Image",
)

Entry = tuple[float, str, Any]
"""Receive time in seconds, topic, message."""


def make(kind: str, **values: Any) -> Any:
    """A message, all zeros but for ``values``; names with ``__`` go into nested messages."""
    message = _default(kind)
    for name, value in values.items():
        *owners, last = name.split("__")
        owner = message
        for part in owners:
            owner = getattr(owner, part)
        setattr(owner, last, value)
    return message


def _default(kind: str) -> Any:
    values = {}
    for name, (node, description) in STORE.fielddefs[kind][1]:
        if node.name == "NAME":
            values[name] = _default(description)
        elif node.name == "BASE":
            values[name] = {"string": "", "bool": False}.get(description[0], 0)
        else:
            length = description[1] if node.name == "ARRAY" else 0
            base = description[0][1][0] if description[0][0].name == "BASE" else None
            values[name] = [] if base in (None, "string") else np.zeros(length, dtype=_dtype(base))
    return STORE.types[kind](**values)


def _dtype(base: str) -> Any:
    return {"octet": np.uint8, "byte": np.uint8, "char": np.uint8}.get(base, base)


def _stamped(kind: str, stamp: float | None, frame: str, **values: Any) -> Any:
    ns = round((stamp or 0) * SEC)
    return make(
        kind, header__stamp__sec=ns // SEC, header__stamp__nanosec=ns % SEC, header__frame_id=frame, **values
    )  # fmt: skip


def odom(stamp: float, x: float, frame: str = "odom") -> Any:
    return _stamped(ODOM, stamp, frame, pose__pose__position__x=float(x))


def command(stamp: float, speed: float) -> Any:
    return _stamped(TWIST, stamp, "base_link", twist__linear__x=float(speed))


def bumper(pressed: bool) -> Any:
    return make(BOOL, data=bool(pressed))


def image(stamp: float, value: int, shape: tuple[int, int] = (4, 6)) -> Any:
    height, width = shape
    data = np.full(height * width * 3, value, dtype=np.uint8)
    return _stamped(IMAGE, stamp, "", height=height, width=width, encoding="rgb8", step=width * 3, data=data)


def drive(seconds: float = 2.0, rate_hz: float = 10.0, start: float = 100.0, hit: Sequence[int] = ()) -> list[Entry]:
    """Odometry and bumper just before each command: x counts the steps, commands are a tenth of that."""
    entries: list[Entry] = []
    for step in range(round(seconds * rate_hz)):
        now = start + step / rate_hz
        entries += [
            (now - 0.01, "/odom", odom(now - 0.01, step)),
            (now, "/bumper", bumper(step in hit)),
            (now, "/cmd_vel", command(now, step / 10)),
        ]
    return entries


def write_bag(
    path: Path,
    entries: Iterable[Entry],
    storage: str = "mcap",
    compression: str = "none",
    empty_topics: Sequence[tuple[str, str]] = (),
) -> Path:
    """Writes a recording by ``rosbags``."""
    writer = Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()])
    writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, kind in empty_topics:
            connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
        for received, topic, message in entries:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], round(received * SEC), STORE.serialize_cdr(message, kind))
    return path


def write_mcap(
    path: Path, entries: Iterable[Entry], *, finish: bool = True, compression: str = "ZSTD", chunk_size: int = 4096
) -> Path:
    """Writes a bare MCAP file as a recorder does that is killed before its end, unless it may ``finish``."""
    with path.open("wb") as file:
        writer = McapWriter(file, chunk_size=chunk_size, compression=CompressionType[compression])
        writer.start(profile="ros2", library="test")
        channels: dict[str, int] = {}
        for received, topic, message in entries:
            kind = message.__msgtype__
            if topic not in channels:
                definition = STORE.generate_msgdef(kind, ros_version=2)[0].encode()
                schema = writer.register_schema(kind, "ros2msg", definition)
                channels[topic] = writer.register_channel(topic, "cdr", schema)
            time = round(received * SEC)
            writer.add_message(channels[topic], time, bytes(STORE.serialize_cdr(message, kind)), time)
        if finish:
            writer.finish()
    return path


MAPPING: dict[str, Any] = {
    "observation": {
        "sources": ["odom"],
        "odom": {"topic": "odom", "type": ODOM, "fields": ["pose.pose.position.x"], "timeout_sec": 0.1},
    },
    "action": {"topic": "/cmd_vel", "type": TWIST, "fields": ["twist.linear.x"], "low": [-1.0], "high": [9.0]},
    "cost": {"topic": "/bumper", "type": BOOL, "fields": ["data"], "timeout_sec": 0.15},
}


def write_mapping(path: Path, **sections: Any) -> Path:
    """Writes the mapping of ``drive``, with other sections; None leaves one out."""
    content = {name: value for name, value in {**MAPPING, **sections}.items() if value is not None}
    path.write_text(yaml.safe_dump(content))
    return path
