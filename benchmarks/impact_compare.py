r"""Return against time and against steps: IMPACT, PPO and IMPALA on the same parts, by the plans of `safe-rl train`.

    python -m benchmarks.impact_compare --output runs/compare            # all tasks, then the table and the figures
    python -m benchmarks.impact_compare --output runs/compare --tasks cartpole --seeds 0 1 2 \
        --peers sb3-ppo=/path/to/its/environment/bin/python rllib-appo=... rllib-ppo=... sf-appo=...

Networks are 64-64 tanh. Rollout workers are processes of Ray; the clock starts when they are there and have weights.
The methods take turns, seed by seed, so that other load on the machine meets all of them. Finished runs stay in the
output folder; with ``--plot`` nothing is trained. Tasks:

* ``cartpole``, ``acrobot``, ``pendulum``: Gymnasium's, with the presets of ``safe-rl train``.
* ``maze``, ``image``: reaching in PyBullet from state; Navigation 1 from 32 x 32 pictures, by eight actions. Both lose
  reward for touching a wall (``benchmarks.learning_tasks``).
* ``slow``, ``uneven``: **artificially slow** CartPole: each step of a worker's 8 environments takes 1 ms longer, as a
  robot or a renderer would make it; in ``uneven`` 1 ms on the first worker and 3 ms on the second.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch

from benchmarks.curves import Curve, Recorder, parse_curve
from benchmarks.peers import PEER_LABELS, peer_argument, train_peer
from safe_rl.envs.factory import make_env
from safe_rl.flow import ActorGroup, Backend, LocalBackend, RayBackend
from safe_rl.flow.operators import WorkerWeights
from safe_rl.flow.rollout_worker import RolloutWorker
from safe_rl.plans.methods import PLAN_METHODS
from safe_rl.plans.parts import Parts

mpl.use("Agg")

METHODS = ("impact", "ppo", "impala")
FEWER = "ppo-fewer"
"""PPO with 24 gradient steps from 2,048 rows in place of 80, as before the search, which looked at steps alone."""
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {FEWER: ("ppo", {"num_epochs": 6, "minibatch_size": 512})}
LABELS = {
    "impact": "IMPACT",
    "ppo": "PPO",
    FEWER: "PPO, fewer updates",
    "impala": "IMPALA",
    **PEER_LABELS,
}
COLORS = {
    "impact": "#0072B2",
    "ppo": "#D55E00",
    FEWER: "#E69F00",
    "impala": "#009E73",
    "sb3-ppo": "#CC79A7",
    "rllib-appo": "#56B4E9",
    "rllib-ppo": "#F0E442",
    "sf-appo": "#000000",
}


@dataclass(frozen=True)
class Task:
    """What is learned, and until when."""

    title: str
    env: str
    goal: float
    """Mean return of the last 100 episodes that counts as learned."""
    steps: int
    """Environment steps of a run."""
    impala_steps: int = 0
    """The same of IMPALA where it takes more of them in the time; 0 for as many."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What differs from the preset, for all methods alike."""
    num_envs: int | None = None
    fragment_length: int | None = None
    delays_ms: tuple[float, ...] = ()
    """Added to each step of a worker's environments together; of the first worker, the second, ..."""


MAZE_SETTINGS = {"gamma": 0.97, "entropy_coef": 0.0}
TASKS = {
    "cartpole": Task("CartPole-v1", "CartPole-v1", 475.0, 150_000, 600_000),
    "acrobot": Task("Acrobot-v1", "Acrobot-v1", -100.0, 100_000),
    "pendulum": Task("Pendulum-v1", "Pendulum-v1", -250.0, 120_000),
    "maze": Task(
        "Reaching in Maze (PyBullet)", "benchmarks.learning_tasks:maze", -5.0, 150_000, 0, MAZE_SETTINGS, 16, 64
    ),
    "image": Task(
        "Navigation 1 from images",
        "benchmarks.learning_tasks:image_navigation",
        -20.0,
        70_000,
        settings={"gamma": 0.97},
        num_envs=16,
        fragment_length=64,
    ),
    "slow": Task("CartPole-v1, 1 ms slower (artificial)", "CartPole-v1", 475.0, 120_000, 0, {}, 8, 128, (1.0, 1.0)),
    "uneven": Task(
        "CartPole-v1, 1 and 3 ms slower (artificial)", "CartPole-v1", 475.0, 120_000, 0, {}, 8, 128, (1.0, 3.0)
    ),
}


