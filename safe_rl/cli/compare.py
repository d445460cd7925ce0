"""`safe-rl compare`: one line a job while it works, a table and plots at its end."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.table import Table

from safe_rl.cli.console import show
from safe_rl.cli.parsing import parse
from safe_rl.compare.compare import locked, prepare, read_groups, write_labels
from safe_rl.compare.config import CompareConfig
from safe_rl.compare.execution import Progress, Watch, last_line, run_jobs
from safe_rl.compare.jobs import Job
from safe_rl.compare.processes import LocalStarter
from safe_rl.compare.studies import CURVES, REPORT, TABLE
from safe_rl.compare.table import HEADINGS, cells, markdown
from safe_rl.report.groups import Group, Summary

_REFRESH_SEC = 1.0
_LINE_EVERY_SEC = 60.0


def main(argv: list[str]) -> int:
    """Parses the arguments; what follows ``--`` are flags of every training."""
    own, flags = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    config = parse(CompareConfig, own, prog="safe-rl compare")
    return run_compare(dataclasses.replace(config, flags=tuple(flags)))


def run_compare(config: CompareConfig) -> int:
    """Runs what is left of a comparison, prints its table and draws its curves.

    Returns:
        0, or 1 where a run failed.
    """
    jobs = prepare(config)
    ended = [] if config.table else _run(config, jobs)
    groups = read_groups(config)
    show(_result_table(config, groups))
    if not config.table:
        (config.output / TABLE).write_text(markdown(groups, len(config.all_seeds())), encoding="utf-8")
        if groups:
            from safe_rl.report.plots import overview  # matplotlib takes its time, and bad input need not wait for it

            (config.output / CURVES).write_text(overview([group for group, _ in groups]), encoding="utf-8")
            show(f"curves: {config.output / CURVES}")
    show(f"more: safe-rl report {config.output} --output {config.output / REPORT}")
    failed = [progress for progress in ended if progress.state == "failed"]
    for progress in failed:
        print(f"safe-rl: {progress.job.name} failed: {progress.error}", file=sys.stderr)
    return 1 if failed else 0


def _run(config: CompareConfig, jobs: list[Job]) -> list[Progress]:
    console = Console(stderr=True, highlight=False, markup=False)
    with locked(config.output) as lock:
        write_labels(config)
        try:
            if config.jobs != "ray":
                starter = LocalStarter(config.num_jobs(), [lock])
                return _watched(console, lambda watch: run_jobs(jobs, starter, watch))
            from safe_rl.compare.ray_starter import ray_starter

            with ray_starter(config.address, config.output) as cluster:
                return _watched(console, lambda watch: run_jobs(jobs, cluster, watch))
        except KeyboardInterrupt:
            print("safe-rl: the runs are saved; the same command goes on with them", file=sys.stderr)
            raise


def _result_table(config: CompareConfig, groups: list[tuple[Group, Summary]]) -> Table:
    """Means and standard errors over the seeds whose runs are finished."""
    table = Table(title=f"{config.env}, {config.episodes} training episodes")
    for name in HEADINGS:
        table.add_column(name, justify="left" if name == "method" else "right")
    for group, summary in groups:
        table.add_row(*cells(group, summary, len(config.all_seeds())))
    return table


def _watched(console: Console, run: Callable[[Watch], list[Progress]]) -> list[Progress]:
    """Runs with a line a job that moves; where stderr is no terminal, with a line for what begins, ends and goes on."""
    if not console.is_terminal:
        return run(_Lines(console).update)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        last = 0.0

        def update(jobs: list[Progress]) -> None:
            nonlocal last
            if time.monotonic() - last > _REFRESH_SEC:
                last = time.monotonic()
                live.update(_screen(jobs), refresh=True)

        return run(update)


def _screen(jobs: list[Progress]) -> Table:
    """What runs, has failed or was done last, and a line on the others."""
    table = Table.grid(padding=(0, 2))
    done = [progress for progress in jobs if progress.state == "done"]
    for progress in [*done[-3:], *(progress for progress in jobs if progress.state not in ("done", "waiting"))]:
        table.add_row(progress.job.name, progress.state, _status(progress))
    waiting = sum(progress.state == "waiting" for progress in jobs)
    table.add_row(f"{len(done)} of {len(jobs)} done", f"{waiting} waiting", "")
    return table


class _Lines:
    """Lines for a log: what begins and what ends, and each minute how far the running ones are."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.states: dict[str, str] = {}
        self.last = time.monotonic()

    def update(self, jobs: list[Progress]) -> None:
        now = time.monotonic()
        is_due = now - self.last > _LINE_EVERY_SEC
        self.last = now if is_due else self.last
        for progress in jobs:
            name, state = progress.job.name, str(progress.state)
            if state == "running" and progress.tries > 1:
                state = "running again"  # it ended before its time
            changed = self.states.get(name, "waiting") != state
            self.states[name] = state
            if changed or (is_due and progress.state == "running"):
                line = f"{name}: {state} {_status(progress)}".rstrip()
                self.console.print(line, soft_wrap=True)


def _status(progress: Progress) -> str:
    """How far a job is, in a few words."""
    if progress.error:
        return progress.error
    job, minutes = progress.job, f"{progress.seconds / 60:.1f} min" if progress.seconds else ""
    if progress.state not in ("running", "done"):
        return minutes
    rows = job.episode_rows()
    if job.command[0] != "train" or not rows:  # what it says of itself: a pretraining's steps, before any episode
        return f"{last_line(job.log)}  {minutes}".strip() if progress.state == "running" else minutes
    successes, violations = (sum(int(row[name]) for row in rows) for name in ("success", "violation"))
    return f"{len(rows)}/{job.episodes} episodes, {successes} successes, {violations} violations  {minutes}".rstrip()
