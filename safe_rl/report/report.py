"""`safe-rl report` as a function: runs -> one HTML file that needs nothing else."""

from __future__ import annotations

import importlib.resources
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jinja2
import numpy as np
import tyro
from matplotlib.colors import to_hex

from safe_rl.errors import UserError
from safe_rl.report import formats
from safe_rl.report.curves import RunRecord, find_runs, read_run
from safe_rl.report.groups import (
    ConfigRow,
    Group,
    Summary,
    config_rows,
    crashing_pays,
    group_runs,
    summarize,
    summarize_episodes,
)
from safe_rl.report.offline import describe_offline_data, unequal_task_data
from safe_rl.report.plots import Plot, curve_plots, metric_plots
from safe_rl.report.risk_map import RISK_COLORS
from safe_rl.report.scenes import Scene, build_scene
from safe_rl.report.style import (
    GOAL_COLOR,
    OUTCOME_COLORS,
    RECOVERY_COLOR,
    TASK_COLOR,
    ZONE_COLOR,
    assign_series,
    color_name,
    line_name,
    palette_css,
)

VIDEO_BYTES = 4_500_000
"""All videos of a page together, before base64 makes them a third larger."""
MAX_VIDEO_BYTES = 1_500_000
MAX_TOLD = 3
"""Methods that the headline tells of one by one, in the order in which they were given; more are sorted by ratio."""


@dataclass
class ReportConfig:
    """One HTML page about one or more runs: curves, risk maps, videos, configuration."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders, or folders that hold some; seeds of one configuration are drawn as one curve with a band."""
    output: Path = Path("report.html")
    """The file to write."""
    title: str | None = None
    """Headline of the page (default: the environment's name)."""
    episodes: int = 8
    """Evaluation episodes a method on its risk map; 0 for neither map nor video."""
    video_episodes: int = 3
    """How many of them are filmed; 0 for no video."""
    seed: int = 0
    """Seed of the evaluation episodes' starts."""

    def __post_init__(self) -> None:
        """Validates the values."""
        if not self.runs:
            raise UserError("no run given: name one or more run folders")
        for name in ("episodes", "video_episodes", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}: it must be at least 0")
        if self.output.is_dir():
            raise UserError(f"--output is {self.output}, a folder: name a file such as {self.output / 'report.html'}")


@dataclass(frozen=True)
class Card:
    """The headline of one method."""

    group: Group
    color: str
    """Name of its colour in the page's style."""
    line: str
    """Name of how its lines are drawn."""
    summary: Summary
    offline: str | None
    """What is known of the offline data."""
    outcome_percent: dict[str, float]


@dataclass(frozen=True)
class EnvironmentSection:
    """Everything about the runs in one environment."""

    env_id: str
    anchor: str
    verdict: list[str]
    cards: list[Card]
    lessons: list[str]
    notes: list[str]
    plots: list[Plot]
    metrics: list[Plot]
    scenes: list[Scene]
    seeds: list[tuple[Group, RunRecord, dict[str, float]]]
    config: list[ConfigRow]
    groups: list[Group]

    @property
    def averaged(self) -> bool:
        """Whether any method has more than one seed."""
        return any(len(group.runs) > 1 for group in self.groups)

    @property
    def any_risk(self) -> bool:
        """Whether any map shows risk."""
        return any(scene.has_risk for scene in self.scenes)


