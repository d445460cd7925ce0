"""The picture of a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from safe_rl.data.dataset import OfflineDataset
from safe_rl.data.episodes import leaf_spaces
from safe_rl.errors import UserError

SAFE, VIOLATION, SUCCESS = "#3b6ea5", "#d6452f", "#3f9b57"
_LARGEST_PLOTTED_LEAF = 16
_MOST_HISTOGRAMS = 16
_MOST_POINTS = 20_000
_BINS = 40

FloatArray = npt.NDArray[np.float32]


def plot_dataset(dataset: OfflineDataset, path: Path) -> None:
    """Draws where the data lies, how long the episodes are and how every number is distributed; violations in red.

    Raises:
        UserError: The picture cannot be written.
    """
    columns = _histogram_columns(dataset)
    per_row = min(len(columns), 5 if len(columns) % 4 else 4)
    rows = -(-len(columns) // per_row)
    violating = dataset.transitions().cost > 0
    figure = Figure(figsize=(13, 6.6 + 1.9 * rows), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"{dataset.env_id or dataset.path.name}: {len(violating):,} transitions in {len(dataset.episode_lengths):,} "
        f"episodes, {violating.mean():.1%} violate the constraint",
        fontsize=14,
    )
    panels: Any = figure.subfigures(2, 1, height_ratios=(5.6, 1.9 * rows + 0.4), hspace=0.04)
    upper, lower = panels
    plane, lengths = upper.subplots(1, 2, width_ratios=(1.6, 1))
    _draw_plane(plane, dataset)
    _draw_lengths(lengths, dataset)
    lower.suptitle(
        "before a safe step (blue) and before a violating one (red line), each scaled to itself", fontsize=12
    )
    grid = lower.add_gridspec(rows, per_row)
    for index, (name, values) in enumerate(columns):
        axes = lower.add_subplot(grid[index // per_row, index % per_row])
        _draw_histogram(axes, name, values, violating)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:  # a ValueError where matplotlib does not know the file's ending
        raise UserError(f"cannot write {path}: {' '.join(str(error).split())}; name another with --plot") from error


def _histogram_columns(dataset: OfflineDataset) -> list[tuple[str, FloatArray]]:
    """The numbers worth a histogram: small observations, then actions and the reward."""
    transitions = dataset.transitions()
    columns: list[tuple[str, FloatArray]] = []
    first = 0
    for path, space in leaf_spaces(dataset.observation_space).items():
        size = int(np.prod(space.shape, dtype=int))
        if size <= _LARGEST_PLOTTED_LEAF:
            columns += [
                (_indexed(path or "obs", index, size), transitions.obs[:, first + index]) for index in range(size)
            ]
        first += size
    act_dim = transitions.action.shape[1]
    actions = [(_indexed("action", index, act_dim), transitions.action[:, index]) for index in range(act_dim)]
    return [*columns[:_MOST_HISTOGRAMS], *actions[:_MOST_HISTOGRAMS], ("reward", transitions.reward)]


def _indexed(name: str, index: int, size: int) -> str:
    return name if size == 1 else f"{name}[{index}]"


def _draw_plane(axes: Axes, dataset: OfflineDataset) -> None:
    """The state after each step, violations on top."""
    transitions = dataset.transitions()
    points, names = _plane(dataset)
    keep = np.flatnonzero(np.isfinite(points).all(axis=1))
    if len(keep) > _MOST_POINTS:
        keep = np.random.default_rng(0).choice(keep, _MOST_POINTS, replace=False)
    violating = transitions.cost > 0
    size = float(np.clip(60_000 / max(len(points), 1), 3, 20))
    for mask, colour, label, alpha in ((~violating, SAFE, "safe", 0.35), (violating, VIOLATION, "violation", 0.8)):
        x, y = points[keep[mask[keep]]].T
        axes.scatter(x, y, s=size, color=colour, alpha=alpha, linewidths=0, label=f"{label} ({mask.sum():,})")
    axes.set(xlabel=names[0], ylabel=names[1], title="states after each step")
    legend = axes.legend(frameon=False, markerscale=3, loc="upper left", bbox_to_anchor=(0, -0.11), ncols=2)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
    _tidy(axes)


def _plane(dataset: OfflineDataset) -> tuple[FloatArray, tuple[str, str]]:
    """Two coordinates of each state: two of its numbers where they are few, else their principal components."""
    transitions = dataset.transitions()
    states = transitions.next_obs
    finite = states[np.isfinite(states).all(axis=1)]
    varying = np.flatnonzero(finite.std(axis=0) > 0) if len(finite) else np.empty(0, dtype=int)
    if len(varying) < 2:
        name = f"obs[{varying[0]}]" if len(varying) else "obs[0]"
        column = states[:, varying[0] if len(varying) else 0]
        return np.stack([column, transitions.action[:, 0]], axis=1), (name, "action[0]")
    if states.shape[1] <= _LARGEST_PLOTTED_LEAF:
        return states[:, varying[:2]], (f"obs[{varying[0]}]", f"obs[{varying[1]}]")
    sample = finite[:: max(1, len(finite) // 1000)]
    scale = np.where(sample.std(axis=0) > 0, sample.std(axis=0), 1)
    _, _, axes = np.linalg.svd((sample - sample.mean(axis=0)) / scale, full_matrices=False)
    return ((states - sample.mean(axis=0)) / scale) @ axes[:2].T, ("first principal component", "second")


def _draw_lengths(axes: Axes, dataset: OfflineDataset) -> None:
    """Episode lengths by how the episodes ended."""
    lengths, transitions = dataset.episode_lengths, dataset.transitions()
    violated = transitions.cost[np.cumsum(lengths) - 1] > 0
    succeeded = dataset.episode_successes & ~violated
    groups = [
        ("violation", VIOLATION, violated),
        ("success", SUCCESS, succeeded),
        ("cut or other", SAFE, ~violated & ~succeeded),
    ]
    low, high = int(lengths.min()), int(lengths.max())
    width = max(1, -(-(high - low + 1) // 30))
    edges = np.arange(low, high + width + 1, width) - 0.5
    axes.hist(
        [lengths[mask] for _, _, mask in groups],
        bins=edges.tolist(),
        stacked=True,
        color=[colour for _, colour, _ in groups],
        label=[f"{label} ({mask.sum():,})" for label, _, mask in groups],
        rwidth=0.9,
    )
    axes.set(xlabel="steps", ylabel="episodes", title="episode lengths, by their end")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(-0.1, -0.11), ncols=3, columnspacing=1, fontsize=9)
    _tidy(axes)


def _draw_histogram(axes: Axes, name: str, values: FloatArray, violating: npt.NDArray[np.bool_]) -> None:
    """The distribution of one number before a safe and before a violating step, each normalised by itself."""
    finite = np.isfinite(values)
    low, high = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 0.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    bins: Any = np.linspace(low, high, _BINS + 1)
    styles: tuple[tuple[npt.NDArray[np.bool_], dict[str, Any]], ...] = (
        (~violating, {"histtype": "stepfilled", "color": SAFE, "alpha": 0.5}),
        (violating, {"histtype": "step", "color": VIOLATION, "lw": 1.4}),
    )
    for mask, style in styles:
        if (chosen := values[mask & finite]).size:
            weights = np.full(len(chosen), 1 / len(chosen))
            axes.hist(chosen, bins=bins, weights=weights, **style)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_title(name, fontsize=10)
    axes.set_yticks([])
    axes.tick_params(labelsize=8)
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
