"""Stable-Baselines3's PPO with rl-zoo's settings for CartPole-v1: a peer of `benchmarks.impact_compare`.

It runs in the environment that has stable-baselines3. Its last line is a curve as JSON.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from benchmarks.curves import Recorder, peer_parser, peer_recorder

TOTAL_STEPS = 100_000
"""Those of rl-zoo: step size and clipping shrink to 0 at their end."""


class Record(BaseCallback):
    """Tells the recorder of each step."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def _on_step(self) -> bool:
        returns = [float(info["episode"]["r"]) for info in self.locals["infos"] if "episode" in info]
        return not self.recorder.add(returns, self.num_timesteps)


def main() -> None:
    options = peer_parser(__doc__).parse_args()
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
    recorder = peer_recorder(options)
    model.learn(TOTAL_STEPS, callback=Record(recorder))
    print(recorder.curve.to_json())


if __name__ == "__main__":
    main()
