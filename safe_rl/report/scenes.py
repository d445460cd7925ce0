"""What an agent does after training, to look at: one risk map and one film a method."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from safe_rl.algorithms.sac import SACAgent
from safe_rl.errors import UserError
from safe_rl.report.groups import Group
from safe_rl.report.risk_map import draw_risk_map
from safe_rl.report.trajectories import RunLike, Trajectory, collect_trajectories, plane_of, risk_over_plane
from safe_rl.report.video import VideoWriter, to_data_uri

logger = logging.getLogger(__name__)


@dataclass
class Scene:
    """The pictures of one method; a note stands in place of what could not be drawn."""

    label: str
    seed: int
    outcomes: str = ""
    """How the evaluation episodes ended, in words."""
    risk_map: Markup | None = None
    map_note: str = ""
    video: str | None = None
    """Data URI."""
    video_note: str = ""
    eps_risk: float | None = None
    has_risk: bool = False


def build_scene(
    group: Group, name: str, *, episodes: int, filmed_episodes: int, seed: int, max_video_bytes: int
) -> Scene:
    """Evaluates the first seed of ``group`` and draws map and film; problems become notes, not errors."""
    record = group.runs[0]
    scene = Scene(group.label, record.run.seed, eps_risk=_eps_risk(group))
    if episodes == 0:
        scene.map_note = scene.video_note = "No evaluation episodes were asked for (--episodes 0)."
        return scene
    try:
        agent = record.run.make_agent()
    except UserError as error:
        scene.map_note = scene.video_note = f"Not available: {error}"
        logger.warning("no map and no video of %s: %s", group.label, error)
        return scene
    scene.has_risk = agent.has_risk
    trajectories = None
    if filmed_episodes > 0:
        trajectories = _film(scene, record.run, agent, episodes, min(filmed_episodes, episodes), seed, max_video_bytes)
    else:
        scene.video_note = "No video was asked for (--video-episodes 0)."
    try:
        if trajectories is None:
            trajectories = collect_trajectories(record.run, episodes, seed, agent=agent)
        _draw_map(scene, record.run, agent, trajectories, name)
    except UserError as error:
        scene.map_note = f"Not available: {error}"
        logger.warning("no map of %s: %s", group.label, error)
    if trajectories is not None:
        scene.outcomes = _count_outcomes(trajectories)
    return scene


def _film(
    scene: Scene, run: RunLike, agent: SACAgent, episodes: int, filmed: int, seed: int, max_bytes: int
) -> list[Trajectory] | None:
    with tempfile.TemporaryDirectory(prefix="safe-rl-report-") as folder:
        path = Path(folder) / "episodes.mp4"
        try:
            with VideoWriter(path) as writer:
                trajectories = collect_trajectories(
                    run, episodes, seed, agent=agent, on_frame=writer.add, filmed_episodes=filmed
                )
        except UserError as error:
            scene.video_note = f"Not available: {error}"
            logger.warning("no video of %s: %s", scene.label, error)
            return None
        try:
            scene.video = to_data_uri(path, max_bytes)
        except UserError as error:
            scene.video_note = f"Not available: {error}"
        return trajectories


def _draw_map(scene: Scene, run: RunLike, agent: SACAgent, trajectories: list[Trajectory], name: str) -> None:
    env = run.make_env()
    try:
        plane = plane_of(env)
        if plane is None:
            scene.map_note = "This environment's state is no point of a plane: there is no map to draw."
            return
        grid = risk_over_plane(agent, plane)
        scene.risk_map = draw_risk_map(
            plane.plane_map, grid, scene.eps_risk, trajectories, name=name, label=scene.label
        )
    finally:
        env.close()


def _eps_risk(group: Group) -> float | None:
    risk = group.runs[0].run.config.get("risk")
    value = risk.get("eps_risk") if isinstance(risk, dict) else None
    return None if value is None else float(value)


def _count_outcomes(trajectories: list[Trajectory]) -> str:
    kinds = [trajectory.outcome for trajectory in trajectories]
    plural = {"success": "successes", "violation": "violations", "time-out": "time-outs"}
    return ", ".join(
        f"{kinds.count(kind)} {kind if kinds.count(kind) == 1 else many}"
        for kind, many in plural.items()
        if kind in kinds
    )
