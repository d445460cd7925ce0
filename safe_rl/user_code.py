"""What users name as ``package.module:attribute``: environments and methods of their own."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from safe_rl.errors import UserError


def import_attribute(name: str, kind: str, part: str) -> Any:
    """Imports what ``package.module:attribute`` names.

    Args:
        name: The name as the user gave it.
        kind: What it is, for the error: an environment, a method.
        part: What the attribute is, for the error: a factory.

    Raises:
        UserError: The module cannot be imported, or lacks the attribute.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UserError(f"no {kind} {name!r}: {kind}s of your own are named package.module:{part}")
    if os.getcwd() not in sys.path:  # an installed command does not look in the current folder by itself
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module does when it is imported
        raise UserError(
            f"cannot import {module_name!r} of {kind} {name!r}: {type(error).__name__}: {one_line(error)}"
        ) from error
    if not hasattr(module, attribute):
        raise UserError(f"module {module_name!r} has no {part} {attribute!r}; {kind}s are named package.module:{part}")
    return getattr(module, attribute)


def one_line(error: BaseException) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())
