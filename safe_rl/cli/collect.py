"""`safe-rl collect`."""

from __future__ import annotations

import sys

from safe_rl.cli.console import progress_bar, show
from safe_rl.data.collect import CollectConfig, collect

__all__ = ["CollectConfig", "run_collect"]


def run_collect(config: CollectConfig) -> int:
    """Collects a dataset and says what it holds.

    Returns:
        0, or 130 after Ctrl-C.
    """
    num_collected = 0
    try:
        with progress_bar("collecting", "transitions") as bar:

            def progress(done: int, total: int, status: str) -> None:
                nonlocal num_collected
                num_collected = done
                bar(done, total, status)

            dataset = collect(config, progress)
    except KeyboardInterrupt:
        how = "with --resume in place of --overwrite" if config.overwrite else "with --resume"
        print(
            f"safe-rl: interrupted: {num_collected:,} of {config.transitions:,} transitions are kept; "
            f"repeat the command {how} to go on",
            file=sys.stderr,
        )
        return 130
    share = dataset.num_violations / dataset.num_transitions
    show(
        f"{dataset.path}: {dataset.num_transitions:,} transitions in {dataset.num_episodes:,} episodes, "
        f"{share:.1%} violate the constraint\nlook at them with: safe-rl inspect {dataset.path}"
    )
    return 0
