"""`safe-rl collect --from-bag`: recordings of a robot become an offline dataset."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from ros_nodes.bags.config import Config
from ros_nodes.bags.steps import Layout, StepMaker, StepSettings, seconds
from ros_nodes.bags.synchronise import SEC, median_rate_hz
from ros_nodes.bags.tracks import COST, Recording, read_recording, synchronise
from ros_nodes.mapping import MappingSpec
from ros_nodes.readers import SourceError, require_opencv
from safe_rl.data.dataset import OfflineDataset
from safe_rl.data.episodes import Episode
from safe_rl.data.folders import is_dataset
from safe_rl.data.journal import EpisodeJournal
from safe_rl.data.writer import Mode, OfflineDatasetWriter
from safe_rl.errors import UserError

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
"""``progress(done, total, status)`` in recordings."""
ENV = "recorded-robot"
"""What the dataset calls its environment."""


def collect(config: Config, progress: Progress | None = None) -> tuple[OfflineDataset, list[str]]:
    """Converts recordings.

    Args:
        config: Which, and how.
        progress: Told how many recordings are read.

    Returns:
        The dataset, and lines that tell what was read, made and dropped.

    Raises:
        UserError: Something is missing or does not fit; nothing was written.
    """
    mapping = MappingSpec.load(config.mapping)
    _check(config, mapping)
    recordings = []
    for number, path in enumerate(config.from_bag, start=1):
        recordings.append(read_recording(path, config, mapping))
        if progress is not None:
            progress(number, len(config.from_bag), path.name)
    for recording in recordings:
        synchronise(recording, config)
    layout = Layout(mapping.sources, {name: _shape(recordings, name, config) for name in mapping.sources})
    rate_hz = config.rate_hz or _command_rate_hz(recordings)
    maker = StepMaker(layout, _settings(config, mapping, rate_hz))
    episodes = [episode for recording in recordings for part in recording.parts for episode in maker.episodes(part)]
    lines = _report(recordings, maker, rate_hz, len(episodes))
    if not episodes:
        reasons = ", ".join(f"{reason} {count}" for reason, count in maker.tally.dropped.most_common(3))
        raise UserError(f"the recordings give no step: {reasons or 'there are too few commands'}")
    _warn(config, maker)
    return _write(config, mapping, recordings, maker, rate_hz, episodes), lines


def _check(config: Config, mapping: MappingSpec) -> None:
    """What can be said before anything is read.

    Raises:
        UserError: The mapping or the output do not serve.
    """
    if not mapping.action.low:
        raise UserError(
            f"{config.mapping}: action.low and action.high are missing: a dataset needs the limits of the commands"
        )
    if mapping.cost is None and not config.no_cost:
        raise UserError(
            f"{config.mapping} has no section cost: label violations by a topic (cost: {{topic: violation, type: "
            "std_msgs/msg/Bool, fields: [data]}; above zero violates), or count none with --no-cost"
        )
    if mapping.cost is not None and mapping.cost.is_image:
        raise UserError(f"{config.mapping}: cost.type is {mapping.cost.type}: a picture is no cost")
    for name, spec in mapping.sources.items():
        require_opencv(spec, f"observation.{name}")
    if is_dataset(config.output) and not (config.append or config.overwrite):
        raise UserError(
            f"{config.output} already holds a dataset: add to it with --append, replace it with --overwrite, "
            "or choose another --output"
        )


def _shape(recordings: list[Recording], name: str, config: Config) -> tuple[int, ...]:
    """The shape of a source's readings: that of most of its messages."""
    shapes = Counter(
        reading.shape
        for recording in recordings
        for reading in recording.tracks[name].contents
        if not isinstance(reading, SourceError)
    )
    return tuple(shapes.most_common(1)[0][0])


def _command_rate_hz(recordings: list[Recording]) -> float:
    rates = [rate for r in recordings for part in r.parts if (rate := median_rate_hz(part.commands.times_ns))]
    if not rates:
        raise UserError("the recordings hold too few commands to tell their rate: give --rate-hz")
    return float(np.median(rates))


