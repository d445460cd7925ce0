"""Definitions of message types as recordings carry them: the text of what is installed, with all that it holds.

The `.msg` files are what ROS 2's own recorder writes too: a robot's own messages are among them, constants and comments
stay, and a reader needs nothing else to understand the recording.
"""

from __future__ import annotations

import os
import re
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

from safe_rl.errors import UserError

_INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_PRIMITIVES = {"bool", "byte", "char", "float32", "float64", "string", "wstring"} | _INTEGERS
_SEPARATOR = "=" * 80


def install_prefixes() -> list[Path]:
    """Where packages are installed: ROS's workspaces, then this environment."""
    named = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    return [Path(prefix) for prefix in [*named, sys.prefix]]


def definition(kind: str, prefixes: Sequence[Path] | None = None) -> str:
    """Gathers a type's definition and those of the types in it, in MCAP's form ``ros2msg``.

    Args:
        kind: Such as ``nav_msgs/msg/Odometry``.
        prefixes: Folders that hold ``share/<package>/msg``; by default ``install_prefixes()``.

    Raises:
        UserError: One is not installed as a `.msg` file.
    """
    roots = install_prefixes() if prefixes is None else prefixes
    texts: dict[str, str] = {}
    waiting = [kind]
    while waiting:
        name = waiting.pop(0)
        if name not in texts:
            texts[name] = _text(name, roots)
            waiting += _parts(texts[name], name.partition("/")[0])
    own = texts.pop(kind)
    return own + "".join(
        f"\n{_SEPARATOR}\nMSG: {name.replace('/msg/', '/')}\n{text}" for name, text in texts.items()
    )  # fmt: skip


def _text(kind: str, roots: Sequence[Path]) -> str:
    package, _, name = kind.partition("/msg/")
    for root in roots:
        file = root / "share" / package / "msg" / f"{name}.msg"
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise UserError(
        f"no definition of {kind} is installed: apt-get install ros-$ROS_DISTRO-{package.replace('_', '-')}, or source "
        "the workspace that has it"
    )


def _parts(text: str, package: str) -> list[str]:
    """The message types that a definition names."""
    parts = []
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        kind = re.split(r"\[|<=", words[0])[0] if words else ""
        if kind and kind not in _PRIMITIVES:
            owner, _, name = kind.rpartition("/")
            parts.append(f"{owner.removesuffix('/msg') or package}/msg/{name}")
    return parts


def header_stamp_ns(data: bytes) -> int | None:
    """The stamp of a serialized message that begins with a header; None where nobody filled it."""
    order = "<" if data[1] & 1 else ">"
    seconds, nanoseconds = struct.unpack_from(f"{order}iI", data, 4)
    return seconds * 10**9 + nanoseconds or None