class SlowWorker(RolloutWorker):
    """A rollout worker whose environments take longer."""

    def __init__(self, env: str, *, delays_ms: tuple[float, ...], index: int = 0, **options: Any) -> None:
        super().__init__(env, index=index, **options)
        self.delay_sec = 1e-3 * delays_ms[index % len(delays_ms)]

    def execute(
        self, obs: npt.NDArray[np.float32], action: npt.NDArray[Any], overridden: npt.NDArray[np.bool_]
    ) -> npt.NDArray[Any]:
        """Waits before each step."""
        time.sleep(self.delay_sec)
        return super().execute(obs, action, overridden)


def make_workers(task: Task, backend: Backend, num: int) -> ActorGroup[RolloutWorker]:
    """Workers for all runs of a task: starting processes takes longer than most runs."""
    preset = PLAN_METHODS["impact"].preset(task.env, "tuned")
    options: dict[str, Any] = {"delays_ms": task.delays_ms} if task.delays_ms else {}
    return backend.actors(
        SlowWorker if task.delays_ms else RolloutWorker,
        num,
        task.env,
        num_envs=task.num_envs or preset.num_envs,
        fragment_length=task.fragment_length or preset.fragment_length,
        **options,
    )


def begin_anew(worker: RolloutWorker, seed: int, fragment_length: int) -> None:
    """Makes a worker what it is at the start of a run with this seed."""
    worker.seed, worker.fragment_length = seed, fragment_length
    worker.pop_episodes()
    worker.load_state_dict({"num_sampled": 0})


def train(
    task: Task,
    method: str,
    seed: int,
    backend: Backend,
    workers: ActorGroup[RolloutWorker],
    limit_sec: float,
    overrides: dict[str, Any] | None = None,
    *,
    stop_at_goal: bool = False,
) -> Curve:
    """Trains once.

    Args:
        task: What.
        method: A name of ``PLAN_METHODS``.
        seed: Of everything random.
        backend: Where the workers live.
        workers: Of ``make_workers``.
        limit_sec: Longest time.
        overrides: Settings that differ from those of preset and task; ``fragment_length`` too.
        stop_at_goal: Whether to end there.
    """
    spec = PLAN_METHODS[method]
    preset = spec.preset(task.env, "tuned")
    changed = {**task.settings, **(overrides or {})}
    fragment_length = changed.pop("fragment_length", task.fragment_length or preset.fragment_length)
    settings = dataclasses.replace(preset.settings, **changed)
    probe = make_env(task.env)
    learner = spec.learner(probe.observation_space, probe.action_space, settings, seed=seed)
    probe.close()
    for worker in workers.handles:
        worker.call(begin_anew, seed, fragment_length).get()
    weights = WorkerWeights(backend, workers, learner)
    weights.send_all()
    steps = task.impala_steps if method == "impala" and task.impala_steps else task.steps
    recorder = Recorder(task.goal, steps, limit_sec, stop_at_goal=stop_at_goal)
    for update in spec.plan(Parts(backend, workers, learner, weights)):
        if recorder.add((episode.return_ for episode in update.episodes), learner.num_steps):
            break
    return recorder.curve


def read(output: Path, task: str, method: str) -> list[Curve]:
    """The finished runs of a method in a task."""
    return [parse_curve(file.read_text()) for file in sorted(output.glob(f"{task}_{method}_*.json"))]


