"""`safe-rl evaluate RUN`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.table import Table

from safe_rl.cli.console import progress_bar, show
from safe_rl.errors import UserError
from safe_rl.evaluation import evaluate
from safe_rl.rollout import EpisodeRecord
from safe_rl.runs import load_run


@dataclass
class EvaluateConfig:
    """Run a trained policy without exploration or learning, and count successes and violations."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    episodes: int = 50
    """Episodes to run; their starts are none of the training's."""
    seed: int = 0
    """Seed of the episodes."""
    output: Path | None = None
    """JSON file to write (default: evaluation.json in the run folder)."""
    device: str = "cpu"
    """cpu, cuda or auto."""

    def __post_init__(self) -> None:
        """Validates the values."""
        if self.episodes < 1:
            raise UserError(f"--episodes is {self.episodes}: it must be at least 1")
        if self.seed < 0:
            raise UserError(f"--seed is {self.seed}: it must be at least 0")


def run_evaluate(config: EvaluateConfig) -> None:
    """Evaluates a run, prints a table and writes the episodes as JSON."""
    run = load_run(config.run)
    agent = run.make_agent(config.device)
    env = run.make_env()
    finished: list[EpisodeRecord] = []
    with progress_bar("evaluating", "episodes") as progress:

        def on_episode(record: EpisodeRecord) -> None:
            finished.append(record)
            progress(len(finished), config.episodes, "")

        try:
            result = evaluate(agent, env, config.episodes, seed=config.seed, on_episode=on_episode)
        finally:
            env.close()
    summary = result.summary()
    path = config.output or config.run / "evaluation.json"
    episodes = [dataclasses.asdict(record) for record in result.episodes]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"seed": config.seed, "summary": summary, "episodes": episodes}, indent=1))
    table = Table("episodes", "successes", "violations", "return", "length", "recovery steps")
    table.add_row(
        str(config.episodes),
        f"{sum(record.success for record in result.episodes)} ({summary['success_rate']:.0%})",
        f"{sum(record.violation for record in result.episodes)} ({summary['violation_rate']:.0%})",
        f"{summary['return_mean']:.4g}",
        f"{summary['length_mean']:.1f}",
        f"{summary['recovery_share']:.1%}",
    )
    show(table, f"episodes in {path}")
