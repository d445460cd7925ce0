"""Settings per domain, in one place."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

from safe_rl.config import AgentConfig
from safe_rl.errors import UserError
from safe_rl.methods import config_from_dict, get_method

PresetName = Literal["tuned", "paper", "none"]

Settings = dict[str, Any]
"""Dotted field names of the method's config and their values."""

PAPER_COMMON: Settings = {
    "normalize_obs": "none",
    # The thresholds were found with the authors' code, which backs up with the task policy. With the composite backup
    # that the paper describes they let the robot come too close (docs/results/safety_and_task.md).
    "risk.backup": "task",
}
"""The defaults of the configs are the paper's, or its authors' where it is silent; they scale no observations."""
PAPER_EXTRACTION: Settings = {
    "risk.positive_fraction": 0.3,
    "sac.tau": 0.0002,
    "replay_capacity": 100_000,
    "demonstrations": True,
    "task_pretrain_steps": 3_000,
}
PAPER_IMAGES: Settings = {"replay_capacity": 100_000, "risk.pretrain_steps": 30_000}
PAPER: dict[str, Settings] = {
    "safe_rl/Navigation1-v0": {"risk.gamma_risk": 0.8, "risk.eps_risk": 0.3},
    "safe_rl/Navigation2-v0": {"risk.gamma_risk": 0.65, "risk.eps_risk": 0.2},
    "safe_rl/Maze-v0": {"risk.gamma_risk": 0.5, "risk.eps_risk": 0.15, "risk.positive_fraction": 0.3},
    "safe_rl/ImageMaze-v0": {**PAPER_IMAGES, "risk.gamma_risk": 0.65, "risk.eps_risk": 0.1},
    # Not in the paper, and no settings are given for its physical task: those of the state, or of Image Maze.
    "safe_rl/ImageNavigation1-v0": {**PAPER_IMAGES, "risk.gamma_risk": 0.8, "risk.eps_risk": 0.3},
    "safe_rl/ImageNavigation2-v0": {**PAPER_IMAGES, "risk.gamma_risk": 0.65, "risk.eps_risk": 0.2},
    "safe_rl/ImageReach-v0": {**PAPER_IMAGES, "risk.gamma_risk": 0.65, "risk.eps_risk": 0.1},
    "safe_rl/ObjectExtraction-v0": {**PAPER_EXTRACTION, "risk.gamma_risk": 0.85, "risk.eps_risk": 0.35},
    "safe_rl/ObjectExtractionDynamic-v0": {**PAPER_EXTRACTION, "risk.gamma_risk": 0.85, "risk.eps_risk": 0.25},
}

