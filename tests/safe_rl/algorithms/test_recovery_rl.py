from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from toys import recovery_config

from safe_rl.algorithms.recovery_rl import RecoveryRLAgent
from safe_rl.algorithms.risk_aware import RiskAwareAgent
from safe_rl.data.replay_buffer import Batch
from safe_rl.switch import Mode
from safe_rl.transitions import Transitions

OBS = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACT = gym.spaces.Box(-4.0, 4.0, (2,), np.float32)
CHANGES = {"start_steps": 0, "normalize_obs": "none", "risk__eps_risk": 0.3}


class Proposes:
    """A task policy that does what the observation says."""

    def mean_action(self, obs):
        return obs

    def sample_action(self, obs, noise):
        return obs


class Rescues:
    """A recovery policy that always answers (-0.2, 0.9), and counts how often it is asked."""

    def __init__(self):
        self.calls = 0

    def act(self, obs, generator, *, explore):
        self.calls += 1
        return torch.tensor([[-0.2, 0.9]]).expand(len(obs), 2)

    def backup_action(self, obs, generator):
        return self.act(obs, generator, explore=True)


def risk_is_the_size_of_the_first_component(obs, action):
    return action[:, 0].abs()


def agent(**changes) -> RecoveryRLAgent:
    return RecoveryRLAgent(OBS, ACT, recovery_config(**{**CHANGES, **changes}), seed=0)


def scripted(**changes) -> RecoveryRLAgent:
    made = agent(**changes)
    made.actor, made.recovery = Proposes(), Rescues()
    made.risk_critic = risk_is_the_size_of_the_first_component
    return made


def random_transitions(count, seed=0) -> Transitions:
    rng = np.random.default_rng(seed)
    cost = (rng.random(count) < 0.3).astype(np.float32)
    return Transitions(
        obs=rng.standard_normal((count, 2), dtype=np.float32),
        task_action=rng.uniform(-4, 4, (count, 2)).astype(np.float32),
        action=rng.uniform(-4, 4, (count, 2)).astype(np.float32),
        reward=rng.standard_normal(count).astype(np.float32),
        cost=cost,
        next_obs=rng.standard_normal((count, 2), dtype=np.float32),
        terminated=cost > 0,
        truncated=np.zeros(count, bool),
    )


# ------------------------------------------------------------------------------------------------ acting


@pytest.mark.parametrize("explore", [True, False])
def test_each_row_of_a_batch_is_decided_by_itself(explore):
    obs = np.array([[0.1, 0.5], [0.7, 0.5], [0.3, -1.0], [-0.9, 0.0]], np.float32)
    decision = scripted().act(obs, explore=explore)
    assert decision.mode.tolist() == [Mode.TASK, Mode.RECOVERY, Mode.TASK, Mode.RECOVERY]
    np.testing.assert_allclose(decision.risk, [0.1, 0.7, 0.3, 0.9], rtol=1e-6)
    # In the environment's units, four times the network's.
    np.testing.assert_allclose(decision.action, [[0.4, 2.0], [-0.8, 3.6], [1.2, -4.0], [-0.8, 3.6]], rtol=1e-6)
    np.testing.assert_allclose(decision.task_action, 4 * obs, rtol=1e-6)
    assert decision.mode.dtype == np.int8
    assert decision.solve_time_sec > 0
    assert decision.reason == ""


def test_recovery_is_not_asked_where_nobody_needs_it():
    made = scripted()
    made.act(np.array([[0.1, 0.5], [0.3, 0.0]], np.float32), explore=True)
    assert made.recovery.calls == 0


def test_recovery_must_help_keeps_the_less_risky_of_two_risky_actions():
    made = scripted(risk__recovery_must_help=True, risk__eps_risk=0.1)
    obs = np.array([[0.05, 0.0], [0.15, 0.0], [0.2, 0.0], [0.5, 0.0]], np.float32)  # recovery's risk is 0.2
    modes = made.act(obs, explore=False).mode.tolist()
    assert modes == [Mode.TASK, Mode.TASK, Mode.TASK, Mode.RECOVERY]


def test_a_risk_that_is_nan_hands_over():
    made = scripted()
    made.risk_critic = lambda obs, action: torch.tensor([float("nan"), 0.0])
    assert made.act(np.zeros((2, 2), np.float32), explore=False).mode.tolist() == [Mode.RECOVERY, Mode.TASK]


