"""`safe-rl export RUN --output DIR`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.table import Table

from safe_rl.cli.console import show
from safe_rl.shield.export import ExportOptions, export_run
from safe_rl.shield.observation import ObservationLayout


@dataclass(kw_only=True)
class ExportConfig(ExportOptions):
    """Write a trained policy with its recovery and its switch as a bundle that a robot runs."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    output: Path
    """Folder of the bundle."""


def run_export(config: ExportConfig) -> None:
    """Exports a run and prints what the bundle holds."""
    bundle = export_run(config.run, config.output, config)
    spec, provenance = bundle.spec, bundle.spec.provenance
    size = sum(path.stat().st_size for path in bundle.path.iterdir())
    engines = "ONNX Runtime, PyTorch" if bundle.has_graphs else "PyTorch (--onnx adds graphs for ONNX Runtime)"
    table = Table(show_header=False)
    table.add_row("policy", f"{spec.method} on {spec.env}, seed {provenance['seed']}")
    episodes, steps = provenance["episodes"], provenance["environment_steps"]
    table.add_row("trained for", f"{episodes:,} episode{'s' * (episodes != 1)}, {steps:,} environment steps")
    table.add_row("observation", f"{ObservationLayout(spec.observation_space).size} numbers")
    table.add_row("action", f"{_numbers(spec.limits.low)} to {_numbers(spec.limits.high)}")
    table.add_row("recovery", f"{spec.recovery}, where Q_risk exceeds {spec.switch.eps_risk:g}")
    table.add_row("on STOP", spec.stop.kind if spec.stop.action is None else _numbers(spec.stop.action))
    table.add_row("engine", engines)
    table.add_row("size", f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB")
    show(
        table,
        f"bundle in {bundle.path}; its threshold promises nothing yet, so next:\n"
        f"safe-rl calibrate {bundle.path} --dataset HELD_OUT_DATA",
    )


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
