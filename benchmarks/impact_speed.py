"""How fast do IMPACT, PPO and IMPALA learn CartPole, on the same parts, and how does Stable-Baselines3's PPO?

    python -m benchmarks.impact_speed --workers 2            # rollout workers on Ray
    python -m benchmarks.impact_speed --workers 0            # all in one process, without Ray
    python -m benchmarks.impact_speed --methods sb3          # where Stable-Baselines3 is installed

A run ends when the mean return of the last 100 training episodes reaches the goal, or after ``--limit-sec``. The clock
starts when all workers are there and have weights: Ray's own start is not counted. Networks are 64-64 tanh throughout.
The figures and their conditions are in ``docs/methods/impact.md``.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch

from safe_rl.algorithms.circular_buffer import CircularBuffer
from safe_rl.algorithms.fragment import Fragment
from safe_rl.algorithms.impact import ImpactBatch, IMPACTConfig, IMPACTLearner
from safe_rl.algorithms.impala import IMPALAConfig, IMPALALearner
from safe_rl.algorithms.on_policy_learner import OnPolicyLearner
from safe_rl.algorithms.on_policy_presets import OnPolicyPreset, on_policy_preset
from safe_rl.algorithms.ppo import PPOConfig, PPOLearner
from safe_rl.envs.batched import make_batched_env
from safe_rl.flow import NOT_READY, ActorGroup, Backend, LocalBackend, LocalIterator, RayBackend, concurrently
from safe_rl.flow.rollout_worker import RolloutWorker

OURS = ("impact", "ppo", "impala")


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


class Broadcast:
    """Puts the learner's weights once a version, for whoever hands in work."""

    def __init__(self, backend: Backend, learner: OnPolicyLearner[Any]) -> None:
        self.backend, self.learner = backend, learner
        self._version = -1
        self._ref: Any = None

    def arguments(self) -> tuple[Any, int]:
        """Of ``RolloutWorker.set_weights``."""
        if self._version != self.learner.version:
            self._version, self._ref = self.learner.version, self.backend.put(self.learner.weights())
        return self._ref, self._version


def impact_plan(
    workers: ActorGroup[RolloutWorker], learner: IMPACTLearner, broadcast: Broadcast, uses_a_turn: int
) -> tuple[LocalIterator[Any], Callable[[], str]]:
    """Asynchronous workers fill the circular buffer, the learner passes over it."""
    config = learner.config
    buffer: CircularBuffer[ImpactBatch] = CircularBuffer(config.num_slots, config.max_uses)

    def store(pair: tuple[Fragment, Any]) -> Fragment:
        fragment, worker = pair
        buffer.add(learner.prepare(fragment))
        worker.call(RolloutWorker.set_weights, *broadcast.arguments())
        return fragment

    def use() -> Iterator[Any]:
        while True:
            batch = buffer.next()
            yield NOT_READY if batch is None else learner.learn(batch)

    rollouts = workers.iterate(RolloutWorker.sample).zip_with_source_actor().gather_async(num_async=2).for_each(store)
    plan = concurrently(rollouts, LocalIterator.of(use()), mode="async", weights=[1, uses_a_turn], output_indexes=[0])
    return plan, lambda: f"{buffer.num_uses / max(buffer.num_added, 1):.1f} uses, {buffer.num_dropped} dropped"


def impala_plan(workers: ActorGroup[RolloutWorker], learner: IMPALALearner, broadcast: Broadcast) -> LocalIterator[Any]:
    """Asynchronous workers; each fragment is learned from once."""

    def learn(pair: tuple[Fragment, Any]) -> Fragment:
        fragment, worker = pair
        learner.learn([fragment])
        worker.call(RolloutWorker.set_weights, *broadcast.arguments())
        return fragment

    return workers.iterate(RolloutWorker.sample).zip_with_source_actor().gather_async(num_async=2).for_each(learn)


