"""`safe-rl inspect DATASET`, and of the file that a shield's black box wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.table import Table
from rich.text import Text

from safe_rl.cli.black_box import show_black_box
from safe_rl.cli.console import show
from safe_rl.data.dataset import OfflineDataset
from safe_rl.data.inspect import DatasetSummary, DimensionStatistics, inspect_dataset
from safe_rl.data.plots import plot_dataset


@dataclass
class InspectConfig:
    """Print and plot what a dataset holds, and warn about what makes a bad risk critic."""

    dataset: tyro.conf.Positional[Path]
    """Folder of the dataset, the id of one of Minari's local datasets, or a file that a black box wrote."""
    plot: Path | None = None
    """Picture to write (default: inspect.png in the folder of the dataset)."""
    cost_key: str = "cost"
    """Entry of the step infos that is the constraint, in data that was not collected here."""


def run_inspect(config: InspectConfig) -> None:
    """Inspects a dataset, or what a shield recorded before it stopped."""
    if config.dataset.suffix == ".safetensors":
        show_black_box(config.dataset)
        return
    dataset = OfflineDataset.open(config.dataset, cost_key=config.cost_key)
    summary = inspect_dataset(dataset)
    show(_overview(dataset, summary))
    show(_dimensions(summary))
    path = config.plot or dataset.path / "inspect.png"
    plot_dataset(dataset, path)
    for warning in summary.warnings:
        show(Text(f"warning: {warning}", style="yellow"))
    if not summary.warnings:
        show("nothing in it that would make a bad risk critic")
    show(f"picture in {path}")


def _overview(dataset: OfflineDataset, summary: DatasetSummary) -> Table:
    table = Table("", str(dataset.path), title_justify="left")
    ends = summary.num_ending_violations
    rows = {
        "environment": summary.env_id or "not named",
        "observations": summary.observation_space,
        "actions": summary.action_space,
        "transitions": f"{summary.num_transitions:,}",
        "episodes": f"{summary.num_episodes:,}",
        "episode length": f"{summary.shortest} to {summary.longest} steps, median {summary.median:g}",
        "violations": f"{summary.num_violations:,} ({summary.violation_share:.2%}), {ends:,} of them end their episode",
        "successes": f"{summary.num_successes:,} episodes ({summary.num_successes / summary.num_episodes:.1%})",
        "return": f"{summary.return_mean:.4g} on average",
        "overridden actions": f"{summary.num_relabelled:,}",
        "duplicates": f"{summary.num_duplicates:,} ({summary.num_duplicates / summary.num_transitions:.2%})",
        "with NaN or infinity": f"{summary.num_not_finite:,}",
        "sha256": summary.sha256,
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _dimensions(summary: DatasetSummary) -> Table:
    table = Table("number", "min", "mean", "max", "standard deviation", "")
    for column in table.columns[1:5]:
        column.justify = "right"
    for statistics in [*summary.observations, *summary.actions]:
        values = (statistics.minimum, statistics.mean, statistics.maximum, statistics.std)
        table.add_row(statistics.name, *(f"{value:.4g}" for value in values), _note(statistics))
    return table


def _note(statistics: DimensionStatistics) -> str:
    if not statistics.constant:
        return ""
    return "constant" if statistics.count == 1 else f"{statistics.constant:,} of {statistics.count:,} constant"
