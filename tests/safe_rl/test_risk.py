from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_rl.config import RiskConfig
from safe_rl.data.replay_buffer import Batch
from safe_rl.risk import RiskCritic


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def batch(obs, cost, terminated, next_obs=None) -> Batch:
    obs = torch.as_tensor(obs, dtype=torch.float32)
    action = torch.zeros(len(obs), 1)
    next_obs = obs if next_obs is None else torch.as_tensor(next_obs, dtype=torch.float32)
    return Batch(
        obs,
        action,
        action,
        next_obs,
        torch.zeros(len(obs)),
        torch.tensor(cost).float(),
        torch.tensor(terminated).float(),
    )


def constant_critic(members: list[float], targets: list[float], **config) -> RiskCritic:
    """A critic whose members, and whose targets, say the same everywhere."""
    settings = RiskConfig(num_critics=len(members), hidden_sizes=(), **config)
    critic = RiskCritic(2, 1, settings, generator=torch.Generator().manual_seed(0))
    for network, values in ((critic.critics, members), (critic.targets, targets)):
        with torch.no_grad():
            network.flat.zero_()
            for unit, value in zip(network.units(), values, strict=True):
                unit[0].bias.fill_(logit(value))
    return critic


def test_the_largest_of_the_ensemble_counts():
    critic = constant_critic([0.2, 0.7, 0.4], [0.1, 0.1, 0.1])
    torch.testing.assert_close(critic(torch.randn(5, 2), torch.randn(5, 1)), torch.full((5,), 0.7))


@pytest.mark.parametrize(
    ("quantile", "expected"), [(1.0, 0.8), (0.75, 0.7), (0.6, 0.7), (0.5, 0.4), (0.2, 0.2), (0.0, 0.1)]
)
def test_a_quantile_of_the_ensemble_counts(quantile, expected):
    members = [0.2, 0.7, 0.4, 0.1, 0.8]
    critic = constant_critic(members, members, quantile=quantile, gamma_risk=0.5)
    obs, action = torch.zeros(1, 2), torch.zeros(1, 1)
    assert critic(obs, action).item() == pytest.approx(expected)
    target = critic.target(batch(obs, [0], [0]), obs, action)
    assert target.item() == pytest.approx(0.5 * expected)


@settings(deadline=None)
@given(st.floats(0, 0.99), st.floats(0.001, 0.999), st.booleans(), st.booleans())
def test_the_safety_bellman_backup_of_a_cost_is_this_target(gamma, next_risk, violates, ends):
    """Fisac and others, ICRA 2019, with the worst as the largest: ``V = (1 - gamma) l + gamma max(l, V')``."""
    critic = constant_critic([0.5], [next_risk], gamma_risk=gamma)
    obs = torch.zeros(1, 2)
    target = critic.target(batch(obs, [violates], [ends]), obs, torch.zeros(1, 1)).item()
    safe, failed = -3.0, 5.0  # a margin of two values, whichever they are
    margin, following = (failed if violates else safe), safe if ends else safe + (failed - safe) * next_risk
    value = (1 - gamma) * margin + gamma * max(margin, following)
    assert (value - safe) / (failed - safe) == pytest.approx(target, abs=1e-5)


def test_the_price_of_optimism_by_hand():
    critic = constant_critic([0.5, 0.5], [0.5, 0.5], conservatism=3.0)
    with torch.no_grad():
        for unit, slope in zip(critic.critics.units(), (2.0, -1.0), strict=True):
            unit[0].weight[2, 0] = slope  # of the action
    obs, action, proposal = torch.zeros(2, 2), torch.zeros(2, 1), torch.tensor([[1.0], [0.0]])
    optimism = sum(0.5 - (1 / (1 + math.exp(-slope)) + 0.5) / 2 for slope in (2.0, -1.0))
    target = torch.full((2,), 0.5)  # what the members say of the data: nothing else moves them
    loss = critic.loss(obs, action, target, proposal)
    assert (loss - critic.loss(obs, action, target)).item() == pytest.approx(3.0 * optimism, abs=1e-6)
    loss.backward()  # a step against it raises the risk of what is proposed
    assert critic.critics.views_of(critic.critics.flat.grad)[0][0].weight[2, 0] < 0


