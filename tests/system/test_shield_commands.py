"""From a run to a shield by the commands, with the engines that are installed; and a short fuzz of what comes out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.shield_fuzz import fuzz
from safe_rl.shield import Mode, Reason, Shield
from safe_rl.shield.black_box import read_black_box

ENV = "corridor:make"


@pytest.fixture(scope="module")
def bundle(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported and calibrated bundle with graphs; not to be written to."""
    pytest.importorskip("onnx")
    from safe_rl.cli.main import main

    folder = tmp_path_factory.mktemp("bundle")
    commands = [
        ["export", made / "run", "--onnx", "--output", folder / "bundle"],
        [
            "collect",
            "--env",
            ENV,
            "--transitions",
            "600",
            "--output",
            folder / "held",
            "--policy",
            "random",
            "--seed",
            "7",
        ],
        ["calibrate", folder / "bundle", "--dataset", folder / "held", "--miss-rate", "0.5", "--ood-rate", "0.05"],
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        for command in commands:
            assert main([str(word) for word in command]) == 0, command
    return folder / "bundle"


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_a_bundle_is_evaluated_like_a_run(safe_rl, bundle, made, tmp_path, engine):
    flags = ("--episodes", 3, "--seed", 5)
    shielded = safe_rl("evaluate", bundle, "--engine", engine, *flags, "--output", tmp_path / "bundle.json")
    plain = safe_rl("evaluate", made / "run", *flags, "--output", tmp_path / "run.json")
    assert (shielded.code, plain.code) == (0, 0)
    found, expected = (json.loads((tmp_path / name).read_text()) for name in ("bundle.json", "run.json"))
    for mine, theirs in zip(found["episodes"], expected["episodes"], strict=True):
        assert mine["steps"] == theirs["steps"]
        assert mine["recovery_steps"] == theirs["recovery_steps"]
        assert mine["return_"] == pytest.approx(theirs["return_"], rel=1e-3)
    assert "reason" in shielded.out
    assert not (bundle / "evaluation.json").exists()


def test_another_environment_is_refused(safe_rl, bundle):
    outcome = safe_rl("evaluate", bundle, "--env", "safe_rl/Navigation1-v0")
    assert outcome.code == 2
    assert "do not belong together" in outcome.err
    assert outcome.err.count("\n") == 1


def test_bench_draws_a_histogram(safe_rl, bundle, tmp_path):
    outcome = safe_rl("bench", bundle, "--decisions", 500, "--output", tmp_path / "latency.json")
    assert outcome.code == 0
    rows = [line for line in outcome.out.splitlines() if " us " in line and " to " in line]
    assert sum(int(row.split()[-1].replace(",", "")) for row in rows) == 500
    written = json.loads((tmp_path / "latency.json").read_text())
    assert written["engine"] == "onnx"
    assert 0 < written["p50_us"] <= written["p99_us"] <= written["p100_us"]
    assert written["cold_start_sec"] > 0


@pytest.mark.parametrize(
    "arguments", [["--decisions", "0"], ["--threads", "0"], ["--seed", "-1"], ["--engine", "steam"]]
)
def test_options_that_cannot_be(safe_rl, bundle, arguments):
    outcome = safe_rl("bench", bundle, *arguments)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_a_short_fuzz_finds_nothing(bundle, engine):
    counts, wrong, _ = fuzz(bundle, engine, 3_000, seed=1)
    assert wrong == []
    assert counts.total() == 3_000
    assert sum(count for name, count in counts.items() if name.startswith("STOP")) > 500
    assert counts["TASK"] + counts["RECOVERY risk"] > 500


def test_what_led_to_a_stop_can_be_read(safe_rl, bundle, tmp_path):
    obs = np.zeros(2, dtype=np.float32)
    with Shield.load(bundle, black_box=tmp_path / "box") as shield:
        for _ in range(3):
            assert shield.decide(obs).mode is not Mode.STOP
        assert shield.decide(obs * np.nan).reason is Reason.OBSERVATION_NOT_FINITE
    (dump,) = (tmp_path / "box").iterdir()
    assert read_black_box(dump).reason[-1] == "observation_not_finite"
    outcome = safe_rl("inspect", dump)
    assert outcome.code == 0
    assert "observation_not_finite" in outcome.out
    assert str(bundle) in outcome.out