def row(task: str, method: str, curves: list[Curve]) -> str:
    """A line of the table: medians, smallest and largest in brackets."""

    def each(values: list[float], digits: int = 0) -> str:
        if not values:
            return "-"
        low, middle, high = min(values), statistics.median(values), max(values)
        return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"

    reached = [curve for curve in curves if curve.goal_steps is not None]
    cells = [
        TASKS[task].title,
        LABELS[method],
        f"{len(reached)} of {len(curves)}",
        each([float(curve.goal_steps or 0) for curve in reached]),
        each([float(curve.goal_seconds or 0) for curve in reached], 1),
        each([curve.rate for curve in curves]),
        each([curve.returns[-1] for curve in curves], 1 if abs(TASKS[task].goal) < 50 else 0),
        f"{statistics.median(curve.load for curve in curves):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def table(output: Path, tasks: list[str]) -> str:
    """All finished runs; of the time and the steps to the goal only those that reached it."""
    lines = [
        "| task | method | reached the goal | steps to the goal | seconds to the goal | steps/s | last return | load |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task in tasks:
        for method in LABELS:
            curves = read(output, task, method)
            if curves:
                lines.append(row(task, method, curves))
    return "\n".join(lines)


def plot(output: Path, tasks: list[str], file: Path) -> None:
    """Draws medians over the seeds, and the range from the lowest to the highest seed."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(tasks), 2, figsize=(10.0, 2.4 * len(tasks)), squeeze=False, layout="constrained")
    axis_of: tuple[tuple[str, Callable[[Curve], list[Any]]], ...] = (
        ("thousand environment steps", lambda curve: [steps / 1000 for steps in curve.steps]),
        ("seconds", lambda curve: curve.seconds),
    )
    for line, task in zip(axes, tasks, strict=True):
        for axis, (label, positions) in zip(line, axis_of, strict=True):
            for method in LABELS:
                curves = read(output, task, method)
                if not curves:
                    continue
                # A run that is over keeps its last return while others go on.
                begin = statistics.median(positions(curve)[0] for curve in curves)
                grid = np.linspace(begin, max(positions(curve)[-1] for curve in curves), 300)
                values = np.array([np.interp(grid, positions(curve), curve.returns) for curve in curves])
                axis.fill_between(grid, values.min(0), values.max(0), color=COLORS[method], alpha=0.15, linewidth=0)
                axis.plot(grid, np.median(values, 0), color=COLORS[method], label=LABELS[method])
            axis.axhline(TASKS[task].goal, color="#888888", linewidth=0.8, linestyle=":")
            axis.set_xlabel(label)
            axis.set_ylabel("return, mean of 100")
            axis.set_title(TASKS[task].title, fontsize=9)
            if any(read(output, task, peer) for peer in PEER_LABELS):  # they take ten to a hundred times as long
                axis.set_xscale("log")
            else:
                axis.set_xlim(left=0)
            axis.spines[["top", "right"]].set_visible(False)
        line[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the curves; finished ones stay")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=[*METHODS, *VARIANTS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102, 103, 104])
    parser.add_argument("--workers", type=int, default=2, help="rollout workers on Ray; 0: all in this process")
    parser.add_argument("--limit-sec", type=float, default=90.0, help="time that a run may take")
    parser.add_argument(
        "--peers",
        nargs="+",
        type=peer_argument,
        default=[],
        metavar="NAME=PYTHON",
        help=f"take turns on CartPole ({', '.join(PEER_LABELS)}), each with the interpreter of its environment",
    )
    parser.add_argument("--peer-seeds", type=int, default=3, help="of so many seeds")
    parser.add_argument("--peer-limit-sec", type=float, default=300.0, help="time that a peer's run may take")
    parser.add_argument("--plot", action="store_true", help="train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.ERROR)
    options.output.mkdir(parents=True, exist_ok=True)
    if not options.plot:
        with LocalBackend() if options.workers == 0 else RayBackend() as backend:
            for name in options.tasks:
                workers = make_workers(TASKS[name], backend, options.workers)
                for seed in options.seeds:
                    with_peers = name == "cartpole" and seed in options.seeds[: options.peer_seeds]
                    peers = dict(options.peers) if with_peers else {}
                    for method in [*options.methods, *peers]:
                        file = options.output / f"{name}_{method}_{seed}.json"
                        if file.exists():
                            continue
                        task = TASKS[name]
                        if method in peers:
                            curve = train_peer(method, peers[method], task.env, task.goal, seed, options.peer_limit_sec)
                        else:
                            base, changed = VARIANTS.get(method, (method, {}))
                            curve = train(task, base, seed, backend, workers, options.limit_sec, changed)
                        file.write_text(curve.to_json())
                        goal = (
                            "-"
                            if curve.goal_steps is None
                            else f"{curve.goal_steps:,} steps, {curve.goal_seconds:.1f} s"
                        )
                        print(f"{name} {method} seed {seed}: goal {goal}; {curve.rate:,.0f} steps/s", flush=True)
                workers.close()
    print(table(options.output, options.tasks))
    plot(options.output, options.tasks, options.output / "curves.png")


if __name__ == "__main__":
    main()
