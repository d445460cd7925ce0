from __future__ import annotations

import pytest
import torch

from safe_rl.config import RecoveryConfig, RiskConfig
from safe_rl.recovery import ModelFreeRecovery, QSamplingRecovery
from safe_rl.risk import RiskCritic


class Distance:
    """Risk by hand: how far the action is from the observation's own, the first ``act_dim`` numbers of it."""

    def __call__(self, obs, action, *, freeze=False):
        return ((action - obs[:, : action.shape[1]]) ** 2).sum(1) / 8


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def model_free(risk=None, **config) -> ModelFreeRecovery:
    settings = RecoveryConfig(hidden_sizes=(32,), **config)
    return ModelFreeRecovery(2, 2, settings, risk or Distance(), generator=generator())


class NearlyCertain:
    """The same distance, as a logit so large that no action's risk differs from 1 in float32."""

    def logit(self, obs, action):
        return 40 + 8 * Distance()(obs, action)

    def __call__(self, obs, action):
        return self.logit(obs, action).sigmoid()


SAFE = torch.tensor([[0.5, -0.5], [-0.8, 0.1], [0.0, 0.9]])
"""Observations, and the least risky actions in them."""


def test_q_sampling_takes_the_least_risky_candidate():
    recovery = QSamplingRecovery(2, RecoveryConfig(num_samples=3000), Distance())
    action = recovery.act(SAFE, generator(), explore=True)
    torch.testing.assert_close(action, SAFE, atol=0.08, rtol=0)


def test_q_sampling_picks_among_its_own_candidates_row_by_row():
    recovery = QSamplingRecovery(2, RecoveryConfig(num_samples=5), Distance())
    action = recovery.act(SAFE, generator(7), explore=True)
    candidates = 2 * torch.rand((3, 5, 2), generator=generator(7)) - 1
    for row, (obs, offered) in enumerate(zip(SAFE, candidates, strict=True)):
        best = min(offered, key=lambda candidate, obs=obs: ((candidate - obs) ** 2).sum().item())
        assert torch.equal(action[row], best)


def test_more_candidates_find_a_safer_action():
    risks = []
    for count in (1, 10, 1000):
        recovery = QSamplingRecovery(2, RecoveryConfig(num_samples=count), Distance())
        obs = SAFE.repeat(50, 1)
        risks.append(Distance()(obs, recovery.act(obs, generator(), explore=True)).mean().item())
    assert risks[0] > 3 * risks[1] > 9 * risks[2]


def test_the_backup_of_q_sampling_draws_its_own_number():
    config = RecoveryConfig(num_samples=2000, num_backup_samples=1)
    recovery = QSamplingRecovery(2, config, Distance())
    expected = 2 * torch.rand((3, 1, 2), generator=generator(5)) - 1
    assert torch.equal(recovery.backup_action(SAFE, generator(5)), expected[:, 0])


def test_without_exploration_q_sampling_neither_varies_nor_disturbs_the_training():
    recovery = QSamplingRecovery(2, RecoveryConfig(num_samples=20), Distance())
    rng = generator(3)
    before = rng.get_state()
    first = recovery.act(SAFE, rng, explore=False)
    assert torch.equal(rng.get_state(), before)
    assert torch.equal(recovery.act(SAFE, generator(99), explore=False), first)


def test_without_exploration_q_sampling_decides_a_row_alike_alone_and_in_a_batch():
    recovery = QSamplingRecovery(2, RecoveryConfig(num_samples=20), Distance())
    alone = [recovery.act(row[None], generator(), explore=False) for row in SAFE]
    assert torch.equal(recovery.act(SAFE, generator(), explore=False), torch.cat(alone))


def test_model_free_recovery_learns_the_least_risky_action():
    recovery = model_free(learning_rate=1e-2)
    rng = generator()
    before = Distance()(SAFE, recovery.act(SAFE, rng, explore=False))
    for _ in range(400):
        recovery.update(SAFE, rng)
    after = Distance()(SAFE, recovery.act(SAFE, rng, explore=False))
    assert (after < before).all()
    torch.testing.assert_close(recovery.act(SAFE, rng, explore=False), SAFE, atol=0.1, rtol=0)


def test_where_a_violation_is_nearly_certain_only_the_logit_shows_the_way_out():
    by_risk, by_logit = (
        model_free(NearlyCertain(), objective=objective, learning_rate=1e-2) for objective in ("risk", "logit")
    )
    start = by_risk.act(SAFE, generator(), explore=False)
    rng = generator()
    for _ in range(400):
        by_risk.update(SAFE, rng)
        by_logit.update(SAFE, rng)
    assert torch.equal(by_risk.act(SAFE, rng, explore=False), start)
    torch.testing.assert_close(by_logit.act(SAFE, rng, explore=False), SAFE, atol=0.1, rtol=0)


def test_a_critic_s_logit_is_that_of_its_risk():
    risk = RiskCritic(2, 2, RiskConfig(hidden_sizes=(8,), num_critics=3, quantile=0.5), generator=generator())
    action = SAFE.flip(1)
    torch.testing.assert_close(risk.logit(SAFE, action), risk(SAFE, action).logit())
    torch.testing.assert_close(risk.logit(SAFE, action), risk.logits(SAFE, action).median(0).values)


@pytest.mark.parametrize("objective", ["risk", "logit"])
def test_the_metric_is_the_risk_of_the_recovery_actions(objective):
    risk = RiskCritic(2, 2, RiskConfig(hidden_sizes=(8,)), generator=generator())
    recovery = model_free(risk, objective=objective)
    action = recovery.actor.sample(SAFE, torch.randn((3, 2), generator=generator(4)))
    expected = risk(SAFE, action).mean().item()
    assert recovery.update(SAFE, generator(4))["recovery/risk"].item() == pytest.approx(expected, rel=1e-6)


def test_its_update_leaves_the_risk_critic_as_it_was():
    risk = RiskCritic(2, 2, RiskConfig(hidden_sizes=(8,)), generator=generator())
    recovery = model_free(risk)
    critic, actor = risk.critics.flat.clone(), recovery.actor.net.flat.clone()
    for _ in range(3):
        recovery.update(SAFE, generator())
    assert torch.equal(risk.critics.flat, critic)
    assert risk.critics.flat.grad is None
    assert not torch.equal(recovery.actor.net.flat, actor)


def test_it_explores_only_where_both_the_caller_and_the_settings_say_so():
    mean = model_free().actor.mean_action(SAFE)
    assert torch.equal(model_free().act(SAFE, generator(), explore=False), mean)
    assert torch.equal(model_free(explore=False).act(SAFE, generator(), explore=True), mean)
    explored = model_free().act(SAFE, generator(), explore=True)
    assert (explored != mean).all()
    assert (explored - mean).abs().max() < 0.6  # the deviation begins at 0.1


def test_its_training_state_comes_back():
    first, second = model_free(), model_free()
    for _ in range(5):
        first.update(SAFE, generator())
    second.load_state_dict(first.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    for recovery in (first, second):
        recovery.update(SAFE, generator(1))
    assert torch.equal(first.actor.net.flat, second.actor.net.flat)
    assert torch.equal(first.actor.log_std, second.actor.log_std)


def test_the_critic_is_not_counted_among_its_parameters():
    risk = RiskCritic(2, 2, RiskConfig(hidden_sizes=(8,)), generator=generator())
    assert len(list(model_free(risk).parameters())) == 2  # network and deviation
    assert not list(QSamplingRecovery(2, RecoveryConfig(), risk).parameters())
