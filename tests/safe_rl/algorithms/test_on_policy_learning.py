"""The learners learn: CartPole's first hundred steps within seconds, the same from the same seed."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from safe_rl.algorithms.a2c import A2CConfig, A2CLearner
from safe_rl.algorithms.circular_buffer import CircularBuffer
from safe_rl.algorithms.impact import ImpactBatch, IMPACTConfig, IMPACTLearner
from safe_rl.algorithms.impala import IMPALAConfig, IMPALALearner
from safe_rl.algorithms.on_policy_presets import on_policy_preset
from safe_rl.algorithms.ppo import PPOConfig, PPOLearner
from safe_rl.flow.rollout_worker import RolloutWorker

METHODS = {
    "a2c": (A2CLearner, A2CConfig),
    "ppo": (PPOLearner, PPOConfig),
    "impala": (IMPALALearner, IMPALAConfig),
    "impact": (IMPACTLearner, IMPACTConfig),
}


def train(method: str, env: str, *, max_steps: int, goal: float, seed: int = 0) -> tuple[float, np.ndarray]:
    """Trains in this process until the mean of the last 30 episodes reaches the goal; returns it and the weights."""
    learner_type, config_type = METHODS[method]
    preset = on_policy_preset(method, env)
    config = config_type(**preset.settings)
    worker = RolloutWorker(env, num_envs=16, fragment_length=32, seed=seed)
    learner = learner_type(worker.envs.observation_space, worker.envs.action_space, config, seed=seed)
    num_slots, max_uses = getattr(config, "num_slots", 1), getattr(config, "max_uses", 1)
    buffer: CircularBuffer[ImpactBatch] = CircularBuffer(num_slots, max_uses)
    returns: deque[float] = deque(maxlen=30)
    while learner.num_steps < max_steps and not (len(returns) == 30 and np.mean(returns) >= goal):
        worker.set_weights(learner.weights(), learner.version)
        fragment = worker.sample()
        returns.extend(episode.return_ for episode in fragment.episodes)
        if isinstance(learner, IMPACTLearner):
            buffer.add(learner.prepare(fragment))
            while (batch := buffer.next()) is not None:
                learner.learn(batch)
        else:
            learner.learn([fragment])
    return float(np.mean(returns)), learner.weights()


@pytest.mark.parametrize(
    ("method", "max_steps"), [("a2c", 120_000), ("ppo", 60_000), ("impala", 120_000), ("impact", 60_000)]
)
def test_cartpole_is_held_up_for_150_steps(method: str, max_steps: int) -> None:
    assert train(method, "CartPole-v1", max_steps=max_steps, goal=150.0)[0] >= 150.0


@pytest.mark.parametrize("method", METHODS)
def test_equal_seeds_give_equal_weights(method: str) -> None:
    first, twin, other = (train(method, "CartPole-v1", max_steps=3000, goal=500.0, seed=seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, twin)
    assert not np.array_equal(first, other)


def test_presets_fit_their_configs() -> None:
    for method, (_, config_type) in METHODS.items():
        for env in ("CartPole-v1", "Pendulum-v1", "Unknown-v0"):
            config_type(**on_policy_preset(method, env).settings)
    assert on_policy_preset("impact", "Pendulum-v1").settings["gamma"] == 0.9