TUNED_COMMON: Settings = {
    # Task policy: smaller networks and faster targets learn a plane in a fraction of the time.
    "sac.hidden_sizes": (128, 128),
    "sac.learning_rate": 1e-3,
    "sac.entropy": "auto",
    "sac.gamma": 0.97,
    "sac.tau": 0.02,
    # The offline transitions teach the task too, so the first episodes are not wasted; a crash among them must not look
    # like the end of a bad time.
    "demonstrations": True,
    "violation_ends_value": False,
    "task_pretrain_steps": 5_000,
    "start_steps": 0,
    # Risk: targets that move within the pretraining, a loss whose gradient does not vanish, no trust in a fresh policy.
    "risk.hidden_sizes": (128, 128),
    "risk.tau": 0.005,
    "risk.loss": "cross-entropy",
    "risk.pretrain_proposal": "uniform",
    "risk.pretrain_steps": 4_000,
    "risk.positive_fraction": 0.3,
    "risk.num_critics": 4,
    "recovery.hidden_sizes": (128, 128),
}
TUNED_EXTRACTION: Settings = {
    # The rewards are positive, so that a violation may end the value; looking past it, into states that no data shows,
    # the critics diverge.
    "violation_ends_value": True,
    "sac.entropy": "fixed",
    "sac.alpha": 0.05,
    "sac.gamma": 0.95,
    "sac.tau": 0.01,
    "sac.reward_scale": 0.2,
}
TUNED_IMAGES: Settings = {
    # A million images would fill the memory, and the time of a gradient step is the batch's.
    "replay_capacity": 100_000,
    "batch_size": 64,
    "encoder.pretrain_steps": 1_000,
    "risk.learning_rate": 1e-3,
    "recovery.learning_rate": 1e-3,
    "risk.pretrain_steps": 3_000,
    "task_pretrain_steps": 3_000,
}
# From images it is the risk critic that lets violations through: after longer pretraining, on 20,000 transitions, it
# misses fewer. What it misses are rare actions: a task policy that explores less, and pays for risk, takes fewer.
TUNED_IMAGES_SAFER: Settings = {**TUNED_IMAGES, "risk.pretrain_steps": 6_000, "sac.target_entropy": -4.0}
TUNED: dict[str, Settings] = {
    # sac.reward_scale brings the rewards of a step to about 1.
    "safe_rl/Navigation1-v0": {"risk.gamma_risk": 0.8, "risk.eps_risk": 0.3, "sac.reward_scale": 0.05},
    "safe_rl/Navigation2-v0": {
        "risk.gamma_risk": 0.65,
        "risk.eps_risk": 0.1,
        "sac.reward_scale": 0.05,
        "sac.exploration_noise": "pink",
    },
    "safe_rl/DiscreteNavigation2-v0": {"risk.gamma_risk": 0.65, "risk.eps_risk": 0.1, "sac.reward_scale": 0.05},
    "safe_rl/Maze-v0": {"risk.gamma_risk": 0.5, "risk.eps_risk": 0.15, "sac.reward_scale": 10.0},
    "safe_rl/ObjectExtraction-v0": {**TUNED_EXTRACTION, "risk.gamma_risk": 0.7, "risk.eps_risk": 0.15},
    "safe_rl/ObjectExtractionDynamic-v0": {**TUNED_EXTRACTION, "risk.gamma_risk": 0.7, "risk.eps_risk": 0.15},
    "safe_rl/Reach-v0": {"risk.gamma_risk": 0.65, "risk.eps_risk": 0.05, "sac.target_entropy": -4.0},
    "safe_rl/ImageMaze-v0": {
        **TUNED_IMAGES_SAFER,
        "risk.gamma_risk": 0.65,
        "risk.eps_risk": 0.03,
        "sac.reward_scale": 10.0,
        "risk_price": 10.0,
    },
    "safe_rl/ImageNavigation1-v0": {
        **TUNED_IMAGES,
        "risk.gamma_risk": 0.8,
        "risk.eps_risk": 0.3,
        "sac.reward_scale": 0.05,
    },
    "safe_rl/ImageNavigation2-v0": {
        **TUNED_IMAGES,
        "risk.gamma_risk": 0.65,
        "risk.eps_risk": 0.1,
        "sac.reward_scale": 0.05,
    },
    "safe_rl/ImageReach-v0": {
        **TUNED_IMAGES_SAFER,
        "risk.gamma_risk": 0.65,
        "risk.eps_risk": 0.05,
        "risk_price": 10.0,
    },
}


def _prices(*, lagrangian: float, rspo: float, penalty: float, rcpo: float) -> dict[str, Settings]:
    return {
        "lagrangian": {"multiplier.initial": lagrangian},
        "sqrl": {"multiplier.initial": lagrangian},
        "rspo": {"schedule.start": rspo},
        "reward-penalty": {"penalty": penalty},
        "rcpo": {"multiplier.initial": rcpo},
    }


