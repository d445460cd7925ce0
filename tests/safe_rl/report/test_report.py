"""The page: what it says, and that a browser shows it without a network."""

from __future__ import annotations

import base64
import re
import shutil
from pathlib import Path

import imageio_ffmpeg
import pytest

from safe_rl.cli.main import main
from safe_rl.errors import UserError
from safe_rl.report.report import ReportConfig, write_report

NUM_CURVES, NUM_METRICS = 7, 1


@pytest.fixture
def two_methods(make_run, tmp_path: Path) -> Path:
    """Three seeds of Recovery RL and two of the unconstrained policy, of different lengths."""
    for seed, violations in ((1, 0), (2, 1), (3, 2)):
        make_run(tmp_path / f"runs/rrl{seed}", "recovery-rl", seed, "t" + "s" * 20 + "v" * violations)
    for seed in (1, 2):
        make_run(tmp_path / f"runs/sac{seed}", "unconstrained", seed, "tt" + "v" * 19, planned=30)
    return tmp_path / "runs"


@pytest.fixture
def page(two_methods: Path, tmp_path: Path) -> Path:
    return write_report(ReportConfig((two_methods,), tmp_path / "out/report.html", episodes=4, video_episodes=2))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_page_without_a_network(browser, page: Path, width: int, dark: bool) -> None:
    browser.open(page.as_uri(), width=width, dark=dark)
    browser.evaluate("Promise.all([...document.images].map(image => image.decode()))")
    playing = """Promise.all([...document.querySelectorAll('video')].map(async video => {
        await video.play();
        await new Promise(resolve => video.requestVideoFrameCallback(resolve));
        return [video.videoWidth, video.duration > 1, video.error]; }))"""
    assert browser.evaluate(playing) == [[360, True, None]] * 2
    requested = [event["request"]["url"] for event in browser.seen("Network.requestWillBeSent")]
    assert [url for url in requested if not url.startswith("data:")] == [page.as_uri()]
    assert browser.seen("Runtime.exceptionThrown") == []
    assert browser.seen("Runtime.consoleAPICalled") == []
    assert browser.seen("Log.entryAdded") == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out
    figures = (
        "[...document.querySelectorAll('svg')].filter(svg => svg.ariaLabel.length > 20 && svg.checkVisibility()).length"
    )
    assert browser.evaluate(figures) == NUM_CURVES + 2
    browser.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    assert browser.evaluate(figures) == NUM_CURVES + NUM_METRICS + 2
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    colors = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    ground, ink = (sum(map(int, re.findall(r"\d+", color)[:3])) for color in browser.evaluate(colors))
    assert (ground < ink) == dark
    ids = browser.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("width", [1280, 390])
def test_long_names_stay_within_their_cards(browser, make_run, tmp_path: Path, width: int) -> None:
    for number, name in enumerate(("x" * 90, "another long name " * 5)):
        folder = make_run(tmp_path / f"runs/{number}", outcomes="svts", note=name, eps=0.1 * number)
        (folder / "versions.json").write_text(f'{{"command": "safe-rl train {name}"}}')
    config = ReportConfig((tmp_path / "runs",), tmp_path / "r.html", title="Title" * 30, episodes=0)
    browser.open(write_report(config).as_uri(), width=width)
    assert browser.evaluate("document.body.innerText").count("x" * 90) >= 2
    sticking_out = """[...document.querySelectorAll('h1, h3, h4, .lead, .facts, .key, .card dd')].filter(
        element => element.scrollWidth > element.clientWidth + 1).map(element => element.innerText)"""
    assert browser.evaluate(sticking_out) == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1280, 390])
def test_axis_labels_are_legible(browser, page: Path, width: int) -> None:
    browser.open(page.as_uri(), width=width)
    pixels = browser.evaluate("""
        [...document.querySelectorAll('figure svg text')].filter(text => text.checkVisibility()).map(text => {
            const matrix = text.getScreenCTM();
            return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(matrix.c, matrix.d); })""")
    assert len(pixels) > 50
    assert min(pixels) >= 7.5
    assert max(pixels) <= 16


def test_the_page_says_what_happened(page: Path) -> None:
    html = page.read_text()
    assert page.stat().st_size < 8_000_000
    # Over the first 21 episodes, which all three seeds have: a time-out and 20 successes each.
    assert "Recovery RL succeeded in 20 of 21 training episodes, with no violations" in html
    assert "Unconstrained succeeded in 0 of 21 training episodes, with 19 violations" in html
    assert "20 <small>± 0.0</small>" in html
    assert "0.0500 <small>± 0.0000</small>" in html  # (0 + 1) / (19 + 1)
    assert html.count("crashing pays here") == 1
    assert "the seeds have between 21 and 23 episodes" in html
    assert "sac1: 21 of 30 planned episodes are done" in html
    assert "safe-rl train unconstrained --env report_tests/Corridor-v0 --seed 2 --output sac2" in html
    assert "safe-rl report" in html
    assert "2.13.0" in html
    assert 'class="differs"><th scope="row" class="text">risk.eps_risk<' in html
    assert '<tr><th scope="row" class="text">sac.gamma<' in html
    assert "no risk critic" in html
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', html) == []


