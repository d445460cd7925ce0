"""A run becomes a bundle that decides as the run's agent, or one line says why not and nothing is changed."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import toys

from safe_rl.checkpoint import list_checkpoints, load_newest, save_state
from safe_rl.config import RunConfig
from safe_rl.data.dataset import OfflineDataset
from safe_rl.errors import UserError
from safe_rl.pretraining import PretrainConfig, pretrain_run
from safe_rl.runs import Run, load_run
from safe_rl.shield.bundle import WEIGHTS, PolicyBundle
from safe_rl.shield.engines import load_engine
from safe_rl.shield.export import ExportOptions, export_run
from safe_rl.storage import sha256
from safe_rl.training import train


def train_corridor(data: Path, output: Path, *, env: str = "toys:Corridor", cost_key: str = "cost", **changes) -> Path:
    config = RunConfig(env=env, output=output, dataset=data, episodes=2, seed=5, device="cpu", cost_key=cost_key)
    train("recovery-rl", config, toys.recovery_config(**changes))
    return output


@pytest.fixture(scope="module")
def trained(tmp_path_factory, corridor_data) -> Path:
    return train_corridor(corridor_data, tmp_path_factory.mktemp("runs") / "rrl")


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "rrl"))


def states(rows: int = 30) -> np.ndarray:
    return np.random.default_rng(0).uniform([-0.2, -0.4], [1.2, 0.4], size=(rows, 2)).astype(np.float32)


def assert_decides_as(run: Path, bundle: PolicyBundle, engine: str) -> None:
    expected = load_run(run).make_agent().act(states(), explore=False)
    made = load_engine(bundle, engine).decide(states(), bundle.spec.switch.eps_risk)
    action = np.where(made.hands_over[:, None], made.recovery_action, made.proposal)
    np.testing.assert_allclose(action, expected.action, atol=1e-5)
    np.testing.assert_allclose(made.risk, expected.risk, atol=1e-5)


def test_the_bundle_decides_as_the_run(trained, tmp_path):
    bundle = export_run(trained, tmp_path / "bundle")
    assert not bundle.has_graphs
    assert {path.name for path in bundle.path.iterdir()} == {"bundle.json", "weights.safetensors", "manifest.json"}
    assert_decides_as(trained, bundle, "torch")


@pytest.mark.parametrize("kind", ["model-free", "q-sampling"])
def test_with_graphs_too(kind, trained, tmp_path, corridor_data, capfd, recwarn):
    pytest.importorskip("onnxruntime")
    run = trained
    if kind == "q-sampling":
        run = train_corridor(corridor_data, tmp_path / "q", recovery__kind=kind, risk__recovery_must_help=True)
    capfd.readouterr()
    recwarn.clear()
    bundle = export_run(run, tmp_path / "bundle", ExportOptions(onnx=True))
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert_decides_as(run, bundle, "onnx")
    assert_decides_as(run, bundle, "torch")


def test_a_dict_observation(tmp_path, corridor_data):
    data = toys.collect_corridor(tmp_path / "data", 200, env="toys:Keyed", cost_key="hazard")
    run = train_corridor(data, tmp_path / "run", env="toys:Keyed", cost_key="hazard")
    bundle = export_run(run, tmp_path / "bundle")
    assert list(bundle.spec.observation_space["spaces"]) == ["x", "y"]
    assert_decides_as(run, bundle, "torch")


def test_what_the_bundle_says_of_the_run(trained, tmp_path):
    bundle = export_run(trained, tmp_path / "bundle")
    spec = bundle.spec
    assert (spec.method, spec.env, spec.recovery, spec.gamma_risk) == (
        "recovery-rl",
        "toys:Corridor",
        "model-free",
        0.8,
    )
    assert spec.observation_space["shape"] == [2]
    assert (spec.switch.eps_risk, spec.switch.release_risk, spec.switch.min_recovery_sec) == (0.3, None, 0.0)
    assert (spec.stop.kind, spec.deadline_sec, spec.calibration, spec.distribution) == ("zero", None, None, None)
    np.testing.assert_array_equal(np.float32(spec.limits.high), np.float32([0.15, 0.15]))
    assert spec.limits.low == tuple(-bound for bound in spec.limits.high)
    told = spec.provenance
    assert (told["run"], told["method"], told["env"], told["seed"]) == ("rrl", "recovery-rl", "toys:Corridor", 5)
    rows = [line.split(",") for line in (trained / "episodes.csv").read_text().splitlines()[1:]]
    assert told["episodes"] == len(rows) == 2
    assert told["environment_steps"] == sum(int(row[1]) for row in rows)
    checkpoint = list_checkpoints(trained / "checkpoints")[-1]
    assert told["checkpoint"] == checkpoint.name
    assert told["checkpoint_manifest_sha256"] == sha256(checkpoint / "manifest.json")
    assert told["config"] == json.loads((trained / "config.json").read_text())
    assert told["versions"] == json.loads((trained / "versions.json").read_text())
    assert told["dataset_sha256"] == OfflineDataset.open(told["config"]["dataset"]).sha256
    assert told["exported"].startswith("20")


def test_the_constraint_is_that_of_the_training(trained, tmp_path):
    """``safe-rl evaluate`` counts by it."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"cost_key": "crash"}))
    assert export_run(folder, tmp_path / "bundle").spec.provenance["cost_key"] == "crash"


