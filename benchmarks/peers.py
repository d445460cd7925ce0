"""The peers of `benchmarks.impact_compare`: each trains in a process of an environment of its own."""

from __future__ import annotations

import argparse
import subprocess

from benchmarks.curves import Curve, parse_curve

PEERS = {
    "sb3-ppo": ["benchmarks.peer_sb3"],
    "rllib-appo": ["benchmarks.peer_rllib", "--algorithm", "appo"],
    "rllib-ppo": ["benchmarks.peer_rllib", "--algorithm", "ppo"],
    "sf-appo": ["benchmarks.peer_sample_factory"],
}
"""Name of a peer: its module and what this is told besides the options that all peers have."""
PEER_LABELS = {
    "sb3-ppo": "Stable-Baselines3 PPO",
    "rllib-appo": "RLlib APPO",
    "rllib-ppo": "RLlib PPO",
    "sf-appo": "Sample Factory APPO",
}


def peer_argument(text: str) -> tuple[str, str]:
    """Name and interpreter of a peer, from ``NAME=PYTHON``."""
    name, _, python = text.partition("=")
    if name not in PEERS or not python:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PYTHON with a name of {', '.join(PEERS)}")
    return name, python


def train_peer(name: str, python: str, env: str, goal: float, seed: int, limit_sec: float) -> Curve:
    """Trains a peer once.

    Raises:
        RuntimeError: It failed; the end of what it wrote is in the message.
    """
    command = [python, "-m", *PEERS[name], "--env", env, "--goal", str(goal)]
    command += ["--seed", str(seed), "--limit-sec", str(limit_sec)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr[-2000:]}")
    return parse_curve(done.stdout)
