"""Which topics a recorder takes, from the mapping and the node's parameters. Needs no ROS."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ros_nodes.mapping import MappingSpec
from safe_rl.errors import UserError

MARK_TOPIC = "episode_mark"
"""Where a recorder counts the episodes that an operator begins; `safe-rl collect --from-bag` cuts there."""
EPISODE_TOPICS = ("episode", MARK_TOPIC)
"""Counters that recordings are cut at unasked: a robot's own, and the recorder's."""
STATE_TYPE = "diagnostic_msgs/msg/DiagnosticStatus"
MARK_TYPE = "std_msgs/msg/Int32"


@dataclass(frozen=True)
class RecordedTopic:
    """A topic that is recorded as soon as somebody publishes it."""

    topic: str
    """Its full name."""
    type: str
    """The type that it must have; empty for any."""
    named_by: str
    """Who wants it, for messages to the user."""
    needed: bool
    """Whether a recording without it is of no use."""


def recorded_topics(
    mapping: MappingSpec,
    command_topic: str,
    shield_state_topic: str,
    mark_topics: str,
    extra_topics: str,
    full_name: Callable[[str], str],
) -> list[RecordedTopic]:
    """Lists the topics.

    Args:
        mapping: Observations, executed commands and cost; those are needed.
        command_topic: Commands before the shield; empty for the action's topic with ``_in`` behind it.
        shield_state_topic: State of the shield; empty for none.
        mark_topics: Topics that count episodes, by spaces.
        extra_topics: Further ones by spaces, each a name or ``name:type``.
        full_name: Resolves relative names and remappings.

    Raises:
        UserError: An entry cannot be, or a topic is wanted with two types.
    """
    action = mapping.action
    wanted = [(spec.topic, spec.type, f"observation.{name}", True) for name, spec in mapping.sources.items()]
    wanted.append((action.topic, action.type, "action", True))
    if mapping.cost is not None:
        wanted.append((mapping.cost.topic, mapping.cost.type, "cost", True))
    wanted.append((command_topic or f"{action.topic}_in", action.type, "command_topic", False))
    if shield_state_topic:
        wanted.append((shield_state_topic, STATE_TYPE, "shield_state_topic", False))
    wanted += [(name, "", "mark_topics", False) for name in mark_topics.split()]
    for entry in extra_topics.split():
        name, _, kind = entry.partition(":")
        if not name or (kind and not re.fullmatch(r"\w+/msg/\w+", kind)):
            raise UserError(f"extra_topics has {entry!r}: it must be a topic, or like scan:sensor_msgs/msg/LaserScan")
        wanted.append((name, kind, "extra_topics", True))
    found: dict[str, RecordedTopic] = {}
    for name, kind, named_by, needed in wanted:
        topic = RecordedTopic(full_name(name), kind, named_by, needed)
        other = found.setdefault(topic.topic, topic)
        if other.type and kind and other.type != kind:
            raise UserError(f"{topic.topic} is wanted as {other.type} by {other.named_by}, as {kind} by {named_by}")
        if kind and not other.type:
            found[topic.topic] = topic
    return list(found.values())
