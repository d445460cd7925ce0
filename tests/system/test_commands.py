"""The commands of the README, tried as a new user would, shortened."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SHORTER = {
    "--transitions 20000": "--transitions 1000",
    "--episodes 300": "--episodes 2",
    "--episodes 50": "--episodes 2",
}


def blocks(section: str, language: str = "") -> list[str]:
    """The code blocks of a section of the README."""
    text = README.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.slow
def test_the_eight_commands(tmp_path):
    commands = blocks("By hand")[0].strip().splitlines()
    assert [shlex.split(line)[1] for line in commands] == (
        ["collect", "inspect", "pretrain", "train", "train", "evaluate", "view", "report"]
    )
    for line in commands:
        for usual, short in SHORTER.items():
            line = line.replace(usual, short)
        words = [sys.executable, "-m", "safe_rl.cli.main", *shlex.split(line, comments=True)[1:]]
        if "pretrain" in words or "recovery-rl" in words:
            words += ["--risk.pretrain-steps", "30"]
        run(words, tmp_path)
    runs = tmp_path / "runs/nav1"
    for name in ("rrl", "sac"):
        lines = (runs / name / "episodes.csv").read_text().splitlines()
        assert lines[0] == "episode,steps,return,cost,success,violation,recovery_steps,wall_time_sec"
        assert len(lines) == 3
        config = json.loads((runs / name / "config.json").read_text())
        assert (config["env"], config["seed"], config["episodes"]) == ("safe_rl/Navigation1-v0", 1, 2)
        assert {"config.json", "versions.json", "metrics.jsonl", "checkpoints", "tensorboard"} <= {
            path.name for path in (runs / name).iterdir()
        }
    page = (runs / "report.html").read_text()
    assert len(page) > 50_000
    assert not re.search(r"""(?:src|href)=["']https?://""", page)


@pytest.mark.slow
def test_from_a_run_to_a_shield(tmp_path):
    pytest.importorskip("onnx")
    program = [sys.executable, "-m", "safe_rl.cli.main"]
    env = ["--env", "safe_rl/Navigation1-v0"]
    run([*program, "collect", *env, "--transitions", "1000", "--output", "data/nav1"], tmp_path)
    quick = ["--episodes", "2", "--risk.pretrain-steps", "30", "--task-pretrain-steps", "0"]
    train = ["train", "recovery-rl", *env, "--dataset", "data/nav1", "--output", "runs/nav1/rrl", *quick]
    run([*program, *train], tmp_path)
    commands, code = blocks("From a run to a shield")[0], blocks("From a run to a shield", "python")[0]
    for line in commands.strip().splitlines():
        line = line.replace("--transitions 20000", "--transitions 3000").replace("--episodes 200", "--episodes 2")
        done = run([*program, *shlex.split(line, comments=True)[1:]], tmp_path)
    assert "cold start" in done.stdout
    code = code.replace("decision =", "obs = [-50.0, 0.0]\ndecision =").replace(
        "decision.action,", "print(decision)\n#"
    )
    assert "solve_time_sec" in run([sys.executable, "-c", code], tmp_path).stdout


@pytest.mark.slow
def test_the_python_api(tmp_path):
    code = blocks("In Python", "python")[0]
    assert len(code.strip().splitlines()) < 30
    for usual, short in (("20_000", "1_000"), ("episodes=300", "episodes=2"), ("episodes=20", "episodes=2")):
        assert usual in code
        code = code.replace(usual, short)
    code = re.sub(r"safe_rl\.preset_config\(.*?\)\)", "quick)", code)
    quick = "quick = safe_rl.preset_config('recovery-rl', env, 'tuned')\nquick.risk.pretrain_steps = 30\n"
    code = code.replace("\nsettings =", f"\n{quick}settings =")
    done = run([sys.executable, "-c", code], tmp_path)
    assert "success_rate" in done.stdout
    assert (tmp_path / "runs/api/report.html").stat().st_size > 50_000


@pytest.mark.slow
def test_an_environment_of_ones_own_from_the_current_folder(tmp_path):
    (tmp_path / "corridor.py").write_text((Path(__file__).parent / "corridor.py").read_text())
    program = [sys.executable, "-m", "safe_rl.cli.main"]
    own = ["--env", "corridor:make", "--cost-key", "bump"]
    run([*program, "collect", *own, "--transitions", "400", "--output", "data/mine"], tmp_path)
    quick = ["--episodes", "3", "--risk.pretrain-steps", "20"]
    run([*program, "train", "recovery-rl", *own, "--dataset", "data/mine", "--output", "runs/mine", *quick], tmp_path)
    costs = [line.split(",")[3] for line in (tmp_path / "runs/mine/episodes.csv").read_text().splitlines()[1:]]
    assert len(costs) == 3
    shown = run([*program, "inspect", "data/mine"], tmp_path).stdout
    assert "corridor:make" in shown


@pytest.mark.slow
def test_the_demo_replaces_what_an_earlier_one_wrote(tmp_path, made):
    for name, earlier in (("data", "data"), ("pretrained", "pretrained"), ("recovery-rl", "run")):
        shutil.copytree(made / earlier, tmp_path / "runs/demo" / name)
    script = Path(__file__).parents[2] / "scripts" / "demo.py"
    done = run([sys.executable, str(script), "--episodes=2", "--transitions=1000", "--pretrain-steps=20"], tmp_path)
    assert re.search(r"Recovery RL +│ +2/2 ", done.stdout)
    assert re.search(r"unconstrained +│ +2/2 ", done.stdout)
    assert (tmp_path / "runs/demo/report.html").is_file()
