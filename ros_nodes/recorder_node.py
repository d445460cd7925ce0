"""`recorder_node`: records what a dataset needs, as ROS 2's own tools and `safe-rl collect --from-bag` read it.

Takes the mapping's observations, executed commands and cost; where they are published also the commands before the
shield, the shield's state, counted episodes (``mark_topics``) and ``extra_topics``. Messages are written as they came,
unread. ``~/mark`` begins a new episode. Publishes ``~/state`` (latched) and ``/diagnostics``: messages of each topic,
what was lost, sizes and rates. Deactivated it pauses; the recording ends with the node.
"""

from __future__ import annotations

import ros_nodes.require_ros  # noqa: F401  (before what it requires)

# isort: split
import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.serialization import serialize_message
from std_msgs.msg import Int32
from std_srvs.srv import Trigger

from ros_nodes.managed_node import ManagedNode
from ros_nodes.message_text import definition, header_stamp_ns
from ros_nodes.messages import message_class
from ros_nodes.parameters import bounded, read
from ros_nodes.qos import LATCHED_QOS
from ros_nodes.recorded_topics import MARK_TOPIC, MARK_TYPE, RecordedTopic, recorded_topics
from ros_nodes.recording import Compression, RecordingThread, RecordingWriter
from ros_nodes.recording_qos import loss_callbacks, offered_qos, serves, subscription_qos
from ros_nodes.runtime import run
from safe_rl.errors import UserError

MIB = 2**20
LOOK_EVERY_SEC = 0.1
"""How often publishers are looked for, of topics that have none."""
LOOKS_PER_REVIEW = 10
"""Every so often those of the other topics are looked at, too: one may have come that cannot be heard."""
PATIENCE_SEC = 5.0
"""How long a needed topic may be without a publisher before a warning."""


@dataclass
class RecorderParameters:
    """Parameters of ``recorder_node`` beside the mapping (see ``ros_nodes.mapping``)."""

    output: str = ""
    """Folder of the recording, new or empty; %Y, %m, %d, %H, %M and %S stand for the date and the time."""
    command_topic: str = ""
    """Commands before the shield, recorded if published (default: the action's topic with _in behind it)."""
    shield_state_topic: str = "shield/state"
    """State of the shield, recorded if published; empty: not."""
    mark_topics: str = "episode"
    """Topics that count episodes, such as a simulated robot's, by spaces; recorded if published."""
    extra_topics: str = ""
    """Further topics to record, by spaces, each a name or name:type."""
    compression: Compression = "zstd"
    """How chunks of messages are compressed."""
    flush_sec: float = bounded(0.2, 0.01, 60.0)
    """Time after which what came is handed to the operating system: what a killed recorder loses, in s."""
    queue_depth: int = 200
    """Messages of a topic that wait while this node is busy."""
    buffer_mib: float = bounded(256.0, 1.0, 65536.0)
    """Memory for messages that wait for a slow disk, in MiB; what comes beyond is dropped and counted."""
    min_free_mib: float = bounded(100.0, 0.0, 1e9)
    """Space on the disk below which the recording ends in order, in MiB."""
    report_rate_hz: float = bounded(1.0, 0.1, 10.0)
    """State messages a second, in Hz."""
    autostart: bool = False
    """Configure and activate at once, without a lifecycle manager."""


