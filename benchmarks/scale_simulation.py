"""A discrete-event simulation of training by plans: cores, a network link, workers, and one driver for each design.

Used by ``benchmarks.scale_model``. A process is a generator; what it yields is a function that takes the continuation
and calls it once the work is done or the item is there.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from safe_rl.algorithms.circular_buffer import CircularBuffer

Resume = Callable[[Any], None]
Process = Generator[Callable[[Resume], None], Any, None]


class Clock:
    """Time, and what will happen."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Calls a function later."""
        heapq.heappush(self._events, (self.now + delay, next(self._numbers), action))

    def start(self, process: Process) -> None:
        """Runs a process until it ends."""

        def resume(value: Any) -> None:
            try:
                request = process.send(value)
            except StopIteration:
                return
            request(lambda result: self.after(0.0, lambda: resume(result)))

        self.after(0.0, lambda: resume(None))

    def run_until(self, done: Callable[[], bool]) -> None:
        """Lets events happen until a condition holds."""
        while self._events and not done():
            self.now, _, action = heapq.heappop(self._events)
            action()


class Cpu:
    """Cores, shared evenly among jobs of one priority; those of the low one get what the others leave.

    Ray's workers have the low one: they run at a niceness 15 above the driver's.

    Args:
        clock: Of the simulation.
        num_cores: How many.
        speed: Of each; less than 1 where the jobs wait for cores that others use.
    """

    LEAST = 0.03
    """Share of the cores that the low priority has at the worst: its weight in Linux is 36 beside 1,024."""

    def __init__(self, clock: Clock, num_cores: float, speed: float = 1.0) -> None:
        self._clock, self._num_cores, self._speed = clock, num_cores, speed
        self._jobs: dict[bool, list[tuple[float, int, Resume]]] = {False: [], True: []}
        self._done = {False: 0.0, True: 0.0}  # work that each job of a priority has got since the beginning
        self._numbers = itertools.count()
        self._updated = 0.0
        self._plan = 0

    def work(self, seconds: float, *, low: bool = False) -> Callable[[Resume], None]:
        """A job of that many seconds of one undisturbed core."""
        return lambda resume: self._add(seconds, low, resume)

    def background(self, seconds: float) -> None:
        """A job that nobody waits for."""
        self._add(seconds, False, lambda _: None)

    def _rate(self, low: bool) -> float:
        """What each job of a priority gets done in a second."""
        high, mine = len(self._jobs[False]), len(self._jobs[low])
        cores = self._num_cores
        if low and high:
            cores = max(cores - high, self.LEAST * cores)
        return min(1.0, cores / mine) * self._speed

    def _add(self, seconds: float, low: bool, resume: Resume) -> None:
        self._advance()
        heapq.heappush(self._jobs[low], (self._done[low] + seconds, next(self._numbers), resume))
        self._schedule()

    def _advance(self) -> None:
        for low, jobs in self._jobs.items():
            if jobs:
                self._done[low] += (self._clock.now - self._updated) * self._rate(low)
        self._updated = self._clock.now

    def _schedule(self) -> None:
        """Plans the end of the job that will be done first; plans made before are void."""
        self._plan += 1
        plan = self._plan
        left = [
            (max(0.0, jobs[0][0] - self._done[low]) / self._rate(low), low) for low, jobs in self._jobs.items() if jobs
        ]
        if left:
            seconds, first = min(left)
            self._clock.after(seconds, lambda: self._finish(plan, first))

    def _finish(self, plan: int, low: bool) -> None:
        if plan != self._plan:
            return
        self._advance()
        _, _, resume = heapq.heappop(self._jobs[low])
        self._schedule()
        resume(None)


class Link:
    """A network connection, one message after another. Without a bandwidth it is this machine's memory."""

    def __init__(self, clock: Clock, bytes_per_sec: float = math.inf, latency_sec: float = 0.0) -> None:
        self._clock, self._speed, self._latency = clock, bytes_per_sec, latency_sec
        self._free_at = 0.0
        self.busy = 0.0
        """Seconds in use."""

    def send(self, num_bytes: float, arrived: Callable[[], None]) -> None:
        """Calls a function when a message has come across."""
        seconds = num_bytes / self._speed
        self.busy += seconds
        self._free_at = max(self._clock.now, self._free_at) + seconds
        self._clock.after(self._free_at - self._clock.now + self._latency, arrived)


