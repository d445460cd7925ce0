"""`sim_robot_node`: any Gymnasium environment as a robot: sensors out, commands in.

Publishes the observation as the mapping says (without one: arrays and pictures, see ``ros_nodes.sim_robot``). Beside it
go ``violation`` (a contact, say) and ``success`` (``std_msgs/Bool``), ``episode`` (``std_msgs/Int32``, latched, at each
start) and, where the environment has a plane map, ``odom``. Takes commands by the mapping's action topic. ``~/reset``
starts a new episode. Delays, jitter and drop-outs are there to practise on.
"""

from __future__ import annotations

import ros_nodes.require_ros  # noqa: F401  (before what it requires)

# isort: split
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from nav_msgs.msg import Odometry
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rosgraph_msgs.msg import Clock as ClockMessage
from std_msgs.msg import Bool, Int32
from std_srvs.srv import Trigger

from ros_nodes.mapping import MappingSpec
from ros_nodes.messages import message_class
from ros_nodes.observation_messages import ObservationMessages
from ros_nodes.parameters import bounded, declare, nested, read
from ros_nodes.qos import LATCHED_QOS
from ros_nodes.readers import SourceError, read_action
from ros_nodes.runtime import run
from ros_nodes.sim_robot import Link, Moment, SimRobot, default_mapping
from safe_rl.envs.factory import make_env
from safe_rl.errors import UserError

POLL_SEC = 0.002
"""How often delayed messages are looked after."""
WARN_EVERY_SEC = 5.0


@dataclass
class SimRobotParameters:
    """Parameters of ``sim_robot_node`` beside the mapping (see ``ros_nodes.mapping``)."""

    env: str = "safe_rl/Maze-v0"
    """The environment: a registered Gymnasium id, or package.module:factory."""
    cost_key: str = "cost"
    """Entry of the environment's info that is the constraint."""
    seed: int = 0
    """Seed of the environment, of jitter and of drop-outs."""
    rate_hz: float = bounded(20.0, 0.1, 1000.0)
    """Steps of the environment a second of the robot's time, in Hz."""
    real_time_factor: float = bounded(1.0, 0.01, 1000.0)
    """How much faster than the wall clock the robot's time runs; other than 1 only with publish_clock."""
    publish_clock: bool = False
    """Publish the robot's time on /clock and stamp messages by it; other nodes then need use_sim_time."""
    command_timeout_sec: float = bounded(0.5, 0.001, 60.0)
    """Age of a command above which the robot stands still, in s of the robot's time."""
    auto_reset: bool = True
    """Start a new episode after one has ended; otherwise the robot stands until ~/reset."""
    time_limit: bool = True
    """End an episode at the environment's time limit; otherwise whoever drives decides, as with a robot."""
    pause_sec: float = bounded(0.5, 0.0, 60.0)
    """How long the robot stands at the end of an episode before the new one, in s of the robot's time."""
    settle_sec: float = bounded(0.2, 0.0, 60.0)
    """How long it stands at the start of an episode, so that nobody acts on what was seen before, in s of its time."""
    observation_delay_sec: float = bounded(0.0, 0.0, 10.0)
    """How late observations are sent, in s."""
    observation_jitter_sec: float = bounded(0.0, 0.0, 10.0)
    """Further delay of an observation, uniform between 0 and this, in s; the order stays."""
    observation_drop_rate: float = bounded(0.0, 0.0, 1.0)
    """Probability that a drop-out of observations begins with one."""
    observation_drop_sec: float = bounded(0.0, 0.0, 60.0)
    """How long a drop-out of observations lasts, in s; 0: a single observation."""
    command_delay_sec: float = bounded(0.0, 0.0, 10.0)
    """How late commands arrive, in s."""
    command_jitter_sec: float = bounded(0.0, 0.0, 10.0)
    """Further delay of a command, uniform between 0 and this, in s; the order stays."""
    command_drop_rate: float = bounded(0.0, 0.0, 1.0)
    """Probability that a drop-out of commands begins with one."""
    command_drop_sec: float = bounded(0.0, 0.0, 60.0)
    """How long a drop-out of commands lasts, in s; 0: a single command."""
    odom_topic: str = "odom"
    """Odometry with the position, for environments with a plane map; empty, or one of the mapping's topics: none."""
    frame_id: str = "odom"
    """Frame of headers whose topic's mapping names none."""


