"""Reads rosbag2 recordings: sqlite3 and MCAP, compressed by file or message or not, split, and cut short.

Files are read one by one, so that a recording whose ``metadata.yaml`` was never written (its recorder was killed) is
read like any other. Types come from the recording itself, or else from ROS 2's standard ones.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from safe_rl.errors import UserError

try:
    import zstandard
    from mcap.records import Channel, Schema
    from rosbags.interfaces import MessageDefinitionFormat
    from rosbags.rosbag2 import Reader
    from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

    from ros_nodes.bags.cut_files import cut_records
except ImportError as error:
    raise UserError(
        f"recordings are read by the packages rosbags and mcap ({error.name} is not installed): "
        "pip install 'safe_rl[bags]', or pip install rosbags mcap"
    ) from error

logger = logging.getLogger(__name__)

_METADATA = "metadata.yaml"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
"""No serialized message begins like this: its first byte is zero."""
_STORAGES = (".mcap", ".db3")
Take = Callable[[str, Any], Any]
"""``take(topic, message)``: what to keep of a message; called while the file is read, so pictures can be shrunk."""


@dataclass(frozen=True)
class Received:
    """A message as it was recorded."""

    topic: str
    received_ns: int
    """When the recorder got it."""
    content: Any
    """What was taken of it; None for a topic of which only the times are wanted."""


@dataclass
class Bag:
    """A recording."""

    path: Path
    types: dict[str, str]
    """Type of each topic."""
    counts: Counter[str]
    """Messages of each topic, as far as they could be read."""
    messages: list[Received]
    """Those of the wanted topics by receive time."""
    sha256: dict[str, str]
    """Hash of each file."""
    start_ns: int
    """First receive time of any topic."""
    end_ns: int
    """Last receive time of any topic."""
    damage: list[str]
    """What is cut or missing, one line each."""

    @property
    def name(self) -> str:
        """Name of its folder or file."""
        return self.path.resolve().name

    def require(self, topic: str, kind: str, wanted_by: str) -> None:
        """Checks that a topic is there, of a type (empty for any), and has messages.

        Raises:
            UserError: It is not; the message says what is there.
        """
        if topic not in self.types:
            known = ", ".join(sorted(self.types))
            raise UserError(f"{self.name} holds no topic {topic}, which {wanted_by} names: it holds {known}")
        if kind and self.types[topic] != kind:
            raise UserError(f"{self.name}: topic {topic} is of type {self.types[topic]}, {wanted_by} says {kind}")
        if kind and not self.counts[topic]:
            raise UserError(f"{self.name} holds no message of topic {topic}, which {wanted_by} names")


def open_bag(path: Path, wanted: Mapping[str, str], take: Take) -> Bag:
    """Reads a recording.

    Args:
        path: Folder of a rosbag2 recording, or one of its files.
        wanted: Topics to read, with the type that each should have; empty where only the times are wanted. A topic of
            another type is left unread: see ``Bag.require``.
        take: What to keep of each message.

    Raises:
        UserError: There is none, it is empty, in a format that is not known, or too damaged to be read; or a message is
            of a type that nobody defines.
    """
    if not path.exists():
        raise UserError(f"no recording at {path}")
    damage: list[str] = []
    files = _storage_files(path, damage)
    content = _Content(path.resolve().name, wanted, take)
    with tempfile.TemporaryDirectory(prefix="safe_rl_bag_") as scratch:
        for file in files:
            complaint = content.read(file, Path(scratch))
            if complaint:
                damage.append(f"{file.name}: {complaint}")
    if not content.counts:
        reason = f" ({damage[-1]})" if damage else ""
        raise UserError(f"{path} holds no message{reason}: record again, or leave it out")
    for line in damage:
        logger.warning("%s: %s", path, line)
    return Bag(
        path=path,
        types=content.types,
        counts=content.counts,
        # Stable: what came at the same time stays in the order of writing.
        messages=sorted(content.messages, key=lambda message: message.received_ns),
        sha256={file.name: _sha256(file) for file in files},
        start_ns=content.start_ns,
        end_ns=content.end_ns,
        damage=damage,
    )


def _storage_files(path: Path, damage: list[str]) -> list[Path]:
    """The files of a recording in the order of recording."""
    if path.is_file():
        if not _is_storage(path):
            raise UserError(
                f"{path} is no recording: name the folder of a rosbag2 recording, or its .mcap or .db3 file"
            )
        return [path]
    present = sorted((file for file in path.iterdir() if _is_storage(file)), key=_natural)
    try:
        content = yaml.safe_load((path / _METADATA).read_text(encoding="utf-8"))
        named = [path / Path(name).name for name in content["rosbag2_bagfile_information"]["relative_file_paths"]]
    except FileNotFoundError:
        damage.append(f"it has no {_METADATA}: its recorder did not end in order")
        named = present
    except (OSError, yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        damage.append(f"its {_METADATA} is damaged: {_one_line(error)}")
        named = present
    files = [file if file.is_file() else file.with_name(f"{file.name}.zstd") for file in named]
    lost = [file.name for file, other in zip(named, files, strict=True) if not other.is_file()]
    if lost:
        raise UserError(f"{path} lacks {lost[0]}, which its {_METADATA} names: restore it, or delete the {_METADATA}")
    if not files:
        raise UserError(f"{path} is no recording: it holds no .mcap or .db3 file")
    return files


class _Content:
    """What is gathered from the files of a recording."""

    def __init__(self, name: str, wanted: Mapping[str, str], take: Take) -> None:
        self.name = name
        self.wanted = wanted
        self.take = take
        self.types: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.messages: list[Received] = []
        self.start_ns, self.end_ns = 2**63 - 1, 0
        self._standard = get_typestore(Stores.LATEST)
        self._stores: dict[str, Any] = {}

    def read(self, file: Path, scratch: Path) -> str:
        """Reads a file as far as it goes.

        Returns:
            What is wrong with it; empty for nothing.
        """
        complaint = ""
        if file.suffix in (".zstd", ".zst"):
            file, complaint = _decompressed(file, scratch)
        if file.suffix == ".db3":
            file = _with_log(file, scratch)
        before = self.counts.total()
        try:
            with Reader(file) as reader:
                for connection in reader.connections:
                    kind = "idl" if connection.msgdef.format is MessageDefinitionFormat.IDL else "msg"
                    self._topic(connection.topic, connection.msgtype, kind, connection.msgdef.data)
                for connection, received_ns, raw in reader.messages(reader.connections):
                    self._message(connection.topic, received_ns, raw)
        except UserError:
            raise
        except Exception as error:  # the packages' own, and those of the database
            if file.suffix == ".mcap" and self.counts.total() == before:
                return self._read_cut(file)
            read = self.counts.total() - before
            return complaint or f"damaged after {read} messages, the rest is left out ({_one_line(error)})"
        return complaint

    def _read_cut(self, file: Path) -> str:
        """Reads an MCAP file from its beginning, without the index at its end."""
        channels: dict[int, str] = {}
        schemas: dict[int, Schema] = {}
        reason, before = "", self.counts.total()
        try:
            for record in cut_records(file):
                if isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    if record.message_encoding != "cdr":
                        raise UserError(f"{self.name} is no recording of ROS 2: it holds {record.message_encoding}")
                    schema = schemas[record.schema_id]
                    kind = "idl" if "idl" in schema.encoding else "msg"
                    self._topic(record.topic, schema.name, kind, schema.data.decode())
                    channels[record.id] = record.topic
                else:
                    self._message(channels[record.channel_id], record.log_time, record.data)
        except (OSError, ValueError, KeyError) as error:
            reason = f" ({_one_line(error)})"
        return f"cut short: {self.counts.total() - before} messages are read{reason}"

    def _topic(self, topic: str, kind: str, encoding: str, definition: str) -> None:
        if self.types.setdefault(topic, kind) != kind:
            raise UserError(f"topic {topic} is of two types, {self.types[topic]} and {kind}: split the recording")
        if kind in self.wanted.values() and kind not in self._stores and definition:
            own = get_typestore(Stores.EMPTY)
            try:
                own.register(_parse(encoding, definition, kind))
                self._stores[kind] = own
            except Exception as error:
                logger.warning("the recording's definition of %s is not understood: %s", kind, _one_line(error))

    def _message(self, topic: str, received_ns: int, raw: bytes) -> None:
        self.counts[topic] += 1
        self.start_ns, self.end_ns = min(self.start_ns, received_ns), max(self.end_ns, received_ns)
        wanted = self.wanted.get(topic)
        if wanted == "":
            self.messages.append(Received(topic, received_ns, None))
        elif wanted == self.types[topic]:
            self.messages.append(Received(topic, received_ns, self.take(topic, self._deserialized(topic, raw))))

    def _deserialized(self, topic: str, raw: bytes) -> Any:
        kind = self.types[topic]
        store = self._stores.get(kind, self._standard)
        if kind not in store.fielddefs:
            raise UserError(
                f"{self.name}: topic {topic} is of type {kind}, which neither the recording nor ROS 2 defines"
            )
        try:
            if raw[:4] == _ZSTD_MAGIC:
                raw = zstandard.ZstdDecompressor().decompressobj().decompress(raw)
            return store.deserialize_cdr(raw, kind)
        except Exception as error:
            raise UserError(
                f"{self.name}: message {self.counts[topic]} of topic {topic} cannot be read as {kind}: "
                f"{_one_line(error)}"
            ) from error


def _parse(encoding: str, definition: str, kind: str) -> dict[str, Any]:
    if encoding == "msg":
        return dict(get_types_from_msg(definition, kind))
    parts = re.split(r"^=+\nIDL: .*\n", definition, flags=re.MULTILINE)
    types: dict[str, Any] = {}
    for part in parts:
        if part.strip():
            types |= get_types_from_idl(part)
    return types


def _decompressed(file: Path, scratch: Path) -> tuple[Path, str]:
    """Unpacks a file, as far as it goes if it is cut."""
    target = scratch / file.stem
    try:
        with file.open("rb") as packed, target.open("wb") as unpacked:
            reader = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
            while block := reader.read(1 << 20):
                unpacked.write(block)
    except zstandard.ZstdError as error:
        return target, f"damaged, unpacked in part ({_one_line(error)})"
    return target, ""


def _with_log(file: Path, scratch: Path) -> Path:
    """A database whose recorder was killed may have its last messages in a log beside it: puts them in, in a copy."""
    log = file.with_name(f"{file.name}-wal")
    if not log.is_file() or not log.stat().st_size:
        return file
    copy = scratch / f"with_log_{file.name}"
    shutil.copy2(file, copy)
    shutil.copy2(log, copy.with_name(f"{copy.name}-wal"))
    try:
        database = sqlite3.connect(copy)
        try:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            database.execute("PRAGMA journal_mode=DELETE")
        finally:
            database.close()
    except sqlite3.Error as error:
        logger.warning("%s: the messages in its log are lost: %s", file, _one_line(error))
        return file
    return copy


def _is_storage(file: Path) -> bool:
    suffixes = file.suffixes[-2:]
    return file.suffix in _STORAGES or (len(suffixes) == 2 and suffixes[0] in _STORAGES and suffixes[1] == ".zstd")


def _natural(file: Path) -> list[tuple[int, str]]:
    """Sorts file_2 before file_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file.name)]


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:150]