class Mailbox:
    """Items in the order of their arrival, for one reader."""

    def __init__(self) -> None:
        self.items: deque[Any] = deque()
        self.told: Mailbox | None = None
        """Gets a word for each item."""
        self._reader: Resume | None = None

    def put(self, item: Any) -> None:
        """Hands an item over."""
        self.items.append(item)
        if self.told is not None:
            self.told.put(None)
        if self._reader is not None:
            reader, self._reader = self._reader, None
            reader(self.items.popleft())

    def get(self, resume: Resume) -> None:
        """The next item, for ``yield mailbox.get``."""
        if self.items:
            resume(self.items.popleft())
        else:
            self._reader = resume


@dataclass
class Costs:
    """Seconds of one core, sizes and settings, measured by ``benchmarks.scale_costs``."""

    env: str
    num_steps: int
    """Environment steps of a fragment."""
    env_sec: float
    """Of a fragment: in the environments."""
    inference_sec: float
    """Of a fragment: in the policy."""
    sample_sec: float
    """Of a fragment: everything in ``RolloutWorker.sample``."""
    sample_variation: float
    """Standard deviation of that over its mean."""
    fragment_bytes: int
    weights_bytes: int
    worker_sec: float
    """Ray's work in the worker's process for a fragment."""
    load_sec: float
    """The same for new weights."""
    take_sec: float
    """The driver's thread, for asking for a fragment and taking it."""
    take_background_sec: float
    """Ray's other threads and processes on the driver's machine, for the same."""
    send_sec: float
    """The driver's thread, for telling a worker of new weights."""
    send_background_sec: float
    put_sec: float
    """The driver's thread, for a new version of the weights in the object store."""
    latency_sec: float
    """From a call to its arrival."""
    learn_sec: dict[str, float]
    """The learner's time, by design: of a fragment (ppo, impala), of a use of one (impact), of a batch (apex)."""
    prepare_sec: float
    """IMPACT: a fragment's way into the circular buffer."""
    versions: dict[str, int]
    """Versions of the weights (gradient steps) in each of those."""
    num_slots: int
    """IMPACT's N."""
    max_uses: int
    """IMPACT's K."""
    replay: dict[str, float] = field(default_factory=dict)
    """Ape-X: batches of a draw, batch_steps and batch_bytes of one; the seconds of a replay actor, store_sec,
    sample_sec (a draw) and priorities_sec; of a worker's fragment, act_sec; of the driver's thread for passing one on,
    take_sec."""


@dataclass
class Cluster:
    """What the actors run on: a core for each worker, and a machine for the driver."""

    num_workers: int
    num_cores: float = 8
    """Of the driver's machine."""
    shared: bool = False
    """The workers are on the driver's machine, too, and nothing goes over a network."""
    driver_speed: float = 1.0
    """Share of the time that the driver has a core when it wants one."""
    worker_speed: float = 1.0
    """The same of the workers."""
    workers_per_node: int = 16
    bytes_per_sec: float = 1.25e9
    """Of the driver's network connection, each way; infinite where there is none in between."""
    latency_sec: float = 1e-4
    """Of the network."""
    replay_actors: int = 1
    """Ape-X: each on a core and a network connection of its own."""


@dataclass
class Prediction:
    """What a run would give."""

    steps_per_sec: float
    staleness: float
    """Versions that the learner was ahead of the weights that had acted, when it learned; the mean."""
    use: dict[str, float]
    """Share of the time that each resource is in use."""
    learned_per_step: float
    """How often each environment step is learned from."""


@dataclass
class _Fragment:
    worker: int
    version: int


