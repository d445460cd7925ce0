"""Whether a window can be opened: asked beforehand, since OpenCV's windows end the process where none can."""

from __future__ import annotations

import os
import re
import socket
import sys

_ANSWER_SEC = 5.0
_SOCKET = "/tmp/.X11-unix/X{}"  # noqa: S108 - where X servers listen
_FIRST_PORT = 6000


def screen_fault() -> str | None:
    """Returns why no window can be opened here, or None where nothing speaks against it."""
    if sys.platform != "linux":
        return None
    display = os.environ.get("DISPLAY")
    if not display:
        return None if os.environ.get("WAYLAND_DISPLAY") else "neither DISPLAY nor WAYLAND_DISPLAY is set"
    return None if _answers(display) else f"DISPLAY is {display} and nothing answers there"


def _answers(display: str) -> bool:
    """Whether an X server listens at ``host:number.screen``; a name of another form is left to who opens the window."""
    match = re.fullmatch(r"(.*):(\d+)(\.\d+)?", display)
    if match is None:
        return True
    host, number = match[1], int(match[2])
    if host not in ("", "unix"):
        try:
            socket.create_connection((host.strip("[]"), _FIRST_PORT + number), _ANSWER_SEC).close()
        except OSError:
            return False
        return True
    path = _SOCKET.format(number)
    return any(_listens(address) for address in ("\0" + path, path))


def _listens(address: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_ANSWER_SEC)
        return client.connect_ex(address) == 0
