"""The whole way on one domain: collect, pretrain, train with and without the shield, report.

Every step is a `safe-rl` command, printed before it runs, so that it can be typed again by hand. What it writes lies in
`runs/demo`, and running it again replaces that.
"""

from __future__ import annotations

import argparse
import csv
import os
import shlex
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

ENV = "safe_rl/Navigation2-v0"
FOLDER = Path("runs/demo")
METHODS = {"recovery-rl": "Recovery RL", "unconstrained": "unconstrained"}
PLAIN_LINE_EVERY_SEC = 30.0

console = Console(highlight=False)


def main() -> int:
    """Runs the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=100, help="training episodes of each method (default: 100)")
    parser.add_argument("--transitions", type=int, default=20_000, help="offline transitions (default: 20000)")
    parser.add_argument("--pretrain-steps", type=int, default=None, help="gradient steps before training")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where to write (default: {FOLDER})")
    options = parser.parse_args()

    began = time.monotonic()
    folder: Path = options.folder
    data, pretrained, report = folder / "data", folder / "pretrained", folder / "report.html"
    steps = [] if options.pretrain_steps is None else ["--risk.pretrain-steps", str(options.pretrain_steps)]

    _say("Offline data: short episodes near the constraint boundary, violations included")
    _run("collect", "--env", ENV, "--transitions", str(options.transitions), "--output", str(data), "--overwrite")
    _run("inspect", str(data))
    _say("Pretraining: where would the robot violate the constraint, and what leads away?")
    _run("pretrain", "--env", ENV, "--dataset", str(data), "--output", str(pretrained), "--overwrite", *steps)
    _say("Training, side by side: with the shield and without")
    shared = ["--env", ENV, "--episodes", str(options.episodes), "--seed", "1", "--overwrite"]
    shield = ["--dataset", str(data), "--pretrained", str(pretrained)]
    _train_both(
        folder,
        options.episodes,
        {
            "recovery-rl": ["train", "recovery-rl", *shared, *shield, *steps],
            "unconstrained": ["train", "unconstrained", *shared],
        },
    )
    _say("Report")
    _run("report", *(str(folder / method) for method in METHODS), "--output", str(report))

    console.print()
    console.print(_table(folder, options.episodes, f"{options.episodes} training episodes on {ENV}"))
    console.print(f"Open {report} in a browser: plots, risk map, video.", soft_wrap=True)
    console.print(f"Done in {(time.monotonic() - began) / 60:.1f} minutes.")
    return 0


def _say(text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]", soft_wrap=True)


def _command(arguments: list[str]) -> list[str]:
    console.print("  $ " + shlex.join(["safe-rl", *arguments]), style="cyan", soft_wrap=True, markup=False)
    return [str(Path(sysconfig.get_path("scripts")) / "safe-rl"), *arguments]


def _run(*arguments: str) -> None:
    done = subprocess.run(_command(list(arguments)), check=False)
    if done.returncode:
        sys.exit(done.returncode)


def _train_both(folder: Path, episodes: int, commands: dict[str, list[str]]) -> None:
    """Runs the trainings at once, one thread each, and shows a table of both until they are done."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    logs = {method: folder / f"{method}.log" for method in commands}
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for method, arguments in commands.items():
            command = _command([*arguments, "--output", str(folder / method)])
            with logs[method].open("wb") as log:
                running[method] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        _watch(folder, episodes, running)
    finally:
        for process in running.values():
            process.terminate()
    for method, process in running.items():
        if process.wait():
            sys.stderr.write(logs[method].read_text(errors="replace"))
            sys.exit(process.returncode)


def _watch(folder: Path, episodes: int, running: dict[str, subprocess.Popen[bytes]]) -> None:
    began = last = time.monotonic()

    def still_running() -> bool:
        codes = [process.poll() for process in running.values()]
        return None in codes and not any(codes)

    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while still_running():
                live.update(_table(folder, episodes, f"{time.monotonic() - began:.0f} s"), refresh=True)
                time.sleep(0.5)
        return
    while still_running():
        time.sleep(0.5)
        if time.monotonic() - last > PLAIN_LINE_EVERY_SEC:
            last = time.monotonic()
            rows = (f"{METHODS[method]} {_counts(folder / method)[0]}/{episodes}" for method in running)
            console.print(f"  {last - began:.0f} s: episodes of {', '.join(rows)}")


def _table(folder: Path, episodes: int, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column, justify in (("method", "left"), ("episodes", "right"), ("successes", "right"), ("violations", "right")):
        table.add_column(column, justify=justify)
    for method, name in METHODS.items():
        done, successes, violations = _counts(folder / method)
        table.add_row(name, f"{done}/{episodes}", str(successes), str(violations))
    return table


def _counts(run: Path) -> tuple[int, int, int]:
    """Episodes, successes and violations in a run so far."""
    try:
        with (run / "episodes.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["violation"]]  # a line that is being written is left out
    except FileNotFoundError:
        return 0, 0, 0
    return len(rows), sum(int(row["success"]) for row in rows), sum(int(row["violation"]) for row in rows)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
