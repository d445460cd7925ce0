"""Quality of service of a recorder: it asks for the best that all publishers of a topic offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import yaml
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy


def subscription_qos(publishers: Sequence[Any], depth: int) -> QoSProfile:
    """Reliable, and with the messages from before, only where every publisher offers it: else none would come.

    Args:
        publishers: ``TopicEndpointInfo`` of each.
        depth: Messages that may wait.
    """
    reliable = all(p.qos_profile.reliability == ReliabilityPolicy.RELIABLE for p in publishers)
    latched = all(p.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in publishers)
    return QoSProfile(
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if reliable and latched else DurabilityPolicy.VOLATILE,
    )


def serves(present: QoSProfile, publishers: Sequence[Any]) -> bool:
    """Whether a subscription hears all publishers."""
    best = subscription_qos(publishers, present.depth)
    reliable_fits = present.reliability != ReliabilityPolicy.RELIABLE or best.reliability == ReliabilityPolicy.RELIABLE
    wants_latched = present.durability == DurabilityPolicy.TRANSIENT_LOCAL
    return reliable_fits and (not wants_latched or best.durability == DurabilityPolicy.TRANSIENT_LOCAL)


def offered_qos(publishers: Sequence[Any]) -> str:
    """The publishers' profiles as recordings carry them, so that they can be played back alike."""

    def duration(value: Any) -> dict[str, int]:
        sec, nsec = divmod(value.nanoseconds, 10**9)
        return {"sec": sec, "nsec": nsec}

    profiles: list[dict[str, Any]] = []
    for profile in (publisher.qos_profile for publisher in publishers):
        content = {
            "history": int(profile.history),
            "depth": profile.depth,
            "reliability": int(profile.reliability),
            "durability": int(profile.durability),
            "deadline": duration(profile.deadline),
            "lifespan": duration(profile.lifespan),
            "liveliness": int(profile.liveliness),
            "liveliness_lease_duration": duration(profile.liveliness_lease_duration),
            "avoid_ros_namespace_conventions": profile.avoid_ros_namespace_conventions,
        }
        if content not in profiles:
            profiles.append(content)
    return str(yaml.safe_dump(profiles, sort_keys=False)).strip()


def loss_callbacks(on_lost: Callable[[Any], None]) -> dict[str, Any]:
    """Arguments of ``create_subscription`` for hearing of lost messages."""
    try:
        from rclpy.event_handler import SubscriptionEventCallbacks
    except ImportError:  # Humble
        from rclpy.qos_event import SubscriptionEventCallbacks
    # No callbacks of rclpy's own: the recorder looks after types and reliability itself, and each costs time.
    return {"event_callbacks": SubscriptionEventCallbacks(message_lost=on_lost, use_default_callbacks=False)}
