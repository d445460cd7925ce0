"""What the examples share: the whole way by the Python API."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import tyro

from safe_rl.cli.console import progress_bar
from safe_rl.config import RecoveryRLConfig, RunConfig
from safe_rl.data.collect import CollectConfig, collect
from safe_rl.presets import preset_config
from safe_rl.report.report import ReportConfig, write_report
from safe_rl.training import train


@dataclass
class ExampleConfig:
    """Settings of an example."""

    output: Path
    """Folder for dataset, run and report."""
    episodes: int = 300
    """Training episodes."""
    transitions: int | None = None
    """Offline transitions (default: the example's)."""
    pretrain_steps: int | None = None
    """Gradient steps of each pretraining (default: the preset's)."""
    seed: int = 0
    """Seed of everything."""


def run_example(env: str, *, transitions: int, cost_key: str = "cost") -> None:
    """Collects data, pretrains, trains Recovery RL and writes a report."""
    config = tyro.cli(ExampleConfig)
    dataset, run = config.output / "dataset", config.output / "recovery-rl"
    collect(
        CollectConfig(
            env, dataset, config.transitions or transitions, seed=config.seed, cost_key=cost_key, overwrite=True
        )
    )
    agent = cast(RecoveryRLConfig, preset_config("recovery-rl", env, "tuned"))
    if config.pretrain_steps is not None:
        agent.task_pretrain_steps = config.pretrain_steps
        agent.risk = replace(agent.risk, pretrain_steps=config.pretrain_steps)
    settings = RunConfig(
        env, run, seed=config.seed, cost_key=cost_key, dataset=dataset, episodes=config.episodes, overwrite=True
    )
    with progress_bar("pretraining", "steps") as pretraining, progress_bar("training", "episodes") as training:
        train("recovery-rl", settings, agent, progress=training, pretrain_progress=pretraining)
    write_report(ReportConfig((run,), output=config.output / "report.html"))
