"""`safe-rl collect --from-bag`: recordings of a robot become an offline dataset."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from ros_nodes.bags.reading import Bag, open_bag
from ros_nodes.bags.steps import Layout, Part, Series, StepMaker, StepSettings, seconds
from ros_nodes.bags.synchronise import SEC, Track, clock_report, find_cuts, median_rate_hz, on_clock
from ros_nodes.mapping import MappingSpec, SourceSpec
from ros_nodes.readers import SourceError, read_action, read_message, require_opencv
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
_COMMAND, _PROPOSED, _COST = "command", "proposed", "cost"


@dataclass
class Config:
    """Makes an offline dataset of rosbag2 recordings."""

    from_bag: tuple[Path, ...]
    """Recordings: rosbag2 folders, or single .mcap or .db3 files."""
    mapping: Path
    """YAML file that tells which topics are observation, action and cost."""
    output: Path
    """Folder of the dataset."""
    rate_hz: float | None = None
    """Steps a second (default: the median rate of the commands)."""
    sync: Literal["nearest", "previous"] = "previous"
    """Which message of a source belongs to a step: the last one before it, as the robot has it, or the nearest one."""
    tolerance_sec: float | None = None
    """How far a message may lie from its step, for all sources (default: timeout_sec of each in the mapping)."""
    command_timeout_sec: float = 0.5
    """How long a command is in force when no other follows."""
    clock: Literal["header", "receive"] = "header"
    """Which times count: the header stamps, or when the recorder received the messages."""
    clock_tolerance_sec: float = 0.5
    """How far clocks may disagree before a warning, and header stamps go back before an episode is cut."""
    max_gap_sec: float = 1.0
    """Silence of all topics together, or leap of the clock, above which an episode is cut."""
    mark_topics: tuple[str, ...] = ()
    """Topics whose messages, of any type, cut an episode: resets, an operator's marks."""
    proposed_topic: str = ""
    """Topic of the commands before the shield, of the action's type; the mapping's are then the executed ones."""
    namespace: str = ""
    """Namespace before the mapping's relative topics, such as robot1."""
    no_cost: bool = False
    """Count nothing as a violation, where the mapping has no cost."""
    cost_events: bool = False
    """The cost topic speaks only at violations; without this its silence means that nothing is known."""
    end_at_violation: bool = True
    """End an episode at its first violation; the next begins once nothing is violated."""
    append: bool = False
    """Add to the dataset in the output folder."""
    resume: bool = False
    """Repeat a conversion that was killed; equal recordings give equal data."""
    overwrite: bool = False
    """Replace the dataset in the output folder."""

    def __post_init__(self) -> None:
        """Validates the values."""
        self.from_bag = tuple(Path(path) for path in self.from_bag)
        self.mapping, self.output = Path(self.mapping), Path(self.output)
        if not self.from_bag:
            raise UserError("--from-bag names no recording")
        for name in ("rate_hz", "tolerance_sec", "command_timeout_sec", "clock_tolerance_sec", "max_gap_sec"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UserError(f"--{name.replace('_', '-')} is {value}: it must be positive")
        if self.overwrite and (self.append or self.resume):
            raise UserError("--overwrite is given with --append or --resume: choose one")
        names = [path.resolve() for path in self.from_bag]
        if len(set(names)) < len(names):
            raise UserError("--from-bag names a recording twice")

    def topic(self, name: str) -> str:
        """A topic's full name."""
        if name.startswith("/"):
            return name
        return "/" + "/".join(part for part in (self.namespace.strip("/"), name) if part)


@dataclass
class _Taken:
    """What is kept of a message: its stamp, and what each role reads from it."""

    stamp_ns: int | None
    readings: dict[str, Any]


@dataclass
class _Recording:
    bag: Bag
    tracks: dict[str, Track]
    """By role: the sources' names, command, proposed, cost."""
    marks_ns: list[int]
    parts: list[Part] = field(default_factory=list)
    cuts: Counter[str] = field(default_factory=Counter)


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
        recordings.append(_read(path, config, mapping))
        if progress is not None:
            progress(number, len(config.from_bag), path.name)
    for recording in recordings:
        _synchronise(recording, config)
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


def _roles(config: Config, mapping: MappingSpec) -> dict[str, tuple[str, str, Callable[[Any], Any], str]]:
    """Of each role its topic, type, how it is read, and who names it."""
    roles: dict[str, tuple[str, str, Callable[[Any], Any], str]] = {}

    def add(role: str, spec: SourceSpec, where: str) -> None:
        roles[role] = (config.topic(spec.topic), spec.type, lambda message: read_message(message, spec), where)

    for name, spec in mapping.sources.items():
        add(name, spec, f"observation.{name} of the mapping")
    action = mapping.action
    for role, topic, where in (
        (_COMMAND, action.topic, "action of the mapping"),
        (_PROPOSED, config.proposed_topic, "--proposed-topic"),
    ):
        if topic:
            roles[role] = (config.topic(topic), action.type, lambda message: read_action(message, action), where)
    if mapping.cost is not None and not config.no_cost:
        add(_COST, mapping.cost, "cost of the mapping")
    reserved = {_COMMAND, _PROPOSED, _COST} & set(mapping.sources)
    if reserved:
        raise UserError(f"mapping: observation.{reserved.pop()} cannot be named so: rename the source")
    return roles


def _read(path: Path, config: Config, mapping: MappingSpec) -> _Recording:
    roles = _roles(config, mapping)
    marks = {config.topic(topic) for topic in config.mark_topics}
    by_topic: dict[str, list[str]] = {}
    for role, (topic, _, _, _) in roles.items():
        by_topic.setdefault(topic, []).append(role)

    def take(topic: str, message: Any) -> _Taken:
        readings: dict[str, Any] = {}
        for role in by_topic[topic]:
            try:
                readings[role] = roles[role][2](message)
            except SourceError as error:
                readings[role] = error
        return _Taken(_stamp_ns(message), readings)

    wanted = {topic: "" for topic in marks} | {topic: kind for topic, kind, _, _ in roles.values()}
    bag = open_bag(path, wanted, take)
    for role, (topic, kind, _, where) in roles.items():
        bag.require(topic, kind if role != _COST or not config.cost_events else "", where)
        if bag.types[topic] != kind:
            raise UserError(f"{bag.name}: topic {topic} is of type {bag.types[topic]}, {where} says {kind}")
    for topic in marks:
        bag.require(topic, "", "--mark-topics")
    tracks = {role: _track(bag, role, topic) for role, (topic, _, _, _) in roles.items()}
    for role, track in tracks.items():
        _require_readable(bag, track, roles[role][3])
    marks_ns = [message.received_ns for message in bag.messages if message.topic in marks]
    return _Recording(bag, tracks, marks_ns)


def _stamp_ns(message: Any) -> int | None:
    header = getattr(message, "header", None)
    return None if header is None else int(header.stamp.sec) * SEC + int(header.stamp.nanosec)


def _track(bag: Bag, role: str, topic: str) -> Track:
    messages = [message for message in bag.messages if message.topic == topic and message.content is not None]
    stamps = [message.content.stamp_ns for message in messages]
    stamped = any(stamps)  # headers that nobody fills hold zero
    return Track(
        role,
        topic,
        np.array([message.received_ns for message in messages], dtype=np.int64),
        np.array(stamps, dtype=np.int64) if stamped else None,
        [message.content.readings[role] for message in messages],
    )


def _require_readable(bag: Bag, track: Track, where: str) -> None:
    """A mapping whose fields or frame no message has is a mistake, not a loss of messages."""
    faults = [reading for reading in track.contents if isinstance(reading, SourceError)]
    if faults and len(faults) == len(track):
        raise UserError(f"{bag.name}: no message of topic {track.topic} can be read as {where} says: {faults[0]}")


def _synchronise(recording: _Recording, config: Config) -> None:
    """Puts the topics on one clock and finds the parts."""
    tracks = recording.tracks
    stamped = [track for track in tracks.values() if track.stamps_ns is not None]
    reference = max(stamped, key=len, default=None)
    _warn_of_clocks(recording, config, reference)
    times = {role: on_clock(track, config.clock, reference) for role, track in tracks.items()}
    back_ns = seconds(config.clock_tolerance_sec)
    agreeing = [
        (track.received_ns, times[role])
        for role, track in tracks.items()
        if len(track) and (reference is None or abs(_apart_sec(track, reference)) <= config.clock_tolerance_sec)
    ]
    cuts = find_cuts(agreeing, seconds(config.max_gap_sec), back_ns, recording.marks_ns) if agreeing else []
    recording.cuts = Counter(cut.reason for cut in cuts)
    limits = [-(2**63), *(cut.received_ns for cut in cuts), 2**63 - 1]
    for start, end in itertools.pairwise(limits):
        series = {role: _series(track, times[role], start, end) for role, track in tracks.items()}
        commands, proposed, cost = series.pop(_COMMAND), series.pop(_PROPOSED, None), series.pop(_COST, None)
        recording.parts.append(Part(series, commands, proposed, cost))


def _series(track: Track, times: Any, start: int, end: int) -> Series:
    """The messages received from ``start`` until before ``end``, by time on the common clock."""
    inside = np.flatnonzero((track.received_ns >= start) & (track.received_ns < end))
    order = inside[np.argsort(times[inside], kind="stable")]
    return Series(times[order], [track.contents[i] for i in order])


def _apart_sec(track: Track, reference: Track) -> float:
    """How far a topic's header stamps lie from the reference's, at equal receive times (median)."""
    if track.stamps_ns is None or track is reference:
        return 0.0
    expected = on_clock(dataclasses.replace(track, stamps_ns=None), "header", reference)
    return float(np.median(track.stamps_ns - expected)) / SEC


def _warn_of_clocks(recording: _Recording, config: Config, reference: Track | None) -> None:
    name, seen = recording.bag.name, set()
    for track in recording.tracks.values():
        if track.topic in seen:
            continue
        seen.add(track.topic)
        report = clock_report(track)
        if not report.has_stamps:
            if config.clock == "header" and reference is not None:
                logger.info("%s: %s has no header stamps: its receive times are used", name, track.topic)
            continue
        if max(abs(report.offset_sec), abs(report.drift_sec)) > config.clock_tolerance_sec:
            logger.warning(
                "%s: the header stamps of %s lie %.3f s before the receive times, and drift by %.3f s: --clock %s is "
                "used",
                name,
                track.topic,
                report.offset_sec,
                report.drift_sec,
                config.clock,
            )
        apart = _apart_sec(track, reference) if reference is not None else 0.0
        if reference is not None and config.clock == "header" and abs(apart) > config.clock_tolerance_sec:
            logger.warning(
                "%s: the header stamps of %s lie %.3f s from those of %s: they may be of another clock; try --clock "
                "receive",
                name,
                track.topic,
                apart,
                reference.topic,
            )


def _shape(recordings: list[_Recording], name: str, config: Config) -> tuple[int, ...]:
    """The shape of a source's readings: that of most of its messages."""
    shapes = Counter(
        reading.shape
        for recording in recordings
        for reading in recording.tracks[name].contents
        if not isinstance(reading, SourceError)
    )
    return tuple(shapes.most_common(1)[0][0])


def _command_rate_hz(recordings: list[_Recording]) -> float:
    rates = [rate for r in recordings for part in r.parts if (rate := median_rate_hz(part.commands.times_ns))]
    if not rates:
        raise UserError("the recordings hold too few commands to tell their rate: give --rate-hz")
    return float(np.median(rates))


def _settings(config: Config, mapping: MappingSpec, rate_hz: float) -> StepSettings:
    specs = {**mapping.sources, **({_COST: mapping.cost} if mapping.cost else {})}
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


def _report(recordings: list[_Recording], maker: StepMaker, rate_hz: float, num_episodes: int) -> list[str]:
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
    recordings: list[_Recording],
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
    config: Config, mapping: MappingSpec, recordings: list[_Recording], maker: StepMaker, rate_hz: float
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
