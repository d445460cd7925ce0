"""Successes and violations while training: the paper's and the tuned settings beside the unconstrained policy.

    python -m benchmarks.safety_and_task --output runs/safety --jobs 2     # everything, resumable
    python -m benchmarks.safety_and_task --output runs/safety --table      # the table of what is there
    python -m benchmarks.safety_and_task --ablations --output runs/ablations --domains Navigation2 --episodes 100

Each run is a `safe-rl train` in a process of its own, on one thread; one that was cut is resumed, a finished one kept.
"""

from __future__ import annotations

import argparse
import csv
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TRANSITIONS = {"Navigation1": 20_000, "Navigation2": 20_000, "Maze": 10_000}
LIMITS = {"Navigation1": (295, 0), "Navigation2": (285, 1), "Maze": (240, 6)}
"""Successes wanted at least, violations allowed at most, in 300 episodes of every seed."""
VARIANTS: dict[str, tuple[str, ...]] = {
    "tuned": ("recovery-rl", "--preset", "tuned"),
    "paper": ("recovery-rl", "--preset", "paper"),
    "paper, composite backup": ("recovery-rl", "--preset", "paper", "--risk.backup", "composite"),
    "unconstrained": ("unconstrained", "--preset", "tuned"),
    "unconstrained-paper": ("unconstrained", "--preset", "paper"),
}
"""Name -> method and flags."""
MAIN_VARIANTS = tuple(VARIANTS)
ABLATIONS = {
    "tuned": "",
    "risk: backup with the task policy": "--risk.backup task",
    "risk: squared error": "--risk.loss mse",
    "risk: 2 critics": "--risk.num-critics 2",
    "risk: batches as they come": "--risk.positive-fraction None",
    "risk: the fresh policy proposes in pretraining": "--risk.pretrain-proposal policy",
    "risk: the paper's target rate": "--risk.tau 0.0002",
    "risk: the paper's threshold": "--risk.eps-risk 0.2",
    "risk: no pretraining": "--risk.pretrain-steps 0",
    "risk: no online updates": "--risk.no-update-online",
    "switch: only where recovery is less risky": "--risk.recovery-must-help",
    "recovery: Q-sampling": "--recovery.kind q-sampling",
    "task: no offline transitions": "--no-demonstrations --task-pretrain-steps 0",
    "task: no pretraining": "--task-pretrain-steps 0",
    "task: a violation ends the value": "--violation-ends-value",
    "task: no relabelling": "--no-relabel-actions",
    "task: the paper's discount and target rate": "--sac.gamma 0.99 --sac.tau 0.005",
    "task: fixed entropy": "--sac.entropy fixed --sac.alpha 0.2",
    "task: step size 3e-4": "--sac.learning-rate 3e-4",
    "networks of 256": "--sac.hidden-sizes 256 256 --risk.hidden-sizes 256 256 --recovery.hidden-sizes 256 256",
    "bfloat16": "--precision bfloat16",
}
"""The tuned settings with one thing undone or changed."""
VARIANTS |= {name: ("recovery-rl", *flags.split()) for name, flags in ABLATIONS.items() if flags}


