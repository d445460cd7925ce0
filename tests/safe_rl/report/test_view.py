"""`safe-rl view`: films, windows, and what it refuses."""

from __future__ import annotations

import socket
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from safe_rl.cli.main import main
from safe_rl.errors import UserError
from safe_rl.evaluation import evaluate
from safe_rl.report.trajectories import Frame, Trajectory
from safe_rl.report.video import caption
from safe_rl.report.view import ViewConfig, require_screen, view
from safe_rl.runs import load_run
from safe_rl.switch import Mode

CORRIDOR = "report_tests/Corridor-v0"
BLIND = "report_tests/Blind-v0"


def read(path: Path) -> tuple[int, float, tuple[int, int]]:
    """Number of frames, frames a second and size of a video."""
    reader = imageio_ffmpeg.read_frames(str(path))
    head = next(reader)
    return imageio_ffmpeg.count_frames_and_secs(str(path))[0], head["fps"], head["size"]


def fails(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    capsys.readouterr()
    assert main(["view", *map(str, argv)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("safe-rl: error: ") and captured.err.count("\n") == 1
    return captured.err


def test_a_run_is_filmed_in_the_episodes_of_evaluate(make_run, tmp_path, capsys) -> None:
    folder, video = make_run(tmp_path / "run"), tmp_path / "deep" / "run.mp4"
    assert main(["view", "--run", str(folder), "--episodes", "2", "--seed", "5", "--output", str(video)]) == 0
    run = load_run(folder)
    records = evaluate(run.make_agent(), run.make_env(), 2, seed=5).episodes
    out = capsys.readouterr().out
    for number, record in enumerate(records, start=1):
        outcome = "violation" if record.violation else "success" if record.success else "time-out"
        assert f"episode {number}: {outcome} after {record.steps} steps" in out
        if record.recovery_steps:
            assert f"{record.recovery_steps} by the recovery policy" in out
    assert str(video) in out
    frames, _, (width, height) = read(video)
    assert frames == sum(record.steps for record in records) + 2 * 12  # the end of each is held
    assert width >= 360 and height > 200


def test_a_script_is_filmed_at_the_speed_that_was_asked_for(tmp_path) -> None:
    trajectories = view(
        ViewConfig(env=CORRIDOR, policy="random", episodes=1, max_episode_steps=6, frames_per_sec=5.0,
                   output=tmp_path / "random.mp4")
    )  # fmt: skip
    assert [len(trajectory.modes) for trajectory in trajectories] == [6]
    frames, speed, _ = read(tmp_path / "random.mp4")
    assert (frames, speed) == (6 + 12, 5.0)


def test_a_seed_decides_the_episodes(tmp_path) -> None:
    def returns(seed: int) -> list[float]:
        seen: list[Trajectory] = []
        view(ViewConfig(env=CORRIDOR, seed=seed, episodes=2, output=tmp_path / "film.mp4"), seen.append)
        return [trajectory.return_ for trajectory in seen]

    assert returns(1) == returns(1) != returns(2)


def test_what_the_policy_sees_stands_beside_the_picture() -> None:
    picture, seen = np.full((200, 400, 3), 10, np.uint8), np.zeros((16, 16, 3), np.uint8)
    seen[:, 8:] = (250, 0, 0)
    made = caption(Frame(picture, 0, 1, Mode.TASK, 0.1, None, True, seen))
    assert made.shape[1] > 400 + 16 * 9
    red = (made == (250, 0, 0)).all(2)
    assert red.sum() == (8 * 9) * (16 * 9)  # half of it, each pixel nine times as large
    assert not red[:, :400].any()


def test_who_acts_is_written_below_where_the_environment_does_not() -> None:
    picture = np.full((200, 400, 3), 10, np.uint8)
    captions = [caption(Frame(picture, 0, 1, mode, 0.5, None, False)) for mode in (*Mode, None)]
    assert len({made.tobytes() for made in captions}) == 4
    assert all(made.shape[0] > 200 for made in captions)


def test_without_a_screen_the_line_names_output(capsys, monkeypatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert "--output video.mp4" in fails(capsys, "--env", CORRIDOR)


@pytest.mark.parametrize("display", [":{}", "unix:{}.0", "127.0.0.1:{}"])
def test_a_screen_that_does_not_answer_is_named_before_a_window_is_tried(capsys, monkeypatch, display) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("DISPLAY", display.format(40_000))
    line = fails(capsys, "--env", CORRIDOR)
    assert f"DISPLAY is {display.format(40_000)} and nothing answers there" in line and "--output video.mp4" in line


def test_a_screen_that_answers_is_found(monkeypatch, screen) -> None:
    def fault(display: str) -> str | None:
        monkeypatch.setenv("DISPLAY", display)
        try:
            require_screen()
        except UserError as error:
            return str(error)
        return None

    monkeypatch.setattr("sys.platform", "linux")
    assert fault(screen) is None
    assert fault(f"{screen}.0") is None
    for nobody in (f"{screen}1", f"{screen}1.0"):
        assert f"DISPLAY is {nobody} and nothing answers there" in str(fault(nobody))
    with socket.create_server(("127.0.0.1", 0)) as server:
        display = f"localhost:{server.getsockname()[1] - 6000}"
        assert fault(display) is None
    assert f"DISPLAY is {display} and nothing answers there" in str(fault(display))  # it has just gone


def test_mistakes(capsys, make_run, tmp_path) -> None:
    video = tmp_path / "video.mp4"
    assert "--env" in fails(capsys)
    assert "--run" in fails(capsys, "--output", video)
    assert "choose one" in fails(capsys, "--run", tmp_path, "--policy", "random", "--output", video)
    assert "'nobody'" in fails(capsys, "--env", CORRIDOR, "--policy", "nobody", "--output", video)
    assert "no expert" in fails(capsys, "--env", CORRIDOR, "--policy", "expert", "--output", video)
    assert ".mp4" in fails(capsys, "--env", CORRIDOR, "--output", tmp_path / "video.gif")
    assert "--episodes is 0" in fails(capsys, "--env", CORRIDOR, "--episodes", "0", "--output", video)
    assert "--frames-per-sec is 0" in fails(capsys, "--env", CORRIDOR, "--frames-per-sec", "0", "--output", video)
    assert "no environment" in fails(capsys, "--env", "nowhere/Nothing-v0", "--output", video)
    assert "no run at" in fails(capsys, "--run", tmp_path / "nowhere", "--output", video)
    assert "no camera" in fails(capsys, "--env", BLIND, "--output", video)
    (tmp_path / "folder.mp4").mkdir()
    assert "folder" in fails(capsys, "--env", CORRIDOR, "--output", tmp_path / "folder.mp4")
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in fails(capsys, "--env", CORRIDOR, "--output", tmp_path / "file" / "video.mp4")
    folder = make_run(tmp_path / "run")
    assert "do not belong together" in fails(capsys, "--run", folder, "--env", "CartPole-v1", "--output", video)


@pytest.mark.usefixtures("screen")
def test_an_error_of_the_window_names_output(monkeypatch) -> None:
    pytest.importorskip("cv2")
    import cv2

    import sim

    sim.register_envs()

    def no_windows(title: str, picture: np.ndarray) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(cv2, "imshow", no_windows)
    with pytest.raises(UserError, match=r"opencv-python .*--output video\.mp4"):
        view(ViewConfig(env="safe_rl/Navigation2-v0"))


@pytest.mark.usefixtures("screen")
def test_a_window_shows_each_step_with_who_acts(monkeypatch) -> None:
    pytest.importorskip("cv2")
    import cv2

    import sim
    from sim.drawing import STRIP_HEIGHT

    sim.register_envs()
    shown: list[np.ndarray] = []
    monkeypatch.setattr(cv2, "imshow", lambda title, picture: shown.append(picture.copy()))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: None)
    monkeypatch.setattr(cv2, "destroyWindow", lambda title: None)
    trajectories = view(ViewConfig(env="safe_rl/ImageNavigation2-v0", episodes=1, max_episode_steps=5))
    assert len(shown) == 1 + len(trajectories[0].modes)
    strips = [picture[-STRIP_HEIGHT:] for picture in shown]
    assert not np.array_equal(strips[0], strips[1])  # the number of the step