def test_where_even_recovery_looks_lost_training_tries_random_actions():
    obs = np.array([[0.1, 0.0], *[[0.9, 0.0]] * 400], np.float32)  # one row that is safe
    made = scripted(recovery__explore_above=0.15)  # recovery's risk is 0.2
    decision = made.act(obs, explore=True)
    tried = decision.action[1:] / 4
    assert decision.mode.tolist() == [Mode.TASK, *[Mode.RECOVERY] * 400]
    np.testing.assert_allclose(decision.action[0], [0.4, 0.0], rtol=1e-6)
    assert np.abs(tried.mean(0)).max() < 0.1
    np.testing.assert_allclose(tried.std(0), 1 / np.sqrt(3), atol=0.05)  # uniform in [-1, 1]


@pytest.mark.parametrize(("above", "explore"), [(0.15, False), (0.25, True), (1.0, True)])
def test_what_recovery_can_rescue_and_every_evaluation_are_left_to_it(above, explore):
    decision = scripted(recovery__explore_above=above).act(np.full((50, 2), 0.9, np.float32), explore=explore)
    np.testing.assert_allclose(decision.action, np.tile([[-0.8, 3.6]], (50, 1)), rtol=1e-6)


def test_the_backup_is_that_of_the_recovery_policy_alone():
    made = scripted(recovery__explore_above=0.15)
    expected = torch.tensor([[-0.2, 0.9]]).expand(50, 2)
    assert torch.equal(made._next_action(torch.full((50, 2), 0.9), pretraining=False), expected)


def test_the_switch_watches_the_random_actions_of_the_beginning_too():
    made = agent()
    made.config.start_steps = 10
    made.recovery = Rescues()
    made.risk_critic = risk_is_the_size_of_the_first_component
    decision = made.act(np.zeros((500, 2), np.float32), explore=True)
    recovers = np.abs(decision.task_action[:, 0] / 4) > 0.3
    assert 300 < recovers.sum() < 400  # 70 % of uniform actions
    np.testing.assert_array_equal(decision.mode == Mode.RECOVERY, recovers)


def test_the_risk_of_an_action_in_the_environments_units():
    made = scripted()
    risk = made.risk(np.zeros((3, 2), np.float32), np.array([[2.0, 1.0], [-4.0, 0.0], [0.0, 4.0]], np.float32))
    assert risk.tolist() == [0.5, 1.0, 0.0]
    assert made.has_risk


# -------------------------------------------------------------------------------------------- relabelling


@pytest.mark.parametrize("relabel", [True, False])
def test_what_the_replay_holds(relabel):
    made = agent(relabel_actions=relabel)
    proposed, executed = np.array([[4.0, -4.0]], np.float32), np.array([[2.0, 0.0]], np.float32)
    rescued = random_transitions(1).replace(task_action=proposed, action=executed)
    made.add_offline(rescued)  # recorded with the policy of an earlier run, say
    made.observe(rescued)
    batch = made.replay.batch(torch.tensor([0, 1]))
    assert batch.action.tolist() == [[0.5, 0.0]] * 2  # the risk critic learns from what was executed, always
    assert batch.task_action.tolist() == ([[1.0, -1.0]] if relabel else [[0.5, 0.0]]) * 2


# ---------------------------------------------------------------------------------------- the risk target


PROPOSALS = torch.tensor([[0.1, 0.0], [0.29, 0.4], [0.31, 0.4], [-0.8, 0.2]])


@pytest.mark.parametrize(("backup", "handed_over"), [("composite", [2, 3]), ("task", [])])
def test_the_backups_differ_exactly_where_the_switch_hands_over(backup, handed_over):
    made = scripted(risk__backup=backup)
    action = made._next_action(PROPOSALS, pretraining=False)
    expected = PROPOSALS.clone()
    expected[handed_over] = torch.tensor([-0.2, 0.9])
    assert torch.equal(action, expected)


def test_the_composite_backup_knows_that_recovery_must_help():
    made = scripted(risk__recovery_must_help=True, risk__eps_risk=0.1)
    action = made._next_action(torch.tensor([[0.15, 0.0], [0.5, 0.0]]), pretraining=False)
    torch.testing.assert_close(action, torch.tensor([[0.15, 0.0], [-0.2, 0.9]]))