def test_a_dataset_that_is_gone_has_no_hash(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dataset": str(tmp_path / "gone")}))
    assert export_run(folder, tmp_path / "bundle").spec.provenance["dataset_sha256"] is None


def test_options_go_into_the_bundle(trained, tmp_path):
    options = ExportOptions(
        eps_risk=0.4, release_risk=0.1, min_recovery_sec=0.5, max_rate=(1.0, 2.0), control_period_sec=0.05,
        stop="action", stop_action=(0.0, -0.1), deadline_sec=0.02,
    )  # fmt: skip
    spec = export_run(trained, tmp_path / "bundle", options).spec
    assert dataclasses.astuple(spec.switch) == (0.4, False, 0.1, 0.5)
    assert (spec.limits.max_rate, spec.limits.control_period_sec) == ((1.0, 2.0), 0.05)
    assert (spec.stop.kind, spec.stop.action, spec.deadline_sec) == ("action", (0.0, -0.1), 0.02)
    hold = export_run(trained, tmp_path / "other", ExportOptions(stop="hold")).spec
    assert (hold.stop.kind, hold.stop.action) == ("hold", None)


# ------------------------------------------------------------------- refusals


def fails(run: Path, output: Path, **options) -> str:
    """Exporting fails with this line and leaves nothing behind."""
    before = {path: path.read_bytes() for path in output.parent.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as error:
        export_run(run, output, ExportOptions(**options))
    assert {path: path.read_bytes() for path in output.parent.rglob("*") if path.is_file()} == before
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps_risk": 1.0}, "--eps-risk is 1.0: it must be at least 0 and less than 1"),
        ({"eps_risk": float("nan")}, "--eps-risk is nan"),
        ({"release_risk": 0.5}, "--release-risk is 0.5: it must be between 0 and --eps-risk (0.3)"),
        ({"min_recovery_sec": -1.0}, "--min-recovery-sec is -1.0"),
        ({"max_rate": (1.0, 1.0)}, "--control-period-sec is None: it must be given"),
        ({"max_rate": (1.0,), "control_period_sec": 0.1}, "--max-rate is (1.0,): it must be 2 positive numbers"),
        ({"control_period_sec": 0.0}, "--control-period-sec is 0.0"),
        ({"stop": "action"}, "--stop-action is None"),
        ({"stop_action": (0.0, 0.0)}, "--stop-action is (0.0, 0.0): it must be given for 'action'"),
        ({"stop": "action", "stop_action": (0.0,)}, "--stop-action is (0.0,): it must be 2 numbers"),
        ({"deadline_sec": 0.0}, "--deadline-sec is 0.0"),
    ],
)
def test_options_that_cannot_be(options, message, trained, tmp_path):
    assert message in fails(trained, tmp_path / "bundle", **options)


