"""What ``benchmarks.scale_simulation`` needs to know, measured here, and the trainings that it is compared with."""

from __future__ import annotations

import dataclasses
import os
import pickle
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from benchmarks.scale_simulation import Costs
from safe_rl.algorithms.fragment import Fragment
from safe_rl.flow import RayBackend
from safe_rl.flow.operators import WorkerWeights
from safe_rl.flow.q_worker import QWorker, ReplayActor
from safe_rl.flow.rollout_worker import RolloutWorker
from safe_rl.plans.apex import StoreToReplay
from safe_rl.plans.methods import PLAN_METHODS
from safe_rl.plans.parts import Parts

DESIGNS = ("ppo", "impala", "impact")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained."""

    env: str
    num_envs: int = 32
    fragment_length: int = 32

    @property
    def worker(self) -> dict[str, Any]:
        """Arguments of its workers."""
        return {"num_envs": self.num_envs, "fragment_length": self.fragment_length}


class Parcel:
    """A worker that has a fragment at hand, so that the way of it is all that costs."""

    def __init__(self, fragment: Fragment, *, index: int) -> None:
        self.fragment = fragment
        self.weights: Any = None

    def sample(self) -> Fragment:
        """The fragment."""
        return self.fragment

    def set_weights(self, weights: Any, version: int) -> None:
        """Keeps the weights."""
        self.weights = weights

    def cpu_sec(self) -> float:
        """CPU time of the process."""
        return time.process_time()


class TimedWorker(RolloutWorker):
    """A rollout worker that takes its own time."""

    def sample_times(self, warm_up: int, repeats: int) -> list[float]:
        """CPU seconds of fragments, one after the other; resets come where they come."""
        times = []
        for _ in range(warm_up + repeats):
            began = time.thread_time()
            self.sample()
            times.append(time.thread_time() - began)
        return times[warm_up:]


def median_cpu(action: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Median CPU time of this thread, and the standard deviation over the mean."""
    times = []
    for _ in range(repeats):
        began = time.thread_time()
        action()
        times.append(time.thread_time() - began)
    return statistics.median(times), statistics.stdev(times) / statistics.mean(times)


