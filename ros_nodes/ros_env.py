"""`RosEnv`: a robot behind topics as a Gymnasium environment.

``safe-rl train recovery-rl --env ros_nodes.ros_env:my_robot.yaml --dataset data/run1 --output runs/robot`` learns on
it. The file holds a mapping (``ros_nodes.mapping``), the reward and the rest (``ros_nodes.robot_settings``). With
``my_robot.yaml?dry_run=true`` nothing is sent.

Publishes the mapping's action topic. Offers ``~/trip`` and ``~/release`` of an emergency stop, and ``~/start_episode``
for the operator. One thread takes messages, inside of ``step`` and ``reset``; another one stops the robot if ``step``
is not called in time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import rclpy
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import Empty, Trigger

from ros_nodes.messages import command_message, message_class, stamp_sec
from ros_nodes.qos import COMMAND_QOS
from ros_nodes.readers import SourceError, read_message, require_opencv
from ros_nodes.robot_env import RobotEnv
from ros_nodes.robot_inputs import Inputs, Label, reading_shape
from ros_nodes.robot_settings import RobotSettings
from ros_nodes.sources import Arrival, Now, Source
from ros_nodes.watchdog import Watchdog
from safe_rl.errors import EnvironmentFault, UserError

NAME = "robot_env"
LABEL_DEPTH = 100
"""Messages of a label that wait for the end of the learner's update: none may be lost."""
ACKNOWLEDGED_WITHIN_SEC = 0.5
DRY_RUN = "?dry_run=true"


