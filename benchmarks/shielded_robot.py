"""A simulated robot behind the shield: over topics beside in process, and as a filter for two commanders.

    safe-rl export runs/maze/tuned --onnx --output bundles/maze
    python -m benchmarks.shielded_robot bundles/maze                    # in process and over topics, in real time
    python -m benchmarks.shielded_robot bundles/* --topic-episodes 0    # in process only
    python -m benchmarks.shielded_robot bundles/* --topic-episodes 0 --eps-factor 0.1    # a tighter threshold

The reckless commander drives at full speed at the nearest obstacle, the careful one is the environment's expert. Over
topics robot and shield are processes of their own, at 20 Hz over Fast DDS, and the commander a third. Needs the extras
sim, ros and onnx. Results: ``docs/results/shielded_robot.md``.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import yaml

from ros_nodes.control import ControlLoop
from ros_nodes.mapping import MappingSpec, SourceSpec
from ros_nodes.sim_robot import default_mapping
from ros_nodes.sources import Arrival, Now, Source
from safe_rl.envs.factory import CostEnv, make_env
from safe_rl.shield import Mode, Shield
from safe_rl.shield.bundle import PolicyBundle
from safe_rl.shield.calibration import wilson_interval

RATE_HZ = 20.0
SEED = 7
SETTLE_SEC, PAUSE_SEC = 0.2, 0.2
STARTED_WITHIN_SEC = 30.0

Commander = Callable[[np.ndarray], np.ndarray]


@dataclass
class Tally:
    """What came of some episodes."""

    episodes: int = 0
    violations: int = 0
    successes: int = 0
    decisions: int = 0
    interventions: int = 0
    """Decisions that were not TASK."""

    def row(self, what: str) -> str:
        """A row of the table."""
        share_of = np.array([self.violations / self.episodes])
        (low,), (high,) = wilson_interval(share_of, np.array([self.episodes]))
        share = f"{self.interventions / self.decisions:.2%}" if self.decisions else ""
        return (
            f"| {what} | {self.episodes} | {self.violations} ({low:.1%} to {high:.1%}) | {self.successes} "
            f"| {self.decisions or ''} | {share} |"
        )


def reckless(env: CostEnv) -> Commander:
    """Drives at the nearest point of the nearest obstacle, as fast as it can."""
    plane = env.unwrapped
    limit = env.action_space.high  # type: ignore[attr-defined]

    def command(obs: np.ndarray) -> np.ndarray:
        x, y = plane.plane_position(obs)  # type: ignore[attr-defined]
        ways = [
            (min(max(x, box.x_min), box.x_max) - x, min(max(y, box.y_min), box.y_max) - y)
            for box in plane.plane_map.obstacles  # type: ignore[attr-defined]
        ]
        way = np.array(min(ways, key=lambda way: np.hypot(*way)))
        return (way / max(np.abs(way).max(), 1e-9) * limit).astype(np.float32)

    return command


def careful(env: CostEnv) -> Commander:
    """The environment's scripted expert."""
    expert: Commander = env.unwrapped.expert_action  # type: ignore[attr-defined]
    return expert


# ------------------------------------------------------------------- in process


def in_process(
    bundle: Path,
    env: CostEnv,
    episodes: int,
    commander: Commander | None,
    *,
    eps_risk: float,
    shielded: bool = True,
    late: bool = False,
) -> Tally:
    """Runs episodes with the node's control loop, or with the bare commander; ``late``: each action a step later."""
    mapping = MappingSpec.from_dict(default_mapping(env))
    spec = SourceSpec("command_in", mapping.action.type, ("data",))
    shield = Shield.load(bundle)
    shield.eps_risk = eps_risk
    loop = ControlLoop(shield, mapping, "filter" if commander else "policy", Source("commander", spec))
    tally, now_sec = Tally(), 0.0
    for episode in range(episodes):
        obs, _ = env.reset(seed=SEED if episode == 0 else None)
        held_back = np.zeros_like(env.action_space.sample())
        while True:
            now_sec += 1 / RATE_HZ
            proposed = None if commander is None else commander(obs)
            action = proposed
            if shielded:
                loop.sources["observation"].receive(Arrival(SimpleNamespace(data=obs), now_sec, None))
                if loop.commander is not None:
                    loop.commander.receive(Arrival(SimpleNamespace(data=proposed), now_sec, None))
                decision = loop.step(Now(now_sec, now_sec))
                action = decision.action
                tally.decisions += 1
                tally.interventions += decision.mode is not Mode.TASK
            if late:
                action, held_back = held_back, action
            obs, _, terminated, truncated, info = env.step(action)
            if terminated or truncated:
                break
        tally.episodes += 1
        tally.violations += int(info["cost"])
        tally.successes += int(info["success"])
    return tally