@dataclass(frozen=True)
class Job:
    """One training."""

    domain: str
    variant: str
    seed: int
    episodes: int
    root: Path

    @property
    def env(self) -> str:
        """Its environment."""
        return f"safe_rl/{self.domain}-v0"

    @property
    def learns_risk(self) -> bool:
        """Whether its method needs offline data."""
        return VARIANTS[self.variant][0] == "recovery-rl"

    @property
    def folder(self) -> Path:
        """Its run folder."""
        name = re.sub(r"[^a-z0-9]+", "-", self.variant.lower())
        return self.root / self.domain / name / f"seed{self.seed}"

    @property
    def dataset(self) -> Path:
        """Each seed has offline data of its own."""
        return self.root / self.domain / "data" / f"seed{self.seed}"

    def rows(self) -> list[dict[str, str]]:
        """The finished episodes."""
        path = self.folder / "episodes.csv"
        if not path.is_file():
            return []
        with path.open() as file:
            return list(csv.DictReader(file))

    def collect(self) -> None:
        """Collects the offline data, unless it is there."""
        if not self.dataset.is_dir():
            size = str(TRANSITIONS[self.domain])
            command = ["collect", "--env", self.env, "--transitions", size, "--seed", str(self.seed)]
            _safe_rl(self.dataset.with_suffix(".log"), command, self.dataset)

    def run(self) -> None:
        """Trains, unless it is done; one that fails says so and leaves the others their turn."""
        if len(self.rows()) >= self.episodes:
            return
        try:
            self._train()
        except subprocess.CalledProcessError:
            log = self.folder.with_suffix(".log")
            print(f"{log}: {(log.read_text().splitlines() or ['it failed'])[-1]}", file=sys.stderr)

    def _train(self) -> None:
        method, *preset = VARIANTS[self.variant]
        command = ["train", method, "--env", self.env, "--seed", str(self.seed), "--episodes", str(self.episodes)]
        if self.learns_risk:
            command += ["--dataset", str(self.dataset)]
        resume = ["--resume"] if (self.folder / "config.json").is_file() else []
        _safe_rl(self.folder.with_suffix(".log"), [*command, *preset, *resume], self.folder)


def _safe_rl(log: Path, command: list[str], output: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        subprocess.run(
            [sys.executable, "-m", "safe_rl.cli.main", *command, "--output", str(output)],
            stdout=file,
            stderr=subprocess.STDOUT,
            check=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/safety"))
    parser.add_argument("--domains", nargs="+", default=list(TRANSITIONS), choices=list(TRANSITIONS))
    parser.add_argument("--variants", nargs="+", default=MAIN_VARIANTS, choices=MAIN_VARIANTS)
    parser.add_argument("--ablations", action="store_true", help="the tuned settings, each with one thing changed")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side")
    parser.add_argument("--table", action="store_true", help="train nothing, print what is there")
    args = parser.parse_args()
    jobs = [
        Job(domain, variant, seed, args.episodes, args.output)
        for variant in (ABLATIONS if args.ablations else args.variants)
        for domain in args.domains
        for seed in args.seeds
    ]
    if not args.table:
        began = time.monotonic()
        with ThreadPoolExecutor(args.jobs) as pool:
            # Before the trainings: those of one seed share their data, and two of them must not collect it at once.
            list(pool.map(Job.collect, {job.dataset: job for job in jobs if job.learns_risk}.values()))
            list(pool.map(Job.run, jobs))
        print(f"{(time.monotonic() - began) / 60:.1f} minutes\n")
    print("\n".join(table(jobs)))


def table(jobs: list[Job]) -> Iterator[str]:
    """A Markdown table: a row for each domain and variant, a pair of successes and violations for each seed."""
    seeds = sorted({job.seed for job in jobs})
    yield "| domain | settings | " + " | ".join(f"seed {seed}" for seed in seeds) + " | training minutes, median |"
    yield "|---" * (len(seeds) + 3) + "|"
    for domain in dict.fromkeys(job.domain for job in jobs):
        for variant in dict.fromkeys(job.variant for job in jobs):
            runs = {job.seed: job.rows() for job in jobs if (job.domain, job.variant) == (domain, variant)}
            minutes = [float(rows[-1]["wall_time_sec"]) / 60 for rows in runs.values() if rows]
            yield " | ".join(
                [
                    f"| {domain}",
                    variant,
                    *(_cell(runs[seed], domain) for seed in seeds),
                    f"{statistics.median(minutes):.1f} |" if minutes else "- |",
                ]
            )


def _cell(rows: list[dict[str, str]], domain: str) -> str:
    """Successes and violations; bold where 300 episodes keep the domain's limits."""
    if not rows:
        return "-"
    successes, violations = (sum(int(row[name]) for row in rows) for name in ("success", "violation"))
    wanted, allowed = LIMITS[domain]
    if len(rows) != 300:
        return f"{successes}, {violations} (of {len(rows)})"
    return (
        f"**{successes}, {violations}**"
        if successes >= wanted and violations <= allowed
        else f"{successes}, {violations}"
    )


if __name__ == "__main__":
    main()
