"""Settings of Recovery IMPACT per environment."""

from __future__ import annotations

from typing import Any, get_args

from safe_rl.algorithms.on_policy_presets import OnPolicyPreset, on_policy_preset
from safe_rl.errors import UserError
from safe_rl.presets import PresetName, preset

Settings = dict[str, Any]

COMMON: Settings = {
    "violation_ends_value": False,
    "impact.hidden_sizes": (64, 64),
}
NAVIGATION: Settings = {"impact.reward_scale": 0.01}
_ENV: dict[str, Settings] = {
    "safe_rl/Navigation1-v0": NAVIGATION,
    "safe_rl/Navigation2-v0": NAVIGATION,
}


def recovery_impact_preset(env: str, name: str) -> OnPolicyPreset:
    """IMPACT's settings for the task, Recovery RL's for risk and recovery.

    Args:
        env: Name of the environment; one without settings of its own gets general ones.
        name: Name of the preset; ``paper`` is the paper's for risk and recovery.

    Raises:
        UserError: The preset is unknown.
    """
    if name not in get_args(PresetName):
        raise UserError(f"--preset is {name}: choose from {', '.join(get_args(PresetName))}")
    if name == "none":
        return OnPolicyPreset()
    sections = ("risk", "recovery")
    risk = {key: value for key, value in preset(name, env).items() if key.split(".")[0] in sections}
    task = on_policy_preset("impact", env)
    impact = {f"impact.{key}": value for key, value in task.settings.items()}
    settings = {**impact, **COMMON, **_ENV.get(env, {}), **risk}
    return OnPolicyPreset(settings, num_envs=16, fragment_length=32)