# ------------------------------------------------------------------ over topics


def over_topics(
    bundle: Path,
    env: CostEnv,
    episodes: int,
    commander: Commander | None,
    *,
    eps_risk: float,
    shielded: bool = True,
    shield_rate_hz: float = RATE_HZ,
    robot: dict[str, Any] | None = None,
) -> Tally:
    """The same with robot and shield as processes, in real time; ``robot`` are further parameters of the robot."""
    import rclpy

    with tempfile.TemporaryDirectory() as folder:
        shield = {"bundle": str(bundle), "mode": "filter" if commander else "policy", "eps_risk": eps_risk}
        shield |= {"autostart": True, "rate_hz": shield_rate_hz, "state_rate_hz": shield_rate_hz}
        params = _write_parameters(Path(folder), shield, {"env": env.name, **(robot or {})})
        nodes = ["sim_robot_node", *(["shield_node"] if shielded else [])]
        with _processes(nodes, params):
            rclpy.init(args=[])
            try:
                return _watch(episodes, commander, shielded)
            finally:
                rclpy.try_shutdown()


def _write_parameters(folder: Path, shield: dict[str, Any], robot: dict[str, Any]) -> Path:
    place = "pose.pose.position"
    odometry = {"topic": "odom", "type": "nav_msgs/msg/Odometry", "fields": [f"{place}.x", f"{place}.y"]}
    command = ["twist.linear.x", "twist.linear.y"]
    shared = {
        "observation": {"sources": ["odom"], "odom": odometry},
        "action": {"topic": "cmd_vel", "type": "geometry_msgs/msg/TwistStamped", "fields": command},
    }
    sim_robot = {"seed": SEED, "rate_hz": RATE_HZ, "settle_sec": SETTLE_SEC, "pause_sec": PAUSE_SEC, **robot}
    path = folder / "robot.yaml"
    nodes = {"/**": shared, "shield": shield, "sim_robot": sim_robot}
    path.write_text(yaml.safe_dump({name: {"ros__parameters": own} for name, own in nodes.items()}), encoding="utf-8")
    return path


@contextmanager
def _processes(nodes: list[str], params: Path) -> Iterator[None]:
    running = []
    try:
        for node in reversed(nodes):  # the robot last: its first episode is not to be missed
            command = [sys.executable, "-m", f"ros_nodes.{node}", "--ros-args", "--params-file", str(params)]
            running.append(subprocess.Popen([*command, "--log-level", "error"]))
        yield
    finally:
        for process in running:
            process.send_signal(signal.SIGINT)
        for process in running:
            if code := process.wait(20):
                raise RuntimeError(f"a node ended with {code}")


def _watch(episodes: int, commander: Commander | None, shielded: bool) -> Tally:
    """Counts what robot and shield say, and commands, until enough episodes have gone by from start to end."""
    import rclpy
    from diagnostic_msgs.msg import DiagnosticStatus
    from geometry_msgs.msg import TwistStamped
    from nav_msgs.msg import Odometry
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from std_msgs.msg import Bool, Int32

    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    node = rclpy.create_node("watcher")
    outcome = {"violation": False, "success": False}
    seen: list[dict[str, bool]] = []  # of each episode since the first that began while we listened
    num_starts = 0
    counted = Tally()

    def on_episode(message: Any) -> None:
        nonlocal num_starts
        if num_starts >= 2:  # the first was under way already
            seen.append(dict(outcome))
        num_starts += 1
        outcome.update(violation=False, success=False)

    def on_state(message: Any) -> None:
        if num_starts >= 2 and not any(outcome.values()):
            counted.decisions += 1
            counted.interventions += message.level != DiagnosticStatus.OK

    def on_odometry(message: Any) -> None:
        if commander is None:
            return
        place = message.pose.pose.position
        command = TwistStamped()
        command.header.stamp = node.get_clock().now().to_msg()
        command.twist.linear.x, command.twist.linear.y = map(float, commander(np.array([place.x, place.y], np.float32)))
        commands.publish(command)

    node.create_subscription(Bool, "violation", lambda m: outcome.update(violation=outcome["violation"] or m.data), 10)
    node.create_subscription(Bool, "success", lambda m: outcome.update(success=outcome["success"] or m.data), 10)
    node.create_subscription(Int32, "episode", on_episode, latched)
    node.create_subscription(DiagnosticStatus, "shield/state", on_state, latched)
    if commander is not None:
        commands = node.create_publisher(TwistStamped, "cmd_vel_in" if shielded else "cmd_vel", 1)
        node.create_subscription(Odometry, "odom", on_odometry, 1)
    began = time.monotonic()
    while len(seen) < episodes:
        rclpy.spin_once(node, timeout_sec=0.1)
        if not num_starts and time.monotonic() - began > STARTED_WITHIN_SEC:
            raise RuntimeError("no episode began")
    node.destroy_node()
    counted.episodes = len(seen)
    counted.violations = sum(entry["violation"] for entry in seen)
    counted.successes = sum(entry["success"] for entry in seen)
    return counted


