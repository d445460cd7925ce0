"""Folders that are written whole or not at all, and that notice damage."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safe_rl.errors import UserError

MANIFEST = "manifest.json"


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """Yields an empty folder to fill; puts it in place of ``final`` once it is complete and on disk.

    The former folder survives whatever goes wrong before that, a full disk included.

    Raises:
        UserError: The disk is full or the folder cannot be written.
    """
    staging = final.with_name(f".{final.name}.staging-{os.getpid()}")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        yield staging
        write_manifest(staging)
        for path in [*staging.rglob("*"), staging]:
            _fsync(path)
        _replace_folder(staging, final)
    except OSError as error:
        raise UserError(
            f"cannot write {final}: {error.strerror or error}; the former version is kept: "
            "free space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _replace_folder(new: Path, final: Path) -> None:
    """Renames ``new`` to ``final``. No call replaces a folder, so the former one steps aside for a moment."""
    aside = final.with_name(f".{final.name}.former-{os.getpid()}")
    if final.exists():
        final.rename(aside)
    os.replace(new, final)
    _fsync(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_manifest(folder: Path) -> None:
    """Writes the SHA-256 of every file below ``folder`` to its manifest, and that of the list itself."""
    files = {
        str(path.relative_to(folder)): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    (folder / MANIFEST).write_text(json.dumps({"files": files, "sha256": _digest(files)}, indent=1))


def verify_manifest(folder: Path) -> None:
    """Checks every file of the manifest.

    Raises:
        UserError: A file is missing or not as it was written, or the manifest itself is.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        intact = manifest["sha256"] == _digest(manifest["files"])
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no {MANIFEST}: it is incomplete, restore it or write it again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / MANIFEST} is damaged: restore it or write {folder} again") from error
    if not intact:
        raise UserError(f"{folder / MANIFEST} is damaged: restore it or write {folder} again")
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing: restore it or write {folder} again")
        if sha256(path) != expected:
            raise UserError(f"{path} is damaged (its SHA-256 differs): restore it or write {folder} again")


def _digest(files: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
