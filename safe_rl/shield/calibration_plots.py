"""The picture of a calibration."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import FuncFormatter

if TYPE_CHECKING:
    from safe_rl.shield.calibrate import Calibration

INK, MUTED, GRID = "#1f2630", "#5a6172", "#dfe3e8"
CURVE, CHOSEN, FORMER, SECOND = "#0072B2", "#C1121F", "#5a6172", "#D55E00"
_BINS = 60


def draw_calibration(calibration: Calibration) -> bytes:
    """Draws missed violations against needless interventions, the reliability of ``Q_risk``, and how unlike inputs are.

    Returns:
        A PNG.
    """
    entry = calibration.entry
    figure = Figure(figsize=(16, 7.4), facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1, 3, left=0.05, right=0.985, top=0.82, bottom=0.285, wspace=0.22)
    title = f"eps_risk {entry['eps_risk']:.3g}, by {entry['num_events']:,} held-out violations"
    figure.text(0.05, 0.945, title, fontsize=17, color=INK, weight="bold")
    figure.text(0.05, 0.903, entry["promise"], fontsize=12, color=INK)
    _draw_curve(figure.add_subplot(grid[0]), calibration)
    _draw_reliability(figure, grid[1], calibration)
    _draw_scores(figure.add_subplot(grid[2]), calibration)
    text = "\n".join(textwrap.fill(note, 205) for note in _notes(entry))
    figure.text(0.05, 0.03, text, fontsize=10, color=MUTED, linespacing=1.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _notes(entry: dict[str, Any]) -> list[str]:
    horizon = entry["horizon_steps"]
    return [
        f"Assumed: {entry['assumption']}",
        f"Missed: Q_risk at most eps_risk in all of the last {horizon} steps, that of the violation included; one "
        f"violation of each episode. Needless: the switch would take over, of {entry['num_safe_steps']:,} steps with "
        f"no violation within {horizon} steps.",
        "Q_risk foretells what follows where the trained policies act from the next step on; the data's behaviour may "
        "fare otherwise. Intervals: 95 %, as wide as for one step of each episode. Episodes that were cut count as far "
        f"as they go (Kaplan-Meier). Data: {entry['dataset']}, SHA-256 {entry['dataset_sha256'][:12]}, "
        f"{entry['date'][:10]}.",
    ]


def _draw_curve(axes: Axes, calibration: Calibration) -> None:
    """On logarithmic axes, for both shares are to be small; what is zero is drawn at the edge."""
    curve, entry = calibration.curve, calibration.entry
    left, bottom = 0.5 / entry["num_safe_steps"], 0.5 / entry["num_events"]
    axes.plot(
        np.maximum(curve.needless, left), np.maximum(curve.missed, bottom), color=CURVE, lw=2, drawstyle="steps-post"
    )
    points = [
        ("eps_risk", CHOSEN, CHOSEN, entry["eps_risk"], entry["needless_share"], entry["missed"]),
        ("former", FORMER, "white", entry["former_eps_risk"], entry["former_needless_share"], entry["former_missed"]),
    ]
    for name, colour, face, eps, needless, missed in points:
        share = missed / entry["num_events"]
        axes.plot(
            max(needless, left), max(share, bottom), "o", color=colour, markerfacecolor=face, markeredgewidth=2, ms=10,
            zorder=5, clip_on=False, label=f"{name} {eps:.3g}: misses {share:.2%}, needless {needless:.2%}",
        )  # fmt: skip
    axes.axhline(entry["miss_rate"], color=CHOSEN, lw=1, ls=(0, (4, 3)), zorder=2, label="miss rate asked for")
    axes.set(xscale="log", yscale="log", xlim=(left, 1), ylim=(bottom, 20))
    axes.set_yticks([tick for tick in (0.0001, 0.001, 0.01, 0.1, 1.0) if tick > bottom])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda share, _: f"{share * 100:g}%"))
    axes.set(xlabel="needless interventions, share of safe steps", ylabel="missed violations")
    _legend(axes, "upper right")
    _tidy(axes, "What a threshold misses, and what it costs")


def _draw_reliability(figure: Figure, place: SubplotSpec, calibration: Calibration) -> None:
    result, entry = calibration.reliability, calibration.entry
    inner = place.subgridspec(2, 1, height_ratios=(4, 1), hspace=0.08)
    axes = figure.add_subplot(inner[0])
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=(0, (2, 3)), zorder=2)
    horizon = entry["horizon_steps"]
    series = [
        ("$\\gamma_{risk}^{\\,k}$, the violation k steps ahead", result.discounted, CURVE, "o", -0.006),
        (f"violation within {horizon} step{'s' if horizon > 1 else ''}", result.within_horizon, SECOND, "s", 0.006),
    ]
    for label, share, colour, marker, shift in series:
        known = np.isfinite(share)
        low, high = result.interval(np.where(known, share, 0.0))
        x = result.mean_risk[known] + shift
        axes.vlines(x, low[known], high[known], color=colour, lw=1.5, zorder=3)
        axes.plot(x, share[known], marker, color=colour, ms=6.5, zorder=4, label=label)
    axes.axvline(entry["eps_risk"], color=CHOSEN, lw=1.2, zorder=1)
    axes.axvline(entry["former_eps_risk"], color=FORMER, lw=1.2, zorder=1)
    axes.set(xlim=(0, 1), ylim=(0, 1.3), ylabel="what followed, mean")
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.tick_params(labelbottom=False)
    _legend(axes, "upper left")
    _tidy(axes, "Is Q_risk what it says?")
    counts = figure.add_subplot(inner[1], sharex=axes)
    centres, width = (result.edges[1:] + result.edges[:-1]) / 2, 0.86 * np.diff(result.edges)
    counts.bar(centres, result.num_steps, width=width, color=CURVE, alpha=0.35)
    counts.set_yscale("log")
    counts.set_ylim(0.7, 12 * max(int(result.num_steps.max()), 1))
    for x, count in zip(centres, result.num_steps, strict=True):
        counts.text(x, max(int(count), 1) * 1.25, f"{count:,}", ha="center", va="bottom", fontsize=7.5, color=MUTED)
    counts.set(xlabel="Q_risk of the executed action", ylabel="steps")
    _tidy(counts, "")
    counts.set_yticks([])


def _draw_scores(axes: Axes, calibration: Calibration) -> None:
    scores, spec = calibration.distribution_scores, calibration.spec.distribution
    if spec is None:
        return
    top = max(float(scores.max()), spec.threshold) * 1.05
    edges: Any = np.linspace(0, top, _BINS + 1)
    axes.hist(scores, bins=edges, color=CURVE, alpha=0.6)
    found = calibration.entry["out_of_distribution"]
    share = f"{found['flagged_share']:.2%} beyond, at most {found['rate_kept']:.2%} on average"
    label = f"threshold {spec.threshold:.3g}: {share}"
    axes.axvline(spec.threshold, color=CHOSEN, lw=1.6, label=label)
    axes.set_yscale("log")
    axes.set_xlim(0, top)
    lowest, highest = axes.get_ylim()
    axes.set_ylim(max(lowest, 0.6), highest * 4)
    kind = "STOP beyond the threshold" if spec.stop else "only reported"
    axes.set(xlabel="distance in the risk critic's features", ylabel="held-out steps")
    _legend(axes, "upper right")
    _tidy(axes, f"Distance from known data: {kind}")


def _legend(axes: Axes, place: Literal["upper left", "upper right"]) -> None:
    legend = axes.legend(loc=place, fontsize=10, framealpha=0.9, edgecolor="none", facecolor="white")
    legend.set_zorder(6)


def _tidy(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, color=INK, pad=10)
    axes.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=9)
    axes.xaxis.label.set_color(MUTED)
    axes.yaxis.label.set_color(MUTED)
    axes.grid(visible=True, color=GRID, lw=0.7)
    axes.set_axisbelow(True)
