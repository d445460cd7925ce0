"""The methods that Recovery RL is compared with: each term by hand, then each method as a whole."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_rl.algorithms.lagrangian import MAX_MULTIPLIER, LagrangianConfig, Multiplier, MultiplierConfig
from safe_rl.algorithms.rcpo import RCPOConfig
from safe_rl.algorithms.reward_penalty import RewardPenaltyConfig
from safe_rl.algorithms.rspo import LinearSchedule, RSPOConfig, ScheduleConfig
from safe_rl.algorithms.sqrl import SQRLConfig, choose
from safe_rl.config import RecoveryRLConfig, RunConfig
from safe_rl.data.replay_buffer import Batch
from safe_rl.errors import UserError
from safe_rl.methods import make_agent
from safe_rl.nets.optim import FlatAdam
from safe_rl.pretraining import PretrainConfig, pretrain_run
from safe_rl.runs import load_run
from safe_rl.switch import Mode
from safe_rl.training import train
from safe_rl.transitions import Transitions

OBS = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACT = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
METHODS = ["lagrangian", "rspo", "sqrl", "rcpo", "reward-penalty"]


def agent(method, seed=0, **changes):
    return make_agent(method, toys.agent_config(method, **changes), OBS, ACT, seed=seed)


class Risk:
    """A risk critic that says what it is told, once for each row; its gradient with respect to the action is 1."""

    def __init__(self, *values):
        self.values = torch.tensor(values)

    def __call__(self, obs, action):
        return self.values + (action - action.detach()).sum(1)


def batch(rows=2, **fields):
    zeros = torch.zeros
    return Batch(**{
        "obs": zeros(rows, 2), "task_action": zeros(rows, 2), "action": zeros(rows, 2), "next_obs": zeros(rows, 2),
        "reward": zeros(rows), "cost": zeros(rows), "terminated": zeros(rows), **fields,
    })  # fmt: skip


def random_transitions(count, seed=0):
    rng = np.random.default_rng(seed)
    action = rng.uniform(-1, 1, (count, 2)).astype(np.float32)
    return Transitions(
        obs=rng.standard_normal((count, 2), dtype=np.float32), task_action=action, action=action,
        reward=rng.standard_normal(count).astype(np.float32), cost=(rng.random(count) < 0.3).astype(np.float32),
        next_obs=rng.standard_normal((count, 2), dtype=np.float32), terminated=rng.random(count) < 0.3,
        truncated=np.zeros(count, bool),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ the multiplier


@pytest.mark.parametrize(("excess", "direction"), [(0.2, +1), (-0.1, -1), (0.0, 0)])
def test_the_price_rises_while_the_risk_is_above_its_limit(excess, direction):
    multiplier = Multiplier(50.0)
    before = multiplier().item()
    FlatAdam(multiplier, 0.01).step(multiplier.loss(torch.tensor([excess - 0.3, excess + 0.3])))
    assert before == pytest.approx(50.0)
    # Adam's first step has the length of the learning rate, in the logarithm.
    assert multiplier().item() == pytest.approx(50.0 * math.exp(0.01 * direction), rel=1e-4)


def test_the_price_has_a_roof_and_falls_from_there():
    made = agent("lagrangian", multiplier__initial=MAX_MULTIPLIER / 2, multiplier__learning_rate=1.0)
    nothing = torch.zeros(2, 2)
    made.risk_critic = Risk(1.0, 1.0)
    for _ in range(3):
        made._adapt_weights(batch(), nothing, nothing, nothing[0])
        assert made.multiplier().item() == pytest.approx(MAX_MULTIPLIER, rel=1e-4)
    made.risk_critic = Risk(0.0, 0.0)
    for _ in range(30):  # Adam's mean of the gradients turns
        made._adapt_weights(batch(), nothing, nothing, nothing[0])
    assert made.multiplier().item() < MAX_MULTIPLIER / 2


# ------------------------------------------------------------------------------------------------- LR, RSPO, RCPO


def test_lr_adds_its_term_to_the_actors_loss():
    made = agent("lagrangian", multiplier__initial=40.0, risk__eps_risk=0.3, sac__reward_scale=0.5)
    action = torch.zeros(2, 2, requires_grad=True)
    log_prob = torch.zeros(2)
    plain = super(type(made), made)._actor_loss(batch(), torch.zeros(2, 2), action, log_prob)
    made.risk_critic = Risk(0.2, 0.6)
    loss = made._actor_loss(batch(), torch.zeros(2, 2), action, log_prob)
    # nu * scale * mean(0.2 - 0.3, 0.6 - 0.3) = 40 * 0.5 * 0.1
    assert (loss - plain).item() == pytest.approx(2.0, abs=1e-4)
    (gradient,) = torch.autograd.grad(loss - plain, action)
    assert gradient.flatten().tolist() == pytest.approx([40 * 0.5 / 2] * 4)  # the actor flees from risk


def test_lr_learns_its_price_from_the_actors_own_actions():
    made = agent("lagrangian", multiplier__initial=40.0, multiplier__learning_rate=0.1, risk__eps_risk=0.3)
    made.risk_critic = Risk(0.9, 0.9)
    made._adapt_weights(batch(), torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2))
    assert made.multiplier().item() == pytest.approx(40.0 * math.exp(0.1), rel=1e-4)
    made.risk_critic = Risk(0.0, 0.0)
    for _ in range(20):
        made._adapt_weights(batch(), torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2))
    assert made.multiplier().item() < 40.0


def test_the_schedule_from_end_to_end():
    schedule = LinearSchedule(200.0, 4)
    values = []
    for _ in range(6):
        values.append(schedule().item())
        schedule.num_episodes += 1
    assert values == [200.0, 150.0, 100.0, 50.0, 0.0, 0.0]
    assert LinearSchedule(200.0, None)().item() == 200.0


def test_rspo_counts_episodes_and_its_price_falls():
    made = agent("rspo", schedule__start=100.0, schedule__episodes=10, risk__eps_risk=0.5)
    ends = random_transitions(3).replace(
        terminated=np.array([True, False, False]), truncated=np.array([False, True, False])
    )
    made.observe(ends)
    made.observe(ends)
    assert made.schedule().item() == pytest.approx(60.0)
    plain = super(type(made), made)._actor_loss(batch(), torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2))
    made.risk_critic = Risk(1.0, 0.2)
    loss = made._actor_loss(batch(), torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2))
    assert (loss - plain).item() == pytest.approx(60 * 0.1, abs=1e-4)


def test_the_schedule_ends_with_the_run_unless_told_otherwise():
    config = RSPOConfig(demonstrations=True, task_pretrain_steps=5)
    made = config.for_run(episodes=70, dataset=True)
    assert (made.schedule.episodes, made.demonstrations, made.task_pretrain_steps) == (70, True, 5)
    assert config.schedule.episodes is None  # the settings themselves stay
    told = RSPOConfig(schedule=ScheduleConfig(episodes=9)).for_run(episodes=70, dataset=False)
    assert (told.schedule.episodes, told.demonstrations) == (9, False)


def test_rcpos_target_by_hand():
    made = agent("rcpo", multiplier__initial=10.0, sac__reward_scale=0.5)
    made.risk_critic = Risk(0.2, 0.6)
    reward = made._task_reward(batch(reward=torch.tensor([4.0, -2.0])), torch.zeros(2, 2))
    assert reward.tolist() == pytest.approx([0.5 * (4 - 10 * 0.2), 0.5 * (-2 - 10 * 0.6)])


def test_rcpo_prices_what_was_proposed():
    made = agent("rcpo", multiplier__initial=10.0)
    asked = []
    made.risk_critic = lambda obs, action: asked.append(action) or torch.zeros(len(obs))
    made._task_reward(batch(task_action=torch.full((2, 2), 0.25)), torch.zeros(2, 2))
    assert asked[0].tolist() == [[0.25, 0.25]] * 2


def test_a_reward_penalty_by_hand():
    made = agent("reward-penalty", penalty=30.0, sac__reward_scale=0.1)
    rows = batch(reward=torch.tensor([-5.0, -5.0]), cost=torch.tensor([0.0, 1.0]))
    assert made._task_reward(rows, rows.obs).tolist() == pytest.approx([-0.5, -3.5])


# ---------------------------------------------------------------------------------------------------------- SQRL


def test_sqrl_takes_the_likeliest_of_the_safe_ones_where_it_does_not_explore():
    log_prob = torch.tensor([[3.0, 1.0, 2.0], [1.0, 5.0, 2.0]])
    risk = torch.tensor([[0.9, 0.1, 0.3], [0.3, math.nan, 0.0]])
    assert choose(log_prob, risk, 0.3, None).tolist() == [2, 2]  # eps_risk itself is safe, and NaN is not


def test_sqrl_takes_the_least_risky_where_none_is_safe():
    risk = torch.tensor([[0.9, 0.5, 0.7], [math.nan, 0.9, 0.8]])
    generator = torch.Generator().manual_seed(0)
    for source in (None, generator):
        assert choose(torch.zeros(2, 3), risk, 0.3, source).tolist() == [1, 2]


def test_sqrl_draws_in_proportion_to_the_likelihoods():
    draws = 40_000
    log_prob = torch.tensor([1.0, 3.0, 6.0]).log().expand(draws, 3)
    risk = torch.tensor([0.0, 0.1, 0.9]).expand(draws, 3)  # the likeliest is unsafe
    chosen = choose(log_prob, risk, 0.3, torch.Generator().manual_seed(1))
    shares = torch.bincount(chosen, minlength=3) / draws
    assert shares[2] == 0
    assert shares[1].item() == pytest.approx(0.75, abs=0.01)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**16))
def test_sqrl_never_takes_a_risky_one_while_a_safe_one_is_there(rows, count, seed):
    generator = torch.Generator().manual_seed(seed)
    log_prob, risk = (torch.rand((rows, count), generator=generator) for _ in range(2))
    chosen = choose(log_prob * 50, risk, 0.5, generator)
    taken = risk[torch.arange(rows), chosen]
    assert (taken <= torch.where((risk <= 0.5).any(1), 0.5, risk.amin(1))).all()


@pytest.mark.parametrize("explore", [True, False])
def test_sqrl_executes_a_safe_action(explore):
    made = agent("sqrl", start_steps=0, risk__eps_risk=0.5, num_samples=40)
    made.risk_critic = lambda obs, action: torch.where(action[:, 0] > 0, 0.1, 0.9)  # safe is to the right
    obs = np.random.default_rng(0).standard_normal((64, 2)).astype(np.float32)
    decision = made.act(obs, explore=explore)
    assert (decision.action[:, 0] > 0).all()
    assert (decision.risk == np.float32(0.1)).all()
    assert (decision.mode == Mode.TASK).all()
    again = made.act(obs, explore=explore)
    assert np.array_equal(decision.action, again.action) is not explore


def test_sqrl_rejects_risky_random_actions_too():
    made = agent("sqrl", start_steps=100, risk__eps_risk=0.5)
    made.risk_critic = lambda obs, action: torch.where(action[:, 0] > 0, 0.1, 0.9)
    decision = made.act(np.zeros((200, 2), np.float32), explore=True)
    assert (decision.action[:, 0] > 0).all()
    assert np.abs(decision.action[:, 1]).max() > 0.9  # uniform, not the policy's


# --------------------------------------------------------------------------------------------------- as a whole


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_saves_and_acts_again(method, tmp_path, corridor_data):
    pretrain_run(
        "recovery-rl",
        PretrainConfig("toys:Corridor", corridor_data, tmp_path / "pretrained", device="cpu"),
        toys.recovery_config(risk__pretrain_steps=20),
    )
    knows_risk = method != "reward-penalty"
    run = RunConfig(
        env="toys:Corridor", output=tmp_path / "run", dataset=corridor_data, episodes=3, device="cpu",
        pretrained=tmp_path / "pretrained" if knows_risk else None,
    )  # fmt: skip
    made = train(method, run, toys.agent_config(method, demonstrations=True, task_pretrain_steps=5))
    assert made.num_updates == made.num_observed > 0
    assert made.replay.num_offline > 0  # every method may learn its task from the offline transitions

    loaded = load_run(tmp_path / "run").make_agent()
    obs = np.zeros((3, 2), np.float32)
    assert np.array_equal(loaded.act(obs, explore=False).action, made.act(obs, explore=False).action)
    assert np.isnan(made.act(obs, explore=False).risk).all() is not knows_risk


@pytest.mark.parametrize("method", METHODS)
def test_state_goes_on_where_it_was(method):
    fast = {"rspo": {"schedule__episodes": 50}, "reward-penalty": {}}.get(method, {"multiplier__learning_rate": 0.5})
    first, second = agent(method, seed=1, **fast), agent(method, seed=2, **fast)
    for _ in range(2):
        first.observe(random_transitions(40))
        first.update()
    second.load_state_dict(first.state_dict())
    for made in (first, second):
        made.observe(random_transitions(10, seed=5))
    ours, theirs = first.update(), second.update()
    assert ours
    assert ours == theirs
    assert torch.equal(first.actor.net.flat, second.actor.net.flat)


def test_methods_without_a_recovery_policy_take_recovery_rls_pretraining(tmp_path, corridor_data):
    pretrained = tmp_path / "pretrained"
    pretrain_run(
        "recovery-rl",
        PretrainConfig("toys:Corridor", corridor_data, pretrained, device="cpu"),
        toys.recovery_config(risk__pretrain_steps=20),
    )
    run = RunConfig(
        env="toys:Corridor", output=tmp_path / "run", dataset=corridor_data, episodes=1, device="cpu",
        pretrained=pretrained,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"risk.gamma_risk = 0.8, not 0.5"):
        train("lagrangian", run, toys.agent_config("lagrangian", risk__gamma_risk=0.5))
    assert not (tmp_path / "run").exists()


def test_recovery_rls_task_policy_may_pay_for_risk():
    action = torch.zeros(2, 2, requires_grad=True)
    free, paying = (agent("recovery-rl", risk_price=price, sac__reward_scale=0.5) for price in (0.0, 40.0))
    losses = []
    for made in (free, paying):
        made.risk_critic = Risk(0.2, 0.6)
        losses.append(made._actor_loss(batch(), torch.zeros(2, 2), action, torch.zeros(2)))
    assert (losses[1] - losses[0]).item() == pytest.approx(40 * 0.5 * 0.4, abs=1e-4)
    (gradient,) = torch.autograd.grad(losses[1] - losses[0], action)
    assert gradient.flatten().tolist() == pytest.approx([40 * 0.5 / 2] * 4)


def test_the_task_learns_from_what_was_executed_half_of_the_times():
    made = agent("recovery-rl", learn_from_both=True)
    seen = []
    made._critic_loss = lambda batch, obs, next_obs: (seen.append(batch.task_action), made.critics.flat.sum() * 0)[1]
    rows = batch(2000, task_action=torch.full((2000, 2), 0.5), action=torch.full((2000, 2), -0.5))
    made._update_task(rows)
    assert set(seen[0].unique().tolist()) == {-0.5, 0.5}
    assert (seen[0][:, 0] == seen[0][:, 1]).all()  # a whole action or the other
    assert seen[0].mean().item() == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize(
    ("make", "flag"),
    [
        (lambda: LagrangianConfig(multiplier=MultiplierConfig(initial=0.0)), "--multiplier.initial"),
        (lambda: RCPOConfig(multiplier=MultiplierConfig(initial=1e7)), "--multiplier.initial"),
        (lambda: RCPOConfig(multiplier=MultiplierConfig(learning_rate=-1.0)), "--multiplier.learning-rate"),
        (lambda: RSPOConfig(schedule=ScheduleConfig(start=-1.0)), "--schedule.start"),
        (lambda: RSPOConfig(schedule=ScheduleConfig(episodes=0)), "--schedule.episodes"),
        (lambda: RewardPenaltyConfig(penalty=-1.0), "--penalty"),
        (lambda: SQRLConfig(num_samples=0), "--num-samples"),
        (lambda: RecoveryRLConfig(risk_price=-1.0), "--risk-price"),
        (lambda: RecoveryRLConfig(learn_from_both=True, relabel_actions=False), "--learn-from-both"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_flag(make, flag):
    with pytest.raises(UserError, match=f"^{flag} is .*: it must be"):
        make()