PRICES: dict[str, dict[str, Settings]] = {
    "safe_rl/Navigation1-v0": _prices(lagrangian=5000, rspo=10_000, penalty=1000, rcpo=1000),
    "safe_rl/Navigation2-v0": _prices(lagrangian=1000, rspo=2000, penalty=3000, rcpo=5000),
    "safe_rl/DiscreteNavigation2-v0": _prices(lagrangian=1000, rspo=2000, penalty=3000, rcpo=5000),
    "safe_rl/Maze-v0": _prices(lagrangian=100, rspo=200, penalty=50, rcpo=50),
    "safe_rl/ImageMaze-v0": _prices(lagrangian=10, rspo=20, penalty=20, rcpo=20),
    "safe_rl/ObjectExtraction-v0": _prices(lagrangian=50, rspo=100, penalty=50, rcpo=50),
    "safe_rl/ObjectExtractionDynamic-v0": _prices(lagrangian=20, rspo=40, penalty=25, rcpo=10),
    # Not in the paper: those of the state, and of Image Maze.
    "safe_rl/ImageNavigation1-v0": _prices(lagrangian=5000, rspo=10_000, penalty=1000, rcpo=1000),
    "safe_rl/ImageNavigation2-v0": _prices(lagrangian=1000, rspo=2000, penalty=3000, rcpo=5000),
    "safe_rl/Reach-v0": _prices(lagrangian=10, rspo=20, penalty=20, rcpo=20),
    "safe_rl/ImageReach-v0": _prices(lagrangian=10, rspo=20, penalty=20, rcpo=20),
}
"""What risk or a violation costs in the comparison methods, in units of the environment's reward: the paper's."""
_RISK_OF_PLANNING: Settings = {"risk.gamma_risk": 0.75, "risk.eps_risk": 0.25}
_RISK_BY_DEFAULT: Settings = {"risk.gamma_risk": 0.5, "risk.eps_risk": 0.1}
PAPER_EXCEPTIONS: dict[str, dict[str, Settings]] = {
    # In the authors' scripts these have the settings of model-based recovery, or none and so their code's defaults.
    "safe_rl/ObjectExtraction-v0": {
        "lagrangian": _RISK_OF_PLANNING,
        "sqrl": _RISK_OF_PLANNING,
        "rcpo": _RISK_OF_PLANNING,
        "rspo": _RISK_BY_DEFAULT,
    },
    "safe_rl/ObjectExtractionDynamic-v0": {"rspo": _RISK_BY_DEFAULT},
}
PAPER_PLANNING: dict[str, Settings] = {
    "safe_rl/Maze-v0": {"planner.horizon": 15},
    "safe_rl/ObjectExtraction-v0": {**_RISK_OF_PLANNING, "planner.horizon": 15},
    "safe_rl/ObjectExtractionDynamic-v0": {"risk.gamma_risk": 0.85, "risk.eps_risk": 0.35, "planner.horizon": 15},
}
"""The paper's of Recovery RL with model-based recovery; elsewhere the horizon is 5, and the rest as model-free."""
_FASTER_PRICE: Settings = {"multiplier.learning_rate": 1e-3}
"""At the paper's rate the price hardly moves within some thousand steps."""
TUNED_METHODS: dict[str, Settings] = {
    "lagrangian": _FASTER_PRICE,
    "sqrl": {**_FASTER_PRICE, "sac.exploration_noise": "white"},  # it chooses among independent draws
    "rcpo": _FASTER_PRICE,
}


def preset_config(method: str, env: str, name: str, *, recovery: str | None = None) -> AgentConfig:
    """Returns the method's settings under a preset; those of sections that the method lacks are passed over.

    Args:
        method: Name of the method.
        env: Name of the environment; one without settings of its own gets those of all environments.
        name: Name of the preset.
        recovery: The recovery kind, where it is known; with model-based the paper has settings of its own.

    Raises:
        UserError: The method or the preset is unknown.
    """
    if name not in get_args(PresetName):
        raise UserError(f"--preset is {name}: choose from {', '.join(get_args(PresetName))}")
    settings = {**preset(name, env), **preset_of_method(name, env, method)}
    if name == "paper" and recovery == "model-based" and method == "recovery-rl":
        settings |= PAPER_PLANNING.get(env.partition("?")[0], {})
    config: AgentConfig = settings_of(get_method(method).config, settings)
    return config


def settings_of(config_type: type[Any], settings: Settings) -> Any:
    """Makes a config of its defaults and of settings; those of sections that it lacks are passed over."""
    values = dataclasses.asdict(config_type())
    for dotted, value in settings.items():
        section, _, field = dotted.rpartition(".")
        target = values.get(section) if section else values
        if target is not None:
            target[field] = value
    return config_from_dict(config_type, values)


def preset(name: str, env: str) -> Settings:
    """The settings of a preset for an environment, whatever arguments its name has."""
    env, _, _ = env.partition("?")
    if name == "paper":
        return {**PAPER_COMMON, **PAPER.get(env, {})}
    if name == "tuned":
        return {**TUNED_COMMON, **TUNED.get(env, {})}
    return {}


def preset_of_method(name: str, env: str, method: str) -> Settings:
    """What a preset says of one method beyond what it says of all."""
    env, _, _ = env.partition("?")
    prices = PRICES.get(env, {}).get(method, {})
    if name == "paper":
        return {**prices, **PAPER_EXCEPTIONS.get(env, {}).get(method, {})}
    if name == "tuned":
        return {**prices, **TUNED_METHODS.get(method, {})}
    return {}
