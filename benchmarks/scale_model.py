"""How far do the designs scale? A simulation with costs that are measured here, compared with real runs.

    python -m benchmarks.scale_model --measure    # measure costs, train with 1, 2 and 3 workers, predict, draw
    python -m benchmarks.scale_model              # predict and draw from the costs measured last

Costs and real runs are kept in ``benchmarks/scale_costs.json``, the figure in ``docs/images/scale.png``; the results
and what is assumed about a cluster are in ``docs/results/scale.md``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from benchmarks.scale_simulation import Cluster, Costs, Prediction, Training

ROOT = Path(__file__).parents[1]
COSTS = ROOT / "benchmarks" / "scale_costs.json"
FIGURE = ROOT / "docs" / "images" / "scale.png"
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
SHOWN = (1, 8, 64, 1000)
NAMES = {"ppo": "PPO", "impala": "IMPALA", "impact": "IMPACT", "apex": "Ape-X"}
FULL = 0.9
"""A resource that is in use for so much of the time is what limits."""


def predict(design: str, costs: Costs, cluster: Cluster) -> Prediction:
    """Simulates long enough for the queues to fill, and then for several rounds."""
    workers = cluster.num_workers
    return Training(design, costs, cluster).predict(warm_up=3 * workers + 60, fragments=5 * workers + 200)


def limit(found: Prediction) -> str:
    """What keeps a design from being faster."""
    name, share = max(found.use.items(), key=lambda item: item[1])
    if share >= FULL:
        return name
    return f"waiting for one another (driver {found.use['driver']:.0%}, workers {found.use['workers']:.0%} in use)"


def saturation(found: dict[int, Prediction]) -> tuple[int, str] | None:
    """The smallest number of workers that gives 90 % of the most that the design reaches, and what limits that."""
    most = max(prediction.steps_per_sec for prediction in found.values())
    for workers, prediction in found.items():
        if prediction.steps_per_sec >= 0.9 * most:
            return (workers, limit(found[max(found)])) if workers < max(found) else None
    return None


def designs(costs: Costs) -> list[str]:
    """Those whose costs were measured."""
    return [design for design in NAMES if design in costs.learn_sec]


def show_costs(all_costs: list[Costs]) -> None:
    rows: dict[str, list[str]] = {}
    for index, costs in enumerate(all_costs):
        milliseconds = {
            "environments": costs.env_sec,
            "policy": costs.inference_sec,
            "`sample` in all": costs.sample_sec,
            "Ray in the worker's process": costs.worker_sec,
            "new weights in the worker's process": costs.load_sec,
            "driver: ask for a fragment and take it": costs.take_sec,
            "beside it: Ray's other threads and processes": costs.take_background_sec,
            "driver: tell a worker of new weights": costs.send_sec,
            "driver: put a version": costs.put_sec,
            "driver: learn, PPO": costs.learn_sec["ppo"],
            "driver: learn, IMPALA": costs.learn_sec["impala"],
            "driver: one use, IMPACT": costs.learn_sec["impact"],
        }
        if "apex" in costs.learn_sec:
            milliseconds["`sample` of Ape-X's workers"] = costs.replay["act_sec"]
            milliseconds["driver: a batch, Ape-X"] = costs.learn_sec["apex"]
            milliseconds["replay actor: store"] = costs.replay["store_sec"]
            milliseconds["replay actor: a draw of batches"] = costs.replay["sample_sec"]
        cells = {name: f"{1e3 * seconds:.2f} ms" for name, seconds in milliseconds.items()}
        cells |= {"size": f"{costs.fragment_bytes / 1e3:.0f} kB", "weights": f"{costs.weights_bytes / 1e3:.0f} kB"}
        cells["environment steps"] = f"{costs.num_steps:,}"
        for name, cell in cells.items():
            rows.setdefault(name, ["-"] * index).append(cell)
    print(f"\n| of a fragment | {' | '.join(costs.env for costs in all_costs)} |")
    print("|---|" + "---|" * len(all_costs))
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(row + ['-'] * (len(all_costs) - len(row)))} |")


def show_comparison(costs: Costs, runs: list[dict[str, Any]], free_cores: bool) -> None:
    print(f"\n### {costs.env}\n")
    heads = ["", "workers", "measured", "had a core: driver, workers", "model", "worker's CPU: then, before"]
    heads += [
        "model, CPU of then",
        *(["model, 2 free cores"] if free_cores else []),
        "versions behind: measured, model",
    ]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for run in runs:
        design, workers, measured = run["design"], run["workers"], run["steps_per_sec"]
        speeds = {"driver_speed": run["driver_speed"], "worker_speed": run["worker_speed"]}
        waits = Cluster(workers, bytes_per_sec=math.inf, latency_sec=0.0, **speeds)
        models = [predict(design, costs, waits)]
        act = costs.replay["act_sec"] if design == "apex" else costs.sample_sec
        before = act + costs.worker_sec + costs.load_sec
        models.append(predict(design, with_act_sec(costs, act + run["worker_sec"] - before), waits))
        if free_cores:
            models.append(predict(design, costs, Cluster(workers, num_cores=2, shared=True)))
        cells = [f"{model.steps_per_sec:,.0f} ({model.steps_per_sec / measured:.2f})" for model in models]
        cells.insert(1, f"{1e3 * run['worker_sec']:.1f}, {1e3 * before:.1f} ms")
        behind = f"{run['staleness']:.1f}, {models[0].staleness:.1f}" if design != "apex" else "-"
        had = f"{run['driver_speed']:.0%}, {run['worker_speed']:.0%}"
        print(f"| {NAMES[design]} | {workers} | {measured:,.0f} | {had} | {' | '.join(cells)} | {behind} |")


def with_act_sec(costs: Costs, seconds: float) -> Costs:
    """The same with another time for a worker's fragment."""
    replay = {**costs.replay, "act_sec": seconds} if costs.replay else {}
    return dataclasses.replace(costs, sample_sec=seconds, replay=replay)


