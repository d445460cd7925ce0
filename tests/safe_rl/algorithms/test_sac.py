from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from toys import recovery_config, unconstrained_config

from safe_rl.algorithms.sac import SACAgent
from safe_rl.algorithms.temperature import Temperature
from safe_rl.checkpoint import load_state, save_state
from safe_rl.data.replay_buffer import Batch
from safe_rl.methods import make_agent
from safe_rl.nets.mlp import StackedMLP
from safe_rl.nets.optim import FlatAdam
from safe_rl.switch import Mode
from safe_rl.transitions import Transitions

OBS = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACT = gym.spaces.Box(np.array([0.0, -2.0], np.float32), np.array([10.0, 2.0], np.float32))


def agent(seed=0, **changes) -> SACAgent:
    return SACAgent(OBS, ACT, unconstrained_config(**changes), seed=seed)


def random_transitions(count, seed=0) -> Transitions:
    rng = np.random.default_rng(seed)
    action = rng.uniform(ACT.low, ACT.high, (count, 2)).astype(np.float32)
    return Transitions(
        obs=rng.standard_normal((count, 2), dtype=np.float32),
        task_action=action,
        action=action,
        reward=rng.standard_normal(count).astype(np.float32),
        cost=(rng.random(count) < 0.3).astype(np.float32),
        next_obs=rng.standard_normal((count, 2), dtype=np.float32),
        terminated=rng.random(count) < 0.3,
        truncated=np.zeros(count, bool),
    )


class Constant:
    """Networks that say what they are told, and remember what they were asked."""

    def __init__(self, value):
        self.value, self.asked = torch.tensor(value), []

    def __call__(self, x):
        self.asked.append(x)
        return self.value.unsqueeze(-1)

    def ranked(self, x, rank):
        self.asked.append(x)
        return self.value.sort(0).values[rank]


class Actor:
    def __init__(self, action, log_prob):
        self.action, self.log_prob = torch.tensor(action), torch.tensor(log_prob)

    def sample(self, obs, noise):
        return self.action, self.log_prob


def test_the_critic_loss_by_hand():
    made = agent(sac__gamma=0.9, sac__alpha=0.2)
    made.critic_targets = Constant([[4.0, 7.0], [5.0, 6.0]])
    made.critics = critics = Constant([[1.0, 1.0], [2.0, 2.0]])
    made.actor = Actor([[0.1, 0.2], [0.3, 0.4]], [-1.0, 2.0])
    task_action = torch.tensor([[0.5, 0.5], [-0.5, -0.5]])
    batch = Batch(
        obs=torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        task_action=task_action,
        action=-task_action,
        next_obs=torch.zeros(2, 2),
        reward=torch.tensor([1.0, 2.0]),
        cost=torch.tensor([1.0, 0.0]),  # the task critics do not know of it
        terminated=torch.tensor([0.0, 1.0]),
    )
    # y = [1 + 0.9 * (min(4, 5) + 0.2 * 1), 2] = [4.78, 2]
    # loss = ((1 - 4.78)^2 + (1 - 2)^2 + (2 - 4.78)^2 + (2 - 2)^2) / 2 / 2 = (14.2884 + 1 + 7.7284) / 4
    assert made._critic_loss(batch, batch.obs, batch.next_obs).item() == pytest.approx(5.7542, abs=1e-4)
    # The critics judge what was proposed, not what was executed.
    assert critics.asked[-1].tolist() == [[1, 2, 0.5, 0.5], [3, 4, -0.5, -0.5]]


def test_the_scale_of_the_reward_reaches_the_critics_alone():
    made = agent(sac__gamma=0.5, sac__alpha=0.0, sac__reward_scale=10.0)
    made.critic_targets = Constant([[2.0], [3.0]])
    made.critics = Constant([[0.0], [0.0]])
    made.actor = Actor([[0.0, 0.0]], [5.0])
    one = torch.ones(1)
    batch = Batch(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2), one, 0 * one, 0 * one)
    assert made._critic_loss(batch, batch.obs, batch.next_obs).item() == pytest.approx(121.0)  # (10 + 0.5 * 2)^2


def test_a_cut_episode_bootstraps_and_a_finished_one_does_not():
    made = agent()
    transitions = random_transitions(3).replace(
        terminated=np.array([True, False, False]), truncated=np.array([False, True, False])
    )
    made.observe(transitions)
    assert made.replay.batch(torch.arange(3)).terminated.tolist() == [1.0, 0.0, 0.0]


