"""Bundles for the robots of the tests, and states of which it is known what they decide."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import toy_bundles

from safe_rl.shield import Mode, Shield
from safe_rl.shield.bundle import PolicyBundle, write_bundle

OBS = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACT = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
EPS_RISK = 0.5


def write(path: Path) -> Path:
    """Writes a bundle with graphs, so that nodes need not import PyTorch."""
    agent = toy_bundles.make_agent(OBS, ACT)
    spec = toy_bundles.make_spec(agent, OBS, ACT)
    spec = dataclasses.replace(spec, switch=dataclasses.replace(spec.switch, eps_risk=EPS_RISK))
    write_bundle(path, spec, toy_bundles.bundle_files(agent, spec, onnx=True))
    return path


def change(bundle: Path, path: Path, **changes: Any) -> Path:
    """A copy whose BundleSpec has other values."""
    spec = dataclasses.replace(PolicyBundle.load(bundle).spec, **changes)
    files = {name: (bundle / name).read_bytes() for name in ("weights.safetensors", "decide.onnx", "filter.onnx")}
    write_bundle(path, spec, files)
    return path


class Known:
    """States and commands of which a bundle, asked in this process, says TASK or RECOVERY with something to spare."""

    def __init__(self, bundle: Path) -> None:
        shield = Shield.load(bundle)
        rng = np.random.default_rng(0)
        states = [(rng.normal(size=3) * 3).astype(np.float32) for _ in range(500)]

        def find(mode: Mode, command: np.ndarray | None) -> tuple[np.ndarray, Any]:
            for obs in states:
                shield.reset()
                decision = shield.decide(obs) if command is None else shield.filter(obs, command)
                clear = abs(decision.risk - EPS_RISK) > 0.1 and decision.risk > 0.1
                if decision.mode is mode and clear and np.abs(decision.action).min() > 0.05:
                    return obs, decision
            raise AssertionError(f"no state is {mode}")

        self.command = np.float32([0.25, -0.5])
        self.task_obs, self.task = find(Mode.TASK, None)
        self.recovery_obs, self.recovery = find(Mode.RECOVERY, None)
        self.passed_obs, _ = find(Mode.TASK, self.command)
        self.replaced_obs, self.replaced = find(Mode.RECOVERY, self.command)
        self.clipped_obs, _ = find(Mode.TASK, np.float32([1.0, -1.0]))
