"""Reads MCAP files that were cut: their recorder was killed or the disk was full, so the index at the end lacks."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import lz4.frame
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Message, Schema
from mcap.stream_reader import breakup_chunk

Record = Schema | Channel | Message

MAGIC = b"\x89MCAP0\r\n"
_CHUNK_HEAD = struct.Struct("<QQQII")
"""Start, end, size when unpacked, checksum, length of the compression's name."""


def cut_records(path: Path) -> Iterator[Record]:
    """Yields what stands before the cut, of the chunk that is cut as much as can be unpacked.

    Raises:
        ValueError: It is no MCAP file, or damaged before its end.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError("it does not begin like an MCAP file")
        yield from _records(file)


def _records(stream: io.BufferedIOBase | io.BufferedReader) -> Iterator[Record]:
    while len(head := stream.read(9)) == 9:
        opcode, length = head[0], int.from_bytes(head[1:], "little")
        body = stream.read(min(length, 1 << 32))
        if len(body) < length:
            if opcode == Opcode.CHUNK:
                yield from _records(io.BytesIO(_unpacked_part(body)))
            return
        data = ReadDataStream(io.BytesIO(body))
        try:
            if opcode == Opcode.CHUNK:
                for record in breakup_chunk(Chunk.read(data), validate_crc=True):
                    if isinstance(record, Record):
                        yield record
            elif opcode == Opcode.SCHEMA:
                yield Schema.read(data)
            elif opcode == Opcode.CHANNEL:
                yield Channel.read(data)
            elif opcode == Opcode.MESSAGE:
                yield Message.read(data, length)
        except (McapError, zstandard.ZstdError, RuntimeError, struct.error, ValueError) as error:
            raise ValueError(f"a record is damaged: {error}") from error


def _unpacked_part(body: bytes) -> bytes:
    """The records in the beginning of a chunk."""
    if len(body) < _CHUNK_HEAD.size:
        return b""
    name_end = _CHUNK_HEAD.size + _CHUNK_HEAD.unpack_from(body)[4]
    compression, packed = body[_CHUNK_HEAD.size : name_end].decode("ascii", "replace"), body[name_end + 8 :]
    try:
        if compression == "zstd":
            return zstandard.ZstdDecompressor().decompressobj().decompress(packed)
        if compression == "lz4":
            return bytes(lz4.frame.LZ4FrameDecompressor().decompress(packed))
    except (zstandard.ZstdError, RuntimeError, EOFError):
        return b""
    return packed if not compression else b""
