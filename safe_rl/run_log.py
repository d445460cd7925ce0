"""What a run writes while it goes: episodes.csv, metrics.jsonl and TensorBoard."""

from __future__ import annotations

import csv
import json
import math
import os
from dataclasses import astuple
from pathlib import Path
from typing import IO

import torch
from torch.utils.tensorboard import SummaryWriter

from safe_rl.errors import UserError
from safe_rl.rollout import EpisodeRecord
from safe_rl.storage import fsync

EPISODES = "episodes.csv"


class RunLog:
    """Appends to the logs of a run folder; on resuming it first forgets what came after the checkpoint."""

    def __init__(self, folder: Path, *, episodes_done: int = 0, steps_done: int = 0) -> None:
        """Opens the logs of ``folder``, cut back to ``episodes_done`` episodes and ``steps_done`` environment steps.

        Raises:
            UserError: Episodes that a checkpoint counts are not there.
        """
        _keep_episodes(folder / EPISODES, episodes_done)
        _keep_metrics(folder / "metrics.jsonl", steps_done)
        self._episodes: IO[str] = (folder / EPISODES).open("a", newline="")
        self._rows = csv.writer(self._episodes)
        if self._episodes.tell() == 0:
            self._rows.writerow(EpisodeRecord.columns())
        self._metrics: IO[str] = (folder / "metrics.jsonl").open("a")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=steps_done + 1)
        self.flush()

    def episode(self, record: EpisodeRecord, step: int) -> None:
        """Writes a finished episode; ``step`` is the number of environment steps so far."""
        self.row(record)
        self._episodes.flush()
        for name in ("return_", "steps", "success", "violation", "recovery_steps"):
            self._board.add_scalar(f"rollout/{name.rstrip('_')}", getattr(record, name), step)

    def row(self, record: EpisodeRecord) -> None:
        """Writes a finished episode to the table alone, with the next flush: for hundreds of episodes a second."""
        self._rows.writerow(astuple(record))

    def metrics(self, step: int, episode: int, values: dict[str, float | torch.Tensor]) -> None:
        """Writes a row of metrics; values that are not finite become null."""
        numbers = {name: float(value) for name, value in values.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        self._metrics.write(json.dumps({"step": step, "episode": episode, **finite}) + "\n")
        self._metrics.flush()
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        """Hands everything to the operating system."""
        self._episodes.flush()
        self._metrics.flush()

    def close(self) -> None:
        """Closes the files."""
        self._episodes.close()
        self._metrics.close()
        self._board.close()


def sync_episodes(folder: Path) -> None:
    """Brings the episodes of a run to disk, before a checkpoint that counts them is there.

    Without it a power cut would take the last of them, and what came after would be written behind the gap.
    """
    if (folder / EPISODES).exists():
        fsync(folder / EPISODES)


def _keep_episodes(path: Path, count: int) -> None:
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    there = max(sum(line.endswith("\n") for line in lines) - 1, 0)  # but the heading
    if there < count:
        raise UserError(
            f"{path} has {there} of the {count} episodes that the newest checkpoint counts: restore it, or delete the "
            "run and begin it again"
        )
    if lines:
        _rewrite(path, lines[: count + 1])


def _keep_metrics(path: Path, steps_done: int) -> None:
    if path.exists():
        lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        _rewrite(path, [line for line in lines if json.loads(line)["step"] <= steps_done])


def _rewrite(path: Path, lines: list[str]) -> None:
    """Replaces the file in one go: a full disk must not cost the log that is there."""
    new = path.with_name(f".{path.name}.new")
    new.write_text("".join(lines))
    os.replace(new, path)