# -------------------------------------------------------------------------- all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--episodes", type=int, default=500, help="in process, of each kind")
    parser.add_argument("--topic-episodes", type=int, default=100, help="over topics, of each kind but the reckless")
    parser.add_argument("--reckless-topic-episodes", type=int, default=40, help="over topics; each lasts 5 s or more")
    parser.add_argument("--eps-factor", type=float, default=1.0, help="tightens the bundles' eps_risk")
    parser.add_argument("--shield-rate", type=float, default=RATE_HZ, help="decisions a second over topics, in Hz")
    args = parser.parse_args()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", "220")  # away from those of tests
    for bundle in args.bundles:
        measure(bundle, args)


def measure(bundle: Path, args: argparse.Namespace) -> None:
    """Prints the table of one bundle."""
    spec = PolicyBundle.load(bundle).spec
    env = make_env(spec.env)
    eps_risk = spec.switch.eps_risk * args.eps_factor
    print(f"\n{bundle.name}: {spec.env}, eps_risk {eps_risk:.3g}\n")
    print("| what | episodes | violations (95 %) | successes | decisions | of these not TASK |")
    print("|---|---|---|---|---|---|", flush=True)

    def show(run: Callable[..., Tally], what: str, episodes: int, commander: Commander | None, **kwargs: Any) -> Tally:
        tally = run(bundle, env, episodes, commander, eps_risk=eps_risk, **kwargs)
        print(tally.row(what), flush=True)
        return tally

    number = args.episodes
    bare = show(in_process, "reckless, no shield", number, reckless(env), shielded=False)
    held = show(in_process, "reckless, shielded", number, reckless(env))
    show(in_process, "careful, no shield", number, careful(env), shielded=False)
    show(in_process, "careful, shielded", number, careful(env))
    show(in_process, "policy", number, None)
    show(in_process, "reckless, shielded, one step late", number, reckless(env), late=True)
    show(in_process, "careful, no shield, one step late", number, careful(env), shielded=False, late=True)
    show(in_process, "careful, shielded, one step late", number, careful(env), late=True)
    show(in_process, "policy, one step late", number, None, late=True)
    print_prevented("in process", bare, held)
    if number := args.topic_episodes:
        rate = {"shield_rate_hz": args.shield_rate}
        late = {"command_delay_sec": 1 / RATE_HZ}
        show(over_topics, "policy, over topics", number, None, **rate)
        show(over_topics, "policy, over topics, one period late", number, None, robot=late, **rate)
        show(over_topics, "careful, no shield, over topics", number, careful(env), shielded=False)
        show(over_topics, "careful, shielded, over topics", number, careful(env), **rate)
        number = args.reckless_topic_episodes
        bare = show(over_topics, "reckless, no shield, over topics", number, reckless(env), shielded=False)
        held = show(over_topics, "reckless, shielded, over topics", number, reckless(env), **rate)
        print_prevented("over topics", bare, held)


def print_prevented(where: str, bare: Tally, held: Tally) -> None:
    caused = bare.violations / bare.episodes
    prevented = 1 - held.violations / held.episodes / caused if caused else float("nan")
    print(f"\nViolations of the reckless commander prevented {where}: {prevented:.1%}\n", flush=True)


if __name__ == "__main__":
    main()
