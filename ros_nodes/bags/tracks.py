"""The topics of a recording by their roles, on one clock, cut into parts that no episode reaches across."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ros_nodes.bags.config import Config
from ros_nodes.bags.reading import Bag, open_bag
from ros_nodes.bags.steps import Part, Series, seconds
from ros_nodes.bags.synchronise import SEC, Track, clock_report, find_cuts, on_clock
from ros_nodes.mapping import MappingSpec, SourceSpec
from ros_nodes.readers import SourceError, read_action, read_message
from ros_nodes.recorded_topics import EPISODE_TOPICS, MARK_TYPE
from safe_rl.errors import UserError

logger = logging.getLogger(__name__)

COMMAND, PROPOSED, COST = "command", "proposed", "cost"
"""Roles beside the mapping's sources."""


@dataclass
class _Taken:
    """What is kept of a message: its stamp, and what each role reads from it."""

    stamp_ns: int | None
    readings: dict[str, Any]


@dataclass
class Recording:
    """What was read of a recording."""

    bag: Bag
    tracks: dict[str, Track]
    """By role: the sources' names, command, proposed, cost."""
    marks_ns: list[int]
    parts: list[Part] = field(default_factory=list)
    cuts: Counter[str] = field(default_factory=Counter)


def _roles(config: Config, mapping: MappingSpec) -> dict[str, tuple[str, str, Callable[[Any], Any], str]]:
    """Of each role its topic, type, how it is read, and who names it."""
    roles: dict[str, tuple[str, str, Callable[[Any], Any], str]] = {}

    def add(role: str, spec: SourceSpec, where: str) -> None:
        roles[role] = (config.topic(spec.topic), spec.type, lambda message: read_message(message, spec), where)

    for name, spec in mapping.sources.items():
        add(name, spec, f"observation.{name} of the mapping")
    action = mapping.action
    for role, topic, where in (
        (COMMAND, action.topic, "action of the mapping"),
        (PROPOSED, config.proposed_topic, "--proposed-topic"),
    ):
        if topic:
            roles[role] = (config.topic(topic), action.type, lambda message: read_action(message, action), where)
    if mapping.cost is not None and not config.no_cost:
        add(COST, mapping.cost, "cost of the mapping")
    reserved = {COMMAND, PROPOSED, COST} & set(mapping.sources)
    if reserved:
        raise UserError(f"mapping: observation.{reserved.pop()} cannot be named so: rename the source")
    return roles


def read_recording(path: Path, config: Config, mapping: MappingSpec) -> Recording:
    """Reads a recording's topics.

    Raises:
        UserError: One is missing, of another type, or no message of it can be read as the mapping says.
    """
    roles = _roles(config, mapping)
    marks = {config.topic(topic) for topic in config.mark_topics}
    by_topic: dict[str, list[str]] = {}
    for role, (topic, _, _, _) in roles.items():
        by_topic.setdefault(topic, []).append(role)
    counters = {config.topic(topic) for topic in EPISODE_TOPICS} - marks - set(by_topic)

    def take(topic: str, message: Any) -> _Taken | int:
        if topic in counters:
            return int(message.data)
        readings: dict[str, Any] = {}
        for role in by_topic[topic]:
            try:
                readings[role] = roles[role][2](message)
            except SourceError as error:
                readings[role] = error
        return _Taken(_stamp_ns(message), readings)

    wanted = {topic: "" for topic in marks} | {topic: MARK_TYPE for topic in counters}
    bag = open_bag(path, wanted | {topic: kind for topic, kind, _, _ in roles.values()}, take)
    for role, (topic, kind, _, where) in roles.items():
        bag.require(topic, kind if role != COST or not config.cost_events else "", where)
        if bag.types[topic] != kind:
            raise UserError(f"{bag.name}: topic {topic} is of type {bag.types[topic]}, {where} says {kind}")
    for topic in marks:
        bag.require(topic, "", "--mark-topics")
    tracks = {role: _track(bag, role, topic) for role, (topic, _, _, _) in roles.items()}
    for role, track in tracks.items():
        _require_readable(bag, track, roles[role][3])
    before_shield = f"{config.topic(mapping.action.topic)}_in"
    if not config.proposed_topic and bag.types.get(before_shield) == mapping.action.type:
        logger.warning(
            "%s: %s holds the commands before a shield: they are left out without --proposed-topic %s",
            bag.name,
            before_shield,
            before_shield,
        )
    marks_ns = [message.received_ns for message in bag.messages if message.topic in marks]
    marks_ns += [moment for topic in sorted(counters) for moment in _counted_ns(bag, topic)]
    return Recording(bag, tracks, marks_ns)


def _counted_ns(bag: Bag, topic: str) -> list[int]:
    """When a counter of episodes changed; said again, a number is no new episode."""
    messages = [message for message in bag.messages if message.topic == topic]
    numbers = [None, *(message.content for message in messages)]
    return [m.received_ns for m, before in zip(messages, numbers, strict=False) if m.content != before]


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


def synchronise(recording: Recording, config: Config) -> None:
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
        commands, proposed, cost = series.pop(COMMAND), series.pop(PROPOSED, None), series.pop(COST, None)
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


def _warn_of_clocks(recording: Recording, config: Config, reference: Track | None) -> None:
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