def show_predictions(costs: Costs, found: dict[str, dict[int, Prediction]]) -> None:
    print(f"\n### {costs.env}\n")
    heads = [f"{workers:,} workers" for workers in SHOWN]
    print(f"| | {' | '.join(heads)} | of the most at | limited by | versions behind, {' / '.join(map(str, SHOWN))} |")
    print("|---|" + "---|" * (len(SHOWN) + 3))
    for design, by_workers in found.items():
        rates = " | ".join(f"{by_workers[workers].steps_per_sec:,.0f}" for workers in SHOWN)
        full = saturation(by_workers)
        where = f"{full[0]} | {full[1]}" if full else f"- | {limit(by_workers[WORKERS[-1]])}"
        lags = " / ".join(f"{by_workers[workers].staleness:,.0f}" for workers in SHOWN)
        print(f"| {NAMES[design]} | {rates} | {where} | {lags} |")


def draw(found: dict[str, dict[str, dict[int, Prediction]]]) -> None:
    """The figure: steps a second above, versions behind below, one column for each environment."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(found), figsize=(5.0 * len(found), 6.4), sharex=True, squeeze=False)
    for column, (env, by_design) in enumerate(found.items()):
        above, below = axes[0][column], axes[1][column]
        for color, (design, by_workers) in zip(("C0", "C1", "C2", "C3"), by_design.items(), strict=False):
            workers = list(by_workers)
            rates = [prediction.steps_per_sec for prediction in by_workers.values()]
            above.plot(workers, rates, "o-", ms=3, color=color, label=NAMES[design])
            lags = [prediction.staleness for prediction in by_workers.values()]
            below.plot(workers, lags, "o-", ms=3, color=color, label=NAMES[design])
        above.set(title=env, xscale="log", yscale="log")
        below.set(xscale="log", xlabel="workers")
        below.set_yscale("symlog", linthresh=1)
        below.set_ylim(bottom=-0.3)
        for axis in (above, below):
            axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("environment steps a second")
    axes[1][0].set_ylabel("versions behind when learned from")
    axes[1][0].legend()
    figure.tight_layout()
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=110)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measures costs and trains."""
    import torch

    from benchmarks.learner_speed import cpu_name
    from benchmarks.scale_costs import DESIGNS, Task, train
    from benchmarks.scale_costs import measure as measure_costs
    from safe_rl.flow import RayBackend

    torch.set_num_threads(1)
    logging.basicConfig(level=logging.ERROR)
    tasks = [Task("CartPole-v1"), Task("safe_rl/Maze-v0", num_envs=8)]
    machine = f"{cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    kept: dict[str, Any] = {"machine": machine, "costs": [], "runs": []}
    with RayBackend(num_cpus=8) as backend:
        for task in tasks:
            kept["costs"].append(dataclasses.asdict(measure_costs(task, backend)))
            runs = []
            for design in (*DESIGNS, *(["apex"] if kept["costs"][-1]["replay"] else [])):
                for workers in (1, 2, 3):
                    run = train(design, task, backend, workers, args.seconds)
                    runs.append({"design": design, "workers": workers, **dataclasses.asdict(run)})
            kept["runs"].append(runs)
    COSTS.write_text(json.dumps(kept, indent=1) + "\n")
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure costs anew and train; takes some minutes")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each real training")
    parser.add_argument(
        "--free-cores",
        action="store_true",
        help="predict for two cores that nothing else uses, too: on a quiet machine",
    )
    args = parser.parse_args()
    kept = measure(args) if args.measure else json.loads(COSTS.read_text())
    all_costs = [Costs(**costs) for costs in kept["costs"]]
    print(kept["machine"])
    show_costs(all_costs)
    print("\n## Model and real runs")
    for costs, runs in zip(all_costs, kept["runs"], strict=True):
        show_comparison(costs, runs, args.free_cores)
    print("\n## Predictions")
    found = {}
    for costs in all_costs:
        found[costs.env] = {
            design: {workers: predict(design, costs, Cluster(workers)) for workers in WORKERS}
            for design in designs(costs)
        }
        show_predictions(costs, found[costs.env])
    draw(found)


if __name__ == "__main__":
    main()
