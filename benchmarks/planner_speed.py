"""How long does a decision of model-based recovery take, and what does a smaller search cost in safety?

Times against those of the matrix products alone, in turns within one process, and a table of smaller searches:

    python -m benchmarks.planner_speed

Successes and violations of these searches on Navigation 2; started again it goes on where it was, and prints the table:

    python -m benchmarks.planner_speed runs --output runs/planner --episodes 100 --seeds 1 2 3

The results are in ``docs/methods/model_based_recovery.md``.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.learner_speed import cpu_name
from benchmarks.matrix_products import Product, products_runner
from safe_rl.algorithms.recovery_rl import RecoveryRLAgent
from safe_rl.checkpoint import has_state
from safe_rl.config import RecoveryRLConfig, RunConfig
from safe_rl.data.collect import CollectConfig, collect
from safe_rl.data.folders import is_dataset
from safe_rl.envs.factory import make_env
from safe_rl.model_recovery import CHUNK
from safe_rl.planner_budget import describe
from safe_rl.planner_config import PlannerConfig
from safe_rl.planning_recovery import NUM_REMEMBERED, PlanningRecovery
from safe_rl.presets import preset_config
from safe_rl.pretraining import PRETRAINED, PretrainConfig, pretrain_run
from safe_rl.training import train

ENV = "safe_rl/Navigation2-v0"
LIMIT_MS = 50.0
"""20 decisions a second."""

SEARCHES: dict[str, PlannerConfig] = {
    "full": PlannerConfig(),
    "full-bf16": PlannerConfig(precision="bfloat16"),
    "particles-10": PlannerConfig(particles=10),
    "particles-5": PlannerConfig(particles=5),
    "population-200": PlannerConfig(particles=5, population=200, elites=20),
    "population-100": PlannerConfig(particles=5, population=100, elites=10),
    "population-100-bf16": PlannerConfig(particles=5, population=100, elites=10, precision="bfloat16"),
    "population-50": PlannerConfig(particles=5, population=50, elites=5),
    "iterations-3": PlannerConfig(particles=5, population=100, elites=10, iterations=3),
    "iterations-2": PlannerConfig(particles=5, population=100, elites=10, iterations=2),
    "iterations-1": PlannerConfig(particles=5, population=100, elites=10, iterations=1),
    "budget-50": PlannerConfig(budget_ms=50),
    "budget-20": PlannerConfig(budget_ms=20),
}
"""Step by step from the paper's search to small ones, by the names of their run folders."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["times", "runs"], nargs="?", default="times")
    parser.add_argument("--searches", nargs="+", choices=list(SEARCHES), default=list(SEARCHES))
    parser.add_argument("--rounds", type=int, default=15, help="turns that each decision gets")
    parser.add_argument("--output", type=Path, default=Path("runs/planner"), help="folder of the runs")
    parser.add_argument("--episodes", type=int, default=100, help="training episodes of a run")
    parser.add_argument("--transitions", type=int, default=20_000, help="offline transitions")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.command == "runs":
        run_all(args)
    else:
        measure(args.searches, args.rounds)


# --------------------------------------------------------------------------------------------------------- times


def measure(names: list[str], rounds: int) -> None:
    """Prints the time of a decision of each search, and of its products alone."""
    decisions, products, found = {}, {}, {}
    for name in names:
        agent = agent_of(SEARCHES[name])
        decisions[name], found[name] = decision_of(agent), planner_of(agent).search
        products[name] = planner_products(found[name], agent)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names:
            pair = timed(decisions[name]), timed(products[name])
            if turn > 0:
                times[name].append(pair)
    print(f"{cpu_name()}, torch {torch.__version__}, one thread; CPU time in ms, medians of {rounds} turns")
    print(f"\n{'':22s}{'search':44s}{'precision':>10s}{'decision':>10s}{'products':>10s}{'ratio':>7s}")
    for name in names:
        decision, alone = (statistics.median(column) for column in zip(*times[name], strict=True))
        ratio = statistics.median(d / p for d, p in times[name])
        within = "" if decision > LIMIT_MS else "   20 Hz"
        words = describe(found[name], particles=True)
        print(f"{name:22s}{words:44s}{found[name].precision:>10s}{decision:10.1f}{alone:10.1f}{ratio:7.2f}{within}")


def agent_of(search: PlannerConfig) -> RecoveryRLAgent:
    """An agent as the tuned preset has it, with an untrained model: its time is that of a trained one."""
    env = make_env(ENV)
    return RecoveryRLAgent(env.observation_space, env.action_space, settings(search))


def settings(search: PlannerConfig) -> RecoveryRLConfig:
    config = preset_config("recovery-rl", ENV, "tuned")
    if not isinstance(config, RecoveryRLConfig):
        raise TypeError("recovery-rl has other settings")
    recovery = dataclasses.replace(config.recovery, kind="model-based")
    return dataclasses.replace(config, recovery=recovery, planner=search)


