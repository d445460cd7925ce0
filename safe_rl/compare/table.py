"""The table that a comparison ends with, as Markdown for a page of results."""

from __future__ import annotations

from collections.abc import Sequence

from safe_rl.report.groups import Group, Quantity, Summary, summarize_episodes

HEADINGS = ("method", "seeds", "successes", "violations", "ratio", "recovery %", "minutes")


def cells(group: Group, summary: Summary, planned_seeds: int) -> tuple[str, ...]:
    """Words under ``HEADINGS``."""
    runs = len(group.runs)
    quantities = (summary.successes, summary.violations, summary.ratio, summary.recovery_percent)
    seeds = f"{runs}" if runs == planned_seeds else f"{runs} of {planned_seeds}"
    return (group.label, seeds, *map(with_error, quantities), f"{summary.wall_time_sec.mean / 60:.2f}")


def with_error(quantity: Quantity) -> str:
    """Mean and standard error; one seed says nothing about the error."""
    if quantity.error != quantity.error:
        return f"{quantity.mean:.1f}"
    return f"{quantity.mean:.1f} ± {quantity.error:.1f}"


def markdown(groups: Sequence[tuple[Group, Summary]], planned_seeds: int) -> str:
    """The table of means, and that of successes and violations of every seed."""
    seeds = sorted({run.run.seed for group, _ in groups for run in group.runs})
    lines = [*_head(HEADINGS), *(_line(cells(group, summary, planned_seeds)) for group, summary in groups)]
    lines += ["", "Mean ± standard error over seeds; successes, violations of each seed:", ""]
    lines += _head(["method", *(f"seed {seed}" for seed in seeds)])
    for group, _ in groups:
        numbers = {run.run.seed: summarize_episodes(run.episodes) for run in group.runs}
        counts = [
            f"{numbers[seed]['successes']:.0f}, {numbers[seed]['violations']:.0f}" if seed in numbers else ""
            for seed in seeds
        ]
        lines.append(_line([group.label, *counts]))
    return "\n".join(lines) + "\n"


def _head(words: Sequence[str]) -> list[str]:
    return [_line(words), "|---" * len(words) + "|"]


def _line(words: Sequence[str]) -> str:
    cells_of_line = (word.replace("|", "\\|") for word in words)  # a label may have one
    return f"| {' | '.join(cells_of_line)} |"
