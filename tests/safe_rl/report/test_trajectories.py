"""Evaluation episodes, the map drawn from them, and the film."""

from __future__ import annotations

import base64
import dataclasses
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from safe_rl.errors import EnvironmentFault, UserError
from safe_rl.evaluation import evaluate
from safe_rl.report.risk_map import draw_risk_map
from safe_rl.report.style import OBSTACLE_COLOR, RECOVERY_COLOR, TASK_COLOR, ZONE_COLOR
from safe_rl.report.trajectories import Frame, Trajectory, collect_trajectories, plane_of, risk_over_plane
from safe_rl.report.video import HOLD_FRAMES, VideoWriter, caption, to_data_uri
from safe_rl.runs import load_run
from safe_rl.switch import Mode


@pytest.fixture
def run(make_run, tmp_path: Path):
    return load_run(make_run(tmp_path / "run"))


def count_frames(path: Path) -> int:
    return imageio_ffmpeg.count_frames_and_secs(str(path))[0]


def frame(step: int, outcome: str | None = None, *, size: tuple[int, int] = (41, 67), **changes) -> Frame:
    rng = np.random.default_rng(step)
    values = {"episode": 0, "step": step, "mode": Mode.TASK, "risk": 0.2, "has_overlay": False, **changes}
    return Frame(rng.integers(0, 256, (*size, 3), dtype=np.uint8), outcome=outcome, **values)


def test_trajectories_are_those_of_evaluate(run) -> None:
    trajectories = collect_trajectories(run, 3, seed=5)
    env = run.make_env()
    records = evaluate(run.make_agent(), env, 3, seed=5).episodes
    assert [len(t.modes) for t in trajectories] == [r.steps for r in records]
    np.testing.assert_allclose([t.return_ for t in trajectories], [r.return_ for r in records])
    assert [int((t.modes == Mode.RECOVERY).sum()) for t in trajectories] == [r.recovery_steps for r in records]
    for t in trajectories:
        assert t.positions.shape == (len(t.modes) + 1, 2)
        assert np.abs(t.positions[0] - [-4.0, 0.0]).max() < 0.6
    other = collect_trajectories(run, 1, seed=6)[0]
    assert not np.array_equal(other.positions[0], trajectories[0].positions[0])


def test_only_the_wanted_episodes_are_filmed_and_each_ends_with_its_outcome(run) -> None:
    frames: list[Frame] = []
    trajectories = collect_trajectories(run, 3, 0, on_frame=frames.append, filmed_episodes=2)
    assert [f.episode for f in frames] == [0] * len(trajectories[0].modes) + [1] * len(trajectories[1].modes)
    assert [f.outcome for f in frames if f.outcome] == [t.outcome for t in trajectories[:2]]
    assert frames[0].image.shape == (64, 96, 3)
    assert not np.array_equal(frames[0].image, frames[len(trajectories[0].modes) - 1].image)  # the robot moved


def test_the_overlay_is_told_who_acts(run, monkeypatch) -> None:
    said = []
    corridor = type(run.make_env().unwrapped)
    monkeypatch.setattr(corridor, "set_overlay", lambda self, mode, risk: said.append((mode, risk)), raising=False)
    frames: list[Frame] = []
    (trajectory,) = collect_trajectories(run, 1, 0, on_frame=frames.append)
    assert said == [(Mode(m).name, float(r)) for m, r in zip(trajectory.modes, trajectory.risks, strict=True)]
    assert all(f.has_overlay for f in frames)


def test_the_overlay_is_told_the_threshold_where_it_asks(run, monkeypatch) -> None:
    said = []

    def set_overlay(self, mode: str, risk: float, eps_risk: float) -> None:
        said.append(eps_risk)

    monkeypatch.setattr(type(run.make_env().unwrapped), "set_overlay", set_overlay, raising=False)
    collect_trajectories(run, 1, 0, on_frame=lambda _: None)
    assert set(said) == {run.config["risk"]["eps_risk"]}


def test_risk_is_high_at_the_walls_and_low_in_the_middle(run) -> None:
    env = run.make_env()
    grid = risk_over_plane(run.make_agent(), plane_of(env), resolution=40)
    assert grid.risk.shape == (len(grid.y), len(grid.x))
    middle, wall = np.abs(grid.y) < 0.5, np.abs(np.abs(grid.y) - 1.95) < 0.1
    assert grid.risk[middle].mean() < 0.15
    assert grid.risk[wall].max() > 0.3
    assert grid.risk[wall].mean() > grid.risk[middle].mean() + 0.1
    # One point by hand: row and column of the grid are y and x.
    decision = run.make_agent().act(np.array([[grid.x[7], grid.y[3]]], dtype=np.float32), explore=False)
    np.testing.assert_allclose(grid.risk[3, 7], decision.risk[0], atol=1e-6)


