"""Sensor to command over topics: the shield beside a bare echo of the same messages, in turns, and its share of a core.

    python -m benchmarks.shield_latency                         # 5 rounds of 20 s each, state and 64 x 64 x 3 image
    python -m benchmarks.shield_latency --rounds 3 --seconds 10 --kinds state

This process is the sensor: it publishes at 50 Hz and waits for the command that answers. The other is the shield
with a bundle of random networks (256 x 256, ONNX Runtime), or a node that answers each message with a command.
Shield and echo take turns, so that what else the machine does meets both. Limits: the shield adds at most 1 ms at the
median for state, 3 ms for images, and takes less than 20 % of a core. Needs the extra ros, and onnx for the bundle.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import yaml

from ros_nodes.launch_description import SHIELD
from safe_rl.algorithms.recovery_rl import RecoveryRLAgent
from safe_rl.config import RecoveryRLConfig
from safe_rl.envs.spaces import space_to_json
from safe_rl.shield.bundle import WEIGHTS, arrays_to_bytes, write_bundle
from safe_rl.shield.graph import DecisionGraph
from safe_rl.shield.onnx_graphs import make_graphs
from safe_rl.shield.spec import BundleSpec, LimitSpec, SwitchSpec
from safe_rl.shield.weights import agent_arrays

RATE_HZ = 50.0
TIMER_HZ = 5.0
"""The shield's own timer: slow, lest one of its commands be taken for the answer to an observation."""
PATIENCE_SEC = 1.0
LIMIT_MS = {"state": 1.0, "image": 3.0}
CPU_LIMIT = 0.2
STARTED_WITHIN_SEC = 60.0
FORGET = 25
"""Answers at the start of a round that do not count: caches are cold."""

ECHO = """
import sys
import rclpy
from rclpy.executors import SingleThreadedExecutor
from geometry_msgs.msg import TwistStamped
from ros_nodes.messages import message_class
from ros_nodes.qos import COMMAND_QOS, SENSOR_QOS
rclpy.init()
node = rclpy.create_node("echo")
publisher = node.create_publisher(TwistStamped, "cmd_vel", COMMAND_QOS)
def answer(message):
    command = TwistStamped()
    command.header.stamp = message.header.stamp
    publisher.publish(command)
node.create_subscription(message_class(sys.argv[1]), sys.argv[2], answer, SENSOR_QOS)
executor = SingleThreadedExecutor()
executor.add_node(node)
try:
    while rclpy.ok():
        executor.spin_once(0.1)
except (KeyboardInterrupt, RuntimeError):  # the latter out of a call that the signal cut
    pass
"""


SPACES: dict[str, gym.Space[Any]] = {
    "state": gym.spaces.Box(-np.inf, np.inf, (4,), np.float32),
    "image": gym.spaces.Box(0, 255, (64, 64, 3), np.uint8),
}
ACTIONS = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
PLACE, SPEED = "pose.pose.position", "twist.twist.linear"
SOURCES: dict[str, dict[str, Any]] = {
    "state": {
        "topic": "odom",
        "type": "nav_msgs/msg/Odometry",
        "fields": [f"{PLACE}.x", f"{PLACE}.y", f"{SPEED}.x", f"{SPEED}.y"],
    },
    "image": {"topic": "image", "type": "sensor_msgs/msg/Image"},
}


@dataclass
class Round:
    """What one process did in one round."""

    delays_ms: list[float] = field(default_factory=list)
    late: int = 0
    """Answers that took longer than a period; the next message waited for them."""
    cpu_share: float = 0.0


def write_random_bundle(path: Path, kind: str) -> Path:
    """A bundle of untrained networks of the usual size: what a decision costs does not depend on their weights."""
    space = SPACES[kind]
    agent = RecoveryRLAgent(space, ACTIONS, RecoveryRLConfig(replay_capacity=1), seed=0)
    spec = BundleSpec(
        method="recovery-rl",
        env="benchmark/Random-v0",
        observation_space=space_to_json(space),
        action_space=space_to_json(ACTIONS),
        recovery="model-free",
        gamma_risk=agent.config.risk.gamma_risk,
        switch=SwitchSpec(agent.config.risk.eps_risk),
        limits=LimitSpec((-1.0, -1.0), (1.0, 1.0)),
    )
    arrays = agent_arrays(agent)
    weights = arrays_to_bytes(arrays)
    graphs = make_graphs(DecisionGraph(spec, arrays, "the benchmark"), spec, weights)
    return write_bundle(path, spec, {WEIGHTS: weights, **graphs}).path


def write_parameters(folder: Path, kind: str, bundle: Path) -> Path:
    parameters = {
        "bundle": str(bundle),
        "engine": "onnx",
        "rate_hz": TIMER_HZ,
        "observation": {"sources": [kind], kind: SOURCES[kind]},
        "action": {
            "topic": "cmd_vel",
            "type": "geometry_msgs/msg/TwistStamped",
            "fields": ["twist.linear.x", "twist.linear.y"],
        },
    }
    path = folder / f"{kind}.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}), encoding="utf-8")
    return path


