"""How many violations does Recovery IMPACT's training cost beside that of plain IMPACT, and do both learn the task?

    python -m benchmarks.recovery_impact --output runs/recovery_impact            # the table of docs/results
    python -m benchmarks.recovery_impact --output runs/quick --seeds 0 --steps 30000 --domains Navigation2

Each training runs in this process, without Ray, for so many environment steps with the method's preset. The contenders:

* ``recovery-impact``: as ``safe-rl train recovery-impact`` trains it, with its own pretraining.
* ``impact``: plain IMPACT. In these domains the reward is always negative, so crashing at once pays.
* ``no switch``: Recovery IMPACT without risk and recovery. Like it, the value function looks past a crash.
* ``penalty``: plain IMPACT that loses 10,000 of reward at a violation. (The 1,000 and 3,000 of the paper's penalty
  are too little for a discount of 0.99: never arriving costs 50 a step, 5,000 in all, so crashing would pay.)
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import gymnasium as gym

from safe_rl.data.collect import CollectConfig, collect
from safe_rl.envs.plugins import register_plugins
from safe_rl.plans.config import OfflinePlanRunConfig
from safe_rl.plans.methods import PLAN_METHODS
from safe_rl.plans.train import train_plan

RECENT, GOOD = 100, 0.95
"""A run has learned the task once this share of so many episodes succeeded."""
PENALTY = 10_000.0
DOMAINS = ("Navigation1", "Navigation2")
CONTENDERS = ("recovery-impact", "no switch", "penalty", "impact")


class Penalty(gym.Wrapper[Any, Any, Any, Any]):
    """Takes reward away where the constraint is violated."""

    def __init__(self, domain: str) -> None:
        register_plugins()
        super().__init__(gym.make(f"safe_rl/{domain}-v0"))

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See ``gymnasium.Env``."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, float(reward) - PENALTY * info["cost"], terminated, truncated, info


def Navigation1() -> gym.Env[Any, Any]:  # noqa: N802 (named in the run's config)
    """Navigation 1 with a penalty."""
    return Penalty("Navigation1")


def Navigation2() -> gym.Env[Any, Any]:  # noqa: N802
    """Navigation 2 with a penalty."""
    return Penalty("Navigation2")


@dataclass
class Result:
    """One training."""

    episodes: int
    violations: int
    successes: int
    success_rate: float
    """Of the last 100 episodes."""
    steps_to_learn: int | None
    """Environment steps until 95 of 100 episodes in a row succeeded; None where they never did."""
    violations_to_learn: int | None
    """Violations until then."""
    seconds: float


def read(run: Path) -> Result:
    """Counts the episodes of a run."""
    with (run / "episodes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    successes = [int(row["success"]) for row in rows]
    violations = [int(row["violation"]) for row in rows]
    steps = [int(row["steps"]) for row in rows]
    learned = next((n for n in range(RECENT, len(rows) + 1) if sum(successes[n - RECENT : n]) >= GOOD * RECENT), None)
    return Result(
        episodes=len(rows),
        violations=sum(violations),
        successes=sum(successes),
        success_rate=statistics.mean(successes[-RECENT:]),
        steps_to_learn=None if learned is None else sum(steps[:learned]),
        violations_to_learn=None if learned is None else sum(violations[:learned]),
        seconds=float(rows[-1]["wall_time_sec"]),
    )


def train(contender: str, domain: str, dataset: Path, output: Path, seed: int, steps: int) -> Result:
    """Trains one contender once; a run that is there already is read."""
    run_folder = output / f"{domain}_{contender.replace(' ', '_')}_{seed}"
    if (run_folder / "done").exists():
        return read(run_folder)
    env = f"benchmarks.recovery_impact:{domain}" if contender == "penalty" else f"safe_rl/{domain}-v0"
    method = "impact" if contender in ("impact", "penalty") else "recovery-impact"
    spec = PLAN_METHODS[method]
    # Plain IMPACT gets the task settings of Recovery IMPACT: what differs is the method.
    safe = PLAN_METHODS["recovery-impact"].preset(f"safe_rl/{domain}-v0", "tuned")
    settings = safe.settings.impact if method == "impact" else safe.settings
    if contender == "no switch":
        risk = dataclasses.replace(settings.risk, eps_risk=1.0, update_online=False, pretrain_steps=0)
        settings = dataclasses.replace(settings, risk=risk)
    run = spec.run_config(
        env=env,
        output=run_folder,
        steps=steps,
        seed=seed,
        overwrite=run_folder.exists(),
        envs_per_worker=safe.num_envs,
        fragment_length=safe.fragment_length,
    )
    if isinstance(run, OfflinePlanRunConfig):
        run.dataset = dataset
    train_plan(method, run, settings)
    (run_folder / "done").touch()
    return read(run_folder)


def row(domain: str, contender: str, results: list[Result]) -> str:
    """A line of the table: medians over the seeds, and what every seed gave where that tells more."""

    def each(value: Callable[[Result], Any]) -> str:
        return ", ".join("-" if value(result) is None else f"{value(result):,}" for result in results)

    cells = [
        domain,
        contender,
        f"{statistics.median(result.episodes for result in results):,.0f}",
        each(lambda result: result.violations),
        ", ".join(f"{result.success_rate:.2f}" for result in results),
        each(lambda result: result.steps_to_learn),
        each(lambda result: result.violations_to_learn),
        f"{statistics.median(result.seconds for result in results):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Trains all and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of the datasets and runs; finished ones stay"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60_000, help="environment steps of a training")
    parser.add_argument("--domains", nargs="+", default=list(DOMAINS), choices=DOMAINS)
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    options = parser.parse_args()
    print(
        "| domain | method | episodes | violations | successes of the last 100 | steps until learned | "
        "violations until learned | training s |\n|---|---|---|---|---|---|---|---|"
    )
    for domain in options.domains:
        dataset = options.output / f"{domain}_data"
        if not dataset.exists():
            collect(CollectConfig(f"safe_rl/{domain}-v0", dataset))
        for contender in options.contenders:
            results = [train(contender, domain, dataset, options.output, seed, options.steps) for seed in options.seeds]
            print(row(domain, contender, results), flush=True)


if __name__ == "__main__":
    main()
