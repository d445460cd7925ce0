"""Two agents in one environment: what each is handed, that each is trained by its own learner, and that both learn."""

from __future__ import annotations

import numpy as np
import pytest

from safe_rl.algorithms.dqn import DQNConfig
from safe_rl.algorithms.ppo import PPOConfig
from safe_rl.envs.leader_follower import LeaderFollower
from safe_rl.errors import UserError
from safe_rl.flow import LocalBackend
from safe_rl.flow.multi_agent_worker import MultiAgentWorker
from safe_rl.flow.operators import Update
from safe_rl.plans.multi_agent import Team, train_team

PPO = PPOConfig(learning_rate=3e-3, hidden_sizes=(32, 32), num_epochs=4, minibatch_size=128, gamma=0.9)
DQN = DQNConfig(
    hidden_sizes=(32, 32), gamma=0.9, learning_starts=500, epsilon_steps=4_000, batch_size=64, updates_per_step=0.25
)


def train(steps: int, **settings: int) -> tuple[Team, list[Update]]:
    updates: list[Update] = []
    with LocalBackend() as backend:
        agents = ("leader", PPO), ("follower", DQN)
        team = train_team(LeaderFollower, *agents, backend, steps=steps, progress=updates.append, **settings)
    return team, updates


def returns(updates: list[Update], agent: str) -> list[float]:
    return [value for update in updates if (value := update.metrics.get(f"{agent}/rollout/return_mean")) is not None]


def test_both_learn():
    _, updates = train(10_000)
    for agent in ("leader", "follower"):
        history = returns(updates, agent)
        # Straight there from 3 cells away is -6 / 8; walking about at random is some -6.
        assert np.mean(history[:2]) < -4.0, agent
        assert np.mean(history[-4:]) > -2.0, agent


def test_each_agent_is_trained_by_its_own_learner_from_every_round():
    team, updates = train(1_500, num_workers=2, envs_per_worker=4, fragment_length=16)
    assert team.ppo.num_steps == pytest.approx(team.dqn.num_steps, abs=2 * 4 * 16)  # one round may be on its way
    assert team.ppo.version == 13 * 4 * 1  # rounds of 128 steps less resets, 4 epochs of one minibatch
    assert team.dqn.version == pytest.approx((team.dqn.num_steps - 500) * DQN.updates_per_step, abs=35)
    named = {name.split("/")[0] for update in updates for name in update.metrics}
    assert named == {"leader", "follower"}


class Scripted:
    """Does what it is told."""

    def __init__(self, action: int) -> None:
        self.action = action

    def act(self, obs: np.ndarray, rng: np.random.Generator):
        action = np.full(len(obs), self.action)
        return action, action, np.zeros(len(obs), np.float32)


def test_a_fragment_is_what_its_agent_saw():
    from safe_rl.flow.multi_agent_worker import Acted

    worker = MultiAgentWorker(LeaderFollower, {"leader": PPO, "follower": DQN}, num_envs=1, fragment_length=20)
    for agent, action in (("leader", 2), ("follower", 0)):
        script = Scripted(action)
        worker.actors[agent].act = lambda obs, rng, script=script: Acted(*script.act(obs, rng))
    (env,) = worker.envs
    env.goal, env.leader, env.follower, worker.version = 8, 4, 4, 7
    worker._obs = {agent: seen[None] for agent, seen in env._observe().items()}
    fragments = worker.sample()
    leader, follower = fragments["leader"], fragments["follower"]
    # The leader walks right to the goal, in eighths 3, 2, 1, 0 away; the follower left to the wall.
    np.testing.assert_allclose(leader.reward[:5, 0], [-3 / 8, -2 / 8, -1 / 8, 0, 0])
    np.testing.assert_allclose(follower.reward[:5, 0], [-2 / 8, -4 / 8, -6 / 8, -1, -1])
    np.testing.assert_allclose(leader.obs[:3, 0], [[0, 1], [0.25, 1], [0.5, 1]])
    np.testing.assert_allclose(follower.obs[:3, 0], [[0, 0], [-0.25, 0.25], [-0.5, 0.5]])
    assert (leader.action == 2).all()
    assert (follower.action == 0).all()
    for fragment in fragments.values():
        np.testing.assert_array_equal(np.flatnonzero(fragment.truncated), [15])
        np.testing.assert_array_equal(np.flatnonzero(~fragment.valid), [16])  # the row that resets
        assert fragment.version == 7
        assert not fragment.terminated.any()
    assert leader.reward[16, 0] == 0.0
    (episode,) = leader.episodes
    assert (episode.return_, episode.steps) == (pytest.approx(-6 / 8), 16)
    np.testing.assert_allclose(leader.obs[16, 0], [1, 1])  # what the last step led to


def test_agents_without_learners_are_named():
    with (
        LocalBackend() as backend,
        pytest.raises(UserError, match=r"learners for follower, pilot, .* follower, leader"),
    ):
        train_team(LeaderFollower, ("pilot", PPO), ("follower", DQN), backend, steps=1)


def test_an_environment_repeats_by_its_seed():
    one, two = LeaderFollower(), LeaderFollower()
    assert {a: list(o) for a, o in one.reset(seed=3)[0].items()} == {
        a: list(o) for a, o in two.reset(seed=3)[0].items()
    }
    places = {tuple(LeaderFollower().reset(seed=seed)[0]["leader"]) for seed in range(8)}
    assert len(places) > 3