def test_a_grid_of_thousands_of_points_asks_nobody_to_rescue(run, monkeypatch) -> None:
    agent = run.make_agent()
    monkeypatch.setattr(agent.recovery, "act", lambda *_, **__: pytest.fail("a plan for each point takes minutes"))
    grid = risk_over_plane(agent, plane_of(run.make_env()), resolution=40)
    assert grid.risk.max() > agent.switch.eps_risk


def test_an_agent_without_risk_has_no_grid(make_run, tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "sac", "unconstrained"))
    assert risk_over_plane(run.make_agent(), plane_of(run.make_env())) is None


def make_trajectory(modes: list[Mode]) -> Trajectory:
    points = np.stack([np.linspace(-4.0, 0.0, len(modes) + 1), np.linspace(0.0, 1.0, len(modes) + 1)], axis=1)
    return Trajectory(points, np.array(modes, dtype=np.int8), np.zeros(len(modes)), -1.0, success=False, violation=True)


def test_the_map_shows_obstacles_zone_and_who_acted(run) -> None:
    env = run.make_env()
    plane = plane_of(env)
    grid = risk_over_plane(run.make_agent(), plane)
    both = draw_risk_map(
        plane.plane_map, grid, 0.3, [make_trajectory([Mode.TASK, Mode.RECOVERY])], name="m", label="Recovery RL"
    )
    svg = both.lower()
    assert svg.count(RECOVERY_COLOR.lower()) == 1
    assert svg.count(TASK_COLOR.lower()) == 1
    assert ZONE_COLOR.lower() in svg
    assert svg.count(OBSTACLE_COLOR.lower()) == len(plane.plane_map.obstacles)
    assert "0 success, 1 violation, 0 time-out" in both
    assert "data:image/png;base64," in both
    with_size = dataclasses.replace(plane.plane_map, robot_radius=0.4)
    sized = draw_risk_map(with_size, grid, 0.3, [make_trajectory([Mode.TASK])], name="m", label="x")
    thin = draw_risk_map(plane.plane_map, grid, 0.3, [make_trajectory([Mode.TASK])], name="m", label="x")
    assert sized.lower().count("#c1121f") == thin.lower().count("#c1121f") + 1  # the robot's edge where it crashed
    task_only = draw_risk_map(plane.plane_map, grid, 1.0, [make_trajectory([Mode.TASK])], name="m", label="x").lower()
    assert RECOVERY_COLOR.lower() not in task_only
    assert ZONE_COLOR.lower() not in task_only  # no risk above 1


def test_the_film_has_every_frame_and_holds_the_last(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with VideoWriter(path) as writer:
        for step in range(9):
            writer.add(frame(step))
        writer.add(frame(9, "success"))
    assert writer.num_frames == count_frames(path) == 10 + HOLD_FRAMES
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    reader.close()
    assert meta["codec"].startswith("h264")
    assert meta["pix_fmt"].startswith("yuv420p")
    assert meta["size"] == caption(frame(0)).shape[1::-1]


def test_a_film_ends_at_its_limit(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "film.mp4", max_frames=7) as writer:
        for step in range(20):
            writer.add(frame(step))
    assert count_frames(tmp_path / "film.mp4") == 7


def test_the_caption_says_who_acts() -> None:
    task, recovery = (caption(frame(0, mode=mode)) for mode in (Mode.TASK, Mode.RECOVERY))
    assert task.shape[0] % 2 == 0
    assert task.shape[1] % 2 == 0
    orange = np.array([0xF0, 0x82, 0x14])
    assert (recovery == orange).all(axis=2).sum() > 100
    assert (task == orange).all(axis=2).sum() == 0
    with_overlay = caption(frame(0, mode=Mode.RECOVERY, has_overlay=True))
    assert (with_overlay == orange).all(axis=2).sum() == 0  # the environment has drawn it already


def test_a_large_film_is_encoded_again_until_it_fits(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with VideoWriter(path) as writer:
        for step in range(20):
            writer.add(frame(step, size=(120, 160)))
    whole = path.stat().st_size
    uri = to_data_uri(path, whole // 2)
    content = base64.b64decode(uri.removeprefix("data:video/mp4;base64,"))
    assert len(content) <= whole // 2
    (tmp_path / "smaller.mp4").write_bytes(content)
    assert count_frames(tmp_path / "smaller.mp4") == 20
    with pytest.raises(UserError, match="--video-episodes"):
        to_data_uri(path, 500)


def test_an_environment_without_pictures_is_named(make_run, tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "blind", env="report_tests/Blind-v0"))
    with pytest.raises(EnvironmentFault, match=r"report_tests/Blind-v0 raised in render: RuntimeError: no camera"):
        collect_trajectories(run, 1, 0, on_frame=lambda _: None)
