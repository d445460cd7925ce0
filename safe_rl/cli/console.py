"""What the commands print with: one console for results, one progress display for long work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Update = Callable[[int, int, str], None]
"""``update(done, total, status)``: the number done by now, that of all, and a few words beside them; called often."""

_REFRESH_SEC = 0.2
_LINE_EVERY_SEC = 15.0
_FILE_WIDTH = 120


def show(*renderables: RenderableType) -> None:
    """Prints results, rich tables among them, on stdout; without colours where it is a file."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    console.print(*renderables)


@contextmanager
def progress_bar(label: str, unit: str) -> Iterator[Update]:
    """Shows how far long work is, its rate and the time left, on stderr.

    The bar appears with the first update, so work that turns out not to be needed shows nothing. Where stderr is not a
    terminal, a plain line appears every 15 seconds instead.

    Args:
        label: What is being done, in a word or two.
        unit: What is counted, in the plural.

    Yields:
        The function to call with the number done, their total and a status.
    """
    console = Console(stderr=True, highlight=False, markup=False)
    display = _Bar(console, label, unit) if console.is_terminal else _Lines(console, label, unit)
    try:
        yield display.update
    finally:
        display.close()


class _Lines:
    """A line now and then, for a log."""

    interval_sec = _LINE_EVERY_SEC

    def __init__(self, console: Console, label: str, unit: str) -> None:
        self.console = console
        self.label = label
        self.unit = unit
        self.began: float | None = None

    def update(self, done: int, total: int, status: str = "") -> None:
        now = time.monotonic()
        if self.began is None:
            self.began = self.last = now
            self.done_before = done
            self.finished = False
            self.open(total)
        elif self.finished or (now - self.last < self.interval_sec and done < total):
            return
        self.last = now
        self.finished = done >= total
        elapsed = now - self.began
        self.draw(done, total, (done - self.done_before) / elapsed if elapsed > 0 else 0.0, status)
        if self.finished:
            self.close()

    def open(self, total: int) -> None:
        """Nothing to prepare."""

    def draw(self, done: int, total: int, rate: float, status: str) -> None:
        left = f", {(total - done) / rate:.0f} s left" if rate > 0 and done < total else ""
        speed = f", {_rate(rate, self.unit)}" if rate > 0 else ""
        line = f"{self.label}: {done:,}/{total:,} {self.unit}{speed}{left}  {status}"
        self.console.print(line.rstrip(), soft_wrap=True)

    def close(self) -> None:
        """Nothing to tidy up."""


class _Bar(_Lines):
    """A moving bar, for a terminal."""

    interval_sec = _REFRESH_SEC
    bar: Progress | None = None
    task: TaskID

    def open(self, total: int) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", style="cyan"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            console=self.console,
        )
        self.bar.start()
        self.task = self.bar.add_task(self.label, total=total, rate="", status="")

    def draw(self, done: int, total: int, rate: float, status: str) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=done, total=total, rate=_rate(rate, self.unit), status=status)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def _rate(rate: float, unit: str) -> str:
    return f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.2g} {unit}/s"