def write_report(config: ReportConfig) -> Path:
    """Writes the page.

    Args:
        config: Which runs, and where to.

    Returns:
        The file.

    Raises:
        UserError: A run is missing or damaged, or the file cannot be written.
    """
    records = [read_run(path) for path in find_runs(config.runs)]
    environments: dict[str, list[RunRecord]] = {}
    for record in records:
        environments.setdefault(record.run.env_id, []).append(record)
    num_methods = sum(len(group_runs(runs)) for runs in environments.values())
    max_video_bytes = min(MAX_VIDEO_BYTES, VIDEO_BYTES // max(1, num_methods))
    sections = [
        _section(config, env_id, f"env{index}", runs, max_video_bytes)
        for index, (env_id, runs) in enumerate(environments.items())
    ]
    html = _render(
        title=config.title or "Safe learning: " + ", ".join(formats.short(env_id) for env_id in environments),
        sections=sections,
        commands=_commands(config, records),
        versions=_versions(records),
        num_runs=len(records),
        evaluation_seed=config.seed,
    )
    return _write(config.output, html)


def _section(
    config: ReportConfig, env_id: str, anchor: str, runs: list[RunRecord], max_video_bytes: int
) -> EnvironmentSection:
    notes = [
        f"{run.run.path}: no episode is finished yet; the run is left out." for run in runs if len(run.episodes) == 0
    ]
    runs = [run for run in runs if len(run.episodes)]
    if not runs:
        raise UserError(f"no run on {env_id} has finished an episode: train longer, or leave them out")
    groups = group_runs(runs)
    if len(groups) > MAX_TOLD:
        groups.sort(key=lambda group: -summarize(group).ratio.mean)
    series = assign_series([(group.label, group.method) for group in groups])
    cards = [_card(group, series[group.label]) for group in groups]
    everyone = [run.episodes for run in runs]
    said = [unequal_task_data(groups), *(crashing_pays(group, everyone) for group in groups)]
    lessons = [text for text in said if text is not None]
    scenes = [
        build_scene(
            group,
            f"{anchor}-map{index}",
            episodes=config.episodes,
            filmed_episodes=config.video_episodes,
            seed=config.seed,
            max_video_bytes=max_video_bytes,
        )
        for index, group in enumerate(groups)
    ]
    return EnvironmentSection(
        env_id=env_id,
        anchor=anchor,
        verdict=[_verdict(card) for card in cards] if len(cards) <= MAX_TOLD else [_best(cards)],
        cards=cards,
        lessons=lessons,
        notes=notes + _oddities(groups),
        plots=curve_plots(groups, series, anchor),
        metrics=metric_plots(groups, series, anchor),
        scenes=scenes,
        seeds=[(group, run, summarize_episodes(run.episodes)) for group in groups for run in group.runs],
        config=config_rows(groups),
        groups=groups,
    )


def _card(group: Group, series: int) -> Card:
    episodes = group.common()
    violation = np.mean([part.violation.mean() for part in episodes])
    success = np.mean([(part.success * (1.0 - part.violation)).mean() for part in episodes])
    shares = {"success": success, "time-out": 1.0 - success - violation, "violation": violation}
    percent = {name: 100.0 * float(share) for name, share in shares.items()}
    return Card(group, color_name(series), line_name(series), summarize(group), describe_offline_data(group), percent)


def _verdict(card: Card) -> str:
    successes, violations = card.summary.successes.mean, card.summary.violations.mean
    some = "no violations" if violations == 0 else f"{formats.count(violations)} violation{'s' * (violations != 1)}"
    return (
        f"{card.group.label} succeeded in {formats.count(successes)} of {card.group.num_episodes:,} training episodes, "
        f"with {some}"
    )


def _best(cards: list[Card]) -> str:
    """Of many methods, which stand in the order of their ratios, the first two."""
    first, second = cards[:2]
    return (
        f"{_verdict(first)}, the best ratio of {len(cards)}: {formats.ratio(first.summary.ratio.mean)}; next comes "
        f"{second.group.label}: {formats.ratio(second.summary.ratio.mean)}"
    )


def _oddities(groups: list[Group]) -> list[str]:
    notes = []
    for group in groups:
        lengths = {len(run.episodes) for run in group.runs}
        for run in group.runs:
            planned = run.planned_episodes
            if planned is not None and len(run.episodes) < planned:
                notes.append(
                    f"{run.run.path}: {len(run.episodes)} of {planned} planned episodes are done "
                    "(unfinished, or stopped early)."
                )
            notes += [f"{run.run.path}: {note}" for note in run.notes]
        if len(lengths) > 1:
            notes.append(
                f"{group.label}: the seeds have between {min(lengths)} and {max(lengths)} episodes; means and bands "
                f"are over the first {min(lengths)}, which all of them have. Thin lines go on where single seeds do."
            )
        seeds = [run.run.seed for run in group.runs]
        if len(set(seeds)) < len(seeds):
            notes.append(f"{group.label}: a seed occurs twice, so the standard error is smaller than it should be.")
    if len({group.num_episodes for group in groups}) > 1:
        notes.append(
            "The methods were trained for different numbers of episodes: compare the curves rather than the totals."
        )
    return notes


def _commands(config: ReportConfig, records: list[RunRecord]) -> list[str]:
    commands = [str(record.versions["command"]) for record in records if record.versions.get("command")]
    own = shlex.join(["safe-rl", "report", *map(str, config.runs), "--output", str(config.output)])
    return [*dict.fromkeys(commands), own]


def _versions(records: list[RunRecord]) -> dict[str, str]:
    """Name -> versions in use, all of them where the runs differ."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        flat = {key: value for key, value in record.versions.items() if key in ("python", "platform", "git_revision")}
        libraries = record.versions.get("libraries")
        for name, value in {**flat, **(libraries if isinstance(libraries, dict) else {})}.items():
            if value is not None:
                found.setdefault(name.replace("_", " "), {})[str(value)] = None
    return {name: ", ".join(values) for name, values in found.items()}


def _gradient() -> str:
    return ", ".join(to_hex(RISK_COLORS(stop)) for stop in np.linspace(0, 1, 6))


def _render(sections: Sequence[EnvironmentSection], **context: Any) -> str:
    source = importlib.resources.files("safe_rl.report").joinpath("template.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for name in ("count", "duration", "percent", "quantity", "ratio", "short"):
        environment.filters[name] = getattr(formats, name)
    template = environment.from_string(source)
    colors = {"task": TASK_COLOR, "recovery": RECOVERY_COLOR, "zone": ZONE_COLOR, "goal": GOAL_COLOR, **OUTCOME_COLORS}
    return template.render(
        sections=sections,
        light=palette_css(dark=False),
        dark=palette_css(dark=True),
        colors=colors,
        gradient=_gradient(),
        **context,
    )


def _write(path: Path, html: str) -> Path:
    staged = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(html, encoding="utf-8")
        os.replace(staged, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path
