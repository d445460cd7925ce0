"""PyBullet without the line that it writes to standard error when it is imported."""

from __future__ import annotations

import importlib
import os
from typing import Any


def _import_quietly(name: str) -> Any:
    """Imports a module with standard error closed for the moment: PyBullet's line comes from C, no switch stops it."""
    try:
        standard_error = os.dup(2)
    except OSError:  # there is no standard error to keep clean
        return importlib.import_module(name)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        return importlib.import_module(name)
    finally:
        os.dup2(standard_error, 2)
        os.close(nowhere)
        os.close(standard_error)


pybullet: Any = _import_quietly("pybullet")
