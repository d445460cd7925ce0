"""Stable-Baselines3's PPO with rl-zoo's settings for CartPole-v1: the peer of `benchmarks.impact_compare`.

It runs in the environment that has stable-baselines3, and needs nothing of this package. Its last line is a curve as
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import deque

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

TOTAL_STEPS = 100_000


class Record(BaseCallback):
    """Notes the mean return of the last 100 episodes, and stops at the goal."""

    def __init__(self, goal: float, limit_sec: float) -> None:
        super().__init__()
        self.goal, self.limit_sec = goal, limit_sec
        self.recent: deque[float] = deque(maxlen=100)
        self.steps: list[int] = []
        self.seconds: list[float] = []
        self.returns: list[float] = []
        self.reached = False
        self.started = time.perf_counter()

    def _on_step(self) -> bool:
        ended = [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        seconds = time.perf_counter() - self.started
        self.recent.extend(ended)
        if ended and len(self.recent) >= 20:
            self.steps.append(self.num_timesteps)
            self.seconds.append(seconds)
            self.returns.append(float(np.mean(self.recent)))
            self.reached = len(self.recent) == 100 and self.returns[-1] >= self.goal
        return not self.reached and seconds < self.limit_sec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--goal", type=float, default=475.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-sec", type=float, default=120.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = PPO(
        "MlpPolicy",
        make_vec_env(options.env, n_envs=8, seed=options.seed),
        n_steps=32,
        batch_size=256,
        gae_lambda=0.8,
        gamma=0.98,
        n_epochs=20,
        ent_coef=0.0,
        learning_rate=lambda left: 1e-3 * left,
        clip_range=lambda left: 0.2 * left,
        seed=options.seed,
        device="cpu",
    )
    record = Record(options.goal, options.limit_sec)
    model.learn(TOTAL_STEPS, callback=record)
    seconds = time.perf_counter() - record.started
    curve = {
        "steps": record.steps,
        "seconds": record.seconds,
        "returns": record.returns,
        "goal_steps": record.steps[-1] if record.reached else None,
        "goal_seconds": record.seconds[-1] if record.reached else None,
        "rate": model.num_timesteps / seconds,
        "load": os.getloadavg()[0],
    }
    print(json.dumps(curve))


if __name__ == "__main__":
    main()
