"""The toy corridor is learned from its images, with a shield that was pretrained on images."""

from __future__ import annotations

import csv

from toy_images import image_config

from safe_rl.config import RunConfig
from safe_rl.data.collect import CollectConfig, collect
from safe_rl.training import train

SETTINGS = {
    "batch_size": 32,
    "start_steps": 0,
    "demonstrations": True,
    "task_pretrain_steps": 300,
    "violation_ends_value": False,
    "encoder__channels": (8, 16),
    "encoder__pretrain_steps": 200,
    "sac__entropy": "auto",
    "sac__learning_rate": 1e-3,
    "sac__gamma": 0.97,
    "sac__tau": 0.02,
    "sac__reward_scale": 10.0,
    "sac__hidden_sizes": (32, 32),
    "risk__hidden_sizes": (32, 32),
    "risk__pretrain_steps": 400,
    "risk__loss": "cross-entropy",
    "risk__positive_fraction": 0.3,
    "risk__pretrain_proposal": "uniform",
    "risk__eps_risk": 0.2,
    "recovery__hidden_sizes": (32, 32),
}


def test_recovery_rl_learns_the_corridor_from_pixels(tmp_path):
    collect(CollectConfig("toy_images:Seen", tmp_path / "data", transitions=1500, policy="random"))
    run = RunConfig("toy_images:Seen", tmp_path / "run", dataset=tmp_path / "data", episodes=30, device="cpu")
    train("recovery-rl", run, image_config(**SETTINGS))
    with (tmp_path / "run" / "episodes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["success"]) for row in rows[-12:]) >= 8  # none of 100 random episodes succeeds
    assert sum(int(row["violation"]) for row in rows) <= 10  # nearly nine of ten random ones end by one
