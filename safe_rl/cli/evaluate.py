"""`safe-rl evaluate RUN` and `safe-rl evaluate BUNDLE`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.table import Table

from safe_rl.cli.console import progress_bar, show
from safe_rl.errors import UserError
from safe_rl.evaluation import Evaluation, evaluate
from safe_rl.rollout import EpisodeRecord
from safe_rl.shield.agent import ShieldAgent
from safe_rl.subjects import is_bundle, open_subject


@dataclass
class EvaluateConfig:
    """Run a trained policy without exploration or learning, and count successes and violations."""

    run: tyro.conf.Positional[Path]
    """Run folder, or a policy bundle."""
    env: str | None = None
    """Environment to evaluate in (default: the one it was trained in)."""
    cost_key: str | None = None
    """Entry of info that is the constraint (default: the training's)."""
    episodes: int = 50
    """Episodes to run; their starts are none of the training's."""
    seed: int = 0
    """Seed of the episodes."""
    output: Path | None = None
    """JSON file to write (default: evaluation.json in the run folder; none for a bundle)."""
    device: str = "cpu"
    """cpu, cuda or auto; a bundle decides on the CPU."""
    engine: Literal["auto", "onnx", "torch"] = "auto"
    """What evaluates a bundle: ONNX Runtime or PyTorch."""

    def __post_init__(self) -> None:
        """Validates the values."""
        if self.episodes < 1:
            raise UserError(f"--episodes is {self.episodes}: it must be at least 1")
        if self.seed < 0:
            raise UserError(f"--seed is {self.seed}: it must be at least 0")


def run_evaluate(config: EvaluateConfig) -> None:
    """Evaluates a run or a bundle, prints a table and writes the episodes as JSON."""
    subject = open_subject(
        config.run, env=config.env, cost_key=config.cost_key, device=config.device, engine=config.engine
    )
    # A bundle may lie where nothing can be written.
    output = config.output if config.output is not None or is_bundle(config.run) else config.run / "evaluation.json"
    finished: list[EpisodeRecord] = []
    with progress_bar("evaluating", "episodes") as progress:

        def on_episode(record: EpisodeRecord) -> None:
            subject.between_episodes()
            finished.append(record)
            progress(len(finished), config.episodes, "")

        try:
            result = evaluate(subject.actor, subject.env, config.episodes, seed=config.seed, on_episode=on_episode)
        finally:
            subject.env.close()
    show(_table(result))
    if isinstance(subject.actor, ShieldAgent):
        show(_reasons(subject.actor))
    if output is not None:
        _write(output, config.seed, result)
        show(f"episodes in {output}")


def _table(result: Evaluation) -> Table:
    summary = result.summary()
    table = Table("episodes", "successes", "violations", "return", "length", "recovery steps")
    table.add_row(
        str(len(result.episodes)),
        f"{sum(record.success for record in result.episodes)} ({summary['success_rate']:.0%})",
        f"{sum(record.violation for record in result.episodes)} ({summary['violation_rate']:.0%})",
        f"{summary['return_mean']:.4g}",
        f"{summary['length_mean']:.1f}",
        f"{summary['recovery_share']:.1%}",
    )
    return table


def _reasons(agent: ShieldAgent) -> Table:
    """How often the shield decided for which reason."""
    table = Table("decisions", "share", "reason")
    for reason, count in agent.reasons.most_common():
        table.add_row(f"{count:,}", f"{count / agent.reasons.total():.1%}", reason.value or "task: nothing against it")
    return table


def _write(path: Path, seed: int, result: Evaluation) -> None:
    episodes = [dataclasses.asdict(record) for record in result.episodes]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"seed": seed, "summary": result.summary(), "episodes": episodes}, indent=1))
