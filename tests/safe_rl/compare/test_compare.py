"""Real comparisons, small: processes are killed, the command is repeated."""

from __future__ import annotations

import csv
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from safe_rl.checkpoint import list_checkpoints
from safe_rl.cli.main import main
from safe_rl.report.curves import find_runs

TOYS = Path(__file__).parents[1]
TINY = (
    "--sac.hidden-sizes 8 8 --risk.hidden-sizes 8 8 --recovery.hidden-sizes 8 8 --risk.pretrain-steps 30 "
    "--task-pretrain-steps 0 --batch-size 16 --replay-capacity 5000 --checkpoint-every 2"
)
RISKLESS = TINY.replace("--risk.hidden-sizes 8 8 --recovery.hidden-sizes 8 8 --risk.pretrain-steps 30 ", "")
WAIT_SEC = 200
LABELS = {"recovery-rl": "Recovery RL", "unconstrained": "Unconstrained"}


def words(output: Path, *more: object, flags: str = TINY) -> list[str]:
    given = ["compare", "--env", "safe_rl/Navigation1-v0", "--transitions", 400, "--output", output]
    return [str(word) for word in [*given, *more, "--", *flags.split()]]


def start(command: list[str]) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(TOYS), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "safe_rl.cli.main", *command],
        env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def jobs_of(output: Path, training: bool = False) -> dict[Path, int]:
    """Folder -> process of the jobs that run."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            said = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if any(word.startswith(f"{output}/") for word in said) and (not training or "train" in said):
            found[Path(said[said.index("--output") + 1])] = int(path.parent.name)
    return found


def until(true: Callable[[], object], running: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + WAIT_SEC
    while not true():
        assert time.monotonic() < deadline
        assert running is None or running.poll() is None, running.communicate()
        time.sleep(0.02)


def episodes(run: Path) -> list[dict[str, str]]:
    try:
        with (run / "episodes.csv").open(newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    return {
        str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_a_comparison_survives_kills_and_a_rerun_finishes_it(tmp_path, capsys):
    output = tmp_path / "compare"
    runs = [output / method / f"seed{seed}" for method in ("recovery-rl", "unconstrained") for seed in (1, 2)]
    command = words(output, "--methods", "recovery-rl", "unconstrained", "--seeds", "1:2", "--episodes", 8, "--jobs", 2)
    first = start(command)
    # A run is killed: it goes on by itself.
    until(lambda: any(episodes(run) for run in jobs_of(output, training=True)), first)
    killed, process = next((run, number) for run, number in jobs_of(output, training=True).items() if episodes(run))
    os.kill(process, signal.SIGKILL)
    until(lambda: jobs_of(output).get(killed, process) != process or len(episodes(killed)) == 8, first)
    # The comparison itself is killed: its jobs end, too.
    until(lambda: any(len(episodes(run)) == 8 and run not in jobs_of(output) for run in runs), first)
    first.send_signal(signal.SIGKILL)
    assert first.wait(WAIT_SEC) == -signal.SIGKILL
    said = first.communicate()[1]
    assert f"{LABELS[killed.parent.name]} {killed.name.replace('seed', 'seed ')}: running again" in said
    until(lambda: not jobs_of(output))
    finished = [run for run in runs if len(episodes(run)) == 8]
    before = {run: contents(run) for run in finished}
    data = contents(output / "data/400" / finished[0].name)
    # The same command finishes what is left, and leaves what is finished as it is.
    second = start(command)
    out, err = second.communicate(timeout=WAIT_SEC)
    assert second.returncode == 0, err
    assert [len(episodes(run)) for run in runs] == [8] * 4
    assert {run: contents(run) for run in finished} == before
    assert contents(output / "data/400" / finished[0].name) == data
    assert sorted(find_runs([output])) == sorted(runs)
    # The table says what the episodes say.
    counts = [[sum(int(row[name]) for row in episodes(run)) for name in ("success", "violation")] for run in runs]
    table = (output / "table.md").read_text()
    for method, (one, two) in (("Recovery RL", counts[:2]), ("Unconstrained", counts[2:])):
        assert f"| {method} | {one[0]}, {one[1]} | {two[0]}, {two[1]} |" in table
        mean, error = (one[1] + two[1]) / 2, abs(one[1] - two[1]) / 2
        (line,) = [line for line in table.splitlines() if line.startswith(f"| {method} | 2 |")]
        assert f"| {mean:.1f} ± {error:.1f} |" in line
        assert method in out
    curves = ElementTree.parse(output / "curves.svg").getroot()  # noqa: S314 (our own file)
    words_drawn = {text.strip() for text in curves.itertext()}
    assert {*LABELS.values(), "Successes so far", "Violations so far", "Violations against successes"} <= words_drawn
    assert main(["report", str(output), "--output", str(tmp_path / "report.html"), "--episodes", "0"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Violations against successes" in page
    assert all(f"<h3>{label}</h3>" in page for label in LABELS.values())
    # Once more there is nothing to do; other settings in the same folder are refused.
    everything = {run: contents(run) for run in runs}
    dashes = command.index("--")
    for more in ([], ["--table"]):
        capsys.readouterr()
        assert main([*command[:dashes], *more, *command[dashes:]]) == 0
        said, err = capsys.readouterr()
        assert "Recovery RL" in said
        assert "running" not in err
    own = command[command.index("--methods") : dashes]
    for setting in ("--sac.gamma 0.5", "--risk.tau 0.5"):
        assert main(words(output, *own, flags=f"{TINY} {setting}")) == 2
        assert f"was run with another {setting.split()[0][2:]} than is asked for now" in capsys.readouterr().err
    assert main(words(output, *own, "--env", "safe_rl/Navigation2-v0")) == 2
    assert "was run with another env" in capsys.readouterr().err
    assert main(words(output, "--methods", "rspo", "--env", "safe_rl/Navigation2-v0")) == 2
    assert "holds data with env = safe_rl/Navigation1-v0, not safe_rl/Navigation2-v0" in capsys.readouterr().err
    assert {run: contents(run) for run in runs} == everything


@pytest.mark.slow
def test_ctrl_c_saves_all_runs_and_exits_with_130(tmp_path):
    output = tmp_path / "compare"
    running = start(
        words(
            output, "--methods", "unconstrained", "--seeds", "1:2", "--jobs", 2, "--episodes", 100_000,
            "--preset", "none", flags=RISKLESS.replace("--checkpoint-every 2", "--checkpoint-every 100000"),
        )
    )  # fmt: skip
    runs = [output / "unconstrained" / f"seed{seed}" for seed in (1, 2)]
    until(lambda: all(episodes(run) for run in runs), running)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=WAIT_SEC)
    assert running.returncode == 130
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert all(list_checkpoints(run / "checkpoints") for run in runs)
    assert not jobs_of(output)


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray(tmp_path, capsys):
    pytest.importorskip("ray")
    rows = ["a=unconstrained --batch-size 8", "b=reward-penalty --penalty 5"]
    given = ["--variants", *rows, "--seeds", 1, "--jobs", "ray", "--episodes", 2]
    assert main(words(tmp_path / "compare", *given, flags=RISKLESS)) == 0
    assert "b seed 1: done" in capsys.readouterr().err
    assert [len(episodes(tmp_path / "compare" / name / "seed1")) for name in "ab"] == [2, 2]
    assert main(words(tmp_path / "compare", *given, "--address", "127.0.0.1:1", flags=RISKLESS)) == 2
    assert "no Ray cluster answers" in capsys.readouterr().err