def planner_of(agent: RecoveryRLAgent) -> PlanningRecovery:
    if not isinstance(agent.recovery, PlanningRecovery):
        raise TypeError("this agent does not plan")
    return agent.recovery


def decision_of(agent: RecoveryRLAgent) -> Callable[[], object]:
    """One recovery action in one state."""
    state, generator = torch.zeros(1, agent.state_dim), torch.Generator().manual_seed(0)

    @torch.inference_mode()
    def decide() -> object:
        return agent.recovery.act(state, generator, explore=True)

    return decide


def planner_products(search: PlannerConfig, agent: RecoveryRLAgent) -> Callable[[], object]:
    """Exactly the products of a decision: no bias, no activation, no sampling."""
    dtype = torch.bfloat16 if search.precision == "bfloat16" else torch.float32
    members, inputs = search.ensemble_size, agent.state_dim + agent.act_dim
    model = (inputs, *search.hidden_sizes, 2 * agent.state_dim)
    critic = agent.risk_critic.critics
    memory: dict[tuple[object, ...], Product] = {}

    def product(batch: tuple[int, ...], rows: int, fan_in: int, fan_out: int, kind: torch.dtype) -> Product:
        key = batch, rows, fan_in, fan_out, kind
        if key not in memory:
            x, out = (torch.randn(*batch, rows, size).to(kind) for size in (fan_in, fan_out))
            narrow_first = torch.randn(*batch, min(fan_in, fan_out), max(fan_in, fan_out)).to(kind)
            memory[key] = x, narrow_first if fan_in <= fan_out else narrow_first.mT, out
        return memory[key]

    def network(batch: tuple[int, ...], rows: int, sizes: tuple[int, ...]) -> list[Product]:
        last = len(sizes) - 2
        kinds = [dtype if 0 < index < last else torch.float32 for index in range(last + 1)]
        pairs = zip(itertools.pairwise(sizes), kinds, strict=True)
        return [product(batch, rows, fan_in, fan_out, kind) for (fan_in, fan_out), kind in pairs]

    def judged(plans: int) -> list[Product]:
        rows = plans * search.particles // members
        made = critic.num_members * network((), plans, critic.sizes)
        for step in range(1, search.horizon):
            made += network((members,), plans if step == 1 else rows, model)
            for first in range(0, members * rows, CHUNK):
                made += critic.num_members * network((), min(CHUNK, members * rows - first), critic.sizes)
        return made

    return products_runner(judged(1 + NUM_REMEMBERED) + search.iterations * judged(search.population))


def timed(step: Callable[[], object]) -> float:
    started = time.thread_time()
    step()
    return (time.thread_time() - started) * 1e3


# ---------------------------------------------------------------------------------------------------------- runs


def run_all(args: argparse.Namespace) -> None:
    """Trains with each search, what is missing, and prints the table after each run."""
    for seed in args.seeds:
        data, pretrained = args.output / f"data{seed}", args.output / f"pretrained{seed}"
        if not is_dataset(data):
            collect(CollectConfig(env=ENV, output=data, transitions=args.transitions, seed=seed))
        if not has_state(pretrained / PRETRAINED):
            begun = (pretrained / "config.json").is_file()
            about = PretrainConfig(env=ENV, dataset=data, output=pretrained, seed=seed, device="cpu", resume=begun)
            pretrain_run("recovery-rl", about, settings(PlannerConfig()))
        for name in args.searches:
            folder = args.output / name / f"seed{seed}"
            if len(episode_rows(folder)) < args.episodes:
                begun = (folder / "config.json").is_file()
                run = RunConfig(
                    env=ENV, output=folder, seed=seed, dataset=data, pretrained=pretrained, episodes=args.episodes,
                    device="cpu", resume=begun, checkpoint_every=10,
                )  # fmt: skip
                train("recovery-rl", run, settings(SEARCHES[name]))
            print_outcomes(args.output, args.seeds)


def print_outcomes(output: Path, seeds: list[int]) -> None:
    print(
        f"\n{'':22s}{'runs':>6s}{'episodes':>10s}{'successes':>11s}{'violations':>12s}{'recovery':>10s}{'s/episode':>11s}"
    )
    for name in SEARCHES:
        runs = [rows for seed in seeds if (rows := episode_rows(output / name / f"seed{seed}"))]
        rows = [row for run in runs for row in run]
        if not rows:
            continue
        totals = (sum(int(row[key]) for row in rows) for key in ("success", "violation", "recovery_steps"))
        successes, violations, recovery = totals
        share = recovery / sum(int(row["steps"]) for row in rows)
        seconds = sum(float(run[-1]["wall_time_sec"]) for run in runs) / len(rows)
        counts = f"{len(runs):6d}{len(rows):10d}{successes:11d}{violations:12d}"
        print(f"{name:22s}{counts}{share:10.1%}{seconds:11.1f}", flush=True)


def episode_rows(folder: Path) -> list[dict[str, str]]:
    path = folder / "episodes.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
