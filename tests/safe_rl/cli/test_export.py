from __future__ import annotations

import json
from pathlib import Path

import pytest
import toys

from safe_rl.cli.main import main
from safe_rl.config import RunConfig
from safe_rl.training import train


@pytest.fixture(scope="module")
def run(tmp_path_factory, corridor_data) -> Path:
    output = tmp_path_factory.mktemp("runs") / "rrl"
    config = RunConfig(env="toys:Corridor", output=output, dataset=corridor_data, episodes=1, device="cpu")
    train("recovery-rl", config, toys.recovery_config(risk__pretrain_steps=1))
    return output


def test_what_is_printed_and_written(run, tmp_path, capfd):
    output = tmp_path / "bundles" / "corridor"
    words = ["export", str(run), "--output", str(output), "--eps-risk", "0.25"]
    assert main([*words, "--stop", "action", "--stop-action", "-0.1", "0.05", "--max-rate", "1", "2.5",
                 "--control-period-sec", "0.1", "--release-risk", "0.2", "--min-recovery-sec", "0.3",
                 "--deadline-sec", "0.05"]) == 0  # fmt: skip
    out, err = capfd.readouterr()
    assert err == ""
    for text in (
        "recovery-rl on toys:Corridor, seed 0", "1 episode, ", "2 numbers", "(-0.15, -0.15) to (0.15, 0.15)",
        "model-free, where Q_risk exceeds 0.25", "(-0.1, 0.05)", "PyTorch (--onnx adds", "KiB",
        f"safe-rl calibrate {output} --dataset",
    ):  # fmt: skip
        assert text in out
    spec = json.loads((output / "bundle.json").read_text())
    assert spec["stop"] == {"kind": "action", "action": [-0.1, 0.05]}
    assert spec["limits"]["max_rate"] == [1.0, 2.5]
    assert spec["switch"] == {
        "eps_risk": 0.25, "recovery_must_help": False, "release_risk": 0.2, "min_recovery_sec": 0.3,
    }  # fmt: skip


def test_graphs_come_quietly(run, tmp_path, capfd):
    pytest.importorskip("onnxruntime")
    assert main(["export", str(run), "--output", str(tmp_path / "b"), "--onnx"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "ONNX Runtime, PyTorch" in out
    assert out.startswith("┌")
    assert (tmp_path / "b" / "decide.onnx").is_file()


def test_mistakes_are_one_line(run, tmp_path, capsys):
    def fails(*words: str) -> str:
        assert main(["export", *words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("safe-rl: error: ")
        assert err.count("\n") == 1
        return err

    output = ["--output", str(tmp_path / "b")]
    assert "no run at" in fails(str(tmp_path / "nowhere"), *output)
    assert "missing --output" in fails(str(run))
    assert "unknown option --ony; did you mean --onnx?" in fails(str(run), *output, "--ony")
    assert "--eps-risk is 1.5: it must be" in fails(str(run), *output, "--eps-risk", "1.5")
    assert "--stop" in fails(str(run), *output, "--stop", "brake")
    assert "holds other files and no bundle" in fails(str(run), "--output", str(run))
    assert not (tmp_path / "b").exists()