class SimRobotNode(Node):
    """See the module."""

    def __init__(self, name: str = "sim_robot", **kwargs: Any) -> None:
        super().__init__(name, automatically_declare_parameters_from_overrides=True, **kwargs)
        declare(self, SimRobotParameters)
        self._settings = settings = read(self, SimRobotParameters)
        if settings.real_time_factor != 1 and not settings.publish_clock:
            raise UserError("real_time_factor other than 1 needs publish_clock: other nodes must know the robot's time")
        env = make_env(settings.env, cost_key=settings.cost_key)
        self._robot = SimRobot(
            env,
            rate_hz=settings.rate_hz,
            seed=settings.seed,
            command_timeout_sec=settings.command_timeout_sec,
            auto_reset=settings.auto_reset,
            time_limit=settings.time_limit,
            pause_sec=settings.pause_sec,
            settle_sec=settings.settle_sec,
        )
        given = nested(self)
        mapping = MappingSpec.from_dict(given if "observation" in given else {**default_mapping(env), **given})
        self._mapping = mapping
        self._messages = ObservationMessages(mapping, env.observation_space, lambda kind: message_class(kind)())
        self._messages.write(self._robot.moment.obs)  # what the mapping gets wrong shows now
        self._make_links(settings)
        self._make_topics(mapping)
        self._publish(self._robot.moment, new_episode=True)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._tick_timer = self.create_timer(
            1 / (settings.rate_hz * settings.real_time_factor), self._on_tick, clock=steady
        )
        if not (self._outgoing.is_plain and self._incoming.is_plain):
            self._poll_timer = self.create_timer(POLL_SEC, self._pass_on, clock=steady)

    def _make_links(self, settings: SimRobotParameters) -> None:
        streams = np.random.default_rng(settings.seed).spawn(2)
        self._outgoing: Link[list[tuple[Any, Any]]] = Link(
            settings.observation_delay_sec,
            settings.observation_jitter_sec,
            settings.observation_drop_rate,
            settings.observation_drop_sec,
            streams[0],
        )
        self._incoming: Link[np.ndarray[Any, Any]] = Link(
            settings.command_delay_sec,
            settings.command_jitter_sec,
            settings.command_drop_rate,
            settings.command_drop_sec,
            streams[1],
        )

    def _make_topics(self, mapping: MappingSpec) -> None:
        named, act_dim = len(mapping.action.fields), self._robot.act_dim
        if named not in (0, act_dim):
            raise UserError(f"mapping: action.fields names {named} components, the environment's action has {act_dim}")
        self._sensors = {
            name: self.create_publisher(message_class(spec.type), spec.topic, 10)
            for name, spec in mapping.sources.items()
        }
        self._violations = self.create_publisher(Bool, "violation", 10)
        self._successes = self.create_publisher(Bool, "success", 10)
        self._episodes = self.create_publisher(Int32, "episode", LATCHED_QOS)
        taken = {publisher.topic_name for publisher in self._sensors.values()}
        topic = self._settings.odom_topic
        wanted = bool(topic) and self._robot.position() is not None
        self._odometry = self.create_publisher(Odometry, topic, 10) if wanted else None
        if self._odometry is not None and self._odometry.topic_name in taken:
            self.destroy_publisher(self._odometry)
            self._odometry = None
        self._clock_messages = (
            self.create_publisher(ClockMessage, "/clock", 10) if self._settings.publish_clock else None
        )
        self._command_subscription = self.create_subscription(
            message_class(mapping.action.type), mapping.action.topic, self._on_command, 10
        )
        self._reset_service = self.create_service(Trigger, "~/reset", self._on_reset)

    # --------------------------------------------------------------------- in

    def _on_command(self, message: Any) -> None:
        try:
            values = read_action(message, self._mapping.action)
        except SourceError as error:
            self._warn_of_command(str(error))
            return
        self._incoming.put(values, time.monotonic())
        if self._incoming.is_plain:
            self._pass_on()

    def _warn_of_command(self, reason: str) -> None:
        self.get_logger().warning(f"command dropped: {reason}", throttle_duration_sec=WARN_EVERY_SEC)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        moment = self._robot.reset()
        self._publish(moment, new_episode=True)
        response.success, response.message = True, f"episode {moment.episode}"
        return response

    # -------------------------------------------------------------------- out

    def _on_tick(self) -> None:
        self._pass_on()
        before = self._robot.moment
        moment = self._robot.tick()
        if self._clock_messages is not None:
            self._clock_messages.publish(ClockMessage(clock=self._stamp()))
        if moment.phase == "ended" and before.phase != "ended":
            outcome = "violation" if moment.violation else "success" if moment.success else "time limit"
            self.get_logger().info(f"episode {moment.episode} ended: {outcome}")
        self._publish(moment, new_episode=moment.episode != before.episode)

    def _publish(self, moment: Moment, *, new_episode: bool) -> None:
        stamp = self._stamp()
        messages: list[tuple[Any, Any]] = [(self._episodes, Int32(data=moment.episode))] if new_episode else []
        # The labels go first: who has the observation has them.
        messages += [
            (self._violations, Bool(data=moment.violation)),
            (self._successes, Bool(data=moment.success)),
        ]
        for name, message in self._messages.write(moment.obs).items():
            self._set_header(message, stamp, self._mapping.sources[name].frame_id)
            messages.append((self._sensors[name], message))
        position = self._robot.position()
        if self._odometry is not None and position is not None:
            odometry = Odometry()
            self._set_header(odometry, stamp, "")
            odometry.pose.pose.position.x, odometry.pose.pose.position.y = position
            messages.append((self._odometry, odometry))
        self._outgoing.put(messages, time.monotonic())
        if self._outgoing.is_plain:
            self._pass_on()

    def _pass_on(self) -> None:
        """Delivers what has come through the links."""
        now = time.monotonic()
        for values in self._incoming.take(now):
            if not self._robot.command(values):
                self._warn_of_command(f"it must be {self._robot.act_dim} finite numbers")
        for messages in self._outgoing.take(now):
            for publisher, message in messages:
                publisher.publish(message)

    def _set_header(self, message: Any, stamp: Time, frame_id: str) -> None:
        if hasattr(message, "header"):
            message.header.stamp = stamp
            message.header.frame_id = frame_id or self._settings.frame_id

    def _stamp(self) -> Time:
        if not self._settings.publish_clock:
            return self.get_clock().now().to_msg()
        seconds, nanoseconds = divmod(round(self._robot.time_sec * 1e9), 10**9)
        return Time(sec=seconds, nanosec=nanoseconds)


def main() -> int:
    """Runs the node."""
    return run(SimRobotNode)


if __name__ == "__main__":
    sys.exit(main())
