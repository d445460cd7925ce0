"""PyBullet without the line that it writes to standard error when it is imported."""

from __future__ import annotations

import os


def _import_pybullet() -> None:
    """Imports PyBullet with standard error closed for the moment: the line comes from C and cannot be switched off."""
    try:
        standard_error = os.dup(2)
    except OSError:  # no standard error: nothing to keep clean
        return
    silent = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(silent, 2)
    finally:
        os.dup2(standard_error, 2)
        os.close(silent)
        os.close(standard_error)


_import_pybullet()

import pybullet  # noqa: E402

__all__ = ["pybullet"]