class RecorderNode(ManagedNode):
    """See the module."""

    def __init__(self, name: str = "recorder", **kwargs: Any) -> None:
        super().__init__(name, RecorderParameters, **kwargs)
        self.start()

    # --------------------------------------------------------------- lifecycle

    def configure(self) -> None:
        """Checks the mapping and the types, opens the recording."""
        self._settings = settings = read(self, RecorderParameters)
        if not settings.output:
            raise UserError("parameter output is empty: name the folder of the recording, such as data/run1")
        if settings.queue_depth < 1:
            raise UserError(f"parameter queue_depth is {settings.queue_depth}: it must be at least 1")
        self._wanted = recorded_topics(
            self.mapping(),
            settings.command_topic,
            settings.shield_state_topic,
            settings.mark_topics,
            settings.extra_topics,
            self.resolve_topic_name,
        )
        for wanted in self._wanted:
            if wanted.type:
                message_class(wanted.type)
                definition(wanted.type)
        self._folder = Path(time.strftime(settings.output))
        self._thread = RecordingThread(
            RecordingWriter(self._folder, settings.compression), settings.flush_sec, int(settings.buffer_mib * MIB)
        )
        self._counts: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._subscriptions_: dict[str, Any] = {}
        self._refused: dict[str, str] = {}
        self._episode = self._looks = 0
        self._began_sec = time.monotonic()
        self._last_report = (self._began_sec, 0, 0)
        self._states = self.create_publisher(DiagnosticStatus, "~/state", LATCHED_QOS)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._marks = self.create_publisher(Int32, MARK_TOPIC, LATCHED_QOS)
        self._thread.add_topic(self._marks.topic_name, MARK_TYPE, definition(MARK_TYPE))
        self._service = self.create_service(Trigger, "~/mark", self._on_mark)
        # On the steady clock: a simulated clock that stands still must not hold it up.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._look_timer = self.create_timer(LOOK_EVERY_SEC, self._look, clock=steady)
        self._report_timer = self.create_timer(1 / settings.report_rate_hz, self._report, clock=steady)
        self._look_timer.cancel()

    def activate(self) -> None:
        """Takes messages from now on."""
        if self._counts:
            self._mark()  # nothing of an episode reaches over a pause
        self._active_sec = time.monotonic()
        self._look()
        self._look_timer.reset()
        self.get_logger().info(f"recording to {self._folder}")

    def deactivate(self, reason: str) -> None:
        """Pauses."""
        self._look_timer.cancel()
        for subscription in self._subscriptions_.values():
            self.destroy_subscription(subscription)
        self._subscriptions_.clear()

    def release(self) -> None:
        """Ends the recording."""
        self._thread.close()
        self.destroy_timer(self._look_timer)
        self.destroy_timer(self._report_timer)
        self._publish_state()
        counts = ", ".join(f"{topic} {count}" for topic, count in sorted(self._counts.items()))
        self.get_logger().info(
            f"recorded {self._counts.total()} messages, {self._thread.num_bytes / MIB:.1f} MiB, in "
            f"{time.monotonic() - self._began_sec:.1f} s to {self._folder}: {counts or 'nothing'}; "
            f"lost {self._lost.total()}"
        )
        self.destroy_service(self._service)
        for publisher in (self._states, self._diagnostics, self._marks):
            self.destroy_publisher(publisher)

    def on_end(self) -> None:
        """Ends the recording before the process ends."""
        super().on_end()
        self._give_back()

    # ------------------------------------------------------------------ topics

    def _look(self) -> None:
        """Subscribes to what somebody publishes by now."""
        self._looks += 1
        for wanted in self._wanted:
            present = self._subscriptions_.get(wanted.topic)
            if present is not None and self._looks % LOOKS_PER_REVIEW:
                continue
            publishers = self.get_publishers_info_by_topic(wanted.topic)
            if not publishers or (present is not None and serves(present.qos_profile, publishers)):
                continue
            kinds = {publisher.topic_type for publisher in publishers}
            kind = wanted.type or min(kinds)
            if kinds != {kind}:
                found = f"carries {', '.join(sorted(kinds))}"
                if kind not in kinds or not wanted.type:
                    self._refuse(wanted, f"{found}: {wanted.named_by} wants {wanted.type or 'one type'}")
                    continue
                self.say_once(f"{wanted.topic} {found}: only {kind} is recorded")
            try:
                self._subscribe(wanted, kind, publishers)
            except UserError as error:
                self._refuse(wanted, str(error))

    def _subscribe(self, wanted: RecordedTopic, kind: str, publishers: list[Any]) -> None:
        own = message_class(kind)
        if wanted.topic not in self._counts:
            self._thread.add_topic(wanted.topic, kind, definition(kind), offered_qos(publishers))
            self._counts[wanted.topic] = 0
        before = self._subscriptions_.pop(wanted.topic, None)
        if before is not None:  # a publisher that this subscription cannot hear
            self.destroy_subscription(before)
        stamped = next(iter(own.get_fields_and_field_types().values()), "") == "std_msgs/Header"
        self._subscriptions_[wanted.topic] = self.create_subscription(
            own,
            wanted.topic,
            partial(self._on_message, wanted.topic, stamped),
            subscription_qos(publishers, self._settings.queue_depth),
            raw=True,
            **loss_callbacks(partial(self._on_lost, wanted.topic)),
        )
        self._refused.pop(wanted.topic, None)

    def _refuse(self, wanted: RecordedTopic, reason: str) -> None:
        self._refused[wanted.topic] = reason
        self.say_once(f"{wanted.topic} is not recorded: it {reason}")

    def _on_message(self, topic: str, stamped: bool, data: bytes) -> None:
        received_ns = time.time_ns()
        published_ns = (header_stamp_ns(data) if stamped else None) or received_ns
        if self._thread.put(topic, received_ns, published_ns, data):
            self._counts[topic] += 1
        else:
            self._lost[topic] += 1

    def _on_lost(self, topic: str, event: Any) -> None:
        """The middleware says that messages did not reach this node."""
        self._lost[topic] += event.total_count_change

    # ------------------------------------------------------------------- marks

    def _on_mark(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self.is_active
        response.message = self._mark() if self.is_active else "the recorder is paused"
        return response

    def _mark(self) -> str:
        self._episode += 1
        message, now_ns = Int32(data=self._episode), time.time_ns()
        self._marks.publish(message)
        self._thread.put(self._marks.topic_name, now_ns, now_ns, serialize_message(message))
        self._counts[self._marks.topic_name] += 1
        return f"episode {self._episode}"

    # ----------------------------------------------------------------- reports

    def _report(self) -> None:
        free_mib = self._free_mib()
        fault = ""
        if self._thread.fault:
            fault = f"cannot write to {self._folder}: {self._thread.fault}"
        elif free_mib < self._settings.min_free_mib:
            fault = f"{free_mib:.0f} MiB are free on the disk of {self._folder}, less than min_free_mib"
        if self.is_active and time.monotonic() - self._active_sec > PATIENCE_SEC:
            for wanted in self._wanted:
                if wanted.needed and wanted.topic not in self._subscriptions_ and wanted.topic not in self._refused:
                    self.say_once(f"{wanted.topic} has no publisher: {wanted.named_by} wants {wanted.type or 'it'}")
        self._publish_state(fault)
        if fault:
            raise UserError(f"recording stopped: {fault}; what was recorded until now is kept")

    def _free_mib(self) -> float:
        return shutil.disk_usage(self._folder).free / MIB

    def _publish_state(self, fault: str = "") -> None:
        status = DiagnosticStatus(name=self.get_fully_qualified_name(), hardware_id=str(self._folder))
        status.level, status.message = self._level(fault)
        now_sec, messages, size = time.monotonic(), self._counts.total(), self._thread.num_bytes
        then_sec, messages_then, size_then = self._last_report
        span_sec = max(now_sec - then_sec, 1e-3)
        self._last_report = (now_sec, messages, size)
        values = {
            "duration_sec": f"{now_sec - self._began_sec:.1f}",
            "episode": str(self._episode),
            "messages": str(messages),
            "messages_per_sec": f"{(messages - messages_then) / span_sec:.1f}",
            "lost": str(self._lost.total()),
            "file_mib": f"{size / MIB:.2f}",
            "mib_per_sec": f"{(size - size_then) / MIB / span_sec:.3f}",
            "waiting_mib": f"{self._thread.waiting_bytes / MIB:.2f}",
            "disk_free_mib": f"{self._free_mib():.0f}",
            **{f"messages.{topic}": str(count) for topic, count in sorted(self._counts.items())},
            **{f"lost.{topic}": str(count) for topic, count in sorted(self._lost.items()) if count},
            **{f"not_recorded.{topic}": reason for topic, reason in self._refused.items()},
        }
        status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
        self._states.publish(status)
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    def _level(self, fault: str) -> tuple[bytes, str]:
        if fault or self._thread.fault:
            return DiagnosticStatus.ERROR, fault or self._thread.fault
        missing = [w.topic for w in self._wanted if w.needed and not self._counts[w.topic]]
        if self._lost.total():
            return DiagnosticStatus.WARN, f"{self._lost.total()} messages are lost"
        if missing:
            return DiagnosticStatus.WARN, f"no message of {', '.join(missing)}"
        return DiagnosticStatus.OK, "recording" if self.is_active else "not recording"


def main() -> int:
    """Runs the node."""
    return run(RecorderNode)


if __name__ == "__main__":
    sys.exit(main())
