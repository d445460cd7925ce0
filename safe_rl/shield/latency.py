"""How long a shield takes to decide on this machine."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from safe_rl.errors import UserError
from safe_rl.shield.observation import ObservationLayout
from safe_rl.shield.shield import Shield
from safe_rl.switch import Mode

WARM_UP = 1_000
NUM_OBSERVATIONS = 1_024


@dataclass(frozen=True)
class Latency:
    """Times of single decisions."""

    engine: str
    """What computed them."""
    seconds: npt.NDArray[np.float64]
    """(num_decisions,) wall-clock time from call to return."""
    num_stops: int
    """How many of the decisions were STOP; they are cheaper."""
    growth_bytes: int
    """By how much the process grew while deciding."""

    def percentile(self, percent: float) -> float:
        """Seconds that ``percent`` of the decisions took at most."""
        return float(np.percentile(self.seconds, percent))


def measure_latency(shield: Shield, num_decisions: int, *, seed: int = 0) -> Latency:
    """Times ``shield.decide`` on random observations of its space, one after the other.

    Args:
        shield: Has its state reset at the end.
        num_decisions: How many, after a warm-up of 1,000.
        seed: Of the observations: uniform between finite bounds, standard normal elsewhere.
    """
    observations = random_observations(shield.bundle.spec.observation_space, NUM_OBSERVATIONS, seed)
    for number in range(WARM_UP):
        shield.decide(observations[number % NUM_OBSERVATIONS])
    seconds = np.full(num_decisions, np.nan)  # written to, so that its memory is there before the measurement
    stops = 0
    before = _resident_bytes()
    for number in range(num_decisions):
        obs = observations[number % NUM_OBSERVATIONS]
        began = time.perf_counter()
        decision = shield.decide(obs)
        seconds[number] = time.perf_counter() - began
        stops += decision.mode is Mode.STOP
    growth = _resident_bytes() - before
    shield.reset()
    return Latency(shield.engine.name, seconds, stops, growth)


def random_observations(space: dict[str, Any], count: int, seed: int) -> list[Any]:
    """Draws observations of a space as ``bundle.json`` describes it, in their own shapes and types."""
    rng = np.random.default_rng(seed)
    layout = ObservationLayout(space)
    low, high = (np.concatenate(_bounds(space, name)) for name in ("low", "high"))
    bounded = np.isfinite(low) & np.isfinite(high) & (np.abs(low) < 1e30) & (np.abs(high) < 1e30)
    with np.errstate(invalid="ignore"):
        uniform = rng.uniform(np.where(bounded, low, 0.0), np.where(bounded, high, 1.0), (count, layout.size))
    rows = np.where(bounded, uniform, rng.standard_normal((count, layout.size))).astype(np.float32)
    return [layout.unflatten(row) for row in rows]


def _bounds(space: dict[str, Any], name: str) -> list[npt.NDArray[np.float64]]:
    if space["type"] == "Dict":
        return [part for _, entry in sorted(space["spaces"].items()) for part in _bounds(entry, name)]
    try:
        flat = np.array(space[name], dtype=np.float64).reshape(-1)
        return [np.broadcast_to(flat, (math.prod(space["shape"]),))]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"damaged description of the observation space: {name} does not fit ({error!r})") from error


def cold_start_sec(bundle: Path, engine: str) -> float:
    """Seconds from starting Python's imports to the first decision, in a process of its own.

    Raises:
        UserError: The process failed.
    """
    script = """
import sys, time
began = time.perf_counter()
from safe_rl.shield.shield import Shield
from safe_rl.switch import Mode
from safe_rl.shield.latency import random_observations
shield = Shield.load(sys.argv[1], engine=sys.argv[2])
shield.decide(random_observations(shield.bundle.spec.observation_space, 1, 0)[0])
print(time.perf_counter() - began)
"""
    command = [sys.executable, "-c", script, str(bundle), engine]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (this file's own script)
    if result.returncode:
        raise UserError(f"a fresh process could not decide: {result.stderr.strip().splitlines()[-1]}")
    return float(result.stdout)


def _resident_bytes() -> int:
    """The process's resident memory; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * 4096
