"""What share of bare environment stepping do the rollout workers of IMPACT reach, learning included?

    python -m benchmarks.worker_throughput                 # 1 worker and the learner on 2 cores, then 2 workers

Windows of both take turns in one run, so that other load on the machine meets both: in one, as many processes as there
are workers step one environment each with random actions and nothing else; in the other, the plan of ``safe-rl train
impact`` runs. A worker is a process of its own; the learner is in this one. Two ratios are printed:

* of the wall clock: steps a second of all workers together, divided by those of all bare processes together. It is what
  one gets, and is about the machine too: a third busy process takes its share of two cores.
* of CPU time: CPU time of a bare step, divided by that of a worker's step, Ray's part in the worker's process included.
  It is what the wall clock would show where every process has a core of its own and the learner keeps up. Whether it
  does says the last column: the learner's CPU time of a step, as a share of the workers' together.

Episodes end earlier or later under another policy, and a reset costs time. So the learner works as ever, but with a
step size of 1e-9: its policy goes on drawing the actions of the bare processes. Mean lengths of episodes are printed.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Ray's own choice is 15. The bare processes have 0, and so have the workers here: what else runs meets both alike.
os.environ.setdefault("RAY_worker_niceness", "0")

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode

import sim
from safe_rl.flow import RayBackend
from safe_rl.flow.operators import WorkerWeights
from safe_rl.flow.rollout_worker import RolloutWorker
from safe_rl.plans.methods import PLAN_METHODS
from safe_rl.plans.parts import Parts

TICK_SEC = 1.0 / os.sysconf("SC_CLK_TCK")
NUM_ACTIONS = 1024


@dataclass
class Window:
    """What happened in one window."""

    steps: int
    seconds: float
    episodes: int
    cpu_seconds: float
    """Of the processes that step environments, together."""
    learner_seconds: float = 0.0
    """CPU time of the driver."""


def cpu_seconds(process: int) -> float:
    """CPU time of a process so far, all threads."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_SEC


def bare_loop(env_id: str, num_envs: int) -> Callable[[float], Window]:
    """Returns a function that steps one environment, or one that is vectorised itself, for so many seconds."""
    sim.register_envs()
    rng = np.random.default_rng(os.getpid())
    vectorised = gym.spec(env_id).vector_entry_point is not None
    if vectorised:
        options: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        envs = gym.make_vec(env_id, num_envs=num_envs, vectorization_mode="vector_entry_point", **options)
        space = envs.single_action_space
        shape: tuple[int, ...] = (NUM_ACTIONS, num_envs)
        envs.reset(seed=0)
    else:
        env = gym.make(env_id, disable_env_checker=True)
        space, shape = env.action_space, (NUM_ACTIONS,)
        env.reset(seed=0)
    if not isinstance(space, gym.spaces.Box):
        raise SystemExit(f"{env_id} has actions {space}: only boxes can be drawn from here")
    # As IMPACT's policy draws them in the beginning: Gaussian, deviation half the range, clipped.
    actions = space.high * np.clip(rng.standard_normal((*shape, *space.shape)), -1, 1).astype(np.float32)

    def run(seconds: float) -> Window:
        steps = episodes = 0
        cpu, began = time.process_time(), time.perf_counter()
        while time.perf_counter() - began < seconds:
            for k in range(NUM_ACTIONS // num_envs if vectorised else NUM_ACTIONS):
                result = envs.step(actions[k]) if vectorised else env.step(actions[k])
                if vectorised:
                    ended = int(np.count_nonzero(result[2] | result[3]))
                    steps += num_envs - ended  # the step after an end restarts and counts for nothing
                    episodes += ended
                else:
                    steps += 1
                    if result[2] or result[3]:
                        env.reset()
                        episodes += 1
        return Window(steps, time.perf_counter() - began, episodes, time.process_time() - cpu)

    return run


def serve(connection: Connection, env_id: str, num_envs: int) -> None:
    """A bare process: runs a window whenever it is told to."""
    run = bare_loop(env_id, num_envs)
    run(0.5)
    connection.send(None)
    while (seconds := connection.recv()) is not None:
        connection.send(run(seconds))


class Bare:
    """Processes that only step environments."""

    def __init__(self, env_id: str, num_envs: int, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connections, self.processes = [], []
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, env_id, num_envs), daemon=True)
            process.start()
            self.connections.append(ours)
            self.processes.append(process)
        for connection in self.connections:
            connection.recv()

    def run(self, seconds: float) -> Window:
        """All of them at once."""
        for connection in self.connections:
            connection.send(seconds)
        windows: list[Window] = [connection.recv() for connection in self.connections]
        # Each counts over its own time; together they make the sum of the rates.
        rate = sum(window.steps / window.seconds for window in windows)
        cpu = sum(window.cpu_seconds / window.seconds for window in windows)
        return Window(round(rate * seconds), seconds, sum(w.episodes for w in windows), cpu * seconds)

    def close(self) -> None:
        """Ends them."""
        for connection in self.connections:
            connection.send(None)
        for process in self.processes:
            process.join()


