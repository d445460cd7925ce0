from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import toys

from safe_rl.algorithms.recovery_rl import RecoveryRLAgent
from safe_rl.cli.main import main
from safe_rl.data.collect import CollectConfig, collect
from safe_rl.data.dataset import OfflineDataset
from safe_rl.envs.spaces import space_to_json
from safe_rl.shield.bundle import DISTRIBUTION, WEIGHTS, PolicyBundle, arrays_to_bytes, update_bundle, write_bundle
from safe_rl.shield.calibrate import RISK_TOLERANCE, CalibrateConfig, calibrate
from safe_rl.shield.distribution import FeatureDistribution
from safe_rl.shield.engines import load_engine
from safe_rl.shield.shield import Shield
from safe_rl.shield.spec import BundleSpec, LimitSpec, SwitchSpec
from safe_rl.shield.weights import agent_arrays

HORIZON = 5


def collected(folder: Path, env: str = "toys:Corridor", transitions: int = 600) -> Path:
    """Data of another seed than the training's."""
    return collect(CollectConfig(env=env, output=folder, transitions=transitions, policy="random", seed=7)).path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return collected(tmp_path_factory.mktemp("held-out") / "held-out", transitions=2500)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, corridor_data: Path) -> Path:
    """A bundle with a critic that learned nothing: its promise holds all the same, it only costs more."""
    env = toys.Corridor()
    agent = RecoveryRLAgent(env.observation_space, env.action_space, toys.recovery_config(), seed=1)
    spec = BundleSpec(
        method="recovery-rl",
        env="toys:Corridor",
        observation_space=space_to_json(env.observation_space),
        action_space=space_to_json(env.action_space),
        recovery="model-free",
        gamma_risk=1 - 1 / HORIZON,
        switch=SwitchSpec(0.6, release_risk=0.55),
        limits=LimitSpec((-0.15, -0.15), (0.15, 0.15)),
        provenance={"config": {"dataset": str(corridor_data)}},
    )
    path = tmp_path_factory.mktemp("bundles") / "bundle"
    write_bundle(path, spec, {WEIGHTS: arrays_to_bytes(agent_arrays(agent))})
    return path


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def respec(bundle: Path, **changes: object) -> None:
    opened = PolicyBundle.load(bundle)
    update_bundle(opened, dataclasses.replace(opened.spec, **changes), {})


def scores_by_hand(bundle: PolicyBundle, dataset: OfflineDataset) -> list[float]:
    """An episode of the corridor has one violation at most, and ends there."""
    transitions, engine = dataset.transitions(), load_engine(bundle)
    risk = engine.filter(transitions.obs, transitions.action, 0.5).risk
    ends = np.cumsum(dataset.episode_lengths)
    return [
        float(risk[max(end - HORIZON, end - length) : end].max()) - RISK_TOLERANCE
        for length, end in zip(dataset.episode_lengths, ends, strict=True)
        if transitions.cost[end - 1] > 0
    ]


