"""Agents with tiny random networks, and bundles of them; nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from toys import recovery_config

from safe_rl.algorithms.recovery_rl import RecoveryRLAgent
from safe_rl.envs.spaces import space_to_json
from safe_rl.shield.bundle import WEIGHTS, PolicyBundle, arrays_to_bytes, write_bundle
from safe_rl.shield.graph import DecisionGraph
from safe_rl.shield.spec import BundleSpec, LimitSpec, SwitchSpec
from safe_rl.shield.weights import agent_arrays

OBS = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACT = gym.spaces.Box(np.float32([-1.0, 0.25]), np.float32([0.5, 4.0]))
"""Limits that are not symmetric."""


def make_agent(obs_space: gym.Space = OBS, act_space: gym.Space = ACT, *, seed: int = 0, **changes: Any):
    """An agent whose ``Q_risk`` takes values all over [0, 1]; for ``changes`` see ``toys.recovery_config``."""
    agent = RecoveryRLAgent(obs_space, act_space, recovery_config(**changes), seed=seed)
    with torch.no_grad():
        for net in (agent.actor.net, agent.risk_critic.critics):
            net.flat.mul_(2.5)
    return agent


def random_obs(agent: RecoveryRLAgent, rows: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, agent.obs_dim)) * 3 + 1).astype(np.float32)


def random_actions(agent: RecoveryRLAgent, rows: int, seed: int = 2) -> np.ndarray:
    """Some of them beyond the limits."""
    low, high = agent.scaler.low, agent.scaler.high
    unit = np.random.default_rng(seed).uniform(-0.3, 1.3, size=(rows, agent.act_dim))
    return (low + (high - low) * unit).astype(np.float32)


def make_spec(agent: RecoveryRLAgent, obs_space: gym.Space = OBS, act_space: gym.Space = ACT) -> BundleSpec:
    risk = agent.config.risk
    return BundleSpec(
        method="recovery-rl",
        env="test/Env-v0",
        observation_space=space_to_json(obs_space),
        action_space=space_to_json(act_space),
        recovery=agent.config.recovery.kind,
        gamma_risk=risk.gamma_risk,
        switch=SwitchSpec(risk.eps_risk, risk.recovery_must_help),
        limits=LimitSpec(tuple(agent.scaler.low.tolist()), tuple(agent.scaler.high.tolist())),
    )


def bundle_files(agent: RecoveryRLAgent, spec: BundleSpec, *, onnx: bool) -> dict[str, bytes]:
    arrays = agent_arrays(agent)
    weights = arrays_to_bytes(arrays)
    files = {WEIGHTS: weights}
    if onnx:
        from safe_rl.shield.onnx_graphs import make_graphs

        files |= make_graphs(DecisionGraph(spec, arrays, "the test"), spec, weights)
    return files


def make_bundle(path: Path, agent: RecoveryRLAgent, *, onnx: bool = False) -> PolicyBundle:
    spec = make_spec(agent)
    return write_bundle(path, spec, bundle_files(agent, spec, onnx=onnx))
