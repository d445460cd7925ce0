"""Environments side by side: what they return, when they restart, and what they refuse."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from safe_rl.envs.batched import SeparateEnvs, VectorisedEnv, make_batched_env
from safe_rl.errors import EnvironmentFault, UserError


def test_separate_environments_restart_in_the_step_after_their_end() -> None:
    """``Script``: reward t at step t, a cost on step 2, an end by termination at step 3 with success."""
    env = make_batched_env("toy_steps:three_steps", 2)
    assert isinstance(env, SeparateEnvs)
    first = env.reset(seed=0)
    np.testing.assert_array_equal(first[:, 1], 0)
    assert first[0, 0] != first[1, 0]  # a seed of its own each
    steps = [env.step(np.zeros((2, 1), np.float32)) for _ in range(5)]
    np.testing.assert_array_equal([step.obs[0, 1] for step in steps], [1, 2, 3, 0, 1])
    np.testing.assert_array_equal([step.reward[0] for step in steps], [1, 2, 3, 0, 1])
    np.testing.assert_array_equal([step.cost[0] for step in steps], [0, 1, 0, 0, 0])
    np.testing.assert_array_equal([step.terminated[0] for step in steps], [0, 0, 1, 0, 0])
    np.testing.assert_array_equal([step.success[0] for step in steps], [0, 0, 1, 0, 0])
    assert not any(step.truncated.any() for step in steps)
    assert steps[2].obs[0, 0] == first[0, 0] != steps[3].obs[0, 0]
    env.close()


def test_equal_seeds_repeat_and_others_do_not() -> None:
    for name in ("toy_steps:three_steps", "CartPole-v1", "Pendulum-v1"):
        starts = [make_batched_env(name, 3).reset(seed=seed) for seed in (1, 1, 2)]
        np.testing.assert_array_equal(starts[0], starts[1])
        assert not np.array_equal(starts[0], starts[2])


def test_an_environment_that_is_vectorised_itself_agrees_with_single_ones() -> None:
    """CartPole in both forms, from equal states, with equal actions, past the ends of several episodes."""
    vectorised, single = make_batched_env("CartPole-v1", 3), make_batched_env("CartPole-v1", 1)
    assert isinstance(vectorised, VectorisedEnv)
    assert isinstance(single, VectorisedEnv)
    env = gym.make("CartPole-v1").unwrapped
    obs = vectorised.reset(seed=3)
    env.reset(seed=0)
    env.state = vectorised.env.unwrapped.state[:, 1].copy()
    rng = np.random.default_rng(0)
    ended = False
    ends = 0
    for _ in range(120):
        action = rng.integers(0, 2, 3)
        step = vectorised.step(action)
        if ended:
            assert step.reward[1] == 0
            assert not (step.terminated[1] or step.truncated[1])
            assert np.abs(step.obs[1]).max() <= 0.05
            env.reset()
            env.state = vectorised.env.unwrapped.state[:, 1].copy()
            ended = False
            continue
        obs, reward, ended, _, _ = env.step(int(action[1]))
        np.testing.assert_allclose(step.obs[1], obs, rtol=1e-5, atol=1e-6)
        assert (step.reward[1], step.terminated[1]) == (reward, ended)
        ends += ended
    assert ends >= 2


def test_a_vectorised_environment_that_resets_in_the_same_step_is_asked_for_the_next() -> None:
    pytest.importorskip("sim")
    env = make_batched_env("safe_rl/Navigation1-v0", 8)
    assert isinstance(env, VectorisedEnv)
    env.reset(seed=0)
    ended = np.zeros(8, bool)
    costs = 0.0
    for _ in range(110):
        before = ended
        step = env.step(np.full((8, 2), [1.0, 0.3], np.float32))
        ended = step.terminated | step.truncated
        assert not (before & ended).any()
        assert (step.reward[before] == 0).all()
        assert set(np.unique(step.cost)) <= {0.0, 1.0}
        costs += step.cost.sum()
    assert costs > 0
    env.close()


class _Stub:
    """Stands for a vectorised environment that returns what a test tells."""

    num_envs = 2
    single_observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    single_action_space = gym.spaces.Discrete(2)

    def __init__(self, obs: np.ndarray, reward: np.ndarray, info: dict | None = None) -> None:
        self.result = obs, reward, np.zeros(2, bool), np.zeros(2, bool), info or {}

    def step(self, action: np.ndarray) -> tuple:
        if action.sum() > 1:
            raise RuntimeError("motor\nbroke")
        return self.result


@pytest.mark.parametrize(
    ("obs", "reward", "message"),
    [
        (np.array([[0, np.nan], [0, 0]]), np.zeros(2), "not finite, or of shape"),
        (np.zeros((2, 3)), np.zeros(2), r"of shape \(2, 3\) instead"),
        (np.zeros((2, 2)), np.array([0, np.inf]), "reward that is not finite"),
    ],
)
def test_unusable_values_of_a_vectorised_environment(obs: np.ndarray, reward: np.ndarray, message: str) -> None:
    env = VectorisedEnv(_Stub(obs, reward), "cost", "stub")
    with pytest.raises(EnvironmentFault, match=message):
        env.step(np.zeros(2, int))


def test_a_vectorised_environment_that_raises_is_named() -> None:
    with pytest.raises(EnvironmentFault, match="environment stub raised in step: RuntimeError: motor broke"):
        VectorisedEnv(_Stub(np.zeros((2, 2)), np.zeros(2)), "cost", "stub").step(np.ones(2, int))


def test_the_named_entry_is_the_cost() -> None:
    info = {"hazard": np.array([0.0, 3.0]), "cost": np.ones(2), "success": np.array([True, False])}
    step = VectorisedEnv(_Stub(np.zeros((2, 2)), np.ones(2), info), "hazard", "stub").step(np.zeros(2, int))
    np.testing.assert_array_equal(step.cost, [0, 1])
    np.testing.assert_array_equal(step.success, [True, False])


def test_an_unknown_environment() -> None:
    with pytest.raises(UserError, match="no environment 'Nowhere-v0'"):
        make_batched_env("Nowhere-v0", 2)


def test_a_missing_cost_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    env = make_batched_env("Pendulum-v1", 3)
    env.reset(seed=0)
    for _ in range(1010):
        env.step(np.zeros((3, 1), np.float32))
    assert [record.message for record in caplog.records if "gave no info" in record.message] == [
        "Pendulum-v1 gave no info['cost'] in 1,000 steps: nothing counts as a violation; name the entry with --cost-key"
    ]
