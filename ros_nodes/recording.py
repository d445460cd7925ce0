"""Writes recordings that ROS 2's own tools read: a folder with an MCAP file and, after an orderly end, `metadata.yaml`.

What was flushed survives the death of the process: the file is a row of whole chunks. Needs no ROS.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from safe_rl.errors import UserError

try:
    from mcap.writer import CompressionType, Writer
except ImportError as error:
    raise UserError(
        f"recordings are written by the package mcap ({error.name} is not installed): pip install 'safe_rl[bags]', "
        "or pip install 'mcap>=1.6'"
    ) from error

CHUNK_BYTES = 256 * 1024
"""A chunk is closed once it is larger: smaller ones compress worse, larger ones hold more back."""
METADATA_VERSION = 5
"""Of `metadata.yaml`: what Humble writes; all later distributions read it."""
SYNC_EVERY_SEC = 5.0
"""Time between two calls that bring the file onto the disk, for the power may fail."""
Compression = Literal["zstd", "none"]


@dataclass
class TopicRecord:
    """What is known of a recorded topic."""

    topic: str
    type: str
    offered_qos: str
    """The publishers' quality of service, as YAML."""
    channel: int
    count: int = 0


class _WholeWrites:
    """A file that takes each piece whole or not at all, so that a full disk leaves no torn record."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb", buffering=0)
        self._size = 0

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(self._size)
            self._file.seek(self._size)
            raise
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        """Nothing is held back."""

    def sync(self) -> None:
        os.fdatasync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class RecordingWriter:
    """A recording folder while it is written; for one thread.

    Every method raises ``OSError`` where the disk does not take more; what was written before stays readable.
    """

    def __init__(self, folder: Path, compression: Compression = "zstd", chunk_bytes: int = CHUNK_BYTES) -> None:
        """Makes the folder.

        Raises:
            UserError: It cannot be made, or holds something already.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if next(folder.iterdir(), None) is not None:
                raise UserError(f"{folder} already holds something: name another folder for the recording")
            self.file = folder / f"{folder.resolve().name}_0.mcap"
            self._stream = _WholeWrites(self.file)
        except OSError as error:
            raise UserError(f"cannot record to {folder}: {error.strerror}") from error
        self.folder = folder
        self.topics: dict[str, TopicRecord] = {}
        self._schemas: dict[str, int] = {}
        self._start_ns, self._end_ns = 2**63 - 1, 0
        kind = CompressionType.ZSTD if compression == "zstd" else CompressionType.NONE
        self._mcap = Writer(self._stream, chunk_size=chunk_bytes, compression=kind)  # type: ignore[arg-type]
        self._mcap.start(profile="ros2", library="safe_rl")

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return self._stream.tell()

    def add_topic(self, topic: str, kind: str, definition: str, offered_qos: str = "") -> None:
        """Announces a topic.

        Args:
            topic: Its full name.
            kind: Message type, such as ``nav_msgs/msg/Odometry``.
            definition: See ``ros_nodes.message_text``.
            offered_qos: See ``TopicRecord``.
        """
        if kind not in self._schemas:
            self._schemas[kind] = self._mcap.register_schema(kind, "ros2msg", definition.encode())
        channel = self._mcap.register_channel(topic, "cdr", self._schemas[kind], {"offered_qos_profiles": offered_qos})
        self.topics[topic] = TopicRecord(topic, kind, offered_qos, channel)

    def write(self, topic: str, received_ns: int, published_ns: int, data: bytes) -> None:
        """Takes a serialized message."""
        record = self.topics[topic]
        self._mcap.add_message(record.channel, received_ns, data, published_ns, record.count)
        record.count += 1
        self._start_ns, self._end_ns = min(self._start_ns, received_ns), max(self._end_ns, received_ns)

    def flush(self) -> None:
        """Hands everything to the operating system: after that the death of this process loses nothing."""
        self._mcap.flush()

    def sync(self) -> None:
        """Brings what was flushed onto the disk: after that a failing power supply loses nothing."""
        self._stream.sync()

    def close(self) -> None:
        """Ends the recording in order, with its index and `metadata.yaml`."""
        self._mcap.finish()
        self._stream.sync()
        self._stream.close()
        target = self.folder / "metadata.yaml"
        draft = target.with_suffix(".yaml.tmp")
        draft.write_text(yaml.safe_dump(self._metadata(), sort_keys=False), encoding="utf-8")
        draft.replace(target)

    def abandon(self) -> None:
        """Ends the recording without more writing."""
        self._stream.close()

    def _metadata(self) -> dict[str, Any]:
        topics = [
            {
                "topic_metadata": {
                    "name": record.topic,
                    "type": record.type,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": record.offered_qos,
                },
                "message_count": record.count,
            }
            for record in self.topics.values()
        ]
        return {
            "rosbag2_bagfile_information": {
                "version": METADATA_VERSION,
                "storage_identifier": "mcap",
                "relative_file_paths": [self.file.name],
                **self._span(),
                "topics_with_message_count": topics,
                "compression_format": "",  # of the file as a whole; chunks are MCAP's own matter
                "compression_mode": "",
                "files": [{"path": self.file.name, **self._span()}],
            }
        }

    def _span(self) -> dict[str, Any]:
        count = sum(record.count for record in self.topics.values())
        start_ns = self._start_ns if count else 0
        return {
            "starting_time": {"nanoseconds_since_epoch": start_ns},
            "duration": {"nanoseconds": self._end_ns - start_ns},
            "message_count": count,
        }