def test_the_actor_loss_by_hand():
    made = agent(sac__alpha=0.2)
    made.critics = StackedMLP(2, 4, (), 1)
    with torch.no_grad():  # twin i says values[i] in the two states, whatever the action
        made.critics.flat.zero_()
        for unit, values in zip(made.critics.units(), [[1.0, 4.0], [3.0, 2.0]], strict=True):
            unit[0].weight[:2, 0] = torch.tensor(values)
    loss = made._actor_loss(None, torch.eye(2), torch.zeros(2, 2), torch.tensor([1.0, -3.0]))
    assert loss.item() == pytest.approx(((0.2 * 1 - 1) + (0.2 * -3 - 2)) / 2)


@pytest.mark.parametrize(("log_prob", "direction"), [(3.0, +1), (-3.0, -1)])
def test_the_temperature_rises_while_there_is_too_little_entropy(log_prob, direction):
    temperature = Temperature(0.2)
    optimizer = FlatAdam(temperature, 0.01)
    # The entropy is -log_prob, its target 1.
    optimizer.step(temperature.loss(torch.tensor([log_prob]), target_entropy=1.0))
    assert temperature().item() == pytest.approx(0.2 * np.exp(direction * 0.01), rel=1e-4)


@pytest.mark.parametrize(("target", "rises"), [(50.0, True), (-50.0, False)])
def test_an_agent_tunes_its_temperature_towards_the_target(target, rises):
    made = agent(sac__entropy="auto", sac__target_entropy=target)
    made.observe(random_transitions(50))
    before = float(made._alpha)
    for _ in range(5):
        metrics = made.update()
    assert before == pytest.approx(0.2)
    assert (float(made._alpha) > before) is rises
    assert metrics["train/alpha"].item() == pytest.approx(float(made._alpha))


def test_a_fixed_temperature_stays():
    made = agent()
    made.observe(random_transitions(50))
    for _ in range(3):
        assert made.update()["train/alpha"].item() == pytest.approx(0.2)


def test_the_default_entropy_target_is_minus_the_number_of_components():
    assert agent().target_entropy == -2.0
    assert agent(sac__target_entropy=0.5).target_entropy == 0.5


def test_targets_follow_by_tau():
    made = agent(sac__tau=0.25)
    made.observe(random_transitions(50))
    former = made.critic_targets.flat.clone()
    made.update()
    torch.testing.assert_close(made.critic_targets.flat, 0.75 * former + 0.25 * made.critics.flat.detach())


def test_actions_are_in_the_environments_units_and_limits():
    made = agent(start_steps=0)
    obs = np.random.default_rng(0).standard_normal((300, 2)).astype(np.float32)
    for explore in (True, False):
        decision = made.act(obs, explore=explore)
        assert decision.action.shape == (300, 2)
        assert decision.action.dtype == np.float32
        assert all(ACT.contains(action) for action in decision.action)
        assert np.isnan(decision.risk).all()
        assert (decision.mode == Mode.TASK).all()
        np.testing.assert_array_equal(decision.action, decision.task_action)


def test_the_first_actions_are_uniform_and_then_the_policys():
    made = agent(start_steps=20)
    obs = np.zeros((2000, 2), np.float32)
    actions = made.act(obs, explore=True).action
    for column, (low, high) in enumerate(zip(ACT.low, ACT.high, strict=True)):
        counts, _ = np.histogram(actions[:, column], bins=10, range=(low, high))
        assert counts.sum() == 2000
        assert counts.min() > 130  # 200 expected in each tenth
    made.observe(random_transitions(20))
    # The squashed Gaussian of a fresh network has its mass elsewhere than at the edges.
    actions = made.act(obs, explore=True).action
    assert np.histogram(actions[:, 0], bins=10, range=(0, 10))[0].std() > 30


def test_without_exploration_an_action_is_always_the_same():
    made = agent()
    obs = np.ones((1, 2), np.float32)
    state = made.generator.get_state()
    first = made.act(obs, explore=False).action
    assert np.array_equal(made.act(obs, explore=False).action, first)
    assert torch.equal(made.generator.get_state(), state)


