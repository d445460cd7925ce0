"""Drivers of their own, for what cannot be tested beside another Ray; the last line they print is JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter as Tally
from pathlib import Path
from typing import Any

import numpy as np

from safe_rl.flow import ActorOptions, RayBackend
from safe_rl.flow.ray_backend import import_ray


class Roaming:
    """Tells where it lives."""

    def __init__(self, *, index: int) -> None:
        self.index = index

    def sample(self) -> tuple[int, str]:
        time.sleep(0.02)
        return self.index, import_ray().get_runtime_context().get_node_id()

    def sample_large(self) -> np.ndarray:
        return np.full(1_000_000, self.index + 1.0)  # 8 MB


def family(root: int) -> dict[int, str]:
    """All living descendants of a process, and their names."""
    parents, names = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except OSError:
                continue
            name, rest = stat[stat.index("(") + 1 : stat.rindex(")")], stat[stat.rindex(")") + 2 :].split()
            if rest[0] != "Z":
                parents[int(folder.name)], names[int(folder.name)] = int(rest[1]), name
    found: dict[int, str] = {}
    grown = True
    while grown:
        grown = False
        for process, parent in parents.items():
            if process not in found and (parent == root or parent in found):
                found[process] = names[process]
                grown = True
    return found


def closes() -> dict[str, Any]:
    with RayBackend(num_cpus=2) as backend:
        stream = backend.actors(Roaming, 2).iterate(Roaming.sample).gather_async(2)
        next(stream)
        during = family(os.getpid())
    deadline = time.monotonic() + 10
    while family(os.getpid()) and time.monotonic() < deadline:
        time.sleep(0.05)
    again = import_ray().is_initialized()
    del stream
    return {"during": len(during), "after": family(os.getpid()), "ray": again or import_ray().is_initialized()}


def is_killed() -> None:
    with RayBackend(num_cpus=2) as backend:
        next(backend.actors(Roaming, 2).iterate(Roaming.sample).gather_async(2))
        sys.stdout.write(json.dumps(family(os.getpid())) + "\n")
        sys.stdout.flush()
        time.sleep(1000)


def nodes_leave() -> dict[str, Any]:
    """Two actors on three nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": quick})
    nodes = {node.node_id: node for node in (cluster.add_node(num_cpus=1) for _ in range(3))}
    cluster.wait_for_nodes()
    with RayBackend(cluster.address) as backend:
        options = ActorOptions(restart_timeout_sec=6.0, timeout_sec=20.0)
        group = backend.actors(Roaming, 2, options=options)
        stream = group.iterate(Roaming.sample).gather_async(2)
        homes = dict(next(stream) for _ in range(20))
        seen = []
        for _ in range(2):
            cluster.remove_node(nodes[homes[0]], allow_graceful=False)
            former, others = homes[0], 0
            while homes[0] == former and len(group) == 2:
                index, home = next(stream)
                homes[index] = home
                others += index == 1
            seen.append({"moved": homes[0] != former, "others": others, "left": len(group)})
        counted = Tally({name: int(value) for name, value in backend.context.snapshot().items()})
        goes_on = {next(stream)[0] for _ in range(100)}
    cluster.shutdown()
    return {"seen": seen, "counted": counted, "goes_on": sorted(goes_on)}


def store_is_full() -> dict[str, Any]:
    """Keeps more items than the object store holds."""
    with RayBackend(num_cpus=2, object_store_memory_bytes=100_000_000) as backend:
        stream = backend.actors(Roaming, 2).iterate(Roaming.sample_large).gather_async(2, by_reference=True)
        kept = [next(stream) for _ in range(16)]
        sums = {float(ref.get().mean()) for ref in kept}
        return {"kept": len(kept), "means": sorted(sums)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(globals()[sys.argv[1]]()) + "\n")
