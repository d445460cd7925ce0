"""Reads what a training run wrote, and turns it into curves over episodes."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from safe_rl.errors import UserError
from safe_rl.runs import Run, load_run

Array = npt.NDArray[np.float64]

COLUMNS = ("episode", "steps", "return", "cost", "success", "violation", "recovery_steps", "wall_time_sec")


@dataclass(frozen=True)
class Episodes:
    """The training episodes of one run, in order; every array is ``(num_episodes,)``."""

    steps: Array
    returns: Array
    """Undiscounted return."""
    cost: Array
    """Steps with the constraint violated."""
    success: Array
    """1.0 where the episode ended in success."""
    violation: Array
    """1.0 where the episode violated the constraint."""
    recovery_steps: Array
    """Steps in which the recovery policy acted."""
    wall_time_sec: Array
    """Time since the run began, at the end of the episode."""

    def __len__(self) -> int:
        return len(self.steps)

    def first(self, count: int) -> Episodes:
        """Returns the first ``count`` episodes."""
        return Episodes(**{name: values[:count] for name, values in vars(self).items()})

    def ratio(self) -> Array:
        """(num_episodes,) ``(successes + 1) / (violations + 1)`` so far (Recovery RL, arXiv 2010.15920, figure 4)."""
        ratio: Array = (np.cumsum(self.success) + 1.0) / (np.cumsum(self.violation) + 1.0)
        return ratio

    def recovery_share(self) -> Array:
        """(num_episodes,) share of the steps in which the recovery policy acted."""
        share: Array = self.recovery_steps / np.maximum(self.steps, 1.0)
        return share


LABEL = "label.json"
"""File beside the seeds of a comparison's variant that says what it is called."""


@dataclass(frozen=True)
class RunRecord:
    """What one run folder says without its checkpoint."""

    run: Run
    versions: dict[str, Any]
    episodes: Episodes
    metrics: dict[str, tuple[Array, Array]]
    """Name of the metric -> environment steps and values, both ``(num_rows,)``."""
    notes: list[str] = field(default_factory=list)
    """What was odd about the files, in words for the reader."""
    label: str | None = None
    """What a comparison calls the run's variant; None outside of one."""

    @property
    def planned_episodes(self) -> int | None:
        """Training episodes asked for, where the configuration says so."""
        planned = self.run.config.get("episodes")
        return None if planned is None else int(planned)


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Finds run folders: each path is one itself, or a folder that holds some, however deep.

    Raises:
        UserError: A path is missing, or holds no run.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"no run at {path}: the folder does not exist")
        if _is_run(path):
            inside = [path]
        else:
            inside = sorted(p.parent for p in path.rglob("episodes.csv") if _is_run(p.parent)) if path.is_dir() else []
        if not inside:
            raise UserError(
                f"{path} is not a run and holds none: a run of safe-rl train has config.json and episodes.csv"
            )
        found.update({run.resolve(): run for run in inside})
    return list(found.values())


def _is_run(path: Path) -> bool:
    return (path / "config.json").is_file() and (path / "episodes.csv").is_file()


def read_run(path: Path) -> RunRecord:
    """Reads configuration, versions, episodes and metrics of the run folder ``path``.

    Raises:
        UserError: A file is damaged; the message names it and the line.
    """
    notes: list[str] = []
    run = load_run(path)
    versions = _read_json(path / "versions.json") if (path / "versions.json").is_file() else {}
    if not versions:
        notes.append("versions.json is missing: library versions and command line are unknown.")
    return RunRecord(
        run=run,
        versions=versions,
        episodes=read_episodes(path / "episodes.csv", notes),
        metrics=read_metrics(path / "metrics.jsonl", notes),
        notes=notes,
        label=_read_json(path.parent / LABEL).get("label") if (path.parent / LABEL).is_file() else None,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it or leave the run out") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object; restore it or leave the run out")
    return value


def _complete_lines(path: Path, notes: list[str]) -> Iterator[tuple[int, str]]:
    """Yields numbered lines; a last line without an end, which an interrupted write leaves, is skipped with a note."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it or leave the run out") from error
    lines = text.splitlines()
    if lines and not text.endswith("\n"):
        lines.pop()
        notes.append(f"The last line of {path.name} was cut off while it was written, and is left out.")
    yield from enumerate(lines, start=1)


def read_episodes(path: Path, notes: list[str]) -> Episodes:
    """Reads ``episodes.csv``; oddities that do not matter are appended to ``notes``.

    Raises:
        UserError: A row is damaged.
    """
    lines = list(_complete_lines(path, notes))
    header = next(csv.reader([lines[0][1]]), []) if lines else []
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise UserError(f"{path}, line 1: column {missing[0]!r} is missing; restore the file or leave the run out")
    rows = []
    for number, line in lines[1:]:
        cells = next(csv.reader([line]), [])
        try:
            values = [float(cell) for cell in cells]
        except ValueError as error:
            raise UserError(f"{path}, line {number} is damaged ({error}): mend it or leave the run out") from error
        if len(values) != len(header):
            raise UserError(
                f"{path}, line {number} is damaged: {len(values)} values for {len(header)} columns; "
                "mend it or leave the run out"
            )
        row = dict(zip(header, values, strict=True))
        bad = next((name for name in COLUMNS if not np.isfinite(row[name])), None)
        if bad is None:
            bad = next((name for name in ("success", "violation") if row[name] not in (0.0, 1.0)), None)
        if bad is not None:
            raise UserError(f"{path}, line {number} is damaged: {bad} is {row[bad]:g}; mend it or leave the run out")
        rows.append([row[name] for name in COLUMNS[1:]])
    table = np.array(rows, dtype=np.float64).reshape(len(rows), len(COLUMNS) - 1)
    return Episodes(*table.T)


def read_metrics(path: Path, notes: list[str]) -> dict[str, tuple[Array, Array]]:
    """Reads ``metrics.jsonl`` into one series a metric; an absent file gives none.

    Raises:
        UserError: A line is damaged.
    """
    if not path.is_file():
        return {}
    series: dict[str, tuple[list[float], list[float]]] = {}
    for number, line in _complete_lines(path, notes):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            step = float(row["step"])
            numbers = {name: float(value) for name, value in row.items() if "/" in name and value is not None}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path}, line {number} is damaged ({error!r}): mend it or delete the file") from error
        for name, value in numbers.items():
            steps, values = series.setdefault(name, ([], []))
            steps.append(step)
            values.append(value)
    return {name: (np.array(steps), np.array(values)) for name, (steps, values) in sorted(series.items())}


def mean_and_standard_error(values: npt.ArrayLike) -> tuple[Array, Array]:
    """Mean over seeds and its standard error (sample deviation over ``sqrt(n)``).

    Args:
        values: (num_seeds, ...) one row a seed.

    Returns:
        Mean and standard error, each ``(...)``; the error of a single seed is NaN, because nothing is known about it.
    """
    array = np.asarray(values, dtype=np.float64)
    mean = array.mean(axis=0)
    if len(array) < 2:
        return mean, np.full_like(mean, np.nan)
    return mean, array.std(axis=0, ddof=1) / np.sqrt(len(array))


def rolling_mean(values: Array, window: int) -> Array:
    """(n,) mean of each value and at most ``window - 1`` values before it."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    begin = np.maximum(end - window, 0)
    mean: Array = (total[end] - total[begin]) / (end - begin)
    return mean