def ppo_plan(workers: ActorGroup[RolloutWorker], learner: PPOLearner, broadcast: Broadcast) -> LocalIterator[Any]:
    """Rounds: all workers sample with the newest weights, then the learner learns."""

    def learn(fragments: list[Fragment]) -> list[Fragment]:
        learner.learn(fragments)
        workers.broadcast(RolloutWorker.set_weights, *broadcast.arguments())
        return fragments

    return workers.iterate(RolloutWorker.sample).batch_across_shards().for_each(learn)


def run(method: str, args: argparse.Namespace, seed: int, backend: Backend) -> Result:
    """Trains one of our methods once."""
    preset = on_policy_preset(method, args.env)
    learner = make_learner(method, args.env, preset, seed)
    workers = backend.actors(
        RolloutWorker,
        args.workers,
        args.env,
        num_envs=preset.num_envs,
        fragment_length=preset.fragment_length,
        seed=seed,
    )
    broadcast = Broadcast(backend, learner)
    for worker in workers.handles:
        worker.call(RolloutWorker.set_weights, *broadcast.arguments()).get()
    notes: Callable[[], str] = str
    if isinstance(learner, IMPACTLearner):
        plan, notes = impact_plan(workers, learner, broadcast, args.uses_a_turn)
    elif isinstance(learner, PPOLearner):
        plan = ppo_plan(workers, learner, broadcast)
    else:
        plan = impala_plan(workers, learner, broadcast)
    watch = Watch(args.goal, args.limit_sec)
    for item in plan:
        for fragment in item if isinstance(item, list) else [item]:
            watch.returns.extend(episode.return_ for episode in fragment.episodes)
        if watch.over:
            break
    result = watch.result(learner.num_steps, notes())
    workers.close()
    return result


def make_learner(method: str, env: str, preset: OnPolicyPreset, seed: int) -> Any:
    probe = make_batched_env(env, 1)
    spaces = probe.observation_space, probe.action_space
    probe.close()
    if method == "impact":
        return IMPACTLearner(*spaces, IMPACTConfig(**preset.settings), seed=seed)
    if method == "ppo":
        return PPOLearner(*spaces, PPOConfig(**preset.settings), seed=seed)
    return IMPALALearner(*spaces, IMPALAConfig(**preset.settings), seed=seed)


def run_sb3(args: argparse.Namespace, seed: int) -> Result:
    """Stable-Baselines3's PPO with rl-zoo's settings for CartPole-v1."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            watch.returns.extend(info["episode"]["r"] for info in self.locals["infos"] if "episode" in info)
            return not watch.over

    model = PPO(
        "MlpPolicy",
        make_vec_env(args.env, n_envs=8, seed=seed),
        n_steps=32,
        batch_size=256,
        gae_lambda=0.8,
        gamma=0.98,
        n_epochs=20,
        ent_coef=0.0,
        learning_rate=lambda left: 1e-3 * left,
        clip_range=lambda left: 0.2 * left,
        seed=seed,
        device="cpu",
    )
    watch = Watch(args.goal, args.limit_sec)
    model.learn(100_000, callback=Stop())
    return watch.result(model.num_timesteps)


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
    parser.add_argument("--methods", nargs="+", default=list(OURS), choices=[*OURS, "sb3"])
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--goal", type=float, default=475.0, help="mean return of the last 100 episodes")
    parser.add_argument("--workers", type=int, default=2, help="rollout workers on Ray; 0: all in this process")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--limit-sec", type=float, default=30.0, help="time that a run may take")
    parser.add_argument("--uses-a-turn", type=int, default=8, help="IMPACT: at most so many uses between two fragments")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.ERROR)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    ours = [method for method in args.methods if method in OURS]
    if ours:
        with LocalBackend() if args.workers == 0 else RayBackend() as backend:
            for method in ours:
                show(method, seeds, [run(method, args, seed, backend) for seed in seeds], args.goal)
    if "sb3" in args.methods:
        show("sb3", seeds, [run_sb3(args, seed) for seed in seeds], args.goal)


if __name__ == "__main__":
    main()
