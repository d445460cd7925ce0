"""What an unfinished collection keeps on disk, so that it can be gone on with."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safe_rl.data.episodes import EpisodeTable
from safe_rl.data.folders import partial_folder
from safe_rl.errors import UserError

JOURNAL = "journal.json"
_CHUNK = "chunk-{:09d}.npz"


class EpisodeJournal:
    """The folder ``<dataset>.partial``: a header, and chunks of episodes, each written completely or not at all."""

    def __init__(self, folder: Path, header: dict[str, Any]) -> None:
        """Use ``begin`` or ``resume``."""
        self.folder = folder
        self.header = header
        """JSON values that tell what is being collected."""
        self._descriptor: int | None = _lock(folder)
        self.num_episodes = self.num_transitions = 0
        self._chunks: list[str] = []
        try:
            self._count_chunks()
        except UserError:
            self.close()
            raise

    @classmethod
    def begin(cls, dataset: Path, header: dict[str, Any]) -> EpisodeJournal:
        """Starts anew; what an earlier collection has left is dropped."""
        folder = partial_folder(dataset)
        with disk_errors(folder):
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
            _write_atomically(folder / JOURNAL, json.dumps(header, indent=1).encode())
        return cls(folder, header)

    @classmethod
    def resume(cls, dataset: Path) -> EpisodeJournal:
        """Goes on with an interrupted collection.

        Raises:
            UserError: There is none, it is damaged, or another process is at it.
        """
        folder = partial_folder(dataset)
        if not cls.exists(dataset):
            raise UserError(f"no interrupted collection of {dataset} to resume: leave --resume out to start one")
        try:
            header = json.loads((folder / JOURNAL).read_text())
        except ValueError as error:
            raise UserError(f"{folder / JOURNAL} is damaged: delete {folder} and collect again") from error
        return cls(folder, header)

    @staticmethod
    def exists(dataset: Path) -> bool:
        """Tells whether a collection into ``dataset`` is unfinished."""
        return (partial_folder(dataset) / JOURNAL).is_file()

    @property
    def nbytes(self) -> int:
        """Size of the chunks on disk."""
        return sum((self.folder / name).stat().st_size for name in self._chunks)

    def append(self, table: EpisodeTable) -> None:
        """Puts a chunk on disk; it is named by its first episode, so one that Ctrl-C cut short is written over.

        Raises:
            UserError: The disk is full; the chunks before are kept.
        """
        name = _CHUNK.format(self.num_episodes)
        with disk_errors(self.folder):
            _write_atomically(self.folder / name, table)
        self._count(name, table)

    def tables(self) -> Iterator[EpisodeTable]:
        """Yields the chunks in order."""
        return (self._load(name) for name in self._chunks)

    def close(self) -> None:
        """Lets another process go on."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def remove(self) -> None:
        """Deletes the folder: the collection is finished."""
        self.close()
        with disk_errors(self.folder):
            shutil.rmtree(self.folder)

    def _count_chunks(self) -> None:
        for path in sorted(self.folder.glob("chunk-*.npz")):
            expected = _CHUNK.format(self.num_episodes)
            if path.name != expected:
                raise self._damaged(expected)
            self._count(path.name, self._load(path.name))

    def _count(self, name: str, table: EpisodeTable) -> None:
        self._chunks.append(name)
        self.num_episodes += len(table.lengths)
        self.num_transitions += table.num_steps

    def _load(self, name: str) -> EpisodeTable:
        try:
            return EpisodeTable.load(self.folder / name)
        except ValueError as error:
            raise self._damaged(name) from error

    def _damaged(self, name: str) -> UserError:
        return UserError(f"{self.folder / name} is missing or damaged: delete {self.folder} and collect again")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns the errors of a full or forbidden disk into a ``UserError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        no_room = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        cure = "free some space and use --resume" if no_room else "make it writable or choose another --output"
        raise UserError(f"cannot write {path}: {reason}; the episodes collected before are kept: {cure}") from error


def _write_atomically(path: Path, content: bytes | EpisodeTable) -> None:
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            if isinstance(content, EpisodeTable):
                content.save(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _lock(folder: Path) -> int:
    """Keeps two processes from writing one collection; the system lifts the lock when a process ends."""
    with disk_errors(folder):
        descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise UserError(
            f"another process is collecting into {folder}: wait for it or choose another --output"
        ) from error
    return descriptor
