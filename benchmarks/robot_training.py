"""Learning on a simulated robot over topics beside learning in process, and how even the steps are.

    python -m benchmarks.robot_training learn --seeds 1 2 3      # Navigation 1 over topics, and in process
    python -m benchmarks.robot_training steps                    # step times at 20 and 50 Hz, beside bare sleeping

Over topics the robot is ``sim_robot_node``, a process of its own at 20 Hz over Fast DDS, the learner ``RosEnv`` with
the same settings, dataset and seed as in process; starts and noise of the robot are its own. Each seed has its own
dataset, made by ``safe-rl collect``. Needs the extras sim and ros. Results: ``docs/results/learning_on_a_robot.md``.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from safe_rl.config import RunConfig
from safe_rl.data.collect import CollectConfig, collect
from safe_rl.envs.factory import make_env
from safe_rl.presets import preset_config
from safe_rl.training import train

ENV = "safe_rl/Navigation1-v0"
MAX_STEPS = 100


def parameters(rate_hz: float, pace: str) -> dict[str, object]:
    """A parameter file for robot and learner alike."""
    timeout_sec = max(0.5, 3 / rate_hz)
    flag = {"type": "std_msgs/msg/Bool", "fields": ["data"], "timeout_sec": timeout_sec}
    return {
        "rate_hz": rate_hz,
        "observation": {
            "sources": ["obs"],
            "obs": {
                "topic": "observation",
                "type": "std_msgs/msg/Float32MultiArray",
                "fields": ["data[0:2]"],
                "timeout_sec": timeout_sec,
            },
        },
        "action": {
            "topic": "command", "type": "std_msgs/msg/Float64MultiArray", "low": [-1.0, -1.0], "high": [1.0, 1.0]
        },
        "cost": {"topic": "violation", **flag},
        "success": {"topic": "success", **flag},
        "reward": {"goal": [0.0, 0.0], "tolerance": 4.0},
        "robot_env": {
            "max_episode_steps": MAX_STEPS,
            "pace": pace,
            "patience_sec": 60.0,
            "max_faults": 1000,  # on a busy machine they are counted, not fled from
            "reset": {"kind": "service", "service": "sim_robot/reset"},
        },
        "command_timeout_sec": timeout_sec,
        "env": ENV,
        "auto_reset": False,
        "time_limit": False,
        "settle_sec": 0.0,
    }  # fmt: skip


@contextmanager
def robot(folder: Path, rate_hz: float, seed: int, pace: str = "sensors") -> Iterator[str]:
    """A simulated robot; yields the name of its environment."""
    path = folder / f"robot_{rate_hz:g}_{pace}.yaml"
    content = json.loads(json.dumps(parameters(rate_hz, pace)))  # ROS reads no aliases
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": content}}), encoding="utf-8")
    line = [sys.executable, "-m", "ros_nodes.sim_robot_node", "--ros-args", "--params-file", str(path)]
    process = subprocess.Popen([*line, "-p", f"seed:={seed}", "--log-level", "warn"])
    try:
        yield f"ros_nodes.ros_env:{path}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


# -------------------------------------------------------------------- learning


def learn(folder: Path, seeds: list[int], episodes: int, rate_hz: float) -> None:
    print("| seed | where | episodes | violations | successes | faults | steps | by recovery | training, s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for seed in seeds:
        data = folder / f"data_{seed}"
        collect(CollectConfig(ENV, data, seed=seed))
        config = preset_config("recovery-rl", ENV, "tuned")
        run = RunConfig(ENV, folder / f"in_process_{seed}", seed=seed, dataset=data, episodes=episodes)
        train("recovery-rl", run, config)
        row(seed, "in process", run.output)
        with robot(folder, rate_hz, seed) as name:
            over = replace(run, env=name, output=folder / f"over_topics_{seed}")
            train("recovery-rl", over, config)
        row(seed, f"over topics, {rate_hz:g} Hz", over.output)


def row(seed: int, where: str, run: Path) -> None:
    with (run / "episodes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    total = {name: sum(int(r[name]) for r in rows) for name in ("violation", "success", "steps", "recovery_steps")}
    faults = sum(not int(r["violation"]) and not int(r["success"]) and int(r["steps"]) < MAX_STEPS for r in rows)
    print(
        f"| {seed} | {where} | {len(rows)} | {total['violation']} | {total['success']} | {faults} | {total['steps']} "
        f"| {total['recovery_steps']} | {float(rows[-1]['wall_time_sec']):.0f} |",
        flush=True,
    )


# ----------------------------------------------------------------------- steps


def steps(folder: Path, count: int) -> None:
    print("| rate | what ends a step | step time: median, ms | 99th | largest | more than 5 ms late | sleeping: 99th |")
    print("|---|---|---|---|---|---|---|")
    for rate_hz in (20.0, 50.0):
        for pace in ("clock", "sensors"):
            with robot(folder, rate_hz, 0, pace) as name:
                times = step_times(name, count)
            bare = sleep_times(rate_hz, count)
            late = (times > 1e3 / rate_hz + 5.0).mean()
            print(
                f"| {rate_hz:g} Hz | {pace} | {np.median(times):.2f} | {np.percentile(times, 99):.2f} "
                f"| {times.max():.1f} | {late:.2%} | {np.percentile(bare, 99):.2f} |",
                flush=True,
            )


def step_times(name: str, count: int) -> np.ndarray:
    """Times in ms from step to step, those between two episodes left out."""
    env = make_env(name)
    times: list[float] = []
    env.reset()
    before = None
    while len(times) < count:
        *_, terminated, truncated, info = env.step(np.zeros(2, np.float32))
        now = time.perf_counter()
        if "fault" in info:
            print(f"fault: {info['fault']}", file=sys.stderr)
        if before is not None:
            times.append(1e3 * (now - before))
        before = now
        if terminated or truncated:
            env.reset()
            before = None
    env.close()
    return np.array(times)


def sleep_times(rate_hz: float, count: int) -> np.ndarray:
    """The same of a loop that only sleeps until the period's end."""
    times, due, before = [], time.perf_counter(), time.perf_counter()
    for _ in range(count):
        due += 1 / rate_hz
        time.sleep(max(0.0, due - time.perf_counter()))
        now = time.perf_counter()
        times.append(1e3 * (now - before))
        before = now
    return np.array(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("learn", "steps"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--rate-hz", type=float, default=20.0)
    parser.add_argument("--steps", type=int, default=1000)
    arguments = parser.parse_args()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.what == "learn":
            learn(Path(folder), arguments.seeds, arguments.episodes, arguments.rate_hz)
        else:
            steps(Path(folder), arguments.steps)


if __name__ == "__main__":
    main()
