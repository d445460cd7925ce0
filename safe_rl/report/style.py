"""One look for every figure: inline SVG that follows the page's light or dark colours."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.figure import Figure

PALETTE = (
    ("#0072B2", "#4AA3DF"),
    ("#D55E00", "#F0803C"),
    ("#009E73", "#2FC49A"),
    ("#CC79A7", "#DD97BE"),
    ("#E69F00", "#F2B63C"),
    ("#56B4E9", "#8FD0F5"),
    ("#6B5B95", "#A493D6"),
    ("#5F6B6D", "#A8B3B5"),
)
"""Series colours on a light and on a dark page: Okabe and Ito's palette, told apart by colour-blind readers too."""

LINES: dict[str, Any] = {"solid": "-", "broken": (0, (5.0, 2.2)), "dotted": (0, (1.2, 1.6))}
"""How the lines of a series are drawn, by the page's names: the palette's first use, its second, all others."""

FIXED = {"recovery-rl": 0, "unconstrained": 1}
"""Methods that keep their place in the palette in every report."""

TASK_COLOR, RECOVERY_COLOR = "#009E73", "#F08214"
"""Who acts: on the maps and in the videos."""
OBSTACLE_COLOR, GOAL_COLOR, ZONE_COLOR = "#475061", "#D69E14", "#8A1C5C"
OUTCOME_COLORS = {"success": "#009E73", "violation": "#C1121F", "time-out": "#5A6172"}

# Stand-ins that figures are drawn with; they become the page's own colours in the SVG.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)"}
_ON_WHITE = {INK: "#16212b", MUTED: "#5a6672", GRID: "#dfe4e8"}

_RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8.5,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.xmargin": 0.0,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "safe-rl",
    "legend.frameon": False,
}


def series_color(index: int) -> str:
    """Stand-in colour of the series at ``index``; the palette repeats after its end."""
    return f"#0101{0x10 + index % len(PALETTE):02x}"


def color_name(index: int) -> str:
    """The same colour's name in the page's style."""
    return f"--series-{index % len(PALETTE)}"


def line_name(index: int) -> str:
    """How the lines of the series at ``index`` are drawn: a key of ``LINES``. So a colour that repeats can be told."""
    return list(LINES)[min(index // len(PALETTE), len(LINES) - 1)]


def line_style(index: int) -> dict[str, Any]:
    """Settings of matplotlib for a line of the series at ``index``."""
    return {"color": series_color(index), "linestyle": LINES[line_name(index)]}


def assign_series(methods: list[tuple[str, str]]) -> dict[str, int]:
    """Gives every label its place in the palette; places beyond its end are its colours again, drawn otherwise.

    Args:
        methods: Labels, each with its method's name.

    Returns:
        Label -> index. The first label of a method named in ``FIXED`` gets that method's own colour.
    """
    series: dict[str, int] = {}
    for label, method in methods:
        if method in FIXED and FIXED[method] not in series.values():
            series[label] = FIXED[method]
    reserved = {index for name, index in FIXED.items() if any(method == name for _, method in methods)}
    free = (index for index in itertools.count() if index not in reserved)
    return series | {label: next(free) for label, _ in methods if label not in series}


@contextmanager
def styled() -> Iterator[None]:
    """Draws in the house style within the block, and leaves matplotlib's settings alone outside it."""
    with mpl.rc_context(_RC):
        yield


def to_svg(figure: Figure, name: str, description: str) -> Markup:
    """Turns a figure into inline SVG.

    Args:
        figure: Drawn with this module's stand-in colours.
        name: Unique in the page; keeps the ids of several figures apart.
        description: What a reader who cannot see the figure is told.
    """
    svg = _svg_of(figure)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: [^;\"]*?(\d+(?:\.\d+)?)px [^;\"]*", r"font-size: \1px", svg)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    for index in range(len(PALETTE)):
        svg = svg.replace(series_color(index), f"var({color_name(index)})")
    # The page scales the figure: its own size would win over the page's on a narrow screen.
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)
    return Markup(svg)  # noqa: S704 (matplotlib escapes the figure's texts, the description is escaped above)


def to_svg_file(figure: Figure) -> str:
    """Turns a figure, drawn with this module's stand-in colours, into an SVG that stands alone, on white."""
    svg = _svg_of(figure, facecolor="white")
    for stand_in, color in (*_ON_WHITE.items(), *((series_color(i), pair[0]) for i, pair in enumerate(PALETTE))):
        svg = svg.replace(stand_in, color)
    svg = re.sub(r" \n(?=[LMz])", " ", svg)  # one line a path, not one a point
    return re.sub(r"(\.\d\d)\d+", r"\1", svg)  # a hundredth of a point is enough, and a quarter less to store


def _svg_of(figure: Figure, **options: Any) -> str:
    buffer = io.StringIO()
    with styled():
        nameless = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=nameless, **options)
    return buffer.getvalue()


def palette_css(dark: bool) -> Markup:
    """CSS variables of the series colours."""
    return Markup(" ".join(f"{color_name(index)}: {pair[dark]};" for index, pair in enumerate(PALETTE)))  # noqa: S704 (constants)