@pytest.mark.parametrize("backup", ["composite", "task"])
def test_the_proposal_of_pretraining_is_the_policys_or_uniform(backup):
    obs = torch.zeros(4000, 2)
    fresh = scripted(risk__backup=backup)
    assert torch.equal(fresh._next_action(obs, pretraining=True), obs)
    uniform = scripted(risk__backup=backup, risk__pretrain_proposal="uniform")
    action = uniform._next_action(obs, pretraining=True)
    if backup == "composite":  # those with more than 0.3 were handed over
        handed_over = (action == torch.tensor([-0.2, 0.9])).all(1)
        assert handed_over.float().mean().item() == pytest.approx(0.7, abs=0.03)
        action = action[~handed_over]
        assert action[:, 0].abs().max() <= 0.3
    else:
        assert action[:, 0].std().item() == pytest.approx(1 / 3**0.5, abs=0.02)
    assert action[:, 1].std().item() == pytest.approx(1 / 3**0.5, abs=0.03)
    # Uniform proposals are for pretraining alone.
    assert torch.equal(uniform._next_action(obs, pretraining=False), obs)


def test_the_risk_learner_is_told_the_executed_action_and_the_next_of_the_switch():
    made = scripted()
    asked = {}

    class Critic:
        def __call__(self, obs, action, **_):
            return risk_is_the_size_of_the_first_component(obs, action)

        def target(self, batch, next_obs, next_action):
            asked["next"] = next_action
            return torch.full((len(batch.cost),), 0.5)

        def loss(self, obs, action, target, proposal=None):
            asked["action"], asked["target"] = action, target
            return torch.tensor(0.25)

        def update_targets(self):
            asked["moved"] = True

    class Optimizer:
        def step(self, loss):
            asked["loss"] = loss.item()

    made.risk_critic, made.risk_optimizer = Critic(), Optimizer()
    batch = Batch(
        obs=torch.zeros(2, 2),
        task_action=torch.tensor([[0.9, 0.9], [0.9, 0.9]]),
        action=torch.tensor([[0.1, 0.2], [0.3, 0.4]]),
        next_obs=torch.tensor([[0.2, 0.0], [0.6, 0.0]]),
        reward=torch.zeros(2),
        cost=torch.zeros(2),
        terminated=torch.zeros(2),
    )
    metrics = RiskAwareAgent._update_risk(made, batch)
    assert torch.equal(asked["action"], batch.action)
    torch.testing.assert_close(asked["next"], torch.tensor([[0.2, 0.0], [-0.2, 0.9]]))
    assert asked["loss"] == metrics["risk/loss"].item() == 0.25
    assert asked["moved"]


# ------------------------------------------------------------------------------------ who changes whom


def _parameters(made: RecoveryRLAgent) -> dict[str, torch.Tensor]:
    networks = {
        "actor": made.actor.net, "critics": made.critics, "risk": made.risk_critic.critics,
        "risk_targets": made.risk_critic.targets, "recovery": made.recovery.actor.net,
    }  # fmt: skip
    return {name: network.flat.detach().clone() for name, network in networks.items()}


def _changed(made: RecoveryRLAgent, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in _parameters(made).items() if not torch.equal(value, before[name])}


def filled(**changes) -> RecoveryRLAgent:
    made = agent(**changes)
    made.add_offline(random_transitions(60))
    made.observe(random_transitions(40, seed=1))
    return made


def test_pretraining_touches_the_risk_critic_and_the_recovery_policy_alone():
    made = filled()
    before = _parameters(made)
    metrics = list(made.pretrain(4))
    assert _changed(made, before) == {"risk", "risk_targets", "recovery"}
    assert len(metrics) == 4
    assert set(metrics[0]) == {"risk/loss", "recovery/risk"}


def test_the_risk_step_leaves_the_recovery_policy_and_the_actor_as_they_were():
    made = filled()
    before = _parameters(made)
    RiskAwareAgent._update_risk(made, made.replay.sample(32))
    assert _changed(made, before) == {"risk", "risk_targets"}


def test_the_recovery_step_leaves_the_risk_critic_as_it_was():
    made = filled()
    before = _parameters(made)
    made.recovery.update(made.replay.sample(32).obs, made.generator)
    assert _changed(made, before) == {"recovery"}