def test_nothing_is_learned_before_its_time():
    made = agent(update_after=10)
    before = made.actor.net.flat.clone()
    made.observe(random_transitions(10))
    assert made.update() == {}
    assert torch.equal(made.actor.net.flat, before)
    made.observe(random_transitions(1, seed=1))
    assert set(made.update()) == {"train/critic_loss", "train/actor_loss", "train/entropy", "train/alpha"}
    assert not torch.equal(made.actor.net.flat, before)
    assert made.num_updates == 1


def test_the_time_comes_in_a_small_replay_too():
    made = agent(update_after=10, replay_capacity=5)
    made.observe(random_transitions(11))
    assert made.update()


def test_the_random_state_of_another_kind_of_device_seeds_anew():
    # A CUDA generator's state has 16 bytes, a CPU's thousands.
    first, second, other = agent(), agent(), agent()
    first.act(np.ones((1, 2), np.float32), explore=True)
    for made, number in ((first, 7), (second, 7), (other, 8)):
        made.restore_generator(torch.tensor([number] * 16, dtype=torch.uint8))
    draws = [torch.rand(3, generator=made.generator).tolist() for made in (first, second, other)]
    assert draws[0] == draws[1] != draws[2]


def test_actions_are_stored_between_minus_one_and_one():
    made = agent()
    corners = np.array([[0.0, -2.0], [10.0, 2.0], [5.0, 1.0]], np.float32)
    made.observe(random_transitions(3).replace(action=corners, task_action=corners))
    batch = made.replay.batch(torch.arange(3))
    assert batch.action.tolist() == batch.task_action.tolist() == [[-1, -1], [1, 1], [0, 0.5]]


@pytest.mark.parametrize(("setting", "moves"), [("none", False), ("running", True), ("dataset", True)])
def test_without_a_dataset_the_scale_is_learned_along_the_way(setting, moves):
    made = agent(normalize_obs=setting)
    transitions = random_transitions(40)
    for part in (transitions[:15], transitions[15:]):
        made.observe(part)
    if moves:
        np.testing.assert_allclose(made.normalizer.mean, transitions.obs.mean(0), atol=1e-5)
        np.testing.assert_allclose(made.normalizer.variance, transitions.obs.var(0), rtol=1e-4)
    else:
        assert made.normalizer.count.item() == 0


@pytest.mark.parametrize("method", ["unconstrained", "recovery-rl"])
@pytest.mark.parametrize("entropy", ["fixed", "auto"])
def test_a_restored_agent_goes_on_the_same(tmp_path, method, entropy):
    changes = {"sac__entropy": entropy, "start_steps": 0, "normalize_obs": "running"}
    config = (recovery_config if method == "recovery-rl" else unconstrained_config)(**changes)
    first, second = (make_agent(method, config, OBS, ACT, seed=seed) for seed in (1, 2))
    for made in (first, second):
        if method == "recovery-rl":
            made.add_offline(random_transitions(30, seed=9))
    first.observe(random_transitions(40))
    for _ in range(3):
        first.update()
    save_state(tmp_path / "state", first.state_dict())
    second.load_state_dict(load_state(tmp_path / "state"))
    obs = random_transitions(5, seed=3).obs
    for step in range(4):
        for explore in (True, False):
            decisions = [made.act(obs, explore=explore) for made in (first, second)]
            assert np.array_equal(decisions[0].action, decisions[1].action)
            assert np.array_equal(decisions[0].risk, decisions[1].risk, equal_nan=True)
        for made in (first, second):
            made.observe(random_transitions(5, seed=step))
        metrics = [made.update() for made in (first, second)]
        assert {k: v.item() for k, v in metrics[0].items()} == {k: v.item() for k, v in metrics[1].items()}
    assert torch.equal(first.critic_targets.flat, second.critic_targets.flat)
    assert (first.num_observed, first.num_updates) == (second.num_observed, second.num_updates)


def test_the_policy_alone_is_enough_to_act(tmp_path):
    config = recovery_config()
    first, second = (make_agent("recovery-rl", config, OBS, ACT, seed=seed) for seed in (1, 2))
    first.add_offline(random_transitions(30))
    list(first.pretrain(3))
    second.load_policy_state_dict(first.policy_state_dict())
    obs = random_transitions(20, seed=3).obs
    decisions = [made.act(obs, explore=False) for made in (first, second)]
    assert np.array_equal(decisions[0].action, decisions[1].action)
    assert np.array_equal(decisions[0].risk, decisions[1].risk)