class RosLink:
    """Carries an environment's messages by a node of its own."""

    _topics_in_use: ClassVar[set[str]] = set()

    def __init__(self, settings: RobotSettings, inputs: Inputs, name: str = NAME) -> None:
        """Makes the node.

        Args:
            settings: Topics and services.
            inputs: What it fills.
            name: Of the node.

        Raises:
            EnvironmentFault: The robot has an environment in this process already.
            UserError: A message type is not there.
        """
        self._settings, self._inputs = settings, inputs
        self._num_taken = 0
        self._topic = ""
        self._owns_context = not rclpy.ok()
        if self._owns_context:  # Ctrl-C stays the learner's
            rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        clock = [Parameter("use_sim_time", value=True)] if settings.use_sim_time else []
        self._node = Node(name, start_parameter_services=False, parameter_overrides=clock)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        node, action = self._node, self._settings.mapping.action
        topic = node.resolve_topic_name(action.topic)
        if topic in self._topics_in_use:
            raise EnvironmentFault(
                f"one robot, one environment: another one drives {topic} already; leave out what needs two "
                "(--eval-every, --num-envs)"
            )
        self._topic = topic
        self._topics_in_use.add(topic)
        kinds = {source.name: message_class(source.spec.type) for source in self._inputs.all()}
        self._topics_of = {}
        for source in self._inputs.all():
            depth = LABEL_DEPTH if isinstance(source, Label) else max(5, source.spec.stack)
            qos = QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)  # hears reliable publishers, too
            subscription = node.create_subscription(
                kinds[source.name], source.spec.topic, partial(self._on_message, source), qos
            )
            self._topics_of[source.name] = subscription.topic_name
        kind = message_class(action.type)
        self._commands = None if self._settings.env.dry_run else node.create_publisher(kind, action.topic, COMMAND_QOS)
        reset = self._settings.reset
        self._reset_kind = Empty if reset.service_type.endswith("/Empty") else Trigger
        wanted = reset.kind == "service" and not self._settings.env.dry_run
        self._reset_client: Any = node.create_client(self._reset_kind, reset.service) if wanted else None
        node.create_service(Trigger, "~/trip", self._on_trip)
        node.create_service(Trigger, "~/release", self._on_release)
        node.create_service(Trigger, "~/start_episode", self._on_start)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of one reading of each source; waits for the first message where the mapping does not tell it.

        Raises:
            UserError: A source has no such field, or that message does not come.
        """
        shapes = {}
        for name, source in self._inputs.sources.items():
            require_opencv(source.spec, f"observation.{name}")
            template = message_class(source.spec.type)()
            shapes[name] = reading_shape(name, source.spec, template) or self._first_shape(source)
        return shapes

    def _first_shape(self, source: Source) -> tuple[int, ...]:
        deadline_sec = time.monotonic() + self._settings.env.patience_sec
        while not source.has_spoken:
            if time.monotonic() > deadline_sec:
                raise UserError(
                    f"nobody knows the size of observation.{source.name} before its first message, which did not come"
                    f"{self.hint(f'{source.name}_never_seen')}; start the robot first, or give its fields an end, such "
                    "as data[0:4]"
                )
            self.wait(0.05)
        try:
            return tuple(read_message(source.newest, source.spec).shape)
        except SourceError as error:
            raise UserError(f"observation.{source.name} cannot be read: {error}") from error

    # ---------------------------------------------------------------------- in

    def now(self) -> Now:
        """The two clocks."""
        return Now(time.monotonic(), self._node.get_clock().now().nanoseconds * 1e-9)

    def poll(self) -> None:
        """Takes what has come, without waiting."""
        idle = 0
        while idle < 2:  # what is no message of ours, such as the clock's, may come between
            before = self._num_taken
            self._executor.spin_once(timeout_sec=0)
            idle = idle + 1 if self._num_taken == before else 0

    def wait(self, seconds: float) -> None:
        """Takes what comes next, or returns after ``seconds``."""
        self._executor.spin_once(timeout_sec=seconds)

    def _on_message(self, source: Source, message: Any) -> None:
        self._num_taken += 1
        source.receive(Arrival(message, time.monotonic(), stamp_sec(message)))

    def _on_trip(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._num_taken += 1
        self._inputs.tripped = True
        response.success, response.message = True, "emergency stop"
        return response

    def _on_release(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._num_taken += 1
        self._inputs.tripped = False
        response.success, response.message = True, "emergency stop ended"
        return response

    def _on_start(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._num_taken += 1
        self._inputs.start_asked = True
        response.success, response.message = True, "the episode begins"
        return response

    # --------------------------------------------------------------------- out

    def send(self, action: npt.NDArray[np.float32]) -> None:
        """Sends a command (act_dim,)."""
        if self._commands is not None:
            stamp = self._node.get_clock().now().to_msg()
            self._commands.publish(command_message(action, self._settings.mapping.action, stamp))

    def is_shared(self) -> bool:
        """Whether somebody else publishes commands."""
        return bool(self._node.count_publishers(self._topic) > (self._commands is not None))

    def call_reset(self) -> ResetCall:
        """Calls the reset service."""
        return ResetCall(self._reset_client, self._reset_kind.Request())

    def hint(self, reason: str) -> str:
        """Who publishes the topic in question, or does not; how an emergency stop is ended."""
        if reason == "emergency_stop" and self._inputs.tripped:
            return f"; release it by the service {self._node.get_fully_qualified_name()}/release"
        if reason == "other_publisher":
            return f": somebody else publishes {self._topic}"
        for source in self._inputs.all():
            if reason in (f"{source.name}_never_seen", f"{source.name}_silent"):
                topic, kind = self._topics_of[source.name], source.spec.type
                types = {info.topic_type for info in self._node.get_publishers_info_by_topic(topic)}
                if not types:
                    return f": {topic} has no publisher"
                return f": {topic} carries {', '.join(sorted(types))}, wanted is {kind}" if kind not in types else ""
        return ""

    def close(self) -> None:
        """Gives everything back; commands that were sent before still arrive."""
        self._topics_in_use.discard(self._topic)
        commands = getattr(self, "_commands", None)
        if commands is not None and rclpy.ok():
            commands.wait_for_all_acked(Duration(seconds=ACKNOWLEDGED_WITHIN_SEC))
        self._executor.shutdown()
        self._node.destroy_node()
        if self._owns_context:
            rclpy.try_shutdown()


class ResetCall:
    """A call of the reset service, which is made as soon as the service is there."""

    def __init__(self, client: Any, request: Any) -> None:
        self._client = client
        self._request = request
        self._future: Any = None
        self.waits_for = f"service {client.srv_name}"

    def answer(self) -> str | None:
        """None while there is no answer; empty where the service did it; otherwise why not."""
        if self._future is None:
            if self._client.service_is_ready():
                self._future = self._client.call_async(self._request)
            return None
        if not self._future.done():
            return None
        response = self._future.result()
        return "" if getattr(response, "success", True) else (response.message or "without a word")


class RosEnv(RobotEnv):
    """See the module."""

    def __init__(self, settings: RobotSettings, *, name: str = NAME) -> None:
        """Makes the environment; nothing moves before ``reset``.

        Args:
            settings: Topics, reward, reset and the rest.
            name: Of its node.

        Raises:
            UserError: The settings do not fit the topics.
        """
        inputs = Inputs(settings)
        link = RosLink(settings, inputs, name)
        try:
            super().__init__(settings, inputs, link, link.shapes(), Watchdog)
        except BaseException:
            link.close()
            raise

    @classmethod
    def from_file(cls, path: str | Path, *, dry_run: bool = False) -> RosEnv:
        """Makes the environment of a parameter file; raises ``UserError``.

        Args:
            path: The file.
            dry_run: Send nothing, whatever the file says.
        """
        return cls(RobotSettings.load(Path(path), dry_run=dry_run))


def __getattr__(name: str) -> Callable[..., RosEnv]:
    """Makes ``ros_nodes.ros_env:my_robot.yaml`` the name of an environment, as ``package.module:factory`` is."""
    if not name.endswith((".yaml", ".yml")):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return partial(RosEnv.from_file, name)
