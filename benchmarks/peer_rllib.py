"""RLlib's APPO or PPO with the settings of its own examples for CartPole-v1: a peer of `benchmarks.impact_compare`.

The settings are those of ``rllib/examples/algorithms/appo/cartpole_appo.py`` and ``.../ppo/cartpole_ppo.py`` (16
environments a runner, one learner process), but for three things: 2 environment runners, networks of 64-64 tanh (the
trunk is shared, as in the examples), and a report each second of APPO's in place of each tenth, so that one can see
when it reaches the goal. The clock starts when Ray, runners and learner are there.

It runs in the environment that has ``ray[rllib]``. Its last line is a curve as JSON.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # as for IMPACT's workers; Ray's own choice is 15
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import logging
from typing import Any

import ray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from benchmarks.curves import peer_parser, peer_recorder

RETURNS = "episode_returns"
PROCESSES = 4
"""Two runners, the learner and what Ray counts for the driver: each gets a CPU, however many there are."""


def log_return(*, episode: Any, prev_episode_chunks: Any, metrics_logger: Any, **_: Any) -> None:
    """Reports the return of each episode; RLlib's own figure is a mean over windows of its own.

    What a runner handed in before the end of the episode is no longer in it.
    """
    total = sum(chunk.get_return() for chunk in [*prev_episode_chunks, episode])
    metrics_logger.log_value(RETURNS, total, reduce="item_series")


def make_config(algorithm: str, env: str, seed: int) -> AlgorithmConfig:
    """APPO or PPO."""
    if algorithm == "appo":
        config: Any = APPOConfig().training(circular_buffer_iterations_per_batch=2, vf_loss_coeff=0.05, entropy_coeff=0)
        config.reporting(min_time_s_per_iteration=1)
    else:
        config = PPOConfig().training(lr=0.0003, num_epochs=6, vf_loss_coeff=0.01)
    network = DefaultModelConfig(fcnet_hiddens=[64, 64], fcnet_activation="tanh", vf_share_layers=True)
    return (
        config.environment(env)
        .env_runners(num_env_runners=2, num_envs_per_env_runner=16)
        .learners(num_learners=1)
        .rl_module(model_config=network)
        .callbacks(on_episode_end=log_return)
        .debugging(seed=seed, log_level="ERROR")
    )


def main() -> None:
    parser = peer_parser(__doc__)
    parser.add_argument("--algorithm", choices=["appo", "ppo"], required=True)
    options = parser.parse_args()
    ray.init("local", num_cpus=PROCESSES, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    algorithm = make_config(options.algorithm, options.env, options.seed).build_algo()
    recorder = peer_recorder(options)
    over = False
    while not over:
        found = algorithm.train()["env_runners"]
        over = recorder.add(found.get(RETURNS, []), int(found.get("num_env_steps_sampled_lifetime", 0)))
    algorithm.stop()
    ray.shutdown()
    print(recorder.curve.to_json())


if __name__ == "__main__":
    main()
