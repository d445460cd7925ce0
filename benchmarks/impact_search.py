"""A small search of the settings of IMPACT, PPO and IMPALA, so that each meets more than the others' defaults.

    python -m benchmarks.impact_search                                    # PPO and IMPALA on CartPole-v1
    python -m benchmarks.impact_search --task acrobot --methods impact ppo impala --workers 2

All in one process, so that steps to the goal do not depend on the machine's load. Each candidate differs from the
preset in the fields that are named; medians of the seeds, which are not those of ``benchmarks.impact_compare``.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import statistics
from typing import Any

import torch

from benchmarks.impact_compare import TASKS, make_workers, train
from safe_rl.flow import LocalBackend

CANDIDATES: dict[str, list[dict[str, Any]]] = {
    "impact": [
        {},
        {"num_minibatches": 1, "target_interval": 0},
        {"num_minibatches": 2, "target_interval": 0},
        {"num_minibatches": 4, "target_interval": 0},
        {"num_minibatches": 1, "target_interval": 16},
        {"num_minibatches": 2, "target_interval": 16},
        {"num_minibatches": 4, "target_interval": 32},
        {"num_slots": 2, "num_minibatches": 1, "target_interval": 0},
        {"num_slots": 2, "max_uses": 16, "num_minibatches": 1, "target_interval": 0},
        {"learning_rate": 1e-3, "num_minibatches": 1, "target_interval": 0},
        {"clip": 0.3, "num_minibatches": 1, "target_interval": 0},
    ],
    "ppo": [
        {},
        {"num_epochs": 10, "minibatch_size": 256},
        {"num_epochs": 10, "minibatch_size": 512},
        {"num_epochs": 4, "minibatch_size": 256},
        {"learning_rate": 1e-3, "num_epochs": 10, "minibatch_size": 256},
        {"gae_lambda": 0.8, "gamma": 0.98},
        {"entropy_coef": 0.0},
        {"learning_rate": 5e-3},
    ],
    "impala": [
        {},
        {"learning_rate": 6e-3},
        {"learning_rate": 1e-2},
        {"learning_rate": 1e-3},
        {"entropy_coef": 0.0},
        {"gae_lambda": 1.0},
        {"gae_lambda": 0.8, "gamma": 0.98},
        {"max_grad_norm": 10.0},
        {"learning_rate": 6e-3, "gae_lambda": 0.8, "gamma": 0.98},
        {"learning_rate": 6e-3, "anneal_to": 0.5},
        {"normalize_advantages": False},
        {"value_coef": 2.0, "learning_rate": 6e-3},
        {"gae_lambda": 1.0, "normalize_advantages": False},
        {"gae_lambda": 1.0, "fragment_length": 8},
        {"gae_lambda": 1.0, "fragment_length": 16},
        {"gae_lambda": 1.0, "fragment_length": 16, "normalize_advantages": False},
        {"gae_lambda": 1.0, "learning_rate": 6e-3, "normalize_advantages": False},
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="cartpole", choices=TASKS, help="as in benchmarks.impact_compare")
    parser.add_argument("--methods", nargs="+", default=["ppo", "impala"], choices=CANDIDATES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    parser.add_argument("--steps", type=int, help="environment steps of a run at most; default: 600,000 in CartPole")
    parser.add_argument("--workers", type=int, default=1, help="of this process, one after the other")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.ERROR)
    task = TASKS[options.task]
    limit = options.steps or (600_000 if options.task == "cartpole" else task.steps)
    task = dataclasses.replace(task, steps=limit, impala_steps=limit)
    print("| method | differs from the preset in | steps to the goal, each seed | median |\n|---|---|---|---|")
    with LocalBackend() as backend:
        workers = make_workers(task, backend, options.workers)
        for method in options.methods:
            for changed in CANDIDATES[method]:
                curves = [
                    train(task, method, seed, backend, workers, 120.0, changed, stop_at_goal=True)
                    for seed in options.seeds
                ]
                found = [curve.goal_steps for curve in curves]
                median = statistics.median(float("inf") if steps is None else steps for steps in found)
                steps = ", ".join("-" if steps is None else f"{steps:,}" for steps in found)
                names = ", ".join(f"{name}={value}" for name, value in changed.items()) or "nothing"
                print(f"| {method} | {names} | {steps} | {median:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
