from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from safe_rl.envs.protocols import Box2D, PlaneMap
from safe_rl.errors import UserError
from sim.navigation import Navigation2

pytest.importorskip("cv2")

import cv2

from sim import drawing
from sim.drawing import MODE_COLOURS, MapPainter, Scene

MAP = PlaneMap(Box2D(0, 10, 0, 5), (Box2D(4, 6, 1, 4),), goal=(9.0, 2.5), goal_radius=0.5, robot_radius=0.2)
GREEN, ORANGE, RED = (MODE_COLOURS[mode] for mode in ("TASK", "RECOVERY", "STOP"))


def at(picture: np.ndarray, x: float, y: float) -> tuple[int, ...]:
    """Colour at a point of MAP, which is drawn 480 pixels wide."""
    return tuple(int(c) for c in picture[round((5 - y) * 48), round(x * 48)])


def has(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(-1).any())


def strip(picture: np.ndarray) -> np.ndarray:
    return picture[-drawing.STRIP_HEIGHT :]


def test_what_is_drawn_where() -> None:
    picture = MapPainter(MAP).draw(Scene((2.0, 2.5), [(1.0, 1.0, None), (2.0, 2.5, "TASK")], "TASK"))
    assert picture.shape == (240 + 44, 480, 3) and picture.dtype == np.uint8
    assert at(picture, 2.0, 2.5) == at(picture, 2.15, 2.5) == GREEN  # the robot, as wide as its radius
    assert at(picture, 2.0, 2.9) != GREEN
    assert at(picture, 9.0, 2.5) == drawing.GOAL
    for x, y in ((4.1, 1.1), (5.9, 3.9), (5.0, 2.5)):
        assert all(w <= c <= s for w, c, s in zip(drawing.WALL, at(picture, x, y), drawing.WALL_STRIPE, strict=True))
    for x, y in ((3.9, 2.5), (6.1, 2.5), (5.3, 4.1), (5.3, 0.9), (3.3, 4.3)):
        assert at(picture, x, y) in (drawing.PAPER, drawing.GRID)
    assert at(picture, 1.5, 1.75) != drawing.PAPER  # half way along the trail


def test_up_is_up() -> None:
    high = MapPainter(MAP).draw(Scene((2.0, 4.0), []))
    assert at(high, 2.0, 4.0) == MODE_COLOURS[None]
    assert at(high, 2.0, 1.0) != MODE_COLOURS[None]


@pytest.mark.parametrize(("mode", "colour"), [("TASK", GREEN), ("RECOVERY", ORANGE), ("STOP", RED)])
def test_the_overlay_says_who_acts(mode: str, colour: tuple[int, int, int]) -> None:
    picture = MapPainter(MAP).draw(Scene((2.0, 2.5), [(2.0, 2.5, None)], mode))
    assert at(picture, 2.0, 2.5) == colour
    for other in {GREEN, ORANGE, RED} - {colour}:
        assert not has(picture, other)
    assert has(strip(picture), colour)
    assert not any(has(strip(MapPainter(MAP).draw(Scene((2.0, 2.5), [], None))), c) for c in (GREEN, ORANGE, RED))


def bar_length(risk: float, eps_risk: float | None = None) -> tuple[int, bool]:
    """Pixels of the risk bar, and whether it warns."""
    picture = strip(MapPainter(MAP).draw(Scene((2.0, 2.5), [], None, risk, eps_risk)))
    row = picture[drawing.STRIP_HEIGHT // 2]
    warns = has(picture, ORANGE)
    return int((row == (ORANGE if warns else GREEN)).all(-1).sum()), warns


def test_the_risk_bar() -> None:
    full, _ = bar_length(1.0)
    assert full > 150
    assert bar_length(0.5)[0] == pytest.approx(full / 2, abs=3)
    assert bar_length(7.0)[0] == full
    assert not bar_length(0.3, eps_risk=0.3)[1]
    assert bar_length(0.31, eps_risk=0.3)[1]
    assert bar_length(float("nan"), eps_risk=0.3) == (pytest.approx(full, abs=3), True)  # unknown counts as unsafe


@pytest.mark.parametrize("outcome", ["success", "violation"])
def test_the_last_picture_says_how_the_episode_ended(outcome: str) -> None:
    env = Navigation2(render_mode="rgb_array")
    env.reset(seed=0, options={"state": (-30.9, 0.0) if outcome == "violation" else (0.0, 0.0)})
    going_on = env.render()
    env.step(np.array((1.0, 0.0), np.float32))
    ended = env.render()
    for name, colour in drawing.OUTCOME_COLOURS.items():
        assert not has(going_on, colour)
        assert has(ended[: -drawing.STRIP_HEIGHT], colour) == (name == outcome)
    env.reset()
    assert not has(env.render(), drawing.OUTCOME_COLOURS[outcome])


def test_edges_are_smooth() -> None:
    picture = MapPainter(MAP).draw(Scene((2.0, 2.5), [], "STOP"))
    around = picture[120 - 16 : 120 + 16, 96 - 16 : 96 + 16].reshape(-1, 3)
    assert len(np.unique(around, axis=0)) > 8


def test_the_trail_keeps_the_colours_of_those_who_acted() -> None:
    env = Navigation2(render_mode="rgb_array")
    env.reset(seed=0)
    for mode in ("TASK", "TASK", "RECOVERY", "TASK", "TASK", "TASK"):
        env.set_overlay(mode, 0.1)
        env.step(np.array((1.0, 0.0), np.float32))
    map_part = env.render()[: -drawing.STRIP_HEIGHT]
    assert has(map_part, ORANGE) and has(map_part, GREEN)
    env.reset(seed=0)
    map_part = env.render()[: -drawing.STRIP_HEIGHT]
    assert not has(map_part, ORANGE) and not has(map_part, GREEN)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(UserError, match="'task'"):
        Navigation2().set_overlay("task")


def test_an_unknown_render_mode_is_refused() -> None:
    with pytest.raises(UserError, match="'ansi'"):
        Navigation2(render_mode="ansi")


def test_a_window_needs_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(UserError, match="display"):
        Navigation2(render_mode="human").reset(seed=0)


@pytest.mark.usefixtures("screen")
def test_a_window_shows_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(cv2, "imshow", lambda title, picture: shown.append((title, picture)))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: None)
    env = Navigation2(render_mode="human")
    env.reset(seed=0)
    env.set_overlay("STOP")
    env.step(np.zeros(2, np.float32))
    assert [title for title, _ in shown] == ["Navigation2", "Navigation2"]
    assert has(shown[1][1], RED[::-1])  # OpenCV wants blue first


@pytest.mark.usefixtures("screen")
def test_an_opencv_without_windows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_windows(title: str, picture: np.ndarray) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(cv2, "imshow", no_windows)
    with pytest.raises(UserError, match="opencv-python"):
        Navigation2(render_mode="human").reset(seed=0)
