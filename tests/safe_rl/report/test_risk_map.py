"""Where things stand on the drawn map: a transposed or flipped picture is a wrong picture."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from safe_rl.algorithms.risk_aware import RiskAwareAgent
from safe_rl.envs.protocols import Box2D, PlaneMap
from safe_rl.report.risk_map import draw_risk_map
from safe_rl.report.style import OBSTACLE_COLOR, RECOVERY_COLOR, TASK_COLOR
from safe_rl.report.trajectories import Trajectory, risk_over_plane
from safe_rl.switch import Mode

OBSTACLE = Box2D(-4.0, -3.0, -2.0, -1.5)
BOUNDS = Box2D(-4.0, 4.0, -2.0, 2.0)


class Plane:
    """8 by 4, with nothing symmetric about it."""

    plane_map = PlaneMap(bounds=BOUNDS, obstacles=(OBSTACLE,), goal=(3.5, -1.5), goal_radius=0.2)

    def plane_observation(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        return points.astype(np.float32)

    def plane_position(self, obs: npt.NDArray[np.float32]) -> tuple[float, float]:
        return float(obs[0]), float(obs[1])


class UpperRightIsRisky(RiskAwareAgent):
    """An agent whose risk is 1 where x > 1 and y > 0.5, and 0 elsewhere."""

    def __init__(self) -> None:
        pass  # without networks

    def proposed_risk(self, obs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return ((obs[:, 0] > 1.0) & (obs[:, 1] > 0.5)).astype(np.float32)


def trajectory() -> Trajectory:
    """Five unit steps to the right at y = -1, from x = -2: task, task, recovery, task, recovery."""
    modes = [Mode.TASK, Mode.TASK, Mode.RECOVERY, Mode.TASK, Mode.RECOVERY]
    points = np.stack([np.arange(-2.0, 4.0), np.full(6, -1.0)], axis=1)
    return Trajectory(points, np.array(modes, dtype=np.int8), np.zeros(5), -1.0, success=True, violation=False)


def paint(color: str) -> npt.NDArray[np.int64]:
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])


@pytest.fixture
def svg() -> str:
    grid = risk_over_plane(UpperRightIsRisky(), Plane())
    return str(draw_risk_map(Plane.plane_map, grid, 0.3, [trajectory()], name="map", label="x"))


def test_every_segment_has_the_colour_of_who_acted(svg: str) -> None:
    groups = re.findall(r'<g id="map-LineCollection_\d+">(.*?)</g>', svg, re.DOTALL)
    drawn = {color: "".join(groups).lower().count(f"stroke: {color.lower()}") for color in (TASK_COLOR, RECOVERY_COLOR)}
    assert drawn == {TASK_COLOR: 3, RECOVERY_COLOR: 2}


def test_everything_is_where_it_belongs(browser, svg: str, tmp_path: Path) -> None:
    page = tmp_path / "map.html"
    page.write_text(f"<!doctype html><body style='margin: 0; background: white'><div style='width: 900px'>{svg}</div>")
    browser.open(page.as_uri(), width=1000, height=900)
    # The obstacle's rectangle tells which pixel is which point.
    left, top, right, bottom = browser.evaluate(f"""(() => {{
        const path = [...document.querySelectorAll('path')].find(p => p.outerHTML.toLowerCase().includes(
            'fill: {OBSTACLE_COLOR.lower()}'));
        const box = path.getBBox(), m = path.getScreenCTM();
        return [m.a * box.x + m.e, m.d * box.y + m.f,
                m.a * (box.x + box.width) + m.e, m.d * (box.y + box.height) + m.f]; }})()""")
    shot = base64.b64decode(browser.call("Page.captureScreenshot", format="png")["data"])
    pixels = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)

    def color_at(x: float, y: float) -> npt.NDArray[np.int64]:
        column = left + (x - OBSTACLE.x_min) / (OBSTACLE.x_max - OBSTACLE.x_min) * (right - left)
        row = bottom - (y - OBSTACLE.y_min) / (OBSTACLE.y_max - OBSTACLE.y_min) * (bottom - top)
        return pixels[round(row), round(column)]

    for x, y, risky in ((2.5, 1.2, True), (-2.5, 1.2, False), (2.5, -0.4, False), (-2.5, -0.4, False)):
        assert (color_at(x, y).sum() < 300) == risky, (x, y)
    # The edge of the recovery zone is drawn where the risk jumps.
    for inside, outside in (((1.3, 1.2), (0.7, 1.2)), ((2.5, 0.8), (2.5, 0.2))):
        assert color_at(*inside).sum() + 200 < color_at(*outside).sum()
    for x, expected in ((-1.5, TASK_COLOR), (-0.5, TASK_COLOR), (0.5, RECOVERY_COLOR), (1.5, TASK_COLOR)):
        assert np.abs(color_at(x, -1.0) - paint(expected)).max() < 40, x
