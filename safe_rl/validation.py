"""Checks of settings: an error names the flag, its value and what it must be."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from safe_rl.errors import UserError


def require(condition: bool, section: str, name: str, value: object, need: str) -> None:
    """Raises ``UserError`` with the flag, its value and what it must be, unless ``condition`` holds."""
    if not condition:
        flag = f"{section}.{name}" if section else name
        raise UserError(f"--{flag.replace('_', '-')} is {value}: it must be {need}")


def require_widths(section: str, sizes: tuple[int, ...]) -> None:
    """Raises ``UserError`` unless all hidden layers of a section have a width."""
    require(all(size > 0 for size in sizes), section, "hidden_sizes", sizes, "positive widths")


def require_defaults(section: str, given: Any, why: str, names: Collection[str] | None = None) -> None:
    """Raises ``UserError`` where settings that nothing would heed are given; ``why`` says for what reason.

    Args:
        section: Of the flags.
        given: The settings.
        why: They are not heeded.
        names: Those of them that are not; all, where it is left out.
    """
    defaults = vars(type(given)())
    for name, value in vars(given).items():
        if value != defaults[name] and (names is None or name in names):
            raise UserError(f"--{section}.{name.replace('_', '-')} is {value}: {why}")
