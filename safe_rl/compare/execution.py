"""Works off the jobs of a comparison: what is ready runs, what fails is tried once more, what is cut goes on later."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safe_rl.compare.jobs import Job
from safe_rl.compare.processes import Handle, Starter
from safe_rl.runner import Interrupt

POLL_SEC = 0.2
TRIES = 2
"""A run that was killed is resumed once; one that says what is wrong is not asked again."""

State = Literal["waiting", "running", "done", "failed", "left out"]


@dataclass
class Progress:
    """Where one job is."""

    job: Job
    state: State = "waiting"
    tries: int = 0
    seconds: float = 0.0
    """Time that it has run in this session."""
    error: str = ""
    """Why it failed, in a line."""
    handle: Handle | None = None
    started: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ("done", "failed", "left out")


Watch = Callable[[list[Progress]], None]
"""Told of all jobs several times a second."""


def run_jobs(jobs: list[Job], starter: Starter, watch: Watch) -> list[Progress]:
    """Runs jobs until none is left.

    Args:
        jobs: Each behind those that it needs.
        starter: Starts their commands.
        watch: Shows the progress.

    Returns:
        How each of them ended.

    Raises:
        KeyboardInterrupt: Ctrl-C; the runs have saved what they did.
    """
    all_jobs = {job.name: Progress(job, "done" if job.is_done() else "waiting") for job in jobs}
    _skip_what_nobody_reads(all_jobs)
    with Interrupt() as interrupt:
        try:
            while not all(progress.ended for progress in all_jobs.values()):
                interrupt.raise_if_requested()
                _look_after(all_jobs)
                _start_ready(all_jobs, starter)
                watch(list(all_jobs.values()))
                time.sleep(POLL_SEC)
        finally:
            _end(all_jobs)
    watch(list(all_jobs.values()))
    return list(all_jobs.values())


def _skip_what_nobody_reads(jobs: dict[str, Progress]) -> None:
    """Data and pretrainings whose runs are finished need not be there any more."""
    for progress in reversed(list(jobs.values())):
        readers = [other for other in jobs.values() if progress.job.name in other.job.needs]
        if readers and all(reader.state == "done" for reader in readers):
            progress.state = "done"


def _look_after(jobs: dict[str, Progress]) -> None:
    for progress in jobs.values():
        if progress.state == "running" and progress.handle is not None:
            progress.seconds = time.monotonic() - progress.started
            code = progress.handle.poll()
            if code is not None:
                _finish(progress, code)
        elif progress.state == "waiting":
            broken = [name for name in progress.job.needs if jobs[name].state in ("failed", "left out")]
            if broken:
                progress.state, progress.error = "left out", f"{broken[0]} is missing"


def _finish(progress: Progress, code: int) -> None:
    """A command has ended: it is done, is tried again, or has failed."""
    progress.handle = None
    if progress.job.is_done():
        progress.state = "done"
    elif code == 2 or progress.tries >= TRIES:
        progress.state, progress.error = "failed", _last_words(progress.job, code)
    else:
        progress.state = "waiting"


def _last_words(job: Job, code: int) -> str:
    text = last_line(job.log).rpartition("safe-rl: error: ")
    if text[1] and code > 0:
        return text[2]
    return f"it ended with {f'signal {-code}' if code < 0 else f'code {code}'}; see {job.log}"


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _start_ready(jobs: dict[str, Progress], starter: Starter) -> None:
    free = starter.slots - sum(progress.state == "running" for progress in jobs.values())
    ready = [
        progress
        for progress in jobs.values()
        if progress.state == "waiting" and all(jobs[name].state == "done" for name in progress.job.needs)
    ]
    for progress in ready[: max(free, 0)]:
        progress.tries += 1
        progress.state, progress.started = "running", time.monotonic()
        progress.handle = starter.start(progress.job.words(), progress.job.log)


def _end(jobs: dict[str, Progress]) -> None:
    """Asks what still runs to save, and waits until it has."""
    running = [progress.handle for progress in jobs.values() if progress.handle is not None]
    for handle in running:
        if handle.poll() is None:
            handle.interrupt()
    while any(handle.poll() is None for handle in running):
        time.sleep(POLL_SEC)