@pytest.mark.parametrize("online", [True, False])
def test_an_update_learns_risk_online_only_where_it_may(online):
    made = filled(risk__update_online=online)
    before = _parameters(made)
    metrics = made.update()
    task = {"actor", "critics"}
    assert _changed(made, before) == (task | {"risk", "risk_targets", "recovery"} if online else task)
    assert ("risk/loss" in metrics) is online


def test_pretraining_the_task_policy_needs_demonstrations_and_touches_it_alone():
    made = filled(demonstrations=True)
    before = _parameters(made)
    list(made.pretrain_task(2))
    assert _changed(made, before) == {"actor", "critics"}


@pytest.mark.parametrize(("demonstrations", "least"), [(False, 60), (True, 0)])
def test_which_rows_the_task_policy_learns_from(demonstrations, least):
    made = filled(demonstrations=demonstrations, batch_size=2000)
    task, risk = made._sample_indices()
    assert task.min() == least
    assert risk.min() == 0
    assert max(task.max(), risk.max()) == 99


def test_risk_batches_hold_the_wanted_share_of_violations():
    made = filled(risk__positive_fraction=0.25)
    for _ in range(5):
        assert made.replay.batch(torch.from_numpy(made._risk_indices())).cost.sum().item() == 8  # of 32


def test_conservative_pretraining_calls_proposals_riskier_and_online_steps_do_not():
    transitions = random_transitions(200)
    transitions = transitions.replace(action=np.full_like(transitions.action, -4.0))
    changes = {"risk__learning_rate": 1e-2, "risk__pretrain_proposal": "uniform"}
    risk = {}
    for weight in (0.0, 5.0):
        made = agent(risk__conservatism=weight, **changes)
        made.add_offline(transitions)
        list(made.pretrain(50))
        shown, unseen = (made.risk(transitions.obs, np.full((200, 2), at, np.float32)).mean() for at in (-4, 4))
        risk[weight] = unseen - shown
    assert risk[5.0] > risk[0.0] + 0.2
    first, second = (filled(risk__conservatism=weight) for weight in (0.0, 5.0))
    for each in (first, second):
        each.update()
    assert torch.equal(first.risk_critic.critics.flat, second.risk_critic.critics.flat)


def test_the_dataset_sets_the_scale_of_the_observations():
    made = RecoveryRLAgent(OBS, ACT, recovery_config(normalize_obs="dataset"), seed=0)
    transitions = random_transitions(50)
    made.add_offline(transitions)
    seen = np.concatenate([transitions.obs, transitions.next_obs[-1:]])
    np.testing.assert_allclose(made.normalizer.mean, seen.mean(0), atol=1e-5)
    made.observe(random_transitions(20, seed=4))
    assert made.normalizer.count.item() == 51  # and keeps it


def test_safety_state_comes_back_without_the_task_policy():
    first, second = filled(), RecoveryRLAgent(OBS, ACT, recovery_config(**CHANGES), seed=5)
    list(first.pretrain(3))
    actor = second.actor.net.flat.clone()
    second.load_safety_state_dict(first.safety_state_dict())
    assert torch.equal(first.risk_critic.critics.flat, second.risk_critic.critics.flat)
    assert torch.equal(first.risk_critic.targets.flat, second.risk_critic.targets.flat)
    assert torch.equal(first.recovery.actor.net.flat, second.recovery.actor.net.flat)
    assert torch.equal(second.actor.net.flat, actor)


def test_q_sampling_agents_act_learn_and_rescue():
    made = filled(recovery__kind="q-sampling", risk__eps_risk=0.0)
    decision = made.act(np.zeros((3, 2), np.float32), explore=True)
    assert (decision.mode == Mode.RECOVERY).all()
    rescued = made.risk(np.zeros((3, 2), np.float32), decision.action)
    assert (rescued <= decision.risk + 1e-6).all()  # the least risky of 50
    assert "risk/loss" in made.update()


@pytest.mark.parametrize(("ends", "expected"), [(True, [0, 1, 1]), (False, [0, 1, 0])])
def test_the_task_critics_may_look_past_a_violation_but_never_past_the_goal(ends, expected):
    made = agent(violation_ends_value=ends)
    made.observe(
        random_transitions(3).replace(cost=np.array([0, 0, 1], np.float32), terminated=np.array([False, True, True]))
    )
    assert made._ends_value(made.replay.batch(torch.arange(3))).tolist() == expected