def test_the_target_by_hand():
    critic = constant_critic([0.9, 0.9], [0.3, 0.6], gamma_risk=0.5)
    #                   goes on, violates, violates and ends, succeeds (ends without a violation)
    made = batch(torch.zeros(4, 2), cost=[0, 1, 1, 0], terminated=[0, 0, 1, 1])
    target = critic.target(made, made.next_obs, made.action)
    torch.testing.assert_close(target, torch.tensor([0.5 * 0.6, 1.0, 1.0, 0.0]))
    assert not target.requires_grad


def test_both_losses_by_hand():
    obs, action, target = torch.zeros(2, 2), torch.zeros(2, 1), torch.tensor([1.0, 0.0])
    mse = constant_critic([0.2, 0.6], [0.5, 0.5], loss="mse").loss(obs, action, target)
    # member 1: (0.8^2 + 0.2^2) / 2 = 0.34; member 2: (0.4^2 + 0.6^2) / 2 = 0.26
    assert mse.item() == pytest.approx(0.34 + 0.26, abs=1e-6)
    entropy = constant_critic([0.2, 0.6], [0.5, 0.5], loss="cross-entropy").loss(obs, action, target)
    expected = -(math.log(0.2) + math.log(0.8)) / 2 - (math.log(0.6) + math.log(0.4)) / 2
    assert entropy.item() == pytest.approx(expected, abs=1e-5)


def test_targets_follow_by_tau():
    critic = constant_critic([0.9], [0.5], tau=0.25)
    critic.update_targets()
    expected = 1 / (1 + math.exp(-0.25 * logit(0.9)))  # the bias moves from 0 by a quarter
    assert critic.targets(torch.zeros(1, 3)).sigmoid().item() == pytest.approx(expected, abs=1e-6)


def test_freezing_keeps_gradients_from_the_critic_but_not_from_the_action():
    critic = RiskCritic(2, 1, RiskConfig(hidden_sizes=(8,)), generator=torch.Generator().manual_seed(0))
    action = torch.zeros(3, 1, requires_grad=True)
    risk = critic(torch.randn(3, 2), action).sum()
    (gradient,) = torch.autograd.grad(risk, [action])
    assert gradient.abs().min() > 0
    with pytest.raises(RuntimeError):
        torch.autograd.grad(critic(torch.randn(3, 2), action).sum(), list(critic.critics.parameters()))


GAMMA = 0.6
LENGTH = 5


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize("num_critics", [1, 2])
def test_on_a_chain_the_risk_is_gamma_to_the_number_of_steps_left(loss, num_critics):
    """State k violates after k more steps; one more state goes on for ever, one succeeds at once, both safe."""
    states = torch.eye(LENGTH + 2)
    following = states[[0, *range(LENGTH - 1), LENGTH, LENGTH + 1]]
    cost = [1] + [0] * (LENGTH + 1)
    terminated = [1] + [0] * LENGTH + [1]
    made = batch(states, cost, terminated, following)
    config = RiskConfig(
        gamma_risk=GAMMA, tau=0.1, learning_rate=1e-2, num_critics=num_critics, hidden_sizes=(32,), loss=loss
    )
    critic = RiskCritic(LENGTH + 2, 1, config, generator=torch.Generator().manual_seed(1))
    optimizer = critic.make_optimizer()
    for _ in range(2500):
        optimizer.step(critic.loss(made.obs, made.action, critic.target(made, made.next_obs, made.action)))
        critic.update_targets()
    expected = torch.tensor([GAMMA**k for k in range(LENGTH)] + [0.0, 0.0])
    torch.testing.assert_close(critic(made.obs, made.action).detach(), expected, atol=0.02, rtol=0)