@dataclass(frozen=True)
class _Topic:
    topic: str
    type: str
    definition: str
    offered_qos: str


@dataclass(frozen=True)
class _Message:
    topic: str
    received_ns: int
    published_ns: int
    data: bytes


class RecordingThread:
    """Writes in a thread of its own, so that a slow disk does not hold the receiver up.

    Flushes every ``flush_sec``, whatever comes. What waits is bounded: beyond ``buffer_bytes`` messages are refused.
    """

    def __init__(self, writer: RecordingWriter, flush_sec: float = 0.2, buffer_bytes: int = 256 * 2**20) -> None:
        self._writer = writer
        self._flush_sec = flush_sec
        self._buffer_bytes = buffer_bytes
        self._entries: queue.SimpleQueue[_Topic | _Message | None] = queue.SimpleQueue()
        self._bytes_taken = self._bytes_done = 0  # each written by one thread only
        self.fault = ""
        """Why it stopped to write; empty while all is well."""
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
        self._thread.start()

    @property
    def waiting_bytes(self) -> int:
        """Bytes of messages that are not written yet."""
        return self._bytes_taken - self._bytes_done

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return self._writer.num_bytes

    def add_topic(self, topic: str, kind: str, definition: str, offered_qos: str = "") -> None:
        """See ``RecordingWriter``."""
        self._entries.put(_Topic(topic, kind, definition, offered_qos))

    def put(self, topic: str, received_ns: int, published_ns: int, data: bytes) -> bool:
        """Takes a serialized message; returns whether it will be written."""
        if self.fault or self.waiting_bytes + len(data) > self._buffer_bytes:
            return False
        self._bytes_taken += len(data)
        self._entries.put(_Message(topic, received_ns, published_ns, data))
        return True

    def close(self) -> None:
        """Writes what waits, and ends the recording; ``fault`` tells whether that went well."""
        self._entries.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._write_all()
            self._writer.close()
        except Exception as error:  # most often a full disk; whatever it is, the receiver must learn that it is over
            self.fault = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            self._writer.abandon()

    def _write_all(self) -> None:
        next_flush_sec = time.monotonic() + self._flush_sec
        next_sync_sec = time.monotonic() + SYNC_EVERY_SEC
        while True:
            try:
                entry = self._entries.get(timeout=max(next_flush_sec - time.monotonic(), 0.001))
            except queue.Empty:
                pass
            else:
                if entry is None:
                    return
                self._take(entry)
            now_sec = time.monotonic()
            if now_sec >= next_flush_sec:
                self._writer.flush()
                next_flush_sec = now_sec + self._flush_sec
            if now_sec >= next_sync_sec:
                self._writer.sync()
                next_sync_sec = now_sec + SYNC_EVERY_SEC

    def _take(self, entry: _Topic | _Message) -> None:
        if isinstance(entry, _Topic):
            self._writer.add_topic(entry.topic, entry.type, entry.definition, entry.offered_qos)
        else:
            self._writer.write(entry.topic, entry.received_ns, entry.published_ns, entry.data)
            self._bytes_done += len(entry.data)
