"""A tiny constrained environment is learned: most episodes reach the goal, fewer fall off than without a shield."""

from __future__ import annotations

import csv
from pathlib import Path

import toys

from safe_rl.config import RecoveryConfig, RecoveryRLConfig, RiskConfig, RunConfig, SACConfig, UnconstrainedConfig
from safe_rl.envs.factory import make_env
from safe_rl.evaluation import evaluate
from safe_rl.training import train

EPISODES = 60


def learn(method: str, output: Path, dataset: Path, seed: int):
    sac = SACConfig(hidden_sizes=(32, 32), learning_rate=2e-3, alpha=0.02, tau=0.02, gamma=0.95)
    shared = {"batch_size": 64, "replay_capacity": 5000, "sac": sac, "start_steps": 60, "update_after": 60}
    if method == "recovery-rl":
        config = RecoveryRLConfig(
            **shared,
            risk=RiskConfig(
                hidden_sizes=(32, 32), learning_rate=3e-3, tau=0.02, gamma_risk=0.6, eps_risk=0.25, pretrain_steps=1200
            ),
            recovery=RecoveryConfig(hidden_sizes=(32, 32), learning_rate=3e-3),
        )
    else:
        config = UnconstrainedConfig(**shared)
    run = RunConfig(env="toys:Corridor", output=output, dataset=dataset, episodes=EPISODES, seed=seed, device="cpu")
    agent = train(method, run, config)
    with (output / "episodes.csv").open(newline="") as file:
        return agent, list(csv.DictReader(file))


def test_recovery_rl_learns_the_corridor_more_safely_than_without_a_shield(tmp_path):
    dataset = toys.collect_corridor(tmp_path / "data", transitions=3000)
    agent, shielded = learn("recovery-rl", tmp_path / "rrl", dataset, seed=1)
    _, bare = learn("unconstrained", tmp_path / "sac", dataset, seed=1)
    violations = {name: sum(int(row["violation"]) for row in rows) for name, rows in (("rrl", shielded), ("sac", bare))}
    assert violations["rrl"] <= 5
    assert violations["sac"] >= max(8, 2 * violations["rrl"])
    assert sum(int(row["success"]) for row in shielded[-20:]) >= 16
    summary = evaluate(agent, make_env("toys:Corridor"), 20, seed=1).summary()
    assert summary["success_rate"] >= 0.9
    assert summary["violation_rate"] <= 0.05
