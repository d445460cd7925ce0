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

PAPER: dict[str, Settings] = {
    "safe_rl/Navigation1-v0": {"risk.gamma_risk": 0.8, "risk.eps_risk": 0.3},
    "safe_rl/Navigation2-v0": {"risk.gamma_risk": 0.65, "risk.eps_risk": 0.2},
    "safe_rl/Maze-v0": {"risk.gamma_risk": 0.5, "risk.eps_risk": 0.15, "risk.positive_fraction": 0.3},
}
PAPER_COMMON: Settings = {"normalize_obs": "none"}
TUNED: dict[str, Settings] = {}
TUNED_COMMON: Settings = {}


def preset_config(method: str, env: str, name: str) -> AgentConfig:
    """Returns the method's settings under a preset; those of sections that the method lacks are passed over.

    Args:
        method: Name of the method.
        env: Name of the environment; one without settings of its own gets those of all environments.
        name: Name of the preset.

    Raises:
        UserError: The method or the preset is unknown.
    """
    if name not in get_args(PresetName):
        raise UserError(f"--preset is {name}: choose from {', '.join(get_args(PresetName))}")
    config_type = get_method(method).config
    values = dataclasses.asdict(config_type())
    for dotted, value in preset(name, env).items():
        section, _, field = dotted.rpartition(".")
        target = values.get(section) if section else values
        if target is not None:
            target[field] = value
    config: AgentConfig = config_from_dict(config_type, values)
    return config


def preset(name: str, env: str) -> Settings:
    """The settings of a preset for an environment."""
    if name == "paper":
        return {**PAPER_COMMON, **PAPER.get(env, {})}
    if name == "tuned":
        return {**TUNED_COMMON, **TUNED.get(env, {})}
    return {}
