"""DQN's targets, n-step rows and prioritised replay, by hand and by counting."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_rl.algorithms.dqn import ApexConfig, DQNConfig, DQNLearner, double_q_target
from safe_rl.algorithms.fragment import Fragment
from safe_rl.algorithms.prioritized_replay import PrioritizedReplay, QBatch, QRows, SumTree, n_step_rows
from safe_rl.errors import UserError

OBS, ACT = gym.spaces.Box(-1, 1, (1,), np.float32), gym.spaces.Discrete(3)


def fragment(terminated_at: int = -1, truncated_at: int = -1, start: int = 0) -> Fragment:
    """One environment, five steps with rewards 1, 2, 4, 8, 16; the row after an end only resets."""
    flags = np.zeros((3, 5, 1), dtype=np.bool_)
    terminated, truncated, overridden = flags
    if terminated_at >= 0:
        terminated[terminated_at] = True
    if truncated_at >= 0:
        truncated[truncated_at] = True
    valid = np.ones((5, 1), dtype=np.bool_)
    valid[1:] = ~(terminated | truncated)[:-1]
    action = (np.arange(5)[:, None] % 3) + start
    return Fragment(
        obs=np.arange(6, dtype=np.float32).reshape(6, 1, 1),
        task_action=action,
        action=action,
        log_prob=np.zeros((5, 1), np.float32),
        reward=np.array([1, 2, 4, 8, 16], np.float32)[:, None],
        cost=np.zeros((5, 1), np.float32),
        terminated=terminated,
        truncated=truncated,
        valid=valid,
        overridden=overridden,
    )


def test_the_online_network_chooses_and_the_target_network_values():
    next_q = torch.tensor([[1.0, 5.0, 2.0], [7.0, 0.0, 0.0]])
    next_q_target = torch.tensor([[10.0, 20.0, 90.0], [30.0, 99.0, 0.0]])
    target = double_q_target(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0]), next_q, next_q_target)
    torch.testing.assert_close(target, torch.tensor([1 + 0.5 * 20, 2.0]))


def test_rows_of_three_steps_by_hand():
    rows = n_step_rows(fragment(start=4), 3, 0.5, start=4)
    np.testing.assert_allclose(rows.reward, [1 + 1 + 1, 2 + 2 + 2, 4 + 4 + 4, 8 + 8, 16])
    np.testing.assert_allclose(rows.discount, [0.125, 0.125, 0.125, 0.25, 0.5])
    np.testing.assert_array_equal(rows.next_obs[:, 0], [3, 4, 5, 5, 5])
    np.testing.assert_array_equal(rows.obs[:, 0], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(rows.action, [0, 1, 2, 0, 1])


@pytest.mark.parametrize(("kind", "last_discount"), [("terminated_at", 0.0), ("truncated_at", 0.5)])
def test_rows_end_with_the_episode(kind: str, last_discount: float):
    rows = n_step_rows(fragment(**{kind: 1}), 3, 0.5)
    np.testing.assert_array_equal(rows.obs[:, 0], [0, 1, 3, 4])  # row 2 only resets
    np.testing.assert_allclose(rows.reward, [1 + 1, 2, 8 + 8, 16])
    np.testing.assert_allclose(rows.discount, [last_discount * 0.5, last_discount, 0.25, 0.5])
    np.testing.assert_array_equal(rows.next_obs[:, 0], [2, 2, 5, 5])


def test_a_gradient_step_by_autograd_and_the_targets_renewal():
    config = DQNConfig(hidden_sizes=(4,), target_interval=2, reward_scale=2.0)
    learner = DQNLearner(OBS, ACT, config)
    before = learner.q.flat.detach().clone()
    batch = QBatch(
        np.array([[0.1], [0.7]], np.float32), np.array([2, 0]), np.array([1.0, -3.0], np.float32),
        np.array([0.9, 0.0], np.float32), np.array([[0.2], [0.3]], np.float32), np.array([1.0, 0.5], np.float32),
        np.array([0, 1]),
    )  # fmt: skip
    q = learner.q(torch.from_numpy(batch.obs))[0]
    best = learner.q(torch.tensor([[0.2]]))[0].max()  # target and online network are equal at the start
    errors = torch.stack([q[0, 2] - (2.0 + 0.9 * best.detach()), q[1, 0] + 6.0])
    huber = torch.where(errors.abs() < 1, errors**2 / 2, errors.abs() - 0.5)
    gradient = torch.autograd.grad((huber * torch.tensor([1.0, 0.5])).mean(), learner.q.flat)[0]
    metrics, magnitudes = learner.step(batch)
    np.testing.assert_allclose(magnitudes, errors.abs().detach().numpy(), rtol=1e-5)
    assert metrics["train/loss"] == pytest.approx((huber * torch.tensor([1.0, 0.5])).mean().item(), rel=1e-5)
    moved = learner.q.flat.detach() - before
    touched = gradient.abs() > 1e-6
    torch.testing.assert_close(moved[touched], -config.learning_rate * gradient[touched].sign(), rtol=1e-2, atol=0)
    torch.testing.assert_close(learner.target.flat.detach(), before)
    learner.step(batch)
    torch.testing.assert_close(learner.target.flat.detach(), learner.q.flat.detach())


@given(st.lists(st.floats(0, 100), min_size=1, max_size=70), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_the_tree_finds_what_a_cumulative_sum_finds(values: list[float], seed: int):
    tree, array = SumTree(len(values)), np.array(values)
    tree.set(np.arange(len(values)), array)
    assert tree.total == pytest.approx(array.sum())
    if array.sum() == 0:
        return
    sums = np.random.default_rng(seed).random(20) * tree.total * (1 - 1e-9)
    found = tree.find(sums)
    assert (array[found] > 0).all()
    ends = np.cumsum(array)
    assert (sums <= ends[found] + 1e-6).all()
    assert (sums >= ends[found] - array[found] - 1e-6).all()


def rows(count: int, first: int = 0) -> QRows:
    numbers = np.arange(first, first + count)
    column = numbers.astype(np.float32)
    return QRows(column[:, None], numbers % 3, column, column, column[:, None])


def test_priorities_decide_how_often_and_weights_make_up_for_it():
    replay = PrioritizedReplay(4, 1, 1.0, 1.0, seed=0)
    replay.add(rows(4))
    replay.set_priorities(np.arange(4), np.array([1.0, 1.0, 2.0, 4.0], np.float32))
    batch = replay.sample(40_000)
    assert batch is not None
    share = np.bincount(batch.indices, minlength=4) / 40_000
    np.testing.assert_allclose(share, [0.125, 0.125, 0.25, 0.5], atol=0.01)
    for index, weight in enumerate((1.0, 1.0, 0.5, 0.25)):
        np.testing.assert_allclose(batch.weight[batch.indices == index], weight, rtol=1e-4)
    np.testing.assert_array_equal(batch.reward, batch.indices)


def test_without_priorities_all_are_alike_and_the_oldest_go():
    replay = PrioritizedReplay(8, 1, 0.0, 0.4, seed=0)
    assert replay.sample(3) is None
    replay.add(rows(6))
    replay.add(rows(6, first=6))
    replay.set_priorities(np.arange(3), np.array([9.0, 0.0, 5.0], np.float32))
    batch = replay.sample(8_000)
    assert batch is not None
    np.testing.assert_allclose(batch.weight, 1.0)
    assert set(batch.reward) == set(range(4, 12))
    np.testing.assert_allclose(np.bincount(batch.indices) / 8_000, 1 / 8, atol=0.02)
    replay.add(rows(20, first=100))
    assert len(replay) == 8
    assert set(replay.sample(500).reward) == set(range(112, 120))  # type: ignore[union-attr]


def test_epsilon_falls_and_ape_x_has_one_for_each_environment():
    learner = DQNLearner(OBS, ACT, DQNConfig(epsilon_steps=100, final_epsilon=0.1, hidden_sizes=(4,)))
    values = []
    for learner.num_steps in (0, 50, 100, 500):
        values.append(learner.epsilon)
    assert values == pytest.approx([1.0, 0.55, 0.1, 0.1])
    config = ApexConfig(epsilon_base=0.4, epsilon_spread=7.0)
    assert [config.epsilon_of(i, 3) for i in range(3)] == pytest.approx([0.4, 0.4**4.5, 0.4**8])
    assert config.epsilon_of(0, 1) == pytest.approx(0.4)


def test_no_images():
    with pytest.raises(UserError, match="DQN cannot learn from images"):
        DQNLearner(gym.spaces.Box(0, 255, (16, 16, 3), np.uint8), gym.spaces.Discrete(2), DQNConfig())


def test_only_discrete_actions():
    with pytest.raises(UserError, match="must be Discrete"):
        DQNLearner(OBS, OBS, DQNConfig())
