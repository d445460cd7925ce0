"""A small environment with a plane, and run folders of it with real, briefly trained agents."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from safe_rl.algorithms.risk_aware import RiskAwareAgent
from safe_rl.checkpoint import save_checkpoint
from safe_rl.config import AgentConfig, RecoveryConfig, RecoveryRLConfig, RiskConfig, SACConfig, UnconstrainedConfig
from safe_rl.envs.factory import make_env
from safe_rl.envs.protocols import Box2D, PlaneMap
from safe_rl.methods import make_agent
from safe_rl.report.curves import COLUMNS
from safe_rl.transitions import Transitions

sys.path.insert(0, str(Path(__file__).parent))

from headless_chromium import browser  # noqa: F401 (a fixture)

CORRIDOR = "report_tests/Corridor-v0"
BLIND = "report_tests/Blind-v0"
NUM_STEPS = 20


class Corridor(gym.Env):
    """A point at (-4, 0) that is to reach the origin; walls at |y| >= 2. Every step draws a 64 x 96 picture."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    plane_map = PlaneMap(
        bounds=Box2D(-6.0, 2.0, -3.0, 3.0),
        obstacles=(Box2D(-6.0, 2.0, 2.0, 3.0), Box2D(-6.0, 2.0, -3.0, -2.0)),
        goal=(0.0, 0.0),
        goal_radius=0.5,
        unit="m",
    )

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(-10.0, 10.0, (2,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.point = np.array([-4.0, 0.0]) + self.np_random.normal(0.0, 0.1, 2)
        self.num_steps = 0
        return self.point.astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.point = np.clip(self.point + 0.5 * np.asarray(action, dtype=np.float64), -9.0, 9.0)
        self.num_steps += 1
        cost = float(abs(self.point[1]) >= 2.0)
        distance = float(np.linalg.norm(self.point))
        ended = cost > 0.0 or distance < 0.5
        info = {"cost": cost, "success": distance < 0.5}
        return self.point.astype(np.float32), -distance - 0.1, ended, self.num_steps >= NUM_STEPS, info

    def plane_observation(self, points: np.ndarray) -> np.ndarray:
        return points.astype(np.float32)

    def plane_position(self, obs: np.ndarray) -> tuple[float, float]:
        return float(obs[0]), float(obs[1])

    def render(self) -> np.ndarray:
        picture = np.full((64, 96, 3), 235, dtype=np.uint8)
        picture[:10] = picture[-10:] = 90
        column, row = int((self.point[0] + 6.0) * 12) % 96, int((self.point[1] + 3.0) * 10.6) % 64
        picture[max(row - 3, 0) : row + 3, max(column - 3, 0) : column + 3] = (200, 30, 30)
        return picture


class Blind(gym.Env):
    """The corridor without a map and without pictures."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.corridor = Corridor()
        self.observation_space, self.action_space = self.corridor.observation_space, self.corridor.action_space
        self.reset, self.step = self.corridor.reset, self.corridor.step

    def render(self) -> np.ndarray:
        raise RuntimeError("no camera")


@pytest.fixture(scope="session", autouse=True)
def registered_environments() -> None:
    gym.register(CORRIDOR, entry_point=Corridor, order_enforce=False)
    gym.register(BLIND, entry_point=Blind, order_enforce=False)


def agent_config(method: str) -> AgentConfig:
    common: dict[str, Any] = {"batch_size": 64, "replay_capacity": 2000, "sac": SACConfig(hidden_sizes=(32, 32))}
    if method == "unconstrained":
        return UnconstrainedConfig(**common)
    risk = RiskConfig(gamma_risk=0.7, eps_risk=0.3, tau=0.02, learning_rate=3e-3, hidden_sizes=(32, 32))
    return RecoveryRLConfig(**common, risk=risk, recovery=RecoveryConfig(hidden_sizes=(32, 32)))


def random_transitions(count: int, seed: int) -> Transitions:
    """Single random steps from random points of the corridor."""
    rng = np.random.default_rng(seed)
    obs = rng.uniform([-6.0, -1.99], [2.0, 1.99], (count, 2)).astype(np.float32)
    action = rng.uniform(-1.0, 1.0, (count, 2)).astype(np.float32)
    next_obs = obs + 0.5 * action
    cost = (np.abs(next_obs[:, 1]) >= 2.0).astype(np.float32)
    reward = -np.linalg.norm(next_obs, axis=1).astype(np.float32)
    return Transitions(obs, action, action, reward, cost, next_obs, cost > 0, np.zeros(count, dtype=bool))


@pytest.fixture(scope="session")
def policies() -> dict[str, dict[str, Any]]:
    """Method -> state of an agent; the one of Recovery RL knows the walls."""
    env = make_env(CORRIDOR)
    states = {}
    for method in ("recovery-rl", "unconstrained"):
        agent = make_agent(method, agent_config(method), env.observation_space, env.action_space, seed=0)
        if isinstance(agent, RiskAwareAgent):
            agent.add_offline(random_transitions(2000, seed=1))
            for _ in agent.pretrain(400):
                pass
        states[method] = agent.state_dict()
    return states


MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(policies: dict[str, dict[str, Any]]) -> MakeRun:
    """Writes a run folder as `safe-rl train` does.

    ``outcomes`` has a letter an episode: s(uccess), v(iolation), t(ime-out).
    """

    def make(
        folder: Path,
        method: str = "recovery-rl",
        seed: int = 0,
        outcomes: str = "stvs",
        *,
        env: str = CORRIDOR,
        planned: int | None = None,
        checkpoint: bool = True,
        **settings: Any,
    ) -> Path:
        folder.mkdir(parents=True)
        own = json.loads(json.dumps(dataclasses.asdict(agent_config(method))))
        for name, value in settings.items():
            section, _, key = name.rpartition("__")
            (own[section] if section else own)[key] = value
        planned = planned or len(outcomes)
        head = {
            "method": method,
            "env": env,
            "cost_key": "cost",
            "seed": seed,
            "episodes": planned,
            "output": str(folder),
        }
        (folder / "config.json").write_text(json.dumps({**head, **own}))
        command = f"safe-rl train {method} --env {env} --seed {seed} --output {folder.name}"
        versions = {"command": command, "python": "3.11.9", "libraries": {"torch": "2.13.0"}, "git_revision": "abc123"}
        (folder / "versions.json").write_text(json.dumps(versions))
        steps = {"s": 10, "v": 5, "t": 20}
        with (folder / "episodes.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(COLUMNS)
            for number, kind in enumerate(outcomes):
                recovery_steps = 2 if method == "recovery-rl" else 0
                rows.writerow(
                    [number, steps[kind], -3.0 * steps[kind], int(kind == "v"), int(kind == "s"), int(kind == "v"),
                     recovery_steps, 1.5 * (number + 1)]
                )  # fmt: skip
        with (folder / "metrics.jsonl").open("w") as file:
            for step in (10, 20, 30):
                row = {"step": step, "episode": 1, "sac/critic_loss": 1.0 / step, "rollout/return_mean": None}
                file.write(json.dumps(row) + "\n")
        if checkpoint:
            save_checkpoint(folder / "checkpoints", 30, {"agent": policies[method], "runner": {"num_steps": 30}})
        return folder

    return make
