"""MAML: the inner step by hand, the outer gradient by finite differences, and whether it learns to adapt."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from safe_rl.algorithms.actor_critic import ActorCritic
from safe_rl.algorithms.fragment import Fragment
from safe_rl.algorithms.maml import MAMLConfig, MAMLLearner, MAMLPolicy, MetaGradient, task_advantages
from safe_rl.envs.point_goal import HORIZON, PointGoal
from safe_rl.errors import UserError
from safe_rl.flow import LocalBackend
from safe_rl.plans.maml import MAMLWorker, meta_train

ENV = "safe_rl.envs.point_goal:PointGoal"
LINE = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)


def fragment(obs: Any, action: Any, reward: Any, log_prob: Any, dtype: type = np.float32) -> Fragment:
    """Of (T, N) numbers; ``obs`` has a row more. Nothing ends."""
    shape = np.shape(reward)
    no = np.zeros(shape, dtype=np.bool_)
    actions = np.asarray(action, dtype)[..., None]
    numbers = [np.asarray(array, dtype) for array in (log_prob, reward, np.zeros(shape))]
    return Fragment(np.asarray(obs, dtype)[..., None], actions, actions, *numbers, no, no, ~no, no)


def linear_policy() -> MAMLPolicy:
    """The mean is ``w s + b`` with w = b = 0, the deviation 1."""
    policy = MAMLPolicy(ActorCritic(LINE, LINE, ()))
    with torch.no_grad():
        policy.net.policy.flat.zero_()
    return policy


def test_the_inner_step_by_hand():
    """Two episodes of a step in s = 2: action 1 got the reward 1, action -1 nothing. Their mean is 0.5, so A = ±0.5.

    d log pi / d b = a - mean, so the gradient by b is (1 * 0.5 + -1 * -0.5) / 2 = 0.5, by w 2 * 0.5 = 1; by log std it
    is (a^2 - 1) A = 0.
    """
    log_prob = -0.5 - 0.5 * np.log(2 * np.pi)
    data = fragment([[2.0, 2.0], [0.0, 0.0]], [[1.0, -1.0]], [[1.0, 0.0]], [[log_prob, log_prob]])
    np.testing.assert_allclose(task_advantages(data, 0.9), [[0.5, -0.5]])
    policy = linear_policy()
    adapted = policy.adapt(policy.parameters, data, MAMLConfig(inner_rate=0.1))
    np.testing.assert_allclose(adapted.detach(), [0.1, 0.05, 0.0], atol=1e-7)


def test_advantages_are_discounted_and_those_of_resets_count_nothing():
    data = fragment(np.zeros((3, 2)), np.zeros((2, 2)), [[1.0, 3.0], [2.0, 7.0]], np.zeros((2, 2)))
    data = dataclasses.replace(data, valid=np.array([[True, True], [True, False]]), terminated=~data.valid)
    data.terminated[0, 1] = True
    # to go: [1 + 0.5 * 2, 3] and [2, -]
    np.testing.assert_allclose(task_advantages(data, 0.5)[0], [-0.5, 0.5])
    assert task_advantages(data, 0.5)[1, 0] == 0.0


@pytest.mark.parametrize("second_order", [True, False])
def test_the_outer_gradient_is_that_of_the_objective_after_the_step(second_order: bool):
    rng = np.random.default_rng(0)
    policy = MAMLPolicy(ActorCritic(LINE, LINE, (3,), generator=torch.Generator().manual_seed(0)).double())
    config = MAMLConfig(inner_rate=0.7, second_order=second_order)

    def draw() -> Fragment:
        arrays = rng.normal(size=(5, 6)), rng.normal(size=(4, 6)), rng.normal(size=(4, 6)), np.full((4, 6), -1.3)
        return fragment(*arrays, dtype=np.float64)

    first, second = draw(), draw()
    theta = policy.parameters + 0.3 * torch.from_numpy(rng.normal(size=len(policy.parameters)))

    def after(parameters: torch.Tensor) -> torch.Tensor:
        return policy.objective(policy.adapt(parameters, first, config), second, config.gamma)

    start = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(after(start), start)
    steps = torch.eye(len(theta), dtype=torch.float64) * 1e-5
    numeric = torch.stack([(after(theta + step) - after(theta - step)).detach() / 2e-5 for step in steps])
    if second_order:
        torch.testing.assert_close(gradient, numeric, rtol=1e-4, atol=1e-7)
    else:
        assert not torch.allclose(gradient, numeric, rtol=1e-2)
        moved = policy.adapt(theta, first, config).detach().requires_grad_()
        (there,) = torch.autograd.grad(policy.objective(moved, second, config.gamma), moved)
        torch.testing.assert_close(gradient, there)


def test_one_step_adapts_after_meta_training():
    history: list[dict[str, float]] = []
    with LocalBackend() as backend:
        meta_train(ENV, MAMLConfig(), backend, num_updates=40, progress=lambda _, metrics: history.append(metrics))
    before, after = (
        np.array([metrics[f"rollout/return_{when}"] for metrics in history]) for when in ("before", "after")
    )
    assert after[-5:].mean() > before[-5:].mean() + 9.0  # a point that stays has about -20
    assert after[-5:].mean() > after[:5].mean() + 2.5  # a step from where it began brought less


def test_the_learner_takes_the_mean_and_climbs():
    learner = MAMLLearner(LINE, LINE, MAMLConfig(hidden_sizes=(), outer_rate=0.1))
    before = MAMLPolicy(learner.net).parameters
    gradients = [np.array([3.0, -1.0, 0.0], np.float32), np.array([1.0, -1.0, 0.0], np.float32)]
    metrics = learner.learn([MetaGradient(values, 5, -2.0, -1.0) for values in gradients])
    moved = MAMLPolicy(learner.net).parameters - before
    torch.testing.assert_close(moved, torch.tensor([0.1, -0.1, 0.0]), rtol=1e-4, atol=1e-6)  # Adam's first step
    assert (learner.version, learner.num_steps, metrics["rollout/return_after"]) == (1, 10, -1.0)
    other = MAMLLearner(LINE, LINE, MAMLConfig(hidden_sizes=(), outer_rate=0.1), seed=1)
    other.load_state_dict(learner.state_dict())
    np.testing.assert_array_equal(other.weights(), learner.weights())
    assert (other.version, other.num_steps) == (1, 10)


def test_an_environment_without_tasks_is_named():
    with pytest.raises(UserError, match="CartPole-v1 has no tasks"):
        MAMLWorker("CartPole-v1", MAMLConfig(), num_envs=1, fragment_length=1)


@pytest.mark.parametrize(("field", "value"), [("inner_rate", 0.0), ("gamma", 1.5), ("tasks_per_step", 0)])
def test_settings_out_of_range(field: str, value: float):
    with pytest.raises(UserError, match=field.replace("_", "[_-]")):
        MAMLConfig(**{field: value})


def test_the_points_task_is_its_goal():
    env = PointGoal()
    env.set_task(np.array([0.0, 1.0]))
    env.reset(seed=0)
    obs, reward, terminated, truncated, info = env.step(np.array([0.1, 0.9], np.float32))
    np.testing.assert_allclose(obs, [0.1, 0.2])  # the action is clipped
    assert reward == pytest.approx(-np.hypot(0.1, 0.8))
    assert not (terminated or truncated or info["success"])
    assert [env.step(np.zeros(2, np.float32))[3] for _ in range(HORIZON - 1)] == [False] * (HORIZON - 2) + [True]
    goals = [env.sample_task(np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(goals[0], goals[1])
    assert not np.array_equal(goals[0], goals[2])
    assert np.linalg.norm(goals[2]) == pytest.approx(1.0)