def _settings(config: Config, mapping: MappingSpec, rate_hz: float) -> StepSettings:
    specs = {**mapping.sources, **({COST: mapping.cost} if mapping.cost else {})}
    return StepSettings(
        rate_hz=rate_hz,
        sync=config.sync,
        tolerance_ns={name: seconds(config.tolerance_sec or spec.timeout_sec) for name, spec in specs.items()},
        command_timeout_ns=seconds(config.command_timeout_sec),
        low=mapping.action.low,
        high=mapping.action.high,
        no_cost=config.no_cost,
        cost_events=config.cost_events,
        end_at_violation=config.end_at_violation,
    )


def _report(recordings: list[Recording], maker: StepMaker, rate_hz: float, num_episodes: int) -> list[str]:
    lines = []
    for recording in recordings:
        bag = recording.bag
        topics = ", ".join(f"{topic} {count}" for topic, count in sorted(bag.counts.items()))
        lines.append(f"{bag.name}: {(bag.end_ns - bag.start_ns) / SEC:.2f} s, messages: {topics}")
        unread = {
            t.topic: Counter(r.reason for r in t.contents if isinstance(r, SourceError))
            for t in recording.tracks.values()
        }
        for topic, reasons in unread.items():
            lines += [f"  {count} messages of {topic} are left out: {reason}" for reason, count in reasons.items()]
        lines += [f"  {count} cuts: {reason}" for reason, count in recording.cuts.items()]
        lines += [f"  {line}" for line in bag.damage]
    tally = maker.tally
    lines.append(
        f"{tally.kept} steps at {rate_hz:.4g} Hz in {num_episodes} episodes, {tally.violations} violate the "
        "constraint; rewards are 0"
    )
    lines += [f"  {count} steps are dropped: {reason}" for reason, count in tally.dropped.most_common()]
    if tally.clipped:
        lines.append(f"  {tally.clipped} steps had commands beyond the limits, which are clipped")
    return lines


def _warn(config: Config, maker: StepMaker) -> None:
    tally = maker.tally
    if config.no_cost:
        logger.warning("nothing counts as a violation (--no-cost): no risk can be learned from these steps alone")
    elif not tally.violations:
        logger.warning("no step violates the constraint: no risk can be learned from these steps alone")
    if tally.lost_violations:
        logger.warning("%d steps that violate the constraint are dropped, as something lacks", tally.lost_violations)
    if tally.clipped:
        logger.warning("%d steps have commands beyond action.low and action.high: check these", tally.clipped)


def _write(
    config: Config,
    mapping: MappingSpec,
    recordings: list[Recording],
    maker: StepMaker,
    rate_hz: float,
    episodes: list[Episode],
) -> OfflineDataset:
    if config.resume and EpisodeJournal.exists(config.output):
        EpisodeJournal.resume(config.output).remove()
    mode: Mode = "overwrite" if config.overwrite else "append" if config.append else "create"
    limits = [np.array(limit, dtype=np.float32) for limit in (mapping.action.low, mapping.action.high)]
    writer = OfflineDatasetWriter.begin(
        config.output,
        maker.layout.space,
        spaces.Box(limits[0], limits[1], dtype=np.float32),
        env_id=ENV,
        mode=mode,
        description=_description(config, mapping, recordings, maker, rate_hz),
    )
    try:
        for episode in episodes:
            writer.add(episode)
        return writer.commit()
    except BaseException:
        writer.journal.remove()  # the recordings are still there
        raise
    finally:
        writer.close()


def _description(
    config: Config, mapping: MappingSpec, recordings: list[Recording], maker: StepMaker, rate_hz: float
) -> dict[str, Any]:
    """Where the data comes from, as JSON values."""
    names: tuple[str, ...] = (
        "sync",
        "tolerance_sec",
        "command_timeout_sec",
        "clock",
        "clock_tolerance_sec",
        "max_gap_sec",
    )
    names += ("proposed_topic", "namespace", "no_cost", "cost_events", "end_at_violation")
    return {
        "policy": "recording",
        "cost_key": "cost",
        "recordings": [
            {"name": r.bag.name, "sha256": r.bag.sha256, "messages": dict(sorted(r.bag.counts.items()))}
            for r in recordings
        ],
        "mapping": dataclasses.asdict(mapping),
        "rate_hz": rate_hz,
        "mark_topics": list(config.mark_topics),
        **{name: getattr(config, name) for name in names},
        "dropped_steps": dict(sorted(maker.tally.dropped.items())),
    }