class Sensor:
    """Publishes messages of one kind and waits for the commands that answer them."""

    def __init__(self, kind: str) -> None:
        import rclpy
        from geometry_msgs.msg import TwistStamped
        from rclpy.executors import SingleThreadedExecutor

        from ros_nodes.messages import message_class

        self.node = rclpy.create_node("sensor")
        self._publisher = self.node.create_publisher(message_class(SOURCES[kind]["type"]), SOURCES[kind]["topic"], 5)
        self.node.create_subscription(TwistStamped, "cmd_vel", self._on_command, 5)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._message = message_class(SOURCES[kind]["type"])()
        if kind == "image":
            self._message.height, self._message.width, self._message.step = 64, 64, 192
            self._message.encoding = "rgb8"
            self._message.data = array("B", bytes(64 * 64 * 3))
        self._answered_sec = 0.0

    def _on_command(self, message: Any) -> None:
        self._answered_sec = time.perf_counter()

    def ask(self, patience_sec: float) -> float | None:
        """Publishes; returns the delay of the answer in ms."""
        self._message.header.stamp = self.node.get_clock().now().to_msg()
        began = time.perf_counter()
        self._publisher.publish(self._message)
        while (now := time.perf_counter()) - began < patience_sec:
            if self._answered_sec > began:
                return 1e3 * (self._answered_sec - began)
            self._executor.spin_once(timeout_sec=patience_sec - (now - began))
        return None

    def wait(self) -> None:
        """Waits until somebody answers."""
        deadline = time.monotonic() + STARTED_WITHIN_SEC
        while self.ask(0.1) is None:
            if time.monotonic() > deadline:
                raise RuntimeError("nobody answers")

    def close(self) -> None:
        """Leaves the graph."""
        self._executor.shutdown()
        self.node.destroy_node()


def measure(command: list[str], kind: str, seconds: float) -> Round:
    """One round with one process."""
    process = subprocess.Popen(command)
    sensor = Sensor(kind)
    result = Round()
    try:
        sensor.wait()
        period = 1 / RATE_HZ
        num_asked = round(seconds * RATE_HZ) + FORGET
        next_sec = time.perf_counter()
        for number in range(num_asked):
            if number == FORGET:
                cpu_before, began = cpu_sec(process.pid), time.perf_counter()
            delay = sensor.ask(PATIENCE_SEC)
            if delay is None:
                raise RuntimeError(f"no answer within {PATIENCE_SEC:g} s")
            if number >= FORGET:
                result.delays_ms.append(delay)
                result.late += delay > 1e3 * period
            next_sec = max(next_sec + period, time.perf_counter() - period)
            time.sleep(max(0.0, next_sec - time.perf_counter()))
        result.cpu_share = (cpu_sec(process.pid) - cpu_before) / (time.perf_counter() - began)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
        sensor.close()
    return result


def cpu_sec(pid: int) -> float:
    """Time that a process has spent, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of each process")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a round")
    parser.add_argument("--kinds", nargs="+", choices=list(SPACES), default=list(SPACES))
    args = parser.parse_args()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", "221")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import rclpy

    rclpy.init(args=[])
    print("| observation | process | median | 99 % | later than 20 ms | share of a core |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind in args.kinds:
            bundle = write_random_bundle(Path(folder) / kind, kind)
            given = {"params_file": str(write_parameters(Path(folder), kind, bundle)), "log_level": "error"}
            shield = SHIELD.command_line(SHIELD.values(given))
            echo = [sys.executable, "-c", ECHO, SOURCES[kind]["type"], SOURCES[kind]["topic"]]
            rounds: dict[str, list[Round]] = {"echo": [], "shield": []}
            for _ in range(args.rounds):
                for name, command in (("echo", echo), ("shield", shield)):
                    rounds[name].append(measure(command, kind, args.seconds))
            report(kind, rounds)
    rclpy.try_shutdown()


def report(kind: str, rounds: dict[str, list[Round]]) -> None:
    """Prints medians over the rounds, and what the shield adds."""
    medians = {}
    for name, several in rounds.items():
        medians[name] = float(np.median([np.median(one.delays_ms) for one in several]))
        worst = float(np.median([np.percentile(one.delays_ms, 99) for one in several]))
        cpu = float(np.median([one.cpu_share for one in several]))
        late, total = sum(one.late for one in several), sum(len(one.delays_ms) for one in several)
        row = f"| {kind} | {name} | {medians[name]:.2f} ms | {worst:.2f} ms | {late} of {total} | {cpu:.1%} |"
        print(row, flush=True)
    added = [np.median(s.delays_ms) - np.median(e.delays_ms) for e, s in zip(*rounds.values(), strict=True)]
    verdict = "holds" if np.median(added) <= LIMIT_MS[kind] else "MISSED"
    print(f"\nThe shield adds {np.median(added):.2f} ms at the median; limit {LIMIT_MS[kind]} ms: {verdict}")
    cpu = float(np.median([one.cpu_share for one in rounds["shield"]]))
    print(f"Share of a core {cpu:.1%}; limit {CPU_LIMIT:.0%}: {'holds' if cpu < CPU_LIMIT else 'MISSED'}\n", flush=True)


if __name__ == "__main__":
    main()