def test_without_a_recovery_policy_there_is_no_curve_of_it(make_run, tmp_path: Path) -> None:
    run = make_run(tmp_path / "sac", "unconstrained", outcomes="svt")
    html = write_report(ReportConfig((run,), tmp_path / "r.html", episodes=0)).read_text()
    assert html.count("Unconstrained ends at") == NUM_CURVES - 1
    assert "Recovery policy acts" not in html


def test_the_videos_decode(page: Path, tmp_path: Path) -> None:
    videos = re.findall(r"data:video/mp4;base64,([A-Za-z0-9+/=]+)", page.read_text())
    assert len(videos) == 2
    for number, video in enumerate(videos):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(base64.b64decode(video))
        frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(path))
        assert frames >= 2 * (1 + 12)  # two episodes, the last picture of each held
        assert seconds == pytest.approx(frames / 15, abs=0.1)


def test_the_same_runs_give_the_same_page(two_methods: Path, page: Path, tmp_path: Path) -> None:
    first = page.read_text()
    write_report(ReportConfig((two_methods,), page, episodes=4, video_episodes=2))
    assert page.read_text() == first
    write_report(ReportConfig((two_methods,), page, episodes=4, video_episodes=2, seed=9))
    assert page.read_text() != first


def test_a_run_without_its_checkpoint_keeps_its_curves(two_methods: Path, tmp_path: Path) -> None:
    shutil.rmtree(two_methods / "rrl1/checkpoints")
    html = write_report(ReportConfig((two_methods,), tmp_path / "r.html", episodes=1, video_episodes=1)).read_text()
    assert html.count("Not available: ") == 2
    assert html.count("<video") == 1
    assert html.count("Recovery RL ends at") == NUM_CURVES


def test_a_map_needs_no_film_and_a_film_no_map(make_run, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    html = write_report(ReportConfig((run,), tmp_path / "r.html", episodes=1, video_episodes=0)).read_text()
    assert ("<video" in html, 'class="map"' in html) == (False, True)
    assert "No video was asked for" in html
    blind = make_run(tmp_path / "blind", env="report_tests/Blind-v0")
    html = write_report(ReportConfig((blind,), tmp_path / "r.html", episodes=1)).read_text()
    assert ("<video" in html, 'class="map"' in html) == (False, False)
    assert "no camera" in html
    assert "no point of a plane" in html


def test_environments_have_their_own_sections(make_run, tmp_path: Path) -> None:
    make_run(tmp_path / "runs/a")
    make_run(tmp_path / "runs/b", env="report_tests/Blind-v0")
    html = write_report(ReportConfig((tmp_path / "runs",), tmp_path / "r.html", episodes=0)).read_text()
    assert html.count('<h2 class="environment"') == 2


def test_what_the_user_named_is_escaped(make_run, tmp_path: Path) -> None:
    run = make_run(tmp_path / "<script>alert(1)<", outcomes="s")
    config = ReportConfig((run,), tmp_path / "r.html", title="<img src=x onerror=alert(1)>", episodes=0)
    html = write_report(config).read_text()
    assert "<script>alert" not in html
    assert "<img" not in html


def test_a_run_without_an_episode_is_left_out_with_a_note(make_run, tmp_path: Path) -> None:
    make_run(tmp_path / "runs/a", outcomes="s")
    make_run(tmp_path / "runs/b", seed=1, outcomes="", planned=5)
    html = write_report(ReportConfig((tmp_path / "runs",), tmp_path / "r.html", episodes=0)).read_text()
    assert "runs/b: no episode is finished yet; the run is left out." in html
    with pytest.raises(UserError, match="has finished an episode"):
        write_report(ReportConfig((tmp_path / "runs/b",), tmp_path / "r.html", episodes=0))


@pytest.mark.parametrize(("field", "value"), [("episodes", -1), ("video_episodes", -2), ("seed", -3)])
def test_refuses_negative_numbers(field: str, value: int) -> None:
    with pytest.raises(UserError, match=rf"--{field.replace('_', '-')} is {value}"):
        ReportConfig((Path("run"),), **{field: value})


def test_the_command(make_run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    output = tmp_path / "new/folder/report.html"
    assert main(["report", str(run), "--output", str(output), "--episodes", "0"]) == 0
    assert str(output) in capsys.readouterr().out.replace("\n", "")
    assert output.read_text().startswith("<!doctype html>")
    assert [path.name for path in output.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no run at nowhere: the folder does not exist"),
        ([], "no run given: name one or more run folders"),
        (["run", "--output", "."], "--output is ., a folder"),
    ],
)
def test_mistakes_are_one_line(make_run, tmp_path, monkeypatch, capsys, arguments, message) -> None:
    make_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("episodes.csv", "4,ten,0,0,0,0,0,0", "episodes.csv, line 4 is damaged"),
        ("metrics.jsonl", '{"step": ', "metrics.jsonl, line 4 is damaged"),
    ],
)
def test_a_damaged_file_is_one_line_and_keeps_the_former_page(make_run, tmp_path, capsys, file, line, message) -> None:
    run = make_run(tmp_path / "run", outcomes="sv")
    output = tmp_path / "r.html"
    output.write_text("former")
    with (run / file).open("a") as stream:
        stream.write(line + "\n")
    assert main(["report", str(run), "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert output.read_text() == "former"