class Training:
    """The parts that all designs are made of; a design is a method that is the driver's process."""

    def __init__(self, design: str, costs: Costs, cluster: Cluster, seed: int = 0) -> None:
        self.design, self.costs, self.cluster = design, costs, cluster
        self.clock, self._random = Clock(), random.Random(seed)  # noqa: S311 (a simulation)
        self.machine = Cpu(self.clock, cluster.num_cores, cluster.driver_speed)
        speed, latency = (math.inf, 0.0) if cluster.shared else (cluster.bytes_per_sec, cluster.latency_sec)
        self.inbound, self.outbound = Link(self.clock, speed, latency), Link(self.clock, speed, latency)
        self.worker_cpus = [self._cpu(cluster.worker_speed) for _ in range(cluster.num_workers)]
        self.mail = [Mailbox() for _ in range(cluster.num_workers)]
        self.ready = Mailbox()
        self.version = 0
        self.steps = 0
        self.uses = 0
        """Environment steps learned from, each time counted."""
        self.thread_busy = self.worker_busy = self.replay_busy = 0.0
        self._stored_version = -1
        self._node_versions: dict[int, int] = {}
        self._lags: list[int] = []
        sigma = math.sqrt(math.log1p(costs.sample_variation**2))
        self._sample_sec = costs.replay["act_sec"] if design == "apex" else costs.sample_sec
        self._sigma, self._mu = sigma, -sigma * sigma / 2

    def predict(self, warm_up: int, fragments: int) -> Prediction:
        """Runs until so many fragments came in after the warm-up."""
        for index in range(self.cluster.num_workers):
            self.clock.start(self._worker(index))
        self.clock.start(getattr(self, self.design)())
        size = self.costs.num_steps
        self.clock.run_until(lambda: self.steps >= warm_up * size)
        began, steps, uses, links = self.clock.now, self.steps, self.uses, (self.inbound.busy, self.outbound.busy)
        self.thread_busy = self.worker_busy = self.replay_busy = 0.0
        self._lags.clear()
        self.clock.run_until(lambda: self.steps >= (warm_up + fragments) * size and self.uses > uses)
        seconds = self.clock.now - began
        use = {
            "driver": self.thread_busy / seconds,
            "workers": self.worker_busy / seconds / self.cluster.num_workers,
            "network in": (self.inbound.busy - links[0]) / seconds,
            "network out": (self.outbound.busy - links[1]) / seconds,
        }
        if self.design == "apex":
            use["replay"] = self.replay_busy / seconds / self.cluster.replay_actors
        lag = sum(self._lags) / len(self._lags) if self._lags else math.nan
        done = self.steps - steps
        return Prediction(done / seconds, lag, use, (self.uses - uses) / done)

    def _cpu(self, speed: float) -> Cpu:
        return self.machine if self.cluster.shared else Cpu(self.clock, 1, speed)

    # ------------------------------------------------------------------ workers

    def _worker(self, index: int) -> Process:
        cpu, costs, version = self.worker_cpus[index], self.costs, 0
        while True:
            message = yield self.mail[index].get
            began = self.clock.now
            if message is not None:  # new weights; None asks for a fragment
                version = message
                yield cpu.work(costs.load_sec, low=True)
            else:
                factor = math.exp(self._random.gauss(self._mu, self._sigma))
                yield cpu.work(self._sample_sec * factor + costs.worker_sec, low=True)
                fragment = _Fragment(index, version)
                size = 0 if self.design == "apex" else costs.fragment_bytes  # Ape-X's driver sees references alone
                self.inbound.send(size, functools.partial(self.ready.put, fragment))
            self.worker_busy += self.clock.now - began

    # ------------------------------------------------------------------ the driver's steps

    def _drive(self, seconds: float) -> Callable[[Resume], None]:
        """Work of the driver's thread."""
        self.thread_busy += seconds
        return self.machine.work(seconds)

    def _ask(self, worker: int) -> None:
        latency = self.costs.latency_sec + (0.0 if self.cluster.shared else self.cluster.latency_sec)
        self.clock.after(latency, lambda: self.mail[worker].put(None))

    def _take(self) -> Process:
        yield self._drive(self.costs.take_sec)
        self.machine.background(self.costs.take_background_sec)

    def _send(self, worker: int) -> Process:
        """``WorkerWeights.send``: a new version is put once, and crosses the network once for each node."""
        version = self.version
        if version != self._stored_version:
            self._stored_version = version
            yield self._drive(self.costs.put_sec)
        yield self._drive(self.costs.send_sec)
        self.machine.background(self.costs.send_background_sec)
        node = worker // self.cluster.workers_per_node
        known = self._node_versions.get(node, -1) == version
        self._node_versions[node] = version
        self.outbound.send(0 if known else self.costs.weights_bytes, lambda: self.mail[worker].put(version))

    def _learn(self, versions: list[int], seconds: float, learned_steps: int) -> Process:
        self._lags += [self.version - version for version in versions]
        yield self._drive(seconds)
        self.version += self.costs.versions[self.design] * (len(versions) if self.design == "ppo" else 1)
        self.uses += learned_steps

    # ------------------------------------------------------------------ the designs

    def ppo(self) -> Process:
        """Rounds: every worker a fragment, then the learner, then new weights for all."""
        workers, costs = range(self.cluster.num_workers), self.costs
        while True:
            for worker in workers:
                self._ask(worker)
            versions = []
            for _ in workers:
                fragment = yield self.ready.get
                yield from self._take()
                versions.append(fragment.version)
            yield from self._learn(versions, costs.learn_sec["ppo"] * len(versions), costs.num_steps * len(versions))
            self.steps += costs.num_steps * len(versions)
            for worker in workers:
                yield from self._send(worker)

    def impala(self) -> Process:
        """Whatever is ready is learned from once; two requests under way for each worker."""
        self._ask_all_twice()
        while True:
            fragment = yield self.ready.get
            yield from self._take()
            yield from self._send(fragment.worker)
            yield from self._learn([fragment.version], self.costs.learn_sec["impala"], self.costs.num_steps)
            self.steps += self.costs.num_steps
            self._ask(fragment.worker)

    def impact(self) -> Process:
        """Fragments go into the circular buffer; the learner passes over it, at most K uses between two fragments."""
        costs = self.costs
        buffer: CircularBuffer[_Fragment] = CircularBuffer(costs.num_slots, costs.max_uses)
        self._ask_all_twice()
        idle = False
        while True:
            if self.ready.items or idle:
                fragment = yield self.ready.get
                yield from self._take()
                yield from self._send(fragment.worker)
                yield self._drive(costs.prepare_sec)
                buffer.add(fragment)
                self.steps += costs.num_steps
                self._ask(fragment.worker)
            idle = True
            for _ in range(costs.max_uses):
                used = buffer.next()
                if used is None:
                    break
                idle = False
                yield from self._learn([used.version], costs.learn_sec["impact"], costs.num_steps)

    def apex(self) -> Process:
        """References go to replay actors by turns; these sample batches ahead, and the learner takes what is ready."""
        costs, replay = self.costs, self.costs.replay
        stores = [Mailbox() for _ in range(self.cluster.replay_actors)]
        batches = Mailbox()
        for number, store in enumerate(stores):
            self.clock.start(self._replay_actor(number, store, batches))
        turns = itertools.cycle(stores)
        self._ask_all_twice()
        wake = Mailbox()  # gets a word for each fragment and each batch
        self.ready.told = batches.told = wake
        while True:
            if not self.ready.items and not batches.items:
                yield wake.get
                wake.items.clear()
                continue
            if self.ready.items:
                fragment = self.ready.items.popleft()
                yield self._drive(replay["take_sec"])  # by reference, with the call to the replay actor
                self.machine.background(costs.take_background_sec)
                self._lags.append(self.version - fragment.version)
                yield from self._send(fragment.worker)
                next(turns).put("store")
                self.steps += costs.num_steps
                self._ask(fragment.worker)
            if batches.items:
                number = batches.items.popleft()
                yield from self._take()
                for _ in range(int(replay["batches"])):
                    yield self._drive(costs.learn_sec["apex"] + costs.send_sec)  # and the new priorities
                    stores[number].put("priorities")
                    self.version += costs.versions["apex"]
                    self.uses += int(replay["batch_steps"])
                stores[number].put("sample")

    def _replay_actor(self, number: int, mail: Mailbox, batches: Mailbox) -> Process:
        cpu = self._cpu(self.cluster.worker_speed)
        filled = False
        while True:
            task = yield mail.get
            began = self.clock.now
            yield cpu.work(self.costs.replay[f"{task}_sec"], low=True)
            self.replay_busy += self.clock.now - began
            if task == "sample":
                size = self.costs.replay["batch_bytes"] * self.costs.replay["batches"]
                self.inbound.send(size, functools.partial(batches.put, number))
            elif not filled:  # two draws are asked for ahead
                filled = True
                mail.put("sample")
                mail.put("sample")

    def _ask_all_twice(self) -> None:
        for worker in range(self.cluster.num_workers):
            self._ask(worker)
            self._ask(worker)
