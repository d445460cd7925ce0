"""The offline data that runs learned from: its violations are counted here, not among those of the training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from safe_rl.data.dataset import OfflineDataset
from safe_rl.errors import UserError
from safe_rl.report.groups import Group


def describe_offline_data(group: Group) -> str | None:
    """Says how large the group's offline data is and how much of it violates; None where it has none."""
    configs = [run.run.config for run in group.runs]
    paths = {
        (str(config["dataset"]), str(config.get("cost_key", "cost"))) for config in configs if config.get("dataset")
    }
    if not paths:
        return None
    try:
        datasets = [OfflineDataset.open(Path(path), cost_key=cost_key) for path, cost_key in sorted(paths)]
        transitions = float(np.mean([dataset.num_transitions for dataset in datasets]))
        violations = float(np.mean([dataset.num_violations for dataset in datasets]))
    except UserError:
        return "offline data: no longer where the run found it"
    each = f" a seed, {len(datasets)} datasets" if len(datasets) > 1 else ""
    return f"offline data: {transitions:,.0f} transitions, {100 * violations / transitions:.1f} % violations{each}"


def unequal_task_data(groups: list[Group]) -> str | None:
    """Warns where only some methods trained their task policy on offline data: their results differ for that too."""
    informed = [group for group in groups if group.runs[0].run.config.get("demonstrations")]
    others = [group for group in groups if group not in informed]
    if not informed or not others:
        return None
    steps = max(int(group.runs[0].run.config.get("task_pretrain_steps") or 0) for group in informed)
    before = f", with up to {steps:,} gradient steps on it before the first episode" if steps else ""
    return (
        f"Not the same start: the task policy of {_names(informed)} learned from the offline data too{before}; that of "
        f"{_names(others)} did not. The difference between them is not that of the safety alone."
    )


def _names(groups: list[Group]) -> str:
    return ", ".join(group.label for group in groups)
