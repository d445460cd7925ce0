"""Does memory stay flat while `safe-rl train impact` runs on Ray?

    python -m benchmarks.flat_memory --minutes 15

The training is the command's own (``train_plan``), with its logs and checkpoints, in this process; a thread beside it
notes, at each interval, the resident memory of the driver, of the rollout workers and of Ray's own processes, and how
much of the object store is in use. The slope is that of a line through the samples after the warm-up.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address

from safe_rl.plans.methods import PLAN_METHODS
from safe_rl.plans.train import train_plan

MIB = 2**20
KINDS = ("driver", "workers", "Ray's own", "object store")


@dataclass
class Sample:
    """Memory at one moment, in MiB."""

    minute: float
    driver: float
    workers: float
    others: float
    """Ray's server processes; the shared memory of the object store not counted."""
    store: float
    """Objects that are held in the object store."""

    @property
    def values(self) -> tuple[float, ...]:
        """In the order of ``KINDS``."""
        return self.driver, self.workers, self.others, self.store


def resident_mib(process: int) -> float:
    """Memory of a process that is its own: resident, without what it shares through the object store."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return (int(fields["VmRSS"].split()[0]) - int(fields["RssShmem"].split()[0])) / 1024


def descendants(process: int) -> list[int]:
    """All processes below one."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it ended meanwhile
                continue
    found = [process]
    for parent in found:
        found.extend(child for child, its_parent in parents.items() if its_parent == parent)
    return found[1:]


def take_sample(started: float) -> Sample:
    """Memory now."""
    workers = others = 0.0
    for process in descendants(os.getpid()):
        try:
            name = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
            mib = resident_mib(process)
        except (OSError, KeyError):  # it ended meanwhile
            continue
        if name.startswith("ray::RayHost"):
            workers += mib
        else:
            others += mib
    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    used = get_memory_info_reply(state).store_stats.object_store_bytes_used / MIB
    return Sample((time.perf_counter() - started) / 60, resident_mib(os.getpid()), workers, others, used)


class Sampler(threading.Thread):
    """Takes samples until the training is over; a first one once Ray and its workers are there."""

    def __init__(self, interval_sec: float) -> None:
        super().__init__(daemon=True)
        self.interval_sec = interval_sec
        self.samples: list[Sample] = []
        self.over = threading.Event()

    def run(self) -> None:
        """See ``threading.Thread``."""
        started = time.perf_counter()
        while not self.over.wait(self.interval_sec):
            if not ray.is_initialized():
                continue
            sample = take_sample(started)
            self.samples.append(sample)
            values = ", ".join(f"{kind} {value:.1f}" for kind, value in zip(KINDS, sample.values, strict=True))
            print(f"{sample.minute:5.2f} min: {values} MiB", flush=True)


def report(samples: list[Sample], warm_up_min: float, steps: int) -> None:
    """Prints first, last, largest and slope of each kind, as rows of a table."""
    kept = [sample for sample in samples if sample.minute >= warm_up_min]
    if len(kept) < 2:
        raise SystemExit(f"{len(kept)} samples after {warm_up_min:g} minutes: run it longer")
    minutes = np.array([sample.minute for sample in kept])
    print(f"\n{steps:,} environment steps; {len(kept)} samples from minute {minutes[0]:.1f} to {minutes[-1]:.1f}\n")
    print("| MiB | first | last | smallest | largest | slope a minute |\n|---|---|---|---|---|---|")
    for kind, values in zip(KINDS, np.array([sample.values for sample in kept]).T, strict=True):
        slope = np.polyfit(minutes, values, 1)[0]
        print(
            f"| {kind} | {values[0]:.1f} | {values[-1]:.1f} | {values.min():.1f} | {values.max():.1f} | {slope:+.3f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--interval-sec", type=float, default=10.0)
    parser.add_argument("--warm-up-min", type=float, default=1.0, help="samples before this are not counted")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    spec = PLAN_METHODS["impact"]
    preset = spec.preset(options.env, "tuned")
    output = Path(tempfile.mkdtemp(prefix="flat-memory-"))
    run = spec.run_config(
        env=options.env,
        output=output / "run",
        workers=options.workers,
        envs_per_worker=preset.num_envs,
        fragment_length=preset.fragment_length,
        steps=10**12,
    )
    sampler = Sampler(options.interval_sec)
    sampler.start()
    ended = time.perf_counter() + 60 * options.minutes

    class Over(Exception):  # noqa: N818 (it is no error)
        pass

    steps = 0

    def progress(done: int, total: int, status: str) -> None:
        nonlocal steps
        steps = done
        if time.perf_counter() > ended:
            raise Over

    try:
        train_plan("impact", run, preset.settings, progress=progress)
    except Over:
        pass
    finally:
        sampler.over.set()
        sampler.join()
        shutil.rmtree(output)
    report(sampler.samples, options.warm_up_min, steps)


if __name__ == "__main__":
    main()
