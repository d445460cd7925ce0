"""Curves over training episodes, with a band over seeds, and the metrics of the learners."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from safe_rl.report.curves import Array, Episodes, mean_and_standard_error, rolling_mean
from safe_rl.report.groups import Group
from safe_rl.report.style import assign_series, line_style, styled, to_svg, to_svg_file

SIZE = (4.1, 2.75)
"""Inches: small, so that the text stays legible on a telephone."""
MAX_POINTS = 300
SUCCESSES, VIOLATIONS = "Successes so far", "Violations so far"
RATIO = "Successes per violation"
TRADE_OFF = "Violations against successes"
LOG_BEYOND = 30.0
"""Where the methods' ratios end further apart than this factor, a linear scale would show one of them alone."""


Curve = Callable[[Episodes], Array]

CURVES: dict[str, Curve] = {
    SUCCESSES: lambda episodes: np.cumsum(episodes.success),
    VIOLATIONS: lambda episodes: np.cumsum(episodes.violation),
    RATIO: Episodes.ratio,
}
"""What the paper's figures show, by their titles."""


@dataclass(frozen=True)
class Plot:
    """A figure with what the page says about it."""

    svg: Markup
    title: str
    caption: str


def curve_plots(groups: list[Group], series: dict[str, int], prefix: str) -> list[Plot]:
    """Draws the curves over training episodes of the runs of one environment."""
    window = _window(groups)
    smoothed = f"mean of the last {window} episodes"
    curves: list[tuple[str, str, str, Curve]] = [
        ("successes", SUCCESSES, "More is better.", CURVES[SUCCESSES]),
        ("violations", VIOLATIONS, "Fewer is better.", CURVES[VIOLATIONS]),
        ("ratio", RATIO, "(successes + 1) / (violations + 1); more is better.", CURVES[RATIO]),
        ("return", "Return", f"Undiscounted, {smoothed}.", lambda e: rolling_mean(e.returns, window)),
        ("recovery", "Recovery policy acts", f"Percent of the steps, {smoothed}.",
         lambda e: 100.0 * rolling_mean(e.recovery_share(), window)),
        ("length", "Episode length", f"Steps, {smoothed}.", lambda e: rolling_mean(e.steps, window)),
    ]  # fmt: skip
    plots = [
        Plot(_svg(f"{prefix}-{name}", partial(draw_curve, groups, series, title, curve)), title, caption)
        for name, title, caption, curve in curves
        if name != "recovery" or any(run.episodes.recovery_steps.any() for group in groups for run in group.runs)
    ]
    caption = "While learning; the dot is the end, with standard errors. Far right and low is better."
    trade_off = _svg(f"{prefix}-tradeoff", partial(draw_trade_off, groups, series))
    plots.insert(3, Plot(trade_off, TRADE_OFF, caption))
    return plots


def overview(groups: list[Group]) -> str:
    """What methods come to while they train, as one SVG for a page of results: mean and standard error over seeds."""
    series = assign_series([(group.label, group.method) for group in groups])
    with styled():
        figure = Figure(figsize=(2 * SIZE[0], 2.4 * SIZE[1]), layout="constrained")
        panels = figure.subplots(2, 2).flatten()
        for axes, (title, curve) in zip(panels, CURVES.items(), strict=False):
            draw_curve(groups, series, title, curve, axes)
            axes.set_title(title)
        draw_trade_off(groups, series, panels[-1])
        panels[-1].set_title(TRADE_OFF)
        lines = [Line2D([], [], **line_style(series[group.label])) for group in groups]
        figure.legend(lines, [group.label for group in groups], loc="outside lower center", ncols=4)
        return to_svg_file(figure)


def _svg(name: str, draw: Callable[[Axes], str]) -> Markup:
    """A figure of one pair of axes; ``draw`` says what it shows to those who cannot see it."""
    with styled():
        figure = Figure(figsize=SIZE, layout="constrained")
        said = draw(figure.add_subplot())
    return to_svg(figure, name, said)