def test_runs_that_cannot_be_exported(run, tmp_path, corridor_data):
    output = tmp_path / "bundle"
    assert "no run at" in fails(tmp_path / "nowhere", output)
    train("unconstrained", RunConfig(env="toys:Corridor", output=tmp_path / "u", episodes=1, device="cpu"),
          toys.unconstrained_config())  # fmt: skip
    assert "was trained by unconstrained, which has no risk critic to shield with: train recovery-rl" in fails(
        tmp_path / "u", output
    )
    train_corridor(corridor_data, tmp_path / "median", risk__quantile=0.5)
    assert "reads its ensemble by the quantile 0.5, a bundle by the largest" in fails(tmp_path / "median", output)
    pretraining = PretrainConfig(env="toys:Corridor", dataset=corridor_data, output=tmp_path / "p", device="cpu")
    pretrain_run("recovery-rl", pretraining, toys.recovery_config(risk__pretrain_steps=1))
    assert "holds a pretraining and no policy" in fails(tmp_path / "p", output)
    (run / "versions.json").write_text("[")
    assert "versions.json is damaged" in fails(run, output)
    victim = list_checkpoints(run / "checkpoints")[-1] / "tensors.safetensors"
    victim.write_bytes(victim.read_bytes()[:-1])
    assert str(victim) in fails(run, output)
    shutil.rmtree(run / "checkpoints")
    assert "no checkpoint in" in fails(run, output)


def test_a_checkpoint_with_nan(run, tmp_path):
    state = load_newest(run / "checkpoints")
    state["agent"]["policy"]["recovery"]["actor.net.flat"][3] = float("nan")
    save_state(list_checkpoints(run / "checkpoints")[-1], state)
    assert f"the newest checkpoint of {run} holds NaN or infinity in recovery_policy.0.weight" in fails(
        run, tmp_path / "bundle"
    )


def test_a_checkpoint_that_is_written_meanwhile(run, tmp_path, monkeypatch):
    newest = list_checkpoints(run / "checkpoints")[-1]
    load = Run.make_agent

    def load_and_train_on(self):
        agent = load(self)
        shutil.copytree(newest, newest.with_name("step_000009999"))
        return agent

    monkeypatch.setattr(Run, "make_agent", load_and_train_on)
    with pytest.raises(UserError, match="has just written a checkpoint: export it again"):
        export_run(run, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_outputs_that_hold_something(trained, run, tmp_path):
    output = tmp_path / "bundle"
    (tmp_path / "file").write_text("mine")
    assert "holds other files and no bundle" in fails(trained, run)
    assert "holds other files and no bundle" in fails(trained, tmp_path / "file", overwrite=True)
    export_run(trained, output)
    assert "replace it with --overwrite" in fails(trained, output)
    assert "--eps-risk is 2.0" in fails(trained, output, overwrite=True, eps_risk=2.0)
    assert export_run(trained, output, ExportOptions(overwrite=True, eps_risk=0.1)).spec.switch.eps_risk == 0.1


def test_missing_packages_are_named_before_anything_else(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert fails(tmp_path / "nowhere", tmp_path / "bundle", onnx=True) == (
        "--onnx needs onnx, onnxscript, onnxruntime, which are not installed: pip install 'safe_rl[onnx]'"
    )


def test_graphs_that_decide_otherwise_are_not_written(trained, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from safe_rl.shield import onnx_graphs

    right = onnx_graphs.make_graphs

    def wrong(graph, spec, weights):
        graph.task_policy[0].bias += 0.01
        return right(graph, spec, weights)

    monkeypatch.setattr(onnx_graphs, "make_graphs", wrong)
    assert "decide otherwise than PyTorch (they differ by " in fails(trained, tmp_path / "bundle", onnx=True)


def test_the_weights_are_in_the_documented_shapes(trained, tmp_path):
    arrays = export_run(trained, tmp_path / "bundle").read_arrays(WEIGHTS)
    assert arrays["task_policy.0.weight"].shape == (16, 2)
    assert arrays["task_policy.2.weight"].shape == (2, 16)  # the mean alone
    assert arrays["risk_critic.1.0.weight"].shape == (16, 4)
    assert arrays["recovery_policy.2.bias"].shape == (2,)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
