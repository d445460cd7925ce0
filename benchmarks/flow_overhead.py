"""What the dataflow library costs on top of Ray: items a second beside hand-written ``ray.wait`` loops.

    python -m benchmarks.flow_overhead

Two actors with two requests each under way; the loops take turns, the medians of the repeats count. Results:
``docs/results/flow.md``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.learner_speed import cpu_name
from safe_rl.flow import RayBackend, union
from safe_rl.flow.ray_backend import import_ray

NUM_ACTORS = 2
IN_FLIGHT = 2
BATCH_BYTES = 100_000


class Maker:
    """An actor that makes items at once, so that the calls are all that costs."""

    def __init__(self, *, index: int) -> None:
        self.batch = np.zeros(BATCH_BYTES // 4, dtype=np.float32)
        self.weights: npt.NDArray[np.float32] | None = None

    def tiny(self) -> int:
        """Makes an item that is as small as can be."""
        return 1

    def large(self) -> npt.NDArray[np.float32]:
        """Makes a batch of 100 kB."""
        return self.batch.copy()

    def set_weights(self, weights: npt.NDArray[np.float32]) -> None:
        """Takes new weights."""
        self.weights = weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--items", type=int, default=200)
    args = parser.parse_args()
    with RayBackend(num_cpus=3 * NUM_ACTORS) as backend:
        ray = import_ray()
        bare = [ray.remote(Maker).remote(index=index) for index in range(NUM_ACTORS)]
        workers = backend.actors(Maker, NUM_ACTORS)
        halves = [backend.actors(Maker, NUM_ACTORS // 2) for _ in range(2)]
        print(f"{cpu_name()}, {os.cpu_count()} cores, Ray {ray.__version__}, load {os.getloadavg()[0]:.1f}")
        print(f"medians of {args.repeats} turns of {args.items} items\n")
        print("| items | loop | items a second | driver's CPU time an item | rate, of the hand-written loop's |")
        print("|---|---|---|---|---|")
        for what, method in (("tiny", Maker.tiny), ("100 kB", Maker.large)):
            streams: dict[str, Iterator[Any]] = {
                "hand-written, one at a time": one_at_a_time(ray, bare, method.__name__),
                "hand-written, all that is ready": all_that_is_ready(ray, bare, method.__name__),
                "`gather_async`": workers.iterate(method).gather_async(IN_FLIGHT),
                "`union` of two": union(*(group.iterate(method).gather_async(IN_FLIGHT) for group in halves)),
            }
            report(what, streams, args.repeats, args.items)
        puts = broadcasts(backend, workers, versions=20)
        print(f"\nbroadcasts of 20 versions to {NUM_ACTORS} actors: {puts} puts")


def report(what: str, streams: dict[str, Iterator[Any]], repeats: int, items: int) -> None:
    """Prints a row a stream; they take turns, so that whatever else the machine does meets them all."""
    rates: dict[str, list[float]] = {name: [] for name in streams}
    costs: dict[str, list[float]] = {name: [] for name in streams}
    for stream in streams.values():
        advance(stream, items)  # warm up
    for repeat in range(repeats):
        names = list(streams)
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            began, cpu_began = time.perf_counter(), time.process_time()
            advance(streams[name], items)
            costs[name].append((time.process_time() - cpu_began) / items)
            rates[name].append(items / (time.perf_counter() - began))
    base = max((name for name in streams if name.startswith("hand")), key=lambda name: statistics.median(rates[name]))
    for name in streams:
        ratio = statistics.median(mine / theirs for mine, theirs in zip(rates[name], rates[base], strict=True))
        cost = statistics.median(costs[name]) * 1e6
        print(f"| {what} | {name} | {statistics.median(rates[name]):,.0f} | {cost:.0f} us | {ratio:.1%} |")


def one_at_a_time(ray: Any, actors: list[Any], method: str) -> Iterator[Any]:
    """The loop of Ray's manual: wait for one, take it, ask again."""
    owners = {getattr(actor, method).remote(): actor for actor in actors for _ in range(IN_FLIGHT)}
    while True:
        (ready,), _ = ray.wait(list(owners), num_returns=1)
        actor = owners.pop(ready)
        yield ray.get(ready)
        owners[getattr(actor, method).remote()] = actor


def all_that_is_ready(ray: Any, actors: list[Any], method: str) -> Iterator[Any]:
    """The same, taking all that is ready at once."""
    owners = {getattr(actor, method).remote(): actor for actor in actors for _ in range(IN_FLIGHT)}
    while True:
        waiting = list(owners)
        ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        if not ready:
            ready, _ = ray.wait(waiting, num_returns=1)
        for token, item in zip(ready, ray.get(ready), strict=True):
            actor = owners.pop(token)
            yield item
            owners[getattr(actor, method).remote()] = actor


def advance(stream: Iterator[Any], num: int) -> None:
    for _ in range(num):
        next(stream)


def broadcasts(backend: RayBackend, workers: Any, versions: int) -> int:
    """Returns how many puts that many versions of the weights take."""
    before = backend.context.counter("flow/puts")
    for version in range(versions):
        workers.broadcast(Maker.set_weights, backend.put(np.full(10_000, version, dtype=np.float32)))
    return int(backend.context.counter("flow/puts") - before)


if __name__ == "__main__":
    main()
