from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
import toy_images
import toys

from safe_rl import config as config_module
from safe_rl import presets
from safe_rl.cli.bench import BenchConfig, run_bench
from safe_rl.cli.calibrate import run_calibrate
from safe_rl.cli.evaluate import EvaluateConfig, run_evaluate
from safe_rl.cli.export import ExportConfig, run_export
from safe_rl.config import AgentConfig, RecoveryConfig, RecoveryRLConfig, RiskConfig, RunConfig, SACConfig
from safe_rl.errors import UserError
from safe_rl.flow import LocalBackend
from safe_rl.methods import METHODS, config_from_dict, get_method, make_agent, resolve_device
from safe_rl.presets import (
    PAPER,
    PAPER_COMMON,
    PAPER_EXCEPTIONS,
    PAPER_PLANNING,
    PRICES,
    TUNED,
    TUNED_COMMON,
    TUNED_METHODS,
    preset_config,
)
from safe_rl.pretraining import PretrainConfig, pretrain_run
from safe_rl.shield.calibrate import CalibrateConfig
from safe_rl.shield.export import ExportOptions
from safe_rl.training import train

NAN = float("nan")


def run_config(**changes) -> RunConfig:
    return RunConfig(**{"env": "toys:Corridor", "output": Path("runs/x"), **changes})


# ------------------------------------------------------------------------------------------- every field counts


def _reads_of(types, monkeypatch) -> dict[str, set[str]]:
    """Records which fields of which config are read, by anything but dataclasses and the config's own validation."""
    reads: dict[str, set[str]] = {config_type.__name__: set() for config_type in types}
    own = {"__post_init__", "<module>"}

    def watched(self, name):
        caller = sys._getframe(1)
        if caller.f_globals.get("__name__") not in ("dataclasses", __name__) and caller.f_code.co_name not in own:
            for config_type in type(self).__mro__:
                if config_type.__name__ in reads:
                    reads[config_type.__name__].add(name)
        return object.__getattribute__(self, name)

    for config_type in types:
        monkeypatch.setattr(config_type, "__getattribute__", watched)
    return reads


def test_every_field_of_every_config_is_read_by_something(tmp_path, monkeypatch, corridor_data):
    types = [
        kind for kind in vars(config_module).values()
        if dataclasses.is_dataclass(kind) and kind.__module__ == config_module.__name__
    ]  # fmt: skip
    assert {AgentConfig, SACConfig, RiskConfig, RecoveryConfig, RecoveryRLConfig, RunConfig} <= set(types)
    types += [PretrainConfig, EvaluateConfig, ExportOptions, CalibrateConfig, BenchConfig]
    reads = _reads_of(types, monkeypatch)

    run = {"env": "toys:Corridor", "dataset": corridor_data, "episodes": 2, "device": "cpu"}
    pretrain_run(
        "recovery-rl",
        PretrainConfig("toys:Corridor", corridor_data, tmp_path / "p", device="cpu"),
        toys.recovery_config(risk__pretrain_steps=2),
    )
    train(
        "recovery-rl",
        RunConfig(**run, output=tmp_path / "a", pretrained=tmp_path / "p", eval_every=1, eval_episodes=1, log_every=5,
                  stop_at_success_rate=0.5),
        toys.recovery_config(demonstrations=True, task_pretrain_steps=2, risk__eps_risk=0.0, sac__entropy="auto"),
    )  # fmt: skip
    train(
        "recovery-rl",
        RunConfig(**run, output=tmp_path / "b"),
        toys.recovery_config(recovery__kind="q-sampling", risk__pretrain_steps=2, risk__eps_risk=0.0),
    )
    train("unconstrained", RunConfig(**run, output=tmp_path / "c"), toys.unconstrained_config())
    monkeypatch.setattr("safe_rl.plans.episodes.make_backend", lambda workers, address: LocalBackend())
    train("unconstrained", RunConfig(**run, output=tmp_path / "d", workers=1), toys.unconstrained_config())
    images = make_agent(
        "recovery-rl",
        toy_images.image_config(encoder__augmentation="random-shift", encoder__pretrain_steps=1),
        *(getattr(toy_images.Small(), f"{name}_space") for name in ("observation", "action")),
        seed=0,
    )
    images.add_offline(toy_images.walk(toy_images.Small(), 40))
    list(images.pretrain_encoder(images.num_encoder_steps))
    run_evaluate(EvaluateConfig(tmp_path / "a", episodes=1))
    run_export(ExportConfig(run=tmp_path / "a", output=tmp_path / "bundle"))
    held_out = toys.collect_corridor(tmp_path / "held_out", seed=7)
    run_calibrate(CalibrateConfig(tmp_path / "bundle", held_out, miss_rate=0.5))
    run_evaluate(EvaluateConfig(tmp_path / "bundle", episodes=1))
    run_bench(BenchConfig(tmp_path / "bundle", engine="torch", decisions=5))

    for config_type in types:
        fields = {field.name for field in dataclasses.fields(config_type)}
        assert fields - reads[config_type.__name__] == set(), config_type.__name__


