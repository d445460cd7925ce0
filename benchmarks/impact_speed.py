"""How fast do IMPACT, PPO and IMPALA learn CartPole, by the plans of `safe-rl train`?

    python -m benchmarks.impact_speed --workers 2            # rollout workers on Ray
    python -m benchmarks.impact_speed --workers 0            # all in one process, without Ray

A run ends when the mean return of the last 100 training episodes reaches the goal, or after ``--limit-sec``. The clock
starts when all workers are there and have weights: Ray's own start is not counted. Networks are 64-64 tanh throughout.
The figures and their conditions are in ``docs/methods/impact.md``; beside a peer and in other tasks:
``benchmarks.impact_compare``.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import time
from collections import deque
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch

from safe_rl.envs.batched import make_batched_env
from safe_rl.flow import Backend, LocalBackend, RayBackend
from safe_rl.flow.operators import WorkerWeights
from safe_rl.flow.rollout_worker import RolloutWorker
from safe_rl.plans.methods import PLAN_METHODS
from safe_rl.plans.parts import Parts

METHODS = ("impact", "ppo", "impala")


@dataclass
class Result:
    """One run."""

    steps: int
    seconds: float
    cpu_seconds: float
    """Of the driver: in its process the learner runs, and with no workers everything."""
    reached: bool
    final_return: float
    notes: str = ""


class Watch:
    """Keeps the last 100 returns and says when a run is over."""

    def __init__(self, goal: float, limit_sec: float) -> None:
        self.goal, self.limit_sec = goal, limit_sec
        self.returns: deque[float] = deque(maxlen=100)
        self.started, self.cpu_started = time.perf_counter(), time.process_time()

    @property
    def mean(self) -> float:
        """Mean return of the last episodes."""
        return float(np.mean(self.returns)) if self.returns else float("nan")

    @property
    def reached(self) -> bool:
        """Whether there are 100 episodes and their mean is high enough."""
        return len(self.returns) == 100 and self.mean >= self.goal

    @property
    def over(self) -> bool:
        """Whether the run is over."""
        return self.reached or time.perf_counter() - self.started > self.limit_sec

    def result(self, steps: int, notes: str = "") -> Result:
        """The run's figures; the clocks stop here."""
        seconds, cpu = time.perf_counter() - self.started, time.process_time() - self.cpu_started
        return Result(steps, seconds, cpu, self.reached, self.mean, notes)


def run(method: str, args: argparse.Namespace, seed: int, backend: Backend) -> Result:
    """Trains once."""
    spec = PLAN_METHODS[method]
    preset = spec.preset(args.env, "tuned")
    probe = make_batched_env(args.env, 1)
    learner = spec.learner(probe.observation_space, probe.action_space, preset.settings, seed=seed)
    probe.close()
    workers = backend.actors(
        RolloutWorker,
        args.workers,
        args.env,
        num_envs=preset.num_envs,
        fragment_length=preset.fragment_length,
        seed=seed,
        **spec.worker_arguments(preset.settings, max(1, args.workers)),
    )
    weights = WorkerWeights(backend, workers, learner)
    for worker in workers.handles:
        weights.send(worker)
        worker.call(RolloutWorker.state_dict).get()  # after the weights
    watch, metrics = Watch(args.goal, args.limit_sec), dict[str, float]()
    for update in spec.plan(Parts(backend, workers, learner, weights)):
        watch.returns.extend(episode.return_ for episode in update.episodes)
        metrics.update(update.metrics)
        if watch.over:
            break
    notes = ""
    if "buffer/drops" in metrics:
        notes = f"{metrics['buffer/uses_per_batch']:.1f} uses, {metrics['buffer/drops']:.0f} dropped"
    result = watch.result(learner.num_steps, notes)
    workers.close()
    return result


def show(method: str, seeds: range, results: list[Result], goal: float) -> None:
    for seed, result in zip(seeds, results, strict=True):
        end = f"{goal:g} reached" if result.reached else f"only {result.final_return:.0f}"
        print(
            f"{method:8} seed {seed}: {end} after {result.steps:>9,} steps, {result.seconds:6.2f} s "
            f"({result.cpu_seconds:.2f} s CPU of the driver), {result.steps / result.seconds:>9,.0f} steps/s"
            f"{'; ' + result.notes if result.notes else ''}"
        )
    middle = {name: statistics.median(getattr(result, name) for result in results) for name in ("steps", "seconds")}
    rate = statistics.median(result.steps / result.seconds for result in results)
    reached = sum(result.reached for result in results)
    print(
        f"{method:8} median: {middle['steps']:>9,.0f} steps, {middle['seconds']:.2f} s, {rate:,.0f} steps/s; "
        f"{reached} of {len(results)} seeds reached {goal:g}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--goal", type=float, default=475.0, help="mean return of the last 100 episodes")
    parser.add_argument("--workers", type=int, default=2, help="rollout workers on Ray; 0: all in this process")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--limit-sec", type=float, default=30.0, help="time that a run may take")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.ERROR)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    with LocalBackend() if args.workers == 0 else RayBackend() as backend:
        for method in args.methods:
            show(method, seeds, [run(method, args, seed, backend) for seed in seeds], args.goal)


if __name__ == "__main__":
    main()