def _window(groups: list[Group]) -> int:
    return max(1, min(20, max(group.num_episodes for group in groups) // 10))


def draw_curve(groups: list[Group], series: dict[str, int], title: str, curve: Curve, axes: Axes) -> str:
    """Draws a curve over training episodes, with a band over seeds; returns what it shows."""
    said, means = [], []
    for group in groups:
        line = line_style(series[group.label])
        for run in group.runs:
            if len(run.episodes) > group.num_episodes:  # seeds that went further than the band
                whole = curve(run.episodes)
                rest = np.arange(group.num_episodes - 1, len(whole))
                axes.plot(*_thinned(rest + 1, whole[rest]), **line, linewidth=0.7, alpha=0.55)
        mean, error = mean_and_standard_error([curve(episodes) for episodes in group.common()])
        means.append(mean)
        episode, kept = _thinned(np.arange(1, len(mean) + 1), np.arange(len(mean)))
        if np.isfinite(error).all():
            low, high = (mean - error)[kept], (mean + error)[kept]
            axes.fill_between(episode, low, high, color=line["color"], alpha=0.22, linewidth=0)
        marker = "o" if len(kept) == 1 else None
        axes.plot(episode, mean[kept], **line, marker=marker, markersize=4, clip_on=False)
        said.append(f"{group.label} ends at {mean[-1]:,.4g}")
    axes.set_xlabel("training episode")
    ends = [float(mean[-1]) for mean in means]
    if title == RATIO and min(ends) > 0.0 and max(ends) > LOG_BEYOND * min(ends):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("training episode (ratio on a logarithmic scale)")
        axes.set_ylim(min(1.0, *map(np.min, means)) / 1.5, max(1.0, *ends) * 1.5)
        axes.grid(visible=False, axis="x")
    else:
        if axes.get_ylim()[0] < 0.0 <= axes.dataLim.y0:  # counts and shares stand on the axis
            axes.set_ylim(0.0, axes.get_ylim()[1] if axes.dataLim.y1 > 0.0 else 1.0)
        _tidy(axes, whole_numbers=title in (SUCCESSES, VIOLATIONS))
    return f"{title} over training episodes: {'; '.join(said)}."


def draw_trade_off(groups: list[Group], series: dict[str, int], axes: Axes) -> str:
    """Draws what successes have cost in violations, from the first episode to the last; returns what it shows."""
    said = []
    for group in groups:
        line = line_style(series[group.label])
        across, across_error = mean_and_standard_error([np.cumsum(e.success) for e in group.common()])
        up, up_error = mean_and_standard_error([np.cumsum(e.violation) for e in group.common()])
        axes.plot(*_thinned(across, up), **line, linewidth=1.2, clip_on=False)
        errors = {"xerr": across_error[-1], "yerr": up_error[-1]} if np.isfinite(across_error[-1]) else {}
        axes.errorbar(across[-1], up[-1], **errors, fmt="o", markersize=5, color=line["color"], clip_on=False)
        said.append(f"{group.label} ends at {across[-1]:,.4g} successes and {up[-1]:,.4g} violations")
    axes.set_xlabel("successes so far")
    axes.set_ylabel("violations so far")
    axes.set_xlim(0.0, max(axes.get_xlim()[1], 1.0))
    axes.set_ylim(0.0, max(axes.get_ylim()[1], 1.0))
    _tidy(axes, whole_numbers=True)
    return f"{TRADE_OFF}: {'; '.join(said)}."


def metric_plots(groups: list[Group], series: dict[str, int], prefix: str) -> list[Plot]:
    """Draws every metric of ``metrics.jsonl``: one thin line a seed."""
    names = sorted({name for group in groups for run in group.runs for name in run.metrics})
    return [
        Plot(_metric(groups, series, f"{prefix}-metric{index}", name), name, "") for index, name in enumerate(names)
    ]


def _metric(groups: list[Group], series: dict[str, int], name: str, metric: str) -> Markup:
    with styled():
        figure = Figure(figsize=(SIZE[0], 2.3), layout="constrained")
        axes = figure.add_subplot()
        drawn = []
        for group in groups:
            lines = [run.metrics[metric] for run in group.runs if metric in run.metrics]
            for steps, values in lines:
                axes.plot(*_thinned(steps, values), **line_style(series[group.label]), linewidth=1.0, alpha=0.8)
            drawn += [group.label] if lines else []
        axes.set_xlabel("environment step")
        _tidy(axes)
    return to_svg(figure, name, f"{metric} over environment steps for {', '.join(drawn)}.")


def _thinned(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """At most ``MAX_POINTS`` of the points, the first and the last among them."""
    if len(x) <= MAX_POINTS:
        return x, y
    kept = np.linspace(0, len(x) - 1, MAX_POINTS).round().astype(int)
    return x[kept], y[kept]


def _tidy(axes: Axes, *, whole_numbers: bool = False) -> None:
    axes.grid(visible=False, axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=whole_numbers))
    axes.xaxis.set_major_formatter("{x:,.0f}")