def test_writes_the_threshold_and_its_record(bundle: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = PolicyBundle.load(bundle)
    assert main(["calibrate", str(bundle), "--dataset", str(data), "--miss-rate", "0.1"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    after, dataset = PolicyBundle.load(bundle), OfflineDataset.open(data)
    scores, eps = np.sort(scores_by_hand(before, dataset)), after.spec.switch.eps_risk
    entry = after.spec.calibration
    assert entry is not None
    assert entry["num_events"] == len(scores) > 60
    allowed = entry["allowed_misses"]
    assert eps == pytest.approx(scores[allowed], abs=1e-6)
    assert eps < scores[allowed]
    assert entry["missed"] == allowed
    assert (entry["former_eps_risk"], entry["trained_eps_risk"], entry["horizon_steps"]) == (0.6, 0.6, HORIZON)
    assert (entry["miss_rate"], entry["confidence"], entry["method"]) == (0.1, 0.95, "learn-then-test")
    assert (entry["dataset"], entry["dataset_sha256"]) == ("held-out", dataset.sha256)
    assert entry["held_out"] == "none of it was trained on"
    assert entry["date"].startswith("20")
    assert "exchangeable" in entry["assumption"]
    assert "not on the recovery policy's success" in entry["assumption"]
    for text in (entry["assumption"], entry["promise"], f"{allowed:,} of {len(scores)}", "calibration.png"):
        assert text in printed
    assert (bundle / "calibration.png").read_bytes().startswith(b"\x89PNG")
    assert after.spec.switch.release_risk == min(0.55, eps)
    assert (
        dataclasses.replace(after.spec, switch=before.spec.switch, calibration=None, distribution=None) == before.spec
    )
    assert (bundle / WEIGHTS).read_bytes() == before.read_bytes(WEIGHTS)


def test_the_shield_switches_at_the_threshold_and_scores_what_is_unlike_the_data(bundle: Path, data: Path) -> None:
    calibrate(CalibrateConfig(bundle, data, miss_rate=0.1, ood_rate=0.02, ood_stop=True))
    shield, dataset = Shield.load(bundle), OfflineDataset.open(data)
    distribution = shield.bundle.spec.distribution
    assert distribution is not None
    assert distribution.stop
    flagged, transitions = 0, dataset.transitions()
    for obs, action in zip(transitions.obs[:500], transitions.action[:500], strict=True):
        shield.reset()
        decision = shield.filter(obs, action)
        flagged += decision.distribution_score > distribution.threshold
        if decision.distribution_score <= distribution.threshold:
            assert (decision.mode == 1) == (decision.risk > shield.bundle.spec.switch.eps_risk)
    assert flagged <= 25
    assert shield.filter(np.array([50, 50], np.float32), np.zeros(2, np.float32)).reason == "out_of_distribution"
    known = FeatureDistribution.from_arrays(shield.bundle.read_arrays(DISTRIBUTION))
    assert known.num_features == toys.SMALL[-1]


def test_without_confidence_and_again(bundle: Path, data: Path) -> None:
    first = calibrate(CalibrateConfig(bundle, data, miss_rate=0.2, horizon=2)).entry
    second = calibrate(CalibrateConfig(bundle, data, miss_rate=0.2, confidence=None)).entry
    assert (first["horizon_steps"], second["horizon_steps"]) == (2, HORIZON)
    assert second["method"] == "conformal risk control"
    assert second["promise"].startswith("On average over draws")
    assert second["allowed_misses"] > first["allowed_misses"]
    assert (second["former_eps_risk"], second["trained_eps_risk"]) == (first["eps_risk"], 0.6)
    assert PolicyBundle.load(bundle).spec.calibration == second


def test_a_looser_threshold_is_said_or_not_taken(bundle: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    respec(bundle, switch=SwitchSpec(0.01))
    arguments = ["calibrate", str(bundle), "--dataset", str(data), "--miss-rate", "0.1"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    entry = PolicyBundle.load(bundle).spec.calibration
    assert entry is not None
    assert PolicyBundle.load(bundle).spec.switch.eps_risk == entry["eps_risk"] == 0.01 < entry["found_eps_risk"]
    assert entry["missed"] == 0
    assert "the trained 0.01 keeps it too and stays" in printed
    assert main([*arguments, "--loosen"]) == 0
    assert "warning: eps_risk is LOOSER than the trained 0.01" in capsys.readouterr().out
    assert PolicyBundle.load(bundle).spec.switch.eps_risk == entry["found_eps_risk"]


def test_where_recovery_does_not_help_nothing_is_caught(bundle: Path, data: Path) -> None:
    """``recovery_must_help`` keeps the task action where recovery is riskier: such steps cannot count as warnings."""
    plain = calibrate(CalibrateConfig(bundle, data, miss_rate=0.5)).entry
    opened = PolicyBundle.load(bundle)
    respec(bundle, switch=dataclasses.replace(opened.spec.switch, eps_risk=0.6, recovery_must_help=True))
    helping = calibrate(CalibrateConfig(bundle, data, miss_rate=0.5)).entry
    assert helping["eps_risk"] < plain["eps_risk"]
    assert helping["former_missed"] >= plain["former_missed"]


def pretraining(folder: Path, dataset: Path) -> Path:
    """What counts here of the folder of a pretraining."""
    folder.mkdir()
    settings = {"method": "recovery-rl", "env": "toys:Corridor", "seed": 0, "dataset": str(dataset)}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def test_data_that_was_trained_on(bundle: Path, corridor_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Collected by the seed of the training data, only less of it: another hash, the same episodes."""
    more = toys.collect_corridor(bundle.parent / "more", transitions=1000)
    respec(
        bundle, provenance={"config": {"dataset": None, "pretrained": str(pretraining(bundle.parent / "pre", more))}}
    )
    before = digest(bundle)
    arguments = ["calibrate", str(bundle), "--dataset", str(corridor_data), "--miss-rate", "0.2"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "is not held out" in error
    assert "episodes were trained on" in error
    assert digest(bundle) == before
    assert main([*arguments, "--allow-training-data"]) == 0
    assert "were trained on: the promise means little" in capsys.readouterr().out
    respec(bundle, provenance={"dataset_sha256": OfflineDataset.open(corridor_data).sha256})
    assert main(arguments) == 2
    respec(bundle, provenance={"config": {"dataset": "gone", "pretrained": "gone too"}})
    assert main(arguments) == 0
    assert "the training data is no longer where it was" in capsys.readouterr().out


class Taller(gym.ObservationWrapper):
    """Sees one number more."""

    def __init__(self):
        super().__init__(toys.Corridor())
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def observation(self, obs):
        return np.append(obs, np.float32(0))


class HarmlessCorridor(toys.Corridor):
    """Stops where others fall."""

    def step(self, action):
        obs, reward, _, truncated, _ = super().step(action)
        return obs, reward, False, truncated, {"cost": 0.0, "success": False}


class FallingAtOnce(toys.Corridor):
    """Falls in its second step, always."""

    def step(self, action):
        obs, reward, _, truncated, _ = super().step(action)
        return obs, reward, self.steps == 2, truncated, {"cost": float(self.steps == 2), "success": False}


@pytest.mark.parametrize(
    ("env", "options", "message"),
    [
        (None, ["--miss-rate", "0.001"], "cannot support a miss rate of 0.001 with confidence 0.95: at least 2,995"),
        (None, ["--miss-rate", "0"], "--miss-rate is 0.0: it must be more than 0"),
        (None, ["--confidence", "95"], "--confidence is 95.0: it must be more than 0"),
        (None, ["--horizon", "0"], "--horizon is 0: it must be at least 1"),
        (None, ["--ood-rate", "1"], "--ood-rate is 1.0"),
        (None, ["--horizon", "31"], "no step of dataset .* is known to be safe for 31 steps"),
        ("test_calibrate:Taller", [], r"has observations of shape \(3,\), bundle .* of \(2,\)"),
        ("toys:Script", [], "has actions Box"),
        ("test_calibrate:HarmlessCorridor", [], "holds no violation in its 600 transitions"),
        ("test_calibrate:FallingAtOnce", ["--horizon", "2"], "no step of dataset .* is known to be safe for 2 steps"),
    ],
)
def test_bad_input_is_one_line_and_leaves_the_bundle(
    bundle: Path,
    data: Path,
    tmp_path: Path,
    env: str | None,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    before = digest(bundle)
    dataset = data if env is None else collected(tmp_path / "other", env)
    assert main(["calibrate", str(bundle), "--dataset", str(dataset), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert digest(bundle) == before
    assert [path.name for path in bundle.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("fault", ["no bundle", "no dataset", "damaged weights", "gamma 1"])
def test_broken_files_are_one_line(
    bundle: Path, data: Path, tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["calibrate", str(bundle), "--dataset", str(data)]
    if fault == "no bundle":
        arguments[1] = str(tmp_path / "nowhere")
    elif fault == "no dataset":
        arguments[3] = str(tmp_path / "nowhere")
    elif fault == "damaged weights":
        content = bytearray((bundle / WEIGHTS).read_bytes())
        content[-5] ^= 1
        (bundle / WEIGHTS).write_bytes(bytes(content))
    else:
        respec(bundle, gamma_risk=1.0)
    before = digest(bundle)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("safe-rl: error: ")
    assert error.count("\n") == 1
    assert digest(bundle) == before


def test_the_record_is_json_that_a_person_can_read(bundle: Path, data: Path) -> None:
    calibrate(CalibrateConfig(bundle, data, miss_rate=0.1))
    entry = json.loads((bundle / "bundle.json").read_text())["calibration"]
    assert entry["promise"].startswith("With confidence 95 % over draws of held-out data, at most 10 % of violations")
    assert entry["num_episodes"] > entry["num_events"]
    outside = entry["out_of_distribution"]
    assert outside["rate"] == 0.001
    assert outside["rate_kept"] == pytest.approx(1 / (outside["num_episodes"] + 1))
    assert outside["rate_kept"] > outside["rate"]