class Training:
    """The plan of ``safe-rl train impact``, which rests while nobody pulls."""

    def __init__(self, env_id: str, num_envs: int | None, workers: int, backend: RayBackend) -> None:
        spec = PLAN_METHODS["impact"]
        preset = spec.preset(env_id, "tuned")
        probe = gym.make(env_id)
        self.num_envs = num_envs or preset.num_envs
        rows = preset.num_envs * preset.fragment_length
        config = dataclasses.replace(preset.settings, learning_rate=1e-9)
        self.learner = spec.learner(probe.observation_space, probe.action_space, config, seed=0)
        self.workers = backend.actors(
            RolloutWorker,
            workers,
            env_id,
            num_envs=self.num_envs,
            fragment_length=max(1, rows // self.num_envs),
            hidden_sizes=config.hidden_sizes,
        )
        weights = WorkerWeights(backend, self.workers, self.learner)
        weights.send_all()
        self.plan = iter(spec.plan(Parts(backend, self.workers, self.learner, weights)))
        self.processes = [handle.hello.process for handle in self.workers.handles]

    def run(self, seconds: float) -> Window:
        """Trains for a while."""
        steps, episodes = self.learner.num_steps, 0
        workers = sum(map(cpu_seconds, self.processes))
        learner, began = time.process_time(), time.perf_counter()
        while time.perf_counter() - began < seconds:
            episodes += len(next(self.plan).episodes)
        took, learner = time.perf_counter() - began, time.process_time() - learner
        workers = sum(map(cpu_seconds, self.processes)) - workers
        return Window(self.learner.num_steps - steps, took, episodes, workers, learner)

    def rest(self, seconds: float = 0.5) -> None:
        """Lets the workers end the fragments that they are at."""
        time.sleep(seconds)


def measure(env_id: str, workers: int, options: argparse.Namespace, backend: RayBackend) -> str:
    """One row of the table."""
    training = Training(env_id, options.envs_per_worker, workers, backend)
    bare = Bare(env_id, training.num_envs, workers)
    training.run(options.window_sec)
    training.rest()
    pairs: list[tuple[Window, Window]] = []
    for _ in range(options.windows):
        without = bare.run(options.window_sec)
        pairs.append((without, training.run(options.window_sec)))
        training.rest()
    bare.close()
    training.workers.close()

    def middle(value: Callable[[Window, Window], float]) -> float:
        return statistics.median(value(*pair) for pair in pairs)

    wall = [(w.steps / w.seconds) / (b.steps / b.seconds) for b, w in pairs]
    cpu = [(b.cpu_seconds / b.steps) / (w.cpu_seconds / w.steps) for b, w in pairs]
    cells = [
        env_id.removeprefix("safe_rl/"),
        str(workers),
        f"{middle(lambda b, w: b.steps / b.seconds):,.0f}",
        f"{middle(lambda b, w: w.steps / w.seconds):,.0f}",
        f"{statistics.median(wall):.0%} ({min(wall):.0%} to {max(wall):.0%})",
        f"{1e6 * middle(lambda b, w: b.cpu_seconds / b.steps):.2f}",
        f"{1e6 * middle(lambda b, w: w.cpu_seconds / w.steps):.2f}",
        f"{statistics.median(cpu):.0%} ({min(cpu):.0%} to {max(cpu):.0%})",
        f"{middle(lambda b, w: workers * w.learner_seconds / w.cpu_seconds):.0%}",
        f"{middle(lambda b, w: b.steps / max(b.episodes, 1)):.0f}, "
        f"{middle(lambda b, w: w.steps / max(w.episodes, 1)):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=["safe_rl/Maze-v0", "safe_rl/Navigation1-v0"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--envs-per-worker", type=int, help="default: the preset's; a fragment keeps its rows")
    parser.add_argument("--windows", type=int, default=9)
    parser.add_argument("--window-sec", type=float, default=4.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.ERROR)
    sim.register_envs()
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(
        "| environment | workers | bare steps/s | workers' steps/s | share, wall clock | bare us a step | worker us a "
        "step | share, CPU time | learner's CPU of one worker's | episode length, bare and training |\n"
        "|---|---|---|---|---|---|---|---|---|---|"
    )
    with RayBackend() as backend:
        for env_id in options.envs:
            for workers in options.workers:
                print(measure(env_id, workers, options, backend), flush=True)
    print(f"load after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
