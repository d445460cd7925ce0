"""Runs that differ in their seed alone belong together; everything else is a method of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from safe_rl.report.curves import Episodes, RunRecord, mean_and_standard_error
from safe_rl.runs import flat_settings

NOT_A_DIFFERENCE = frozenset(
    {
        "seed",
        "output",
        "resume",
        "overwrite",
        "episodes",
        "dataset",
        "pretrained",
        "device",
        "threads",
        "checkpoint_every",
        "log_every",
    }
)
"""Last parts of configuration keys that do not make two runs different methods."""

METHOD_TITLES = {
    "recovery-rl": "Recovery RL",
    "unconstrained": "Unconstrained",
    "lagrangian": "Lagrangian relaxation",
    "lr": "Lagrangian relaxation",
    "sqrl": "SQRL",
    "rspo": "RSPO",
    "rp": "Reward penalty",
    "reward-penalty": "Reward penalty",
    "rcpo": "RCPO",
}


@dataclass(frozen=True)
class Group:
    """The runs of one method with one configuration, one a seed."""

    label: str
    method: str
    runs: list[RunRecord]

    @property
    def num_episodes(self) -> int:
        """Episodes that every seed has."""
        return min(len(run.episodes) for run in self.runs)

    def common(self) -> list[Episodes]:
        """Each seed's first ``num_episodes`` episodes."""
        return [run.episodes.first(self.num_episodes) for run in self.runs]


@dataclass(frozen=True)
class Quantity:
    """A mean over seeds with its standard error (NaN for one seed)."""

    mean: float
    error: float


@dataclass(frozen=True)
class Summary:
    """The headline of a group: means over seeds, counted over the episodes that every seed has."""

    successes: Quantity
    violations: Quantity
    timeouts: Quantity
    """Episodes with neither success nor violation."""
    ratio: Quantity
    recovery_percent: Quantity
    """Share of the environment steps in which the recovery policy acted, in percent."""
    wall_time_sec: Quantity


def summarize_episodes(episodes: Episodes) -> dict[str, float]:
    """The headline numbers of one seed, by the names of ``Summary``'s fields."""
    successes, violations = float(episodes.success.sum()), float(episodes.violation.sum())
    return {
        "successes": successes,
        "violations": violations,
        "timeouts": float(((episodes.success == 0) & (episodes.violation == 0)).sum()),
        "ratio": (successes + 1.0) / (violations + 1.0),
        "recovery_percent": 100.0 * float(episodes.recovery_steps.sum()) / max(float(episodes.steps.sum()), 1.0),
        "wall_time_sec": float(episodes.wall_time_sec.max(initial=0.0)),
    }


def summarize(group: Group) -> Summary:
    """Computes the headline of ``group``."""
    seeds = [summarize_episodes(episodes) for episodes in group.common()]
    quantities = {}
    for name in seeds[0]:
        mean, error = mean_and_standard_error([seed[name] for seed in seeds])
        quantities[name] = Quantity(float(mean), float(error))
    return Summary(**quantities)


def group_runs(runs: list[RunRecord]) -> list[Group]:
    """Groups the runs of one environment by method and configuration, in the order in which they were given.

    Runs of a comparison are grouped and labelled as there. Others of one method are labelled by what sets them apart
    (``Recovery RL, risk.eps_risk 0.1``).
    """
    named: dict[tuple[Path, str], list[RunRecord]] = {}
    for run in runs:
        if run.label is not None:
            named.setdefault((run.run.path.parent, run.label), []).append(run)
    by_config: dict[str, list[RunRecord]] = {}
    for run in (run for run in runs if run.label is None):
        by_config.setdefault(_key(run, NOT_A_DIFFERENCE), []).append(run)
    members: list[list[RunRecord]] = []
    for same in by_config.values():
        if len({run.run.seed for run in same}) == len(same):
            members.append(same)
            continue
        # One seed twice: the runs may have started from different data or pretrainings, which then tell them apart.
        by_pretraining: dict[str, list[RunRecord]] = {}
        for run in same:
            by_pretraining.setdefault(_key(run, NOT_A_DIFFERENCE - {"dataset", "pretrained"}), []).append(run)
        members.extend(by_pretraining.values())
    compared = [
        Group(label, same[0].run.method, sorted(same, key=lambda run: run.run.seed))
        for (_, label), same in named.items()
    ]
    return compared + [
        Group(
            _label(group[0], [other[0] for other in members]),
            group[0].run.method,
            sorted(group, key=lambda run: run.run.seed),
        )
        for group in members
    ]


