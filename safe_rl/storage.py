"""Folders that are written whole or not at all, and that notice damage."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safe_rl.errors import UserError

MANIFEST = "manifest.json"
MAX_JSON_BYTES = 16 * 2**20
"""No description that we write comes near; what is larger is not read into memory."""
MAX_JSON_DEPTH = 64
"""The same for lists and objects within each other: what is deeper would exhaust the stack of who walks through it."""
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<kind>staging|former)-(?P<process>\d+)")


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """Yields an empty folder to fill; puts it in place of ``final`` once it is complete and on disk.

    The former folder survives whatever goes wrong before that, a full disk included.

    Raises:
        UserError: The disk is full or the folder cannot be written.
    """
    require_replaceable(final)
    final = final.parent.resolve() / final.name  # "a/../a" ends while a steps aside
    staging = final.with_name(f".{final.name}.staging-{os.getpid()}")
    try:
        clear_leftovers(final.parent, final.name)
        staging.mkdir(parents=True)
        yield staging
        write_manifest(staging)
        for path in [*staging.rglob("*"), staging]:
            fsync(path)
        _replace_folder(staging, final)
    except OSError as error:
        raise UserError(
            f"cannot write {final}: {error.strerror or error}; the former version is kept: "
            "free space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def require_replaceable(folder: Path) -> None:
    """Raises ``UserError`` where a folder cannot step aside: it has no name of its own, or the process is in it."""
    if folder.name in ("", "..") or (folder.is_dir() and folder.samefile(".")):
        raise UserError(f"{folder} cannot be replaced from inside or by that name: go one folder up and name it")


def _replace_folder(new: Path, final: Path) -> None:
    """Renames ``new`` to ``final``. No call replaces a folder, so the former one steps aside for a moment."""
    aside = final.with_name(f".{final.name}.former-{os.getpid()}")
    if final.exists():
        final.rename(aside)
    try:
        os.replace(new, final)
    except OSError:
        restore_former(final.parent, final.name)
        raise
    fsync(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def restore_former(parent: Path, name: str | None = None) -> None:
    """Puts ``parent / name`` back where a process was killed just before its new version took its place.

    Without a name every folder in ``parent`` is looked after.
    """
    for leftover, kind, final in _leftovers(parent, name):
        if kind == "former" and not final.exists():
            with contextlib.suppress(OSError):  # where nothing may be written, nothing can be put back
                leftover.rename(final)


def clear_leftovers(parent: Path, name: str | None = None) -> None:
    """Undoes what killed processes had begun in order to replace ``parent / name``, or any folder in ``parent``."""
    restore_former(parent, name)
    for leftover, _, _ in _leftovers(parent, name):
        shutil.rmtree(leftover, ignore_errors=True)


def _leftovers(parent: Path, name: str | None) -> list[tuple[Path, str, Path]]:
    """What processes no longer running left in ``parent``: the folder, its kind, and what it was to replace."""
    found = []
    for path in sorted(parent.iterdir()) if parent.is_dir() else ():
        match = _LEFTOVER.fullmatch(path.name)
        if match and name in (None, match["name"]) and not _runs_elsewhere(int(match["process"])):
            found.append((path, match["kind"], parent / match["name"]))
    return found


def _runs_elsewhere(process: int) -> bool:
    """Whether another process of that number runs; in a container a new one often has the number of the killed."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def fsync(path: Path) -> None:
    """Waits until a file, or which files a folder holds, is on disk: a power cut can no longer take it."""
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


def verify_manifest(folder: Path) -> dict[str, str]:
    """Checks every file of the manifest.

    Returns:
        Their names, and the SHA-256 of each.

    Raises:
        UserError: A file is missing or not as it was written, or the manifest itself is.
    """
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{folder} has no {MANIFEST}: it is incomplete, restore it or write it again")
    manifest = read_json(folder / MANIFEST)
    try:
        intact = manifest["sha256"] == _digest(manifest["files"])
        files = {str(name): str(expected) for name, expected in manifest["files"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / MANIFEST} is damaged: restore it or write {folder} again") from error
    if not intact:
        raise UserError(f"{folder / MANIFEST} is damaged: restore it or write {folder} again")
    for name, expected in files.items():
        try:
            _verify_file(folder, name, expected)
        except (OSError, ValueError, RuntimeError) as error:  # no name of a file, links in a circle, no permission
            raise UserError(f"file {name!r} of {folder} cannot be read ({error}): restore it") from error
    return files


def _verify_file(folder: Path, name: str, expected: str) -> None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path} lies outside of {folder}: refused; copy the file itself there, not a link")
    if not path.is_file():
        raise UserError(f"{path} is missing: restore it or write {folder} again")
    if sha256(path) != expected:
        raise UserError(f"{path} is damaged (its SHA-256 differs): restore it or write {folder} again")


def read_json(path: Path, expected_sha256: str | None = None) -> Any:
    """Reads a small JSON file that somebody else may have written.

    Raises:
        UserError: It is missing, too large, nested too deeply, no JSON, or not what its manifest said.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise UserError(f"{path} has {size} bytes, more than the {MAX_JSON_BYTES} that are read: it is damaged")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    if expected_sha256 not in (None, hashlib.sha256(content).hexdigest()):
        raise UserError(f"{path} was changed while it was being read: try again")
    try:
        value = json.loads(content.decode())
        _require_shallow(value)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: restore it or write {path.parent} again") from error
    return value


def _require_shallow(value: Any) -> None:
    level = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        inner = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list))]
        level = [item for items in inner for item in items]
    if level:
        raise ValueError("nested too deeply")


def _digest(files: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
