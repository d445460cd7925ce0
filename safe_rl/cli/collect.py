"""`safe-rl collect`."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from typing import Any

from safe_rl.cli.console import progress_bar, show
from safe_rl.cli.parsing import parse
from safe_rl.data.collect import CollectConfig, collect
from safe_rl.data.dataset import OfflineDataset
from safe_rl.errors import UserError

_PROG = "safe-rl collect"
_COLLECTORS = "safe_rl.collectors"
"""Entry points to modules with ``Config`` and ``collect(config, progress) -> (dataset, lines to print)``. The core does
not import them: what they need is no part of it."""


def main(argv: list[str]) -> int:
    """Parses the arguments and collects: in an environment, or by ``--from-bag`` from recordings."""
    if any(word.partition("=")[0].replace("_", "-") == "--from-bag" for word in argv):
        # --from-bag --help has no recording yet
        return run_conversion(argv if argv[-1] not in ("-h", "--help") else ["--help"])
    return run_collect(parse(CollectConfig, argv, prog=_PROG))


def run_conversion(argv: list[str]) -> int:
    """Makes a dataset of recordings and says what was dropped.

    Raises:
        UserError: What reads recordings is not installed, or the conversion failed.
    """
    collector: Any = next((point.load() for point in entry_points(group=_COLLECTORS, name="from-bag")), None)
    if collector is None:
        raise UserError("this installation cannot read recordings: install it again, with pip install 'safe_rl[bags]'")
    config = parse(collector.Config, argv, prog=f"{_PROG} --from-bag")
    with progress_bar("reading", "recordings") as bar:
        dataset, lines = collector.collect(config, bar)
    show("\n".join([*lines, _summary(dataset)]))
    return 0


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
    show(_summary(dataset))
    return 0


def _summary(dataset: OfflineDataset) -> str:
    share = dataset.num_violations / dataset.num_transitions
    return (
        f"{dataset.path}: {dataset.num_transitions:,} transitions in {dataset.num_episodes:,} episodes, "
        f"{share:.1%} violate the constraint\nlook at them with: safe-rl inspect {dataset.path}"
    )
