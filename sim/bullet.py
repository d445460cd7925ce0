"""PyBullet without the line that it writes to standard error when it is imported, and the meshes that it draws here."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from safe_rl.errors import UserError

ASSETS = Path(__file__).parent / "assets"


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


def mesh_file(name: str) -> str:
    """Returns the path of a mesh of this package.

    Raises:
        UserError: It is not there. PyBullet would go on, and the thing would be missing from every picture.
    """
    path = ASSETS / name
    if not path.is_file():
        raise UserError(f"the mesh {path} is missing: install safe_rl again, its package sim brings it")
    return str(path)
