"""`safe-rl bench BUNDLE`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from rich.table import Table

from safe_rl.cli.console import show
from safe_rl.errors import UserError
from safe_rl.shield.latency import Latency, cold_start_sec, measure_latency
from safe_rl.shield.shield import Shield

PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)
BAR_WIDTH = 50


@dataclass
class BenchConfig:
    """Measure how long a bundle takes to decide on this machine: a histogram, percentiles, the cold start."""

    bundle: tyro.conf.Positional[Path]
    """The bundle's folder."""
    engine: Literal["auto", "onnx", "torch"] = "auto"
    """What evaluates the networks: ONNX Runtime or PyTorch."""
    decisions: int = 20_000
    """Decisions to time, on random observations."""
    threads: int = 1
    """Threads of PyTorch; ONNX Runtime always has one."""
    seed: int = 0
    """Seed of the observations."""
    output: Path | None = None
    """JSON file to write the percentiles to."""

    def __post_init__(self) -> None:
        """Validates the values."""
        for name in ("decisions", "threads"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} is {getattr(self, name)}: it must be at least 1")
        if self.seed < 0:
            raise UserError(f"--seed is {self.seed}: it must be at least 0")


def run_bench(config: BenchConfig) -> None:
    """Measures and prints."""
    with Shield.load(config.bundle, engine=config.engine) as shield:
        if shield.engine.name == "torch":
            import torch

            torch.set_num_threads(config.threads)
        latency = measure_latency(shield, config.decisions, seed=config.seed)
    started = cold_start_sec(config.bundle, config.engine)
    show("\n".join(histogram(latency.seconds)))
    show(_summary(latency, started))
    if config.output is not None:
        config.output.parent.mkdir(parents=True, exist_ok=True)
        config.output.write_text(json.dumps(_to_json(latency, started), indent=1) + "\n")
        show(f"percentiles in {config.output}")


def histogram(seconds: np.ndarray) -> list[str]:
    """A line of text for each of the steps, a third of an octave wide, between the shortest and the longest time."""
    microseconds = seconds * 1e6
    steps = np.floor(3 * np.log2(microseconds)).astype(int)
    counts = {step: int(np.sum(steps == step)) for step in range(steps.min(), steps.max() + 1)}
    largest = max(counts.values())
    lines = []
    for step, count in counts.items():
        bar = "#" * max(1 if count else 0, round(BAR_WIDTH * count / largest))
        lines.append(f"{2 ** (step / 3):8.1f} to {2 ** ((step + 1) / 3):8.1f} us {bar:<{BAR_WIDTH}} {count:,}")
    return lines


def _summary(latency: Latency, started: float) -> Table:
    table = Table("decide", latency.engine)
    for percent in PERCENTILES:
        name = {50.0: "median", 100.0: "longest"}.get(percent, f"{percent:g} % at most")
        table.add_row(name, f"{latency.percentile(percent) * 1e6:,.1f} us")
    table.add_row("decisions", f"{len(latency.seconds):,}, {latency.num_stops:,} of them STOP")
    table.add_row("memory growth", f"{latency.growth_bytes / 1024:,.0f} KiB")
    table.add_row("cold start, imports included", f"{started:.2f} s")
    return table


def _to_json(latency: Latency, started: float) -> dict[str, float | int | str]:
    percentiles = {f"p{percent:g}_us": latency.percentile(percent) * 1e6 for percent in PERCENTILES}
    return {
        "engine": latency.engine,
        "decisions": len(latency.seconds),
        "stops": latency.num_stops,
        "growth_bytes": latency.growth_bytes,
        "cold_start_sec": started,
        **percentiles,
    }
