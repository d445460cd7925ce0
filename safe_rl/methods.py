"""The methods that `safe-rl train` knows."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from safe_rl.algorithms.lagrangian import LagrangianAgent, LagrangianConfig
from safe_rl.algorithms.rcpo import RCPOAgent, RCPOConfig
from safe_rl.algorithms.recovery_rl import RecoveryRLAgent
from safe_rl.algorithms.reward_penalty import RewardPenaltyAgent, RewardPenaltyConfig
from safe_rl.algorithms.rspo import RSPOAgent, RSPOConfig
from safe_rl.algorithms.sac import SACAgent
from safe_rl.algorithms.sqrl import SQRLAgent, SQRLConfig
from safe_rl.config import AgentConfig, RecoveryRLConfig, UnconstrainedConfig
from safe_rl.errors import UserError
from safe_rl.user_code import import_attribute


@dataclass(frozen=True)
class Method:
    """An agent and the settings it takes."""

    agent: type[SACAgent]
    config: type[AgentConfig]
    help: str


METHODS: dict[str, Method] = {
    "recovery-rl": Method(
        RecoveryRLAgent, RecoveryRLConfig, "task policy with a recovery policy and a switch on learned risk"
    ),
    "lagrangian": Method(LagrangianAgent, LagrangianConfig, "LR: the actor pays for risk, at a price that is learned"),
    "rspo": Method(RSPOAgent, RSPOConfig, "RSPO: the actor pays for risk, at a price that falls on a schedule"),
    "sqrl": Method(SQRLAgent, SQRLConfig, "SQRL: LR that also rejects risky ones among its sampled actions"),
    "rcpo": Method(RCPOAgent, RCPOConfig, "RCPO: risk is taken off the reward, at a price that is learned"),
    "reward-penalty": Method(RewardPenaltyAgent, RewardPenaltyConfig, "RP: a violation is taken off the reward"),
    "unconstrained": Method(SACAgent, UnconstrainedConfig, "soft actor-critic on the reward alone"),
}


def get_method(name: str) -> Method:
    """Looks a method up: one of ``METHODS``, or a ``Method`` of the user's own, named ``package.module:method``.

    Raises:
        UserError: There is none of that name.
    """
    if ":" not in name:
        require_known(name, METHODS)
        return METHODS[name]
    method = import_attribute(name, "method", "method")
    if not isinstance(method, Method):
        raise UserError(f"{name} is of type {type(method).__name__}: it must be a safe_rl.methods.Method")
    return method


def require_known(name: str, methods: Collection[str]) -> None:
    """Raises ``UserError`` where ``name`` is none of the methods, with the nearest of them."""
    if name not in methods:
        near = difflib.get_close_matches(name, methods, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(methods)}"
        raise UserError(f"no method {name!r}: {hint}")


def make_agent(
    name: str,
    config: AgentConfig,
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    *,
    seed: int,
    device: str = "cpu",
) -> SACAgent:
    """Builds the agent of a method.

    Raises:
        UserError: The method is unknown, cannot serve these spaces, or the device is missing.
    """
    return get_method(name).agent(observation_space, action_space, config, seed=seed, device=resolve_device(device))


def resolve_device(device: str) -> str:
    """Turns ``auto`` into a device that is there.

    Raises:
        UserError: The device does not exist here.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"--device is {device}: choose cpu, cuda or auto") from error
    if wanted.type not in ("cpu", "cuda"):
        raise UserError(f"--device is {device}: choose cpu, cuda or auto")
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"--device is {device}, but PyTorch sees no GPU: choose cpu, or install a CUDA build of torch and a driver"
        )
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device is {device}, but the GPUs are numbered from 0 to {torch.cuda.device_count() - 1}")
    return device


def config_from_dict(config_type: type[Any], values: dict[str, Any]) -> Any:
    """Builds a config from the JSON of a run, nested sections included; keys of other configs are passed over."""
    types = typing.get_type_hints(config_type)
    arguments = {}
    for field in dataclasses.fields(config_type):
        if field.name not in values:
            continue
        value = values[field.name]
        if dataclasses.is_dataclass(types[field.name]):
            value = config_from_dict(typing.cast(type, types[field.name]), value)
        elif isinstance(value, list):
            value = tuple(value)
        elif isinstance(value, str) and types[field.name] in (Path, Path | None):
            value = Path(value)
        arguments[field.name] = value
    return config_type(**arguments)
