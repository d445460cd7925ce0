"""Throws everything at a shield: does a decision raise, or does an action escape its limits?

    python -m benchmarks.shield_fuzz bundles/nav1 --decisions 10_000_000 --jobs 2

A third of the inputs are ordinary; the others are raw bits read as numbers, huge and tiny values, NaN, infinity, wrong
shapes, types and structures, and objects that raise when they are touched. Exit code 1 where anything went wrong.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from safe_rl.shield.decision import ShieldDecision
from safe_rl.shield.latency import random_observations
from safe_rl.shield.shield import Shield

POOL = 2_000
ROUND = 50_000
"""Decisions between two pools of inputs."""


class Touchy:
    """Raises when somebody wants an array of it."""

    def __array__(self, *args: Any, **kwargs: Any) -> npt.NDArray[Any]:
        raise RuntimeError("touched")


DTYPES = ["f2", "f8", "i1", "u8", "c8", "U3", "S2", "O", "?", "M8[s]"]
THINGS: list[Any] = [None, True, 3, 2**80, "x", b"x", (), {}, {"a": 1}, Touchy(), print]

Make = Callable[[np.random.Generator, int], Any]
HOSTILE: tuple[Make, ...] = (
    lambda rng, n: rng.integers(0, 2**32, n, dtype=np.uint32).view(np.float32),
    lambda rng, n: rng.integers(0, 2**63, n, dtype=np.uint64).view(np.float64),
    lambda rng, n: (rng.standard_normal(n) * 10.0 ** rng.uniform(-45, 38)).astype(np.float32),
    lambda rng, n: rng.standard_normal(n) * 10.0 ** rng.uniform(-320, 308),
    lambda rng, n: np.where(rng.random(n) < 0.5, rng.choice([np.nan, np.inf, -np.inf]), 0.0),
    lambda rng, n: rng.standard_normal(tuple(rng.integers(0, 4, rng.integers(0, 4)))).astype(np.float32),
    lambda rng, n: rng.standard_normal(n).astype(rng.choice(DTYPES)),
    lambda rng, n: rng.standard_normal(n).tolist(),
    lambda rng, n: THINGS[rng.integers(len(THINGS))],
    lambda rng, n: [THINGS[k] for k in rng.integers(0, len(THINGS), n)],
    lambda rng, n: {"a": rng.standard_normal(n)},
    lambda rng, n: np.asfortranarray(rng.standard_normal((n, 3)))[:, 1],
)  # fmt: skip


def fuzz(bundle: Path, engine: str, decisions: int, seed: int) -> tuple[Counter[str], list[str], float]:
    """Runs in a process of its own; returns counts of mode and reason, what went wrong, and seconds."""
    logging.disable(logging.CRITICAL)
    rng = np.random.default_rng(seed)
    shield = Shield.load(bundle, engine=engine)  # type: ignore[arg-type]
    spec = shield.bundle.spec
    low, high = (np.array(limit, dtype=np.float32) for limit in (spec.limits.low, spec.limits.high))
    obs_dim, act_dim = shield._layout.size, len(low)
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    began = time.monotonic()
    done = 0
    while done < decisions:
        good = random_observations(spec.observation_space, POOL // 3, int(rng.integers(2**31)))
        inputs = good + [HOSTILE[k](rng, obs_dim) for k in rng.integers(0, len(HOSTILE), POOL - len(good))]
        commands = [HOSTILE[k](rng, act_dim) for k in rng.integers(0, len(HOSTILE), POOL)]
        commands += [rng.uniform(low, high).astype(np.float32) for _ in range(POOL)]
        count = min(ROUND, decisions - done)
        which, command = rng.integers(0, len(inputs), count), rng.integers(-len(commands), len(commands), count)
        for i, j in zip(which.tolist(), command.tolist(), strict=True):
            try:
                decision = shield.decide(inputs[i]) if j < 0 else shield.filter(inputs[i], commands[j])
                counts[f"{decision.mode.name} {decision.reason.value}".strip()] += 1
                fault = "" if _is_sound(decision, low, high) else f"escaped: {decision}"
            except Exception as error:
                fault = f"raised {error!r}"
            if fault:
                wrong.append(f"{fault} for {inputs[i]!r} and {commands[j]!r}")
        done += count
    return counts, wrong[:20], time.monotonic() - began


def _is_sound(decision: ShieldDecision, low: npt.NDArray[np.float32], high: npt.NDArray[np.float32]) -> bool:
    action = decision.action
    within = (
        action.shape == low.shape and action.dtype == np.float32 and (action >= low).all() and (action <= high).all()
    )
    return bool(within)  # NaN is neither


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine", default="auto", choices=["auto", "onnx", "torch"])
    parser.add_argument("--decisions", type=int, default=100_000)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    seconds = 0.0
    with ProcessPoolExecutor(args.jobs) as pool:
        share = -(-args.decisions // args.jobs)
        jobs = [pool.submit(fuzz, args.bundle, args.engine, share, args.seed + n) for n in range(args.jobs)]
        for job in jobs:
            some, bad, time_sec = job.result()
            counts += some
            wrong += bad
            seconds = max(seconds, time_sec)
    total = counts.total()
    print(f"{total:,} decisions in {seconds:.0f} s, seed {args.seed}\n")
    for name, count in counts.most_common():
        print(f"{name:40s}{count:14,}{count / total:9.2%}")
    print(f"\nraised or escaped: {len(wrong)}")
    for line in wrong:
        print(line[:500])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
