"""What a step costs around the learner: deciding, the environment and the loop, and the replay's memory.

    python -m benchmarks.step_cost

One thread, CPU time, the paper's network sizes, Navigation 1. Results: ``docs/results/step_cost.md``.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.learner_speed import cpu_name
from safe_rl.algorithms.recovery_rl import RecoveryRLAgent
from safe_rl.config import RecoveryRLConfig, RunConfig
from safe_rl.envs.factory import make_env
from safe_rl.run_log import RunLog
from safe_rl.runner import Runner
from safe_rl.transitions import Transitions

ENV = "safe_rl/Navigation1-v0"
DECISIONS = 5_000
TRAINING_STEPS = 1_500


def main() -> None:
    torch.set_num_threads(1)
    print(f"{cpu_name()}, torch {torch.__version__}, one thread\n")
    print("| what | median | 99th percentile | limit |\n|---|---|---|---|")
    for name, explore in (("decision, mean action", False), ("decision, exploring", True)):
        times = decision_times(explore)
        print(f"| {name} | {np.median(times):.3f} ms | {np.percentile(times, 99):.3f} ms | 0.3 ms at the median |")
    around, learner = training_times()
    print(f"| training step without its learner step ({learner:.2f} ms) | {around:.2f} ms | | 1.0 ms |")
    replay, raw = replay_bytes()
    print(f"| replay, a transition | {replay} bytes | | raw data: {raw} bytes |")


def decision_times(explore: bool) -> np.ndarray:
    """Milliseconds of each of many decisions for one state: task policy, risk, switch and, where it acts, recovery."""
    agent = _agent()
    agent.num_observed = agent.config.start_steps
    states = np.random.default_rng(0).uniform((-60, -5), (0, 5), (DECISIONS, 1, 2)).astype(np.float32)
    times = np.empty(DECISIONS)
    for index, state in enumerate(states):
        began = time.perf_counter()
        agent.act(state, explore=explore)
        times[index] = (time.perf_counter() - began) * 1e3
    return times[100:]


def training_times() -> tuple[float, float]:
    """CPU milliseconds of a step of the training loop without its learner step, and of that: medians over the steps."""
    agent = _agent()
    learner: list[float] = []
    update = agent.update

    def timed_update() -> dict[str, torch.Tensor]:
        began = time.thread_time()
        metrics = update()
        learner.append((time.thread_time() - began) * 1e3)
        return metrics

    agent.update = timed_update  # type: ignore[method-assign]
    around = []
    with tempfile.TemporaryDirectory() as folder:
        env = make_env(ENV)
        config = RunConfig(ENV, Path(folder), episodes=1_000_000)
        runner = Runner(agent, [env], config, make_eval_env=lambda: make_env(ENV))
        log = RunLog(Path(folder))
        for _ in range(TRAINING_STEPS):
            began = time.thread_time()
            runner._step(log)
            around.append((time.thread_time() - began) * 1e3 - learner[-1])
        log.close()
        env.close()
    return statistics.median(around[100:]), statistics.median(learner[100:])


def replay_bytes() -> tuple[int, int]:
    """Bytes of a transition in the replay, and of the same fields as the environment gave them."""
    agent = _agent()
    raw = _offline(1)
    fields = vars(raw).values()
    return agent.replay.bytes_per_transition, sum(field.nbytes for field in fields)


def _agent() -> RecoveryRLAgent:
    env = make_env(ENV)
    agent = RecoveryRLAgent(env.observation_space, env.action_space, RecoveryRLConfig(), seed=0)
    agent.add_offline(_offline(20_000))
    return agent


def _offline(size: int) -> Transitions:
    rng = np.random.default_rng(0)
    obs = rng.uniform((-80, -5), (50, 5), (size, 2)).astype(np.float32)
    action = rng.uniform(-1, 1, (size, 2)).astype(np.float32)
    next_obs = obs + action
    cost = (np.abs(next_obs[:, 1]) >= 5).astype(np.float32)
    reward = -np.linalg.norm(obs, axis=1).astype(np.float32)
    return Transitions(obs, action, action, reward, cost, next_obs, cost > 0, np.zeros(size, dtype=bool))


if __name__ == "__main__":
    main()
