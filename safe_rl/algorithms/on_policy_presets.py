"""Settings of the on-policy methods per environment, found by a small random search (docs/methods/impact.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Settings = dict[str, Any]

COMMON: Settings = {
    "learning_rate": 3e-3,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "entropy_coef": 0.01,
    "max_grad_norm": 1.0,
    "reward_scale": 0.05,
}
PENDULUM: Settings = {"learning_rate": 1e-3, "gamma": 0.9, "entropy_coef": 0.0}


@dataclass(frozen=True)
class OnPolicyPreset:
    """How to train one method in one environment."""

    settings: Settings = field(default_factory=dict)
    """Fields of the method's config."""
    num_envs: int = 32
    """Environments of each worker."""
    fragment_length: int = 32
    """Steps of each environment in a fragment."""


_METHOD: dict[str, Settings] = {
    "a2c": {"normalize_advantages": True},
    "ppo": {"num_epochs": 6, "minibatch_size": 512},
    "impala": {"normalize_advantages": True},
    "impact": {"num_slots": 4, "max_uses": 8, "num_minibatches": 2, "target_interval": 16},
}
_WHOLE_BUFFER: Settings = {"num_minibatches": 1, "target_interval": 0}
_METHOD_AND_ENV: dict[tuple[str, str], Settings] = {
    ("ppo", "CartPole-v1"): {"num_epochs": 10, "minibatch_size": 256},
    ("impala", "CartPole-v1"): {"gae_lambda": 1.0, "normalize_advantages": False},
    ("impala", "Acrobot-v1"): {"learning_rate": 1e-2},
    ("ppo", "Pendulum-v1"): {"num_epochs": 10, "minibatch_size": 256},
    ("impact", "CartPole-v1"): _WHOLE_BUFFER,
    ("impact", "safe_rl/Navigation1-v0"): _WHOLE_BUFFER,
    ("impact", "safe_rl/Navigation2-v0"): _WHOLE_BUFFER,
    ("impact", "Pendulum-v1"): {"num_minibatches": 4, "target_interval": 0},
}
_ENV: dict[str, Settings] = {
    "CartPole-v1": {"anneal_steps": 250_000, "anneal_to": 0.05},
    "Pendulum-v1": PENDULUM,
}


def on_policy_preset(method: str, env: str) -> OnPolicyPreset:
    """The settings of a2c, ppo, impala or impact in an environment; general ones where nobody tuned it."""
    return OnPolicyPreset({**COMMON, **_METHOD[method], **_ENV.get(env, {}), **_METHOD_AND_ENV.get((method, env), {})})