# ------------------------------------------------------------------------------------------------- validation


@pytest.mark.parametrize(
    ("make", "flag", "value"),
    [
        (lambda: SACConfig(learning_rate=0), "--sac.learning-rate", "0"),
        (lambda: SACConfig(learning_rate=NAN), "--sac.learning-rate", "nan"),
        (lambda: SACConfig(gamma=1.01), "--sac.gamma", "1.01"),
        (lambda: SACConfig(gamma=-0.1), "--sac.gamma", "-0.1"),
        (lambda: SACConfig(tau=0), "--sac.tau", "0"),
        (lambda: SACConfig(tau=2), "--sac.tau", "2"),
        (lambda: SACConfig(alpha=-1), "--sac.alpha", "-1"),
        (lambda: SACConfig(alpha=0, entropy="auto"), "--sac.alpha", "0"),
        (lambda: SACConfig(reward_scale=0), "--sac.reward-scale", "0"),
        (lambda: SACConfig(hidden_sizes=(64, 0)), "--sac.hidden-sizes", "(64, 0)"),
        (lambda: RiskConfig(gamma_risk=1), "--risk.gamma-risk", "1"),
        (lambda: RiskConfig(eps_risk=1.5), "--risk.eps-risk", "1.5"),
        (lambda: RiskConfig(eps_risk=NAN), "--risk.eps-risk", "nan"),
        (lambda: RiskConfig(tau=0), "--risk.tau", "0"),
        (lambda: RiskConfig(learning_rate=-1), "--risk.learning-rate", "-1"),
        (lambda: RiskConfig(num_critics=0), "--risk.num-critics", "0"),
        (lambda: RiskConfig(hidden_sizes=(-1,)), "--risk.hidden-sizes", "(-1,)"),
        (lambda: RiskConfig(positive_fraction=1), "--risk.positive-fraction", "1"),
        (lambda: RiskConfig(positive_fraction=0.0), "--risk.positive-fraction", "0.0"),
        (lambda: RiskConfig(pretrain_steps=-1), "--risk.pretrain-steps", "-1"),
        (lambda: RecoveryConfig(learning_rate=0), "--recovery.learning-rate", "0"),
        (lambda: RecoveryConfig(hidden_sizes=(0,)), "--recovery.hidden-sizes", "(0,)"),
        (lambda: RecoveryConfig(num_samples=0), "--recovery.num-samples", "0"),
        (lambda: RecoveryConfig(num_backup_samples=0), "--recovery.num-backup-samples", "0"),
        (lambda: AgentConfig(batch_size=0), "--batch-size", "0"),
        (lambda: AgentConfig(replay_capacity=0), "--replay-capacity", "0"),
        (lambda: AgentConfig(start_steps=-1), "--start-steps", "-1"),
        (lambda: AgentConfig(update_after=-1), "--update-after", "-1"),
        (lambda: RecoveryRLConfig(batch_size=-4), "--batch-size", "-4"),
        (lambda: RecoveryRLConfig(task_pretrain_steps=-1), "--task-pretrain-steps", "-1"),
        (lambda: RecoveryRLConfig(task_pretrain_steps=5), "--task-pretrain-steps", "5"),  # needs demonstrations
        (lambda: run_config(episodes=0), "--episodes", "0"),
        (lambda: run_config(seed=-1), "--seed", "-1"),
        (lambda: run_config(threads=0), "--threads", "0"),
        (lambda: run_config(num_envs=0), "--num-envs", "0"),
        (lambda: run_config(updates_per_step=-1), "--updates-per-step", "-1"),
        (lambda: run_config(eval_every=-1), "--eval-every", "-1"),
        (lambda: run_config(eval_episodes=0), "--eval-episodes", "0"),
        (lambda: run_config(checkpoint_every=0), "--checkpoint-every", "0"),
        (lambda: run_config(log_every=0), "--log-every", "0"),
        (lambda: run_config(stop_at_success_rate=1.5), "--stop-at-success-rate", "1.5"),
        (lambda: run_config(stop_at_success_rate=0), "--stop-at-success-rate", "0"),
        (lambda: run_config(resume=True, overwrite=True), "--overwrite", "True"),
        (lambda: PretrainConfig("e", Path("d"), Path("o"), seed=-1), "--seed", "-1"),
        (lambda: PretrainConfig("e", Path("d"), Path("o"), threads=0), "--threads", "0"),
        (lambda: PretrainConfig("e", Path("d"), Path("o"), resume=True, overwrite=True), "--overwrite", "True"),
        (lambda: EvaluateConfig(Path("r"), episodes=0), "--episodes", "0"),
        (lambda: EvaluateConfig(Path("r"), seed=-1), "--seed", "-1"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_named_with_its_flag(make, flag, value):
    with pytest.raises(UserError) as caught:
        make()
    assert str(caught.value).startswith(f"{flag} is {value}: it must be ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "edges", "beyond"),
    [
        (SACConfig, {"gamma": 0, "tau": 1, "alpha": 0}, {"gamma": -1e-9, "tau": 1 + 1e-9, "alpha": -1e-9}),
        (SACConfig, {"gamma": 1, "hidden_sizes": ()}, {"gamma": 1 + 1e-9, "hidden_sizes": (0,)}),
        (SACConfig, {"target_entropy_share": 0}, {"target_entropy_share": -1e-9}),
        (SACConfig, {"target_entropy_share": 1}, {"target_entropy_share": 1 + 1e-9}),
        (RiskConfig, {"gamma_risk": 0, "eps_risk": 0}, {"gamma_risk": -1e-9, "eps_risk": -1e-9}),
        (RiskConfig, {"gamma_risk": 1 - 1e-9, "eps_risk": 1}, {"gamma_risk": 1, "eps_risk": 1 + 1e-9}),
        (RiskConfig, {"positive_fraction": 1e-9, "pretrain_steps": 0}, {"positive_fraction": 0, "pretrain_steps": -1}),
        (RiskConfig, {"positive_fraction": 1 - 1e-9, "num_critics": 1}, {"positive_fraction": 1, "num_critics": 0}),
        (RiskConfig, {"quantile": 0, "conservatism": 0}, {"quantile": -1e-9, "conservatism": -1e-9}),
        (RiskConfig, {"quantile": 1}, {"quantile": 1 + 1e-9}),
        (AgentConfig, {"start_steps": 0, "batch_size": 1}, {"start_steps": -1, "batch_size": 0}),
        (RecoveryRLConfig, {"demonstrations": True, "task_pretrain_steps": 5}, {"demonstrations": False}),
        (run_config, {"seed": 0, "updates_per_step": 0}, {"seed": -1, "updates_per_step": -1e-9}),
        (run_config, {"seed": 2**40, "stop_at_success_rate": 1.0}, {"stop_at_success_rate": 1 + 1e-9}),
    ],
)
def test_the_edges_of_the_ranges_are_allowed_and_kept_and_nothing_beyond(make, edges, beyond):
    made = make(**edges)
    assert {name: getattr(made, name) for name in edges} == edges
    for name, value in beyond.items():
        with pytest.raises(UserError, match="it must be"):
            make(**{**edges, name: value})


# ------------------------------------------------------------------------------------------ presets and methods


@pytest.mark.parametrize(
    "settings", [PAPER_COMMON, TUNED_COMMON, *PAPER.values(), *PAPER_PLANNING.values(), *TUNED.values()], ids=str
)
def test_presets_name_only_fields_that_exist(settings):
    for dotted in settings:
        section, _, field = dotted.rpartition(".")
        config = getattr(RecoveryRLConfig(), section) if section else RecoveryRLConfig()
        assert field in {f.name for f in dataclasses.fields(config)}, dotted


SETTINGS_OF_METHODS = [
    (method, settings)
    for of_methods in [*PRICES.values(), *PAPER_EXCEPTIONS.values(), TUNED_METHODS]
    for method, settings in of_methods.items()
]


@pytest.mark.parametrize(("method", "settings"), SETTINGS_OF_METHODS, ids=str)
def test_presets_of_a_method_name_only_its_fields(method, settings):
    config = get_method(method).config()
    for dotted in settings:
        section, _, field = dotted.rpartition(".")
        assert hasattr(getattr(config, section) if section else config, field), dotted


@pytest.mark.parametrize("name", ["tuned", "paper", "none"])
@pytest.mark.parametrize("env", [*PAPER, *TUNED, "my.module:env"])
@pytest.mark.parametrize("method", METHODS)
def test_every_preset_makes_a_valid_config(method, env, name):
    made = preset_config(method, env, name)
    assert type(made) is get_method(method).config
    if name == "none":
        assert made == get_method(method).config()


def test_a_preset_reaches_its_sections(monkeypatch):
    monkeypatch.setitem(presets.TUNED, "toy", {"risk.gamma_risk": 0.25, "sac.hidden_sizes": (7, 7), "batch_size": 9})
    made = preset_config("recovery-rl", "toy", "tuned")
    assert (made.risk.gamma_risk, made.sac.hidden_sizes, made.batch_size) == (0.25, (7, 7), 9)
    unconstrained = preset_config("unconstrained", "toy", "tuned")  # which has no risk section
    assert (unconstrained.sac.hidden_sizes, unconstrained.batch_size) == ((7, 7), 9)


def test_the_papers_settings():
    navigation = preset_config("recovery-rl", "safe_rl/Navigation2-v0", "paper")
    assert (navigation.risk.gamma_risk, navigation.risk.eps_risk, navigation.normalize_obs) == (0.65, 0.2, "none")
    maze = preset_config("recovery-rl", "safe_rl/Maze-v0", "paper")
    assert (maze.risk.gamma_risk, maze.risk.eps_risk, maze.risk.positive_fraction) == (0.5, 0.15, 0.3)
    extraction = preset_config("lagrangian", "safe_rl/ObjectExtraction-v0", "paper")
    assert (extraction.risk.gamma_risk, extraction.risk.eps_risk, extraction.multiplier.initial) == (0.75, 0.25, 50)
    assert preset_config("rspo", "safe_rl/Maze-v0", "paper").schedule.start == 200
    assert preset_config("reward-penalty", "safe_rl/Navigation2-v0", "paper").penalty == 3000


def test_the_papers_horizons_and_thresholds_of_planning():
    def made(env: str, kind: str | None = "model-based") -> tuple[int, float, float]:
        config = preset_config("recovery-rl", f"safe_rl/{env}", "paper", recovery=kind)
        return config.planner.horizon, config.risk.gamma_risk, config.risk.eps_risk

    assert made("Navigation2-v0") == (5, 0.65, 0.2)
    assert made("Maze-v0") == (15, 0.5, 0.15)
    assert made("ObjectExtraction-v0") == (15, 0.75, 0.25)
    assert made("ObjectExtractionDynamic-v0") == (15, 0.85, 0.35)
    assert made("ObjectExtraction-v0", "model-free") == made("ObjectExtraction-v0", None) == (5, 0.85, 0.35)


def test_an_unknown_preset():
    with pytest.raises(UserError, match="--preset is papr: choose from tuned, paper, none"):
        preset_config("recovery-rl", "x", "papr")


@pytest.mark.parametrize(
    ("name", "words"),
    [("recovery_rl", "did you mean 'recovery-rl'"), ("ppo", "choose from recovery-rl, lagrangian")],
)
def test_an_unknown_method(name, words):
    with pytest.raises(UserError, match=f"no method '{name}': {words}"):
        get_method(name)


@pytest.mark.parametrize(
    "config",
    [
        RecoveryRLConfig(),
        RecoveryRLConfig(
            batch_size=7,
            sac=SACConfig(hidden_sizes=(3, 4, 5), target_entropy=-1.5, entropy="auto"),
            risk=RiskConfig(positive_fraction=0.25, hidden_sizes=(), loss="cross-entropy"),
            recovery=RecoveryConfig(kind="q-sampling"),
            relabel_actions=False,
        ),
        toys.unconstrained_config(),
    ],
)
def test_a_config_comes_back_from_json(config):
    text = json.dumps({"method": "x", "env": "y", "episodes": 3, **dataclasses.asdict(config)})
    assert config_from_dict(type(config), json.loads(text)) == config


def test_a_config_of_an_older_version_gets_the_defaults_of_new_fields():
    assert config_from_dict(RecoveryRLConfig, {"batch_size": 3, "risk": {"tau": 0.5}}) == RecoveryRLConfig(
        batch_size=3, risk=RiskConfig(tau=0.5)
    )


def test_devices(monkeypatch):
    assert resolve_device("cpu") == "cpu"
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert resolve_device("auto") == expected
    with pytest.raises(UserError, match="PyTorch sees no GPU"):
        resolve_device("cuda")
    for unknown in ("tpu", "cpu:first", "meta", ""):
        with pytest.raises(UserError, match=f"--device is {unknown}: choose cpu, cuda or auto"):
            resolve_device(unknown)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == "cuda:1"
    with pytest.raises(UserError, match="--device is cuda:2, but the GPUs are numbered from 0 to 1"):
        resolve_device("cuda:2")


def test_an_environment_with_several_discrete_actions_is_refused():
    import gymnasium as gym

    with pytest.raises(UserError, match="one-dimensional Box"):
        make_agent(
            "unconstrained", AgentConfig(), gym.spaces.Box(-1, 1, (2,)), gym.spaces.MultiDiscrete([2, 2]), seed=0
        )