def _key(run: RunRecord, ignored: frozenset[str]) -> str:
    settings = {
        name: value for name, value in flat_settings(run.run.config).items() if name.rpartition(".")[2] not in ignored
    }
    return json.dumps(settings, sort_keys=True, default=str)


def _label(run: RunRecord, one_of_each: list[RunRecord]) -> str:
    title = METHOD_TITLES.get(run.run.method, run.run.method)
    rivals = [flat_settings(other.run.config) for other in one_of_each if other.run.method == run.run.method]
    if len(rivals) == 1:
        return title
    own = flat_settings(run.run.config)
    names = sorted({name for rival in rivals for name in rival})
    ignored = NOT_A_DIFFERENCE - {"dataset", "pretrained"}
    telling = [
        name
        for name in names
        if name.rpartition(".")[2] not in ignored and any(rival.get(name) != own.get(name) for rival in rivals)
    ]
    parts = [f"{name.rpartition('.')[2].replace('_', '-')} {show(own.get(name))}" for name in telling[:3]]
    if len(telling) > 3:
        parts.append(f"and {len(telling) - 3} more")
    return f"{title} ({', '.join(parts)})" if parts else f"{title} ({run.run.path.name})"


def show(value: Any) -> str:
    """A configuration value for a reader."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return " x ".join(show(item) for item in value)
    return str(value)


@dataclass(frozen=True)
class ConfigRow:
    """One setting, with its value in each group."""

    name: str
    values: list[str]

    @property
    def differs(self) -> bool:
        """Whether the groups disagree."""
        return len(set(self.values)) > 1


def config_rows(groups: list[Group]) -> list[ConfigRow]:
    """All settings side by side; seeds of a group are listed together in one cell."""
    flats = [[flat_settings(run.run.config) for run in group.runs] for group in groups]
    names: dict[str, None] = {}
    for group in flats:
        for config in group:
            names.update(dict.fromkeys(config))
    rows = []
    for name in names:
        cells = [
            list(dict.fromkeys(show(config[name]) if name in config else "-" for config in group)) for group in flats
        ]
        rows.append(ConfigRow(name, [", ".join(cell) if len(cell) <= 5 else f"{len(cell)} values" for cell in cells]))
    return rows


def crashing_pays(group: Group, everyone: list[Episodes]) -> str | None:
    """Explains a method that violates because the reward invites it; None where its episodes do not show that.

    They do where all returns in this environment are negative, no episode goes on after a violation, the group violates
    in at least half of its episodes, and these return more than the episodes that run out of time.

    Args:
        group: The method.
        everyone: The episodes of all runs in the same environment.
    """
    own = _join([run.episodes for run in group.runs])
    world = _join(everyone)
    crashed = own.violation == 1
    timed_out = (world.success == 0) & (world.violation == 0)
    if crashed.mean() < 0.5 or (world.returns >= 0).any() or (world.cost > 1).any():
        return None
    crash_return = own.returns[crashed].mean()
    if timed_out.any() and crash_return <= world.returns[timed_out].mean():
        return None
    text = (
        f"{group.label}: crashing pays here. Every return of this task is negative and a violation ends the episode, "
        f"so crashing soon loses less reward than looking for the goal. {int(crashed.sum()):,} of {len(own):,} "
        f"training episodes ended so, after {own.steps[crashed].mean():.0f} steps with a return of "
        f"{_round(crash_return)} on average"
    )
    if timed_out.any():
        text += f"; an episode that runs out of time returns {_round(world.returns[timed_out].mean())}"
    return text + "."


def _join(parts: list[Episodes]) -> Episodes:
    return Episodes(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])})


def _round(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
