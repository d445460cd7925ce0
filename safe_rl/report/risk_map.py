"""The plane seen by the risk critic, with the episodes that an agent drove through it."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from safe_rl.envs.protocols import PlaneMap
from safe_rl.report.style import (
    GOAL_COLOR,
    OBSTACLE_COLOR,
    OUTCOME_COLORS,
    RECOVERY_COLOR,
    TASK_COLOR,
    ZONE_COLOR,
    styled,
    to_svg,
)
from safe_rl.report.trajectories import RiskGrid, Trajectory
from safe_rl.switch import Mode

RISK_COLORS = LinearSegmentedColormap.from_list("risk", ["#F7F5FA", "#DCC9E6", "#B98AC9", "#8F4A9E", "#5B1A6B"])
MAX_ASPECT = 3.0
"""A plane longer than this is drawn with axes of different scales."""
WIDTH = 4.5
_PAPER, _EDGE = "#F7F5FA", "#2D3442"
_MARKS = {"success": "o", "violation": "X", "time-out": "s"}


def draw_risk_map(
    plane_map: PlaneMap,
    grid: RiskGrid | None,
    eps_risk: float | None,
    trajectories: list[Trajectory],
    *,
    name: str,
    label: str,
) -> Markup:
    """Draws the map as inline SVG.

    Args:
        plane_map: The environment's map.
        grid: Risk over the plane; None for a method without a risk critic.
        eps_risk: Threshold of the switch; the recovery zone lies above it.
        trajectories: Evaluation episodes, drawn over the map.
        name: Unique in the page.
        label: The method, for the description.
    """
    bounds = plane_map.bounds
    width, height = bounds.x_max - bounds.x_min, bounds.y_max - bounds.y_min
    aspect = min(max(width / height, 1.0 / MAX_ASPECT), MAX_ASPECT)
    equal = bool(np.isclose(aspect, width / height))
    with styled():
        figure = Figure(figsize=(WIDTH, min(4.6, (WIDTH - 0.5) / aspect + 0.45)), layout="constrained")
        axes = figure.add_subplot()
        axes.set_facecolor(_PAPER)
        axes.grid(visible=False)
        if grid is not None:
            _draw_risk(axes, grid, eps_risk)
        for box in plane_map.obstacles:
            corner, size = (box.x_min, box.y_min), (box.x_max - box.x_min, box.y_max - box.y_min)
            axes.add_patch(Rectangle(corner, *size, facecolor=OBSTACLE_COLOR, edgecolor=_EDGE, linewidth=0.8, zorder=3))
        goal = Circle(
            plane_map.goal, plane_map.goal_radius, facecolor=GOAL_COLOR, alpha=0.35, edgecolor="none", zorder=3
        )
        axes.add_patch(goal)
        rim = Circle(
            plane_map.goal, plane_map.goal_radius, facecolor="none", edgecolor=GOAL_COLOR, linewidth=1.6, zorder=4
        )
        axes.add_patch(rim)
        for trajectory in trajectories:
            _draw_trajectory(axes, trajectory, plane_map.robot_radius)
        axes.set_xlim(bounds.x_min, bounds.x_max)
        axes.set_ylim(bounds.y_min, bounds.y_max)
        axes.set_aspect("equal" if equal else "auto")
        unit = f" [{plane_map.unit}]" if plane_map.unit else ""
        axes.set_xlabel(f"x{unit}")
        axes.set_ylabel(f"y{unit}" + ("" if equal else " (stretched)"))
        for spine in axes.spines.values():
            spine.set_visible(False)
    return to_svg(figure, name, _describe(label, grid, eps_risk, trajectories))


def _draw_risk(axes: Axes, grid: RiskGrid, eps_risk: float | None) -> None:
    half_x, half_y = (0.5 * (values[1] - values[0]) for values in (grid.x, grid.y))
    extent = (grid.x[0] - half_x, grid.x[-1] + half_x, grid.y[0] - half_y, grid.y[-1] + half_y)
    axes.imshow(
        grid.risk,
        extent=extent,
        origin="lower",
        cmap=RISK_COLORS,
        vmin=0.0,
        vmax=1.0,
        interpolation="bilinear",
        zorder=1,
    )
    if eps_risk is not None and grid.risk.min() <= eps_risk < grid.risk.max():
        axes.contour(
            grid.x, grid.y, grid.risk, levels=[eps_risk], colors=[ZONE_COLOR], linewidths=1.4, linestyles="--", zorder=2
        )


def _draw_trajectory(axes: Axes, trajectory: Trajectory, robot_radius: float) -> None:
    points = trajectory.positions
    if points is None:
        return
    segments = np.stack([points[:-1], points[1:]], axis=1)
    axes.plot(*points.T, color="white", linewidth=2.8, alpha=0.85, zorder=5, solid_joinstyle="round")
    recovers = trajectory.modes == Mode.RECOVERY
    for chosen, color, width, zorder in ((~recovers, TASK_COLOR, 1.4, 6), (recovers, RECOVERY_COLOR, 2.4, 7)):
        lines = LineCollection(list(segments[chosen]), colors=color, linewidths=width, capstyle="round", zorder=zorder)
        axes.add_collection(lines)
    axes.plot(*points[0], marker="o", markersize=4, color="white", markeredgecolor=_EDGE, markeredgewidth=1.0, zorder=8)
    if trajectory.violation and robot_radius > 0.0:  # the robot's edge touched, not the point that is drawn
        color = OUTCOME_COLORS["violation"]
        axes.add_patch(
            Circle(tuple(points[-1]), robot_radius, facecolor="none", edgecolor=color, linewidth=0.9, zorder=8)
        )
    axes.plot(
        *points[-1],
        marker=_MARKS[trajectory.outcome],
        markersize=6,
        color=OUTCOME_COLORS[trajectory.outcome],
        markeredgecolor="white",
        markeredgewidth=0.8,
        zorder=9,
    )


def _describe(label: str, grid: RiskGrid | None, eps_risk: float | None, trajectories: list[Trajectory]) -> str:
    outcomes = [trajectory.outcome for trajectory in trajectories]
    counted = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in ("success", "violation", "time-out"))
    text = f"Map of the plane with {len(trajectories)} evaluation episodes of {label}: {counted}."
    if grid is None:
        return text + " The method has no risk critic."
    if eps_risk is not None:
        share = 100.0 * float((grid.risk > eps_risk).mean())
        text += f" The recovery zone, risk above {eps_risk:g}, covers {share:.0f} percent of the map."
    return text
