"""Turns a command's arguments into its config, and every mistake in them into one line."""

from __future__ import annotations

import contextlib
import difflib
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

from safe_rl.errors import UserError

Config = TypeVar("Config")

_FRAME = re.compile("[╭╮╰╯│]")
_RULE = "─- "  # the second where the terminal has no box characters


class UsageError(UserError):
    """Arguments that do not fit the command; the message ends with where its help is."""


def parse(
    config_type: type[Config] | Callable[..., Config],
    argv: Sequence[str],
    prog: str,
    default: Config | None = None,
) -> Config:
    """Parses ``argv`` into a dataclass config.

    A field is an option (``eps_risk`` is ``--eps-risk``), a bool is ``--flag`` or ``--no-flag``, a nested dataclass
    gives ``--section.field``, and a field of type ``tyro.conf.Positional[T]`` is an argument. Field docstrings are the
    help.

    Args:
        config_type: The dataclass.
        argv: The arguments after the command's name.
        prog: How the command is called, such as ``safe-rl collect``; stands in its help and its errors.
        default: Values to start from instead of the dataclass's own defaults, a preset for example.

    Returns:
        The config; it has validated itself in ``__post_init__``.

    Raises:
        UsageError: An argument is unknown, missing or of the wrong kind.
        UserError: The config rejected a value.
        SystemExit: With code 0, after ``--help`` was printed.
    """
    kwargs: dict[str, Any] = {} if default is None else {"default": default}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(config_type, args=list(argv), prog=prog, **kwargs)
    except SystemExit as stop:
        if not stop.code:
            raise
        message = _unknown_flag(config_type, argv, kwargs) or _one_line(complaint.getvalue())
        raise UsageError(f"{message}; see {prog} --help") from None


def nearest(word: str, known: Sequence[str]) -> str:
    """Returns ``"; did you mean X?"`` for the known word that looks most like ``word``, or nothing where none does."""
    matches = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {matches[0]}?" if matches else ""


def _unknown_flag(config_type: Any, argv: Sequence[str], kwargs: dict[str, Any]) -> str:
    """Names the first option that the command does not have; it often explains why another one is missing."""
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen), contextlib.suppress(SystemExit):
        tyro.cli(config_type, args=["--help"], **kwargs)
    known = sorted(set(re.findall(r"(?<!\S)--[a-z][\w.-]*\w", screen.getvalue())))
    for token in argv:
        flag = token.partition("=")[0].replace("_", "-")
        if flag == "--":  # what follows are arguments
            break
        if flag.startswith("--") and flag not in known:
            return f"unknown option {flag}{nearest(flag, known)}"
    return ""


def _one_line(complaint: str) -> str:
    """Takes tyro's message out of its box: what stands between the title and the first rule."""
    title, *rows = complaint.splitlines() or [""]
    lines: list[str] = []
    for row in rows:
        text = _FRAME.sub(" ", row)[2:].rstrip()
        if not text.strip(_RULE):
            if lines:
                break
        else:
            lines.append(text)
    if "Required options" in title:
        # The options stand four columns in, their help text eight.
        return "missing " + ", ".join(line.strip() for line in lines if re.match(r" {4}\S", line))
    message = " ".join(line.strip() for line in lines) or " ".join(complaint.split()) or "the arguments do not fit"
    if value := re.search(r"^Error parsing (\S+): (.*)$", message):
        return f"{value[1]}: {value[2]}"
    message = re.sub(r"^Unrecognized options: ", "unexpected argument ", message)
    message = re.sub(r"^Missing value for argument '(.+?)'\. Expected (\d+) values?\.?$", r"\1 needs a value", message)
    return message.rstrip(". ")
