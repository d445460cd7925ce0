"""Rollout workers: what a fragment holds, that it fits together, and that workers repeat and differ as they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from safe_rl.algorithms.actor_critic import ActorCritic
from safe_rl.algorithms.fragment import Fragment
from safe_rl.errors import EnvironmentFault, UserError
from safe_rl.flow.rollout_worker import RolloutWorker


def make(env: str = "toy_steps:three_steps", *, weights_seed: int = 0, **options) -> RolloutWorker:
    worker = RolloutWorker(env, **{"num_envs": 2, "fragment_length": 5, "hidden_sizes": (8,), **options})
    envs = worker.envs
    net = ActorCritic(
        envs.observation_space, envs.action_space, (8,), generator=torch.Generator().manual_seed(weights_seed)
    )
    worker.set_weights(net.flat_weights(), 7)
    return worker


def test_a_fragment_by_hand() -> None:
    """Episodes of three steps with the rewards 1, 2, 3 and a cost on the second; then a row that resets."""
    worker = make(index=4)
    found = worker.sample()
    np.testing.assert_array_equal(found.obs[:, 0, 1], [0, 1, 2, 3, 0, 1])
    np.testing.assert_array_equal(found.reward[:, 0], [1, 2, 3, 0, 1])
    np.testing.assert_array_equal(found.cost[:, 0], [0, 1, 0, 0, 0])
    np.testing.assert_array_equal(found.terminated[:, 0], [0, 0, 1, 0, 0])
    np.testing.assert_array_equal(found.valid[:, 0], [1, 1, 1, 0, 1])
    assert not found.truncated.any()
    assert (found.version, found.worker, found.num_steps) == (7, 4, 8)
    assert [tuple(episode) for episode in found.episodes] == [(6.0, 3, 1.0, True, 0)] * 2
    assert worker.pop_episodes() == []


def test_fragments_go_on_where_the_last_one_ended() -> None:
    worker = make()
    first, second = worker.sample(), worker.sample()
    np.testing.assert_array_equal(first.obs[-1], second.obs[0])
    np.testing.assert_array_equal(second.obs[:, 0, 1], [1, 2, 3, 0, 1, 2])
    np.testing.assert_array_equal(second.valid[:, 0], [1, 1, 0, 1, 1])
    assert [episode.return_ for episode in second.episodes] == [6.0, 6.0]


def test_truncation_is_no_termination() -> None:
    found = make("toy_steps:three_steps_cut").sample()
    np.testing.assert_array_equal(found.truncated[:, 0], [0, 0, 1, 0, 0])
    assert not found.terminated.any()
    assert found.obs[3, 0, 1] == 3  # the final observation, to bootstrap from
    assert not found.episodes[0].success


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_log_probs_are_those_of_the_policy_that_acted(env: str) -> None:
    worker = make(env, num_envs=3, fragment_length=40)
    net = ActorCritic(
        worker.envs.observation_space, worker.envs.action_space, (8,), generator=torch.Generator().manual_seed(0)
    )
    found = worker.sample()
    obs, action = torch.from_numpy(found.obs[:-1]).flatten(0, 1), torch.from_numpy(found.task_action).flatten(0, 1)
    np.testing.assert_allclose(net.log_prob(obs, action), found.log_prob.reshape(-1), rtol=1e-4, atol=1e-5)


def test_draws_past_the_limits_are_clipped_only_for_the_environment() -> None:
    worker = make("Pendulum-v1", num_envs=4, fragment_length=50)
    found = worker.sample()
    assert np.abs(found.task_action).max() > 1.0
    np.testing.assert_allclose(found.action, np.clip(2.0 * found.task_action, -2.0, 2.0), rtol=1e-6)
    transitions = found.transitions()
    assert len(transitions) == found.num_steps
    np.testing.assert_array_equal(transitions.next_obs[0], found.obs[1, 0])


def test_cartpole_episodes_are_counted_without_the_steps_that_reset() -> None:
    worker = make("CartPole-v1", num_envs=4, fragment_length=200)
    found = worker.sample()
    assert len(found.episodes) > 10
    assert all(episode.return_ == episode.steps for episode in found.episodes)  # a reward of 1 a step
    ends = np.count_nonzero(found.terminated | found.truncated)
    assert len(found.episodes) == ends
    assert np.count_nonzero(~found.valid) == ends - np.count_nonzero(found.terminated[-1] | found.truncated[-1])


def equal(left: Fragment, right: Fragment) -> bool:
    return np.array_equal(left.obs, right.obs) and np.array_equal(left.task_action, right.task_action)


@pytest.mark.parametrize("env", ["toy_steps:three_steps", "CartPole-v1", "Pendulum-v1"])
def test_seeds(env: str) -> None:
    first = make(env, seed=1, index=0).sample()
    assert equal(first, make(env, seed=1, index=0).sample())
    for seed, index in ((2, 0), (1, 1)):
        other = make(env, seed=seed, index=index).sample()
        assert not np.array_equal(first.obs, other.obs)
        assert not np.array_equal(first.task_action, other.task_action)


def test_a_restarted_worker_does_not_repeat_itself() -> None:
    worker = make("CartPole-v1", seed=1)
    first = worker.sample()
    restarted = make("CartPole-v1", seed=1, num_sampled=1)
    restored = make("CartPole-v1", seed=1)
    restored.load_state_dict(worker.state_dict())
    after = restarted.sample()
    assert not np.array_equal(first.obs, after.obs)
    assert equal(after, restored.sample())
    assert restarted.num_sampled == 2


class Halved(RolloutWorker):
    """Executes half of what is proposed where the first observation component is even."""

    def execute(self, obs, action, overridden):
        overridden[:] = obs[:, 0] % 2 == 0
        return np.where(overridden[:, None], action / 2, action)


def test_a_worker_may_execute_something_else() -> None:
    plain = make(num_envs=8, seed=3)
    worker = Halved("toy_steps:three_steps", num_envs=8, fragment_length=5, hidden_sizes=(8,), seed=3)
    net = ActorCritic(
        plain.envs.observation_space, plain.envs.action_space, (8,), generator=torch.Generator().manual_seed(0)
    )
    worker.set_weights(net.flat_weights(), 0)
    ours, theirs = worker.sample(), plain.sample()
    np.testing.assert_array_equal(ours.task_action, theirs.task_action)
    np.testing.assert_array_equal(ours.log_prob, theirs.log_prob)
    assert 0 < ours.overridden.mean() < 1
    expected = np.where(ours.overridden[..., None], theirs.action / 2, theirs.action)
    np.testing.assert_array_equal(ours.action, expected)
    by_start = {0: 0, 3: 3}
    assert {episode.overridden for episode in ours.episodes} <= set(by_start.values())


def test_faults_come_through() -> None:
    with pytest.raises(EnvironmentFault, match="not finite"):
        make("toy_steps:broken_observation").sample()


def test_bad_use() -> None:
    with pytest.raises(UserError, match="no weights yet"):
        RolloutWorker("toy_steps:three_steps", num_envs=1).sample()
    with pytest.raises(UserError, match="--envs-per-worker is 0"):
        RolloutWorker("toy_steps:three_steps", num_envs=0)
    with pytest.raises(UserError, match="--fragment-length is 0"):
        RolloutWorker("toy_steps:three_steps", fragment_length=0)