def descendants_cpu_sec() -> float:
    """CPU time of all living processes under this one."""
    parents, times = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            parents[int(folder.name)], times[int(folder.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    found = {os.getpid()}
    while grown := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= grown
    return sum(times[pid] for pid in found - {os.getpid()}) / TICKS


def make_learner(design: str, worker: RolloutWorker, env: str) -> Any:
    """The design's learner under its preset."""
    spec = PLAN_METHODS[design]
    spaces = worker.envs.observation_space, worker.envs.action_space
    return spec.learner(*spaces, spec.preset(env, "tuned").settings)


def measure(task: Task, backend: RayBackend, repeats: int = 20, items: int = 400) -> Costs:
    """All costs of a task, in CPU time: what else the machine does matters little."""
    worker = RolloutWorker(task.env, **task.worker)
    learners = {design: make_learner(design, worker, task.env) for design in DESIGNS}
    worker.set_weights(learners["ppo"].weights(), 0)
    fragment = worker.sample()
    sampler = backend.actors(TimedWorker, 1, task.env, **task.worker)
    (handle,) = sampler.handles
    handle.call(TimedWorker.set_weights, learners["ppo"].weights(), 0)
    times = handle.call(TimedWorker.sample_times, 10, 3 * repeats).get()
    sampler.close()
    env_sec, _ = median_cpu(lambda: [worker.envs.step(action) for action in fragment.action], repeats)
    head, policy = worker.policy.head, worker.policy
    noise = head.noise(np.random.default_rng(0), fragment.reward.shape)

    def infer() -> None:
        for obs, draw in zip(fragment.obs, noise, strict=False):
            head.to_env(head.sample(policy.outputs(obs), policy.parameters, draw))

    inference_sec, _ = median_cpu(infer, repeats)
    learn_sec, versions, prepare_sec = measure_learning(learners, worker, repeats)
    config = learners["impact"].config
    ray = measure_ray(backend, fragment, learners["ppo"], items)
    replay: dict[str, float] = {}
    if isinstance(worker.envs.action_space, gym.spaces.Discrete):
        replay = measure_apex(backend, task, fragment, repeats, items)
        learn_sec["apex"], versions["apex"] = replay.pop("learn_sec"), 1
    worker.close()
    return Costs(
        env=task.env,
        num_steps=fragment.num_steps,
        env_sec=env_sec,
        inference_sec=inference_sec,
        sample_sec=statistics.mean(times),  # not the median: a reset may take long
        sample_variation=statistics.stdev(times) / statistics.mean(times),
        fragment_bytes=len(pickle.dumps(fragment, protocol=5)),
        weights_bytes=learners["ppo"].weights().nbytes,
        learn_sec=learn_sec,
        prepare_sec=prepare_sec,
        versions=versions,
        num_slots=config.num_slots,
        max_uses=config.max_uses,
        replay=replay,
        **ray,
    )


def measure_learning(
    learners: dict[str, Any], worker: RolloutWorker, repeats: int
) -> tuple[dict[str, float], dict[str, int], float]:
    """Seconds of a fragment's (or use's) learning, gradient steps in it, and seconds of IMPACT's preparation."""
    fragments = [worker.sample() for _ in range(4)]
    impact, numbers = learners["impact"], iter(range(10**9))
    prepare_sec, _ = median_cpu(lambda: impact.prepare(fragments[next(numbers) % 4]), repeats)
    batches = [impact.prepare(fragment) for fragment in fragments]
    actions: dict[str, Callable[[], Any]] = {
        "ppo": lambda: learners["ppo"].learn(fragments[:2]),
        "impala": lambda: learners["impala"].learn([fragments[next(numbers) % 4]]),
        "impact": lambda: impact.learn(batches[next(numbers) % 4]),
    }
    learn_sec, versions = {}, {}
    for design, action in actions.items():
        before = learners[design].version
        share = 2 if design == "ppo" else 1
        learn_sec[design] = median_cpu(action, repeats)[0] / share
        versions[design] = round((learners[design].version - before) / repeats / share)
    return learn_sec, versions, prepare_sec


def measure_ray(backend: RayBackend, fragment: Fragment, learner: Any, items: int) -> dict[str, float]:
    """What Ray's way of a fragment, a call and new weights costs, and whose time it is."""
    parcels = backend.actors(Parcel, 2, fragment)
    weights = learner.weights()
    for handle in parcels.handles:
        for _ in range(20):
            handle.call(Parcel.set_weights, weights, 0).get()
    latencies = []
    for _ in range(100):
        began = time.perf_counter()
        parcels.handles[0].call(Parcel.cpu_sec).get()
        latencies.append(time.perf_counter() - began)

    def drain(version: int | None) -> dict[str, float]:
        workers = [handle.call(Parcel.cpu_sec).get() for handle in parcels.handles]
        thread, process, family = time.thread_time(), time.process_time(), descendants_cpu_sec()
        ref = backend.put(weights)
        for _, handle in parcels.iterate(Parcel.sample).zip_with_source_actor().gather_async(2).take(items):
            if version is not None:
                handle.call(Parcel.set_weights, ref, version)
        thread, process = time.thread_time() - thread, time.process_time() - process
        own = sum(handle.call(Parcel.cpu_sec).get() for handle in parcels.handles) - sum(workers)
        family = descendants_cpu_sec() - family
        background = process - thread + max(0.0, family - own)
        return {"thread": thread / items, "background": background / items, "worker": own / items}

    drain(None)  # warm up
    plain = _median_of([drain(None) for _ in range(3)])
    sending = _median_of([drain(version) for version in range(3)])
    put_sec, _ = median_cpu(lambda: backend.put(learner.weights()), 50)
    parcels.close()
    return {
        "latency_sec": min(latencies) / 2,
        "take_sec": plain["thread"],
        "take_background_sec": plain["background"],
        "worker_sec": plain["worker"],
        "send_sec": max(0.0, sending["thread"] - plain["thread"]),
        "send_background_sec": max(0.0, sending["background"] - plain["background"]),
        "load_sec": max(0.0, sending["worker"] - plain["worker"]),
        "put_sec": put_sec,
    }


def measure_apex(backend: RayBackend, task: Task, fragment: Fragment, repeats: int, items: int) -> dict[str, float]:
    """What is Ape-X's own: see ``Costs.replay``, and learn_sec."""
    probe = RolloutWorker(task.env, num_envs=1, fragment_length=1)
    learner = make_learner("apex", probe, task.env)
    probe.close()
    worker = QWorker(task.env, learner.config, **task.worker)
    worker.set_weights(learner.weights(), 0)
    replay = ReplayActor(learner.obs_dim, learner.first_action, learner.config)
    replay.add(fragment)
    replay.add(fragment)
    draw = replay.sample()
    batch = draw[0]
    errors = learner.step(batch)[1]
    found = {
        "act_sec": median_cpu(worker.sample, repeats)[0],
        "store_sec": median_cpu(lambda: replay.add(fragment), repeats)[0],
        "sample_sec": median_cpu(replay.sample, repeats)[0],
        "priorities_sec": median_cpu(lambda: replay.set_priorities(batch.indices, errors), repeats)[0],
        "learn_sec": median_cpu(lambda: learner.step(batch), repeats)[0],
        "batches": len(draw),
        "batch_steps": len(batch.indices),
        "batch_bytes": len(pickle.dumps(batch, protocol=5)),
    }
    worker.close()
    parcels = backend.actors(Parcel, 2, fragment)
    replays = backend.actors(ReplayActor, 1, learner.obs_dim, learner.first_action, learner.config)
    store = StoreToReplay(replays, learner)
    times = []
    for _ in range(3):
        began = time.thread_time()
        for ref in parcels.iterate(Parcel.sample).gather_async(2, by_reference=True).take(items):
            store(ref)
        times.append((time.thread_time() - began) / items)
    parcels.close()
    replays.close()
    return {**found, "take_sec": statistics.median(times)}


def _median_of(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


@dataclasses.dataclass(frozen=True)
class Measured:
    """A real training."""

    steps_per_sec: float
    staleness: float
    driver_speed: float
    """Share of the time that the driver's thread had a core when it wanted one."""
    worker_speed: float
    """The same of the workers."""
    worker_sec: float
    """CPU time of a worker's thread for as many steps as a whole fragment has."""


class _Watched:
    """A learner, and how far its versions were ahead of what it learned from."""

    def __init__(self, learner: Any) -> None:
        self.lags: list[int] = []
        self._learn = learner.learn
        self._learner = learner
        learner.learn = self._watch

    def _watch(self, item: Any) -> Any:
        versions = [part.version for part in (item if isinstance(item, list) else [item]) if hasattr(part, "version")]
        self.lags += [self._learner.version - version for version in versions]
        return self._learn(item)


def train(design: str, task: Task, backend: RayBackend, num_workers: int, seconds: float) -> Measured:
    """Trains for a while with the plan as it is, and counts after a second of warming up."""
    probe = RolloutWorker(task.env, num_envs=1, fragment_length=1)
    learner = make_learner(design, probe, task.env)
    probe.close()
    watched = _Watched(learner)
    spec = PLAN_METHODS[design]
    settings = spec.worker_arguments(learner.config, num_workers)
    workers = backend.actors(spec.worker, num_workers, task.env, **task.worker, **settings)
    weights = WorkerWeights(backend, workers, learner)
    weights.send_all()
    plan = spec.plan(Parts(backend, workers, learner, weights))
    pids = [os.getpid(), *(handle.call(process_id).get() for handle in workers.handles)]
    waits = np.zeros((len(pids), 2))
    warm, began, steps = time.perf_counter(), 0.0, 0
    for _ in plan:
        now = time.perf_counter()
        if not began and now - warm > 1.0:
            began, steps = now, learner.num_steps
            watched.lags.clear()
            waits = run_and_wait(pids)
        elif began and now - began > seconds:
            break
    done = learner.num_steps - steps
    rate = done / (time.perf_counter() - began)
    run, wait = (run_and_wait(pids) - waits).T
    workers.close()
    share = run / (run + wait)
    of_workers = run[1:].sum() / (run[1:].sum() + wait[1:].sum())
    lag = float(np.mean(watched.lags)) if watched.lags else float("nan")
    seconds = run[1:].sum() / 1e9 * task.num_envs * task.fragment_length / done
    return Measured(rate, lag, float(share[0]), float(of_workers), float(seconds))


def process_id(worker: RolloutWorker) -> int:
    """Of the worker's process."""
    return os.getpid()


def run_and_wait(pids: list[int]) -> npt.NDArray[np.float64]:
    """Nanoseconds that each process's main thread ran, and waited for a core: (N, 2)."""
    return np.array([Path(f"/proc/{pid}/schedstat").read_text().split()[:2] for pid in pids], dtype=np.float64)
