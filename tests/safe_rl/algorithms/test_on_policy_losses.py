"""The objectives' derivatives against autograd of the formulas, by hand, and IMPACT's against PPO's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_fragments import BOX, DISCRETE, OBS, fragment

from safe_rl.algorithms.a2c import A2CConfig, A2CLearner
from safe_rl.algorithms.actor_critic import ActorCritic
from safe_rl.algorithms.fragment import Fragment, concat_fragments
from safe_rl.algorithms.impact import IMPACTConfig, IMPACTLearner, impact_log_ratio
from safe_rl.algorithms.impala import IMPALAConfig, IMPALALearner
from safe_rl.algorithms.on_policy_learner import OnPolicyConfig, OnPolicyLearner
from safe_rl.algorithms.ppo import PPOConfig, PPOLearner, clipped_weights
from safe_rl.algorithms.returns import gae, vtrace
from safe_rl.errors import UserError

logs = st.floats(-3.0, 0.0)


# ------------------------------------------------------------------ objectives


@settings(max_examples=100, deadline=None)
@given(st.floats(0.01, 5.0), st.floats(-3.0, 3.0), st.floats(0.05, 0.5))
def test_the_clipped_weight_is_the_derivative_of_the_clipped_surrogate(r: float, advantage: float, clip: float) -> None:
    if min(abs(r - 1 - clip), abs(r - 1 + clip)) < 1e-4:
        return  # no derivative at the corner
    log_prob = torch.tensor(math.log(r), requires_grad=True)
    ratio = log_prob.exp()
    torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).backward()
    found = clipped_weights(np.array([r], np.float32), np.array([advantage], np.float32), clip)
    assert found[0] == pytest.approx(float(log_prob.grad), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "weight"),
    [(1.0, 2.0, 2.0), (1.1, 2.0, 2.2), (1.3, 2.0, 0.0), (0.5, 2.0, 1.0), (0.5, -2.0, 0.0), (1.3, -2.0, -2.6)],
)
def test_the_clipped_weight_by_hand(ratio: float, advantage: float, weight: float) -> None:
    found = clipped_weights(np.array([ratio], np.float32), np.array([advantage], np.float32), 0.2)
    assert found[0] == pytest.approx(weight)


def impact_ratio(theta: float, target: float, worker: float, rho_max: float) -> float:
    as_array = [np.array([math.log(p)], np.float32) for p in (theta, target, worker)]
    return float(np.exp(impact_log_ratio(*as_array, rho_max))[0])


@pytest.mark.parametrize(
    ("theta", "target", "worker", "rho_max", "ratio"),
    [
        (0.3, 0.2, 0.4, 4.0, 0.3 / 0.2),  # weight 2, not truncated: the learner against the target
        (0.3, 0.2, 0.4, 2.0, 0.3 / 0.2),  # just at the bound
        (0.3, 0.1, 0.4, 2.0, 2.0 * 0.3 / 0.4),  # weight 4, truncated to 2
        (0.3, 0.4, 0.1, 2.0, 0.3 / 0.4),  # weight 1/4
        (0.3, 0.25, 0.25, 1.0, 0.3 / 0.25),  # on-policy target: PPO's
    ],
)
def test_impact_ratio_by_hand(theta: float, target: float, worker: float, rho_max: float, ratio: float) -> None:
    assert impact_ratio(theta, target, worker, rho_max) == pytest.approx(ratio, rel=1e-5)


@settings(max_examples=100, deadline=None)
@given(st.floats(0.01, 1.0), st.floats(1e-6, 1.0), st.floats(0.01, 1.0), st.floats(1.0, 10.0))
def test_impact_weight_never_exceeds_its_bound(theta: float, target: float, worker: float, rho_max: float) -> None:
    """``r = w pi_theta / pi_worker`` with ``w = min(pi_worker / pi_target, rho_max)``."""
    weight = impact_ratio(theta, target, worker, rho_max) * worker / theta
    assert weight <= rho_max * (1 + 1e-4)
    assert weight == pytest.approx(min(worker / target, rho_max), rel=1e-3)


def test_impact_limits() -> None:
    assert impact_ratio(0.5, 1e-30, 0.25, 2.0) == pytest.approx(2.0 * 0.5 / 0.25, rel=1e-5)
    assert impact_ratio(0.5, 0.01, 0.25, 1e9) == pytest.approx(50.0, rel=1e-4)


# -------------------------------------------------- whole gradients by autograd


def loss_by_autograd(net: ActorCritic, batch: Fragment, objective, targets: np.ndarray, config: OnPolicyConfig):
    """Gradients of ``mean(-J + c_v (V - target)^2 / 2 - c_H H)`` over the valid rows, with ``torch.distributions``."""
    rows = torch.from_numpy(batch.valid.reshape(-1))
    obs = torch.from_numpy(batch.obs[:-1]).flatten(0, 1)[rows]
    output = net.policy(obs)[0]
    action = torch.from_numpy(batch.task_action).flatten(0, 1)[rows]
    if net.head.num_parameters:
        normal = torch.distributions.Normal(output, net.head_parameters.exp().expand_as(output))
        policy = torch.distributions.Independent(normal, 1)
    else:
        policy = torch.distributions.Categorical(logits=output)
    values = net.value(obs)[0, :, 0]
    target = torch.from_numpy(targets.reshape(-1))[rows]
    terms = -objective(policy.log_prob(action), rows) + config.value_coef * (values - target).square() / 2
    loss = (terms - config.entropy_coef * policy.entropy()).mean()
    return torch.autograd.grad(loss, [parameter for part in net.trained for parameter in part.parameters()])


def values_of(learner: OnPolicyLearner, batch: Fragment) -> np.ndarray:
    with torch.no_grad():
        return learner.net.value(torch.from_numpy(batch.obs).flatten(0, 1))[0].view(batch.obs.shape[:2]).numpy()


def log_probs_of(net: ActorCritic, batch: Fragment) -> np.ndarray:
    obs, action = torch.from_numpy(batch.obs[:-1]).flatten(0, 1), torch.from_numpy(batch.task_action).flatten(0, 1)
    return net.log_prob(obs, action).reshape(batch.log_prob.shape)


def normalised(advantages: np.ndarray, valid: np.ndarray) -> torch.Tensor:
    chosen = torch.from_numpy(advantages[valid])
    return (chosen - chosen.mean()) / (chosen.std(correction=0) + 1e-8)


def perturb(net: ActorCritic, seed: int, size: float = 0.3) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in net.trained:
            for parameter in part.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=size)


def captured(learner: OnPolicyLearner, learn) -> list[torch.Tensor]:
    """The gradient that a learner applies; nothing is clipped here."""
    seen: list[torch.Tensor] = []
    learner.apply = lambda gradients: seen.extend(g.clone() for g in gradients)
    learn()
    return seen


COMMON = {"hidden_sizes": (8,), "max_grad_norm": 1e6, "entropy_coef": 0.03, "gamma": 0.9, "gae_lambda": 0.8}


@pytest.mark.parametrize("space", [DISCRETE, BOX], ids=["discrete", "box"])
def test_a2c_gradient(space) -> None:
    learner = A2CLearner(OBS, space, A2CConfig(**COMMON))
    perturb(learner.net, 1)
    batch = fragment(learner.weights(), space)
    returns = gae(batch.reward, values_of(learner, batch), batch.terminated, batch.truncated, gamma=0.9, gae_lambda=0.8)
    advantages = torch.from_numpy(returns.advantages.reshape(-1))
    wanted = loss_by_autograd(
        learner.net, batch, lambda log_prob, rows: log_prob * advantages[rows], returns.targets, learner.config
    )
    for ours, theirs in zip(captured(learner, lambda: learner.learn([batch])), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("space", [DISCRETE, BOX], ids=["discrete", "box"])
def test_impala_gradient_off_policy(space) -> None:
    learner = IMPALALearner(OBS, space, IMPALAConfig(**COMMON))
    perturb(learner.net, 1)
    batch = fragment(learner.weights(), space)
    perturb(learner.net, 2)
    log_ratio = log_probs_of(learner.net, batch) - batch.log_prob
    assert np.abs(log_ratio).max() > 0.1
    returns = vtrace(
        log_ratio,
        batch.reward,
        values_of(learner, batch),
        batch.terminated,
        batch.truncated,
        gamma=0.9,
        gae_lambda=0.8,
    )
    advantages = torch.from_numpy(returns.advantages.reshape(-1))
    wanted = loss_by_autograd(
        learner.net, batch, lambda log_prob, rows: log_prob * advantages[rows], returns.targets, learner.config
    )
    for ours, theirs in zip(captured(learner, lambda: learner.learn([batch])), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("space", [DISCRETE, BOX], ids=["discrete", "box"])
def test_impact_gradient_with_three_different_policies(space) -> None:
    config = IMPACTConfig(**COMMON, num_minibatches=1, kl_coef=0.2, rho_max=1.2, clip=0.2)
    learner = IMPACTLearner(OBS, space, config)
    perturb(learner.net, 1)
    batch = fragment(learner.weights(), space)
    perturb(learner.target, 2)
    perturb(learner.net, 3)
    log_target = log_probs_of(learner.target, batch)
    returns = vtrace(
        log_target - batch.log_prob,
        batch.reward,
        values_of(learner, batch),
        batch.terminated,
        batch.truncated,
        gamma=0.9,
        gae_lambda=0.8,
    )

    def objective(log_prob: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The paper's formula: ``w = min(pi_worker / pi_target, rho_max)`` times the learner's ratio to the worker."""
        target, worker = (torch.from_numpy(logs.reshape(-1))[rows] for logs in (log_target, batch.log_prob))
        advantages = normalised(returns.advantages, batch.valid)
        ratio = torch.clamp((worker - target).exp(), max=1.2) * (log_prob - worker).exp()
        surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
        rho = (log_prob - worker).exp()
        return surrogate - 0.2 * (rho - 1 - rho.log())

    wanted = loss_by_autograd(learner.net, batch, objective, returns.targets, config)
    prepared = learner.prepare(batch)
    for ours, theirs in zip(captured(learner, lambda: learner.learn(prepared)), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("space", [DISCRETE, BOX], ids=["discrete", "box"])
def test_on_policy_impact_is_ppo(space) -> None:
    """With pi_target = pi_worker = pi_theta the two take the same step."""
    impact = IMPACTLearner(OBS, space, IMPACTConfig(**COMMON, num_minibatches=1))
    ppo = PPOLearner(OBS, space, PPOConfig(**COMMON, num_epochs=1, minibatch_size=1000))
    batch = fragment(impact.weights(), space)
    np.testing.assert_array_equal(impact.weights(), ppo.weights())
    prepared = impact.prepare(batch)
    ours, theirs = (
        captured(impact, lambda: impact.learn(prepared)),
        captured(ppo, lambda: ppo.learn([batch])),
    )
    assert max(float(g.abs().max()) for g in theirs) > 1e-3
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5)


# ------------------------------------------------------------------- learners


def test_rows_that_only_reset_change_nothing() -> None:
    learner = IMPALALearner(OBS, DISCRETE, IMPALAConfig(**COMMON))
    batch = fragment(learner.weights())
    assert not batch.valid.all()
    before = captured(learner, lambda: learner.learn([batch]))
    batch.reward[~batch.valid] = 100.0
    batch.log_prob[~batch.valid] = -50.0
    batch.task_action[~batch.valid] ^= 1
    for left, right in zip(before, captured(learner, lambda: learner.learn([batch])), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_the_gradient_is_clipped_to_its_norm() -> None:
    learner = A2CLearner(OBS, DISCRETE, A2CConfig(**{**COMMON, "max_grad_norm": 0.01}))
    batch = fragment(learner.weights())
    gradient, metrics = learner.gradient([batch])
    assert metrics["train/grad_norm"] > 0.02
    assert np.linalg.norm(gradient) == pytest.approx(0.01, rel=1e-4)


def test_a3c_the_driver_steps_along_a_workers_gradient() -> None:
    driver, worker, single = (A2CLearner(OBS, BOX, A2CConfig(**COMMON), seed=seed) for seed in (0, 1, 0))
    worker.net.load_flat_weights(driver.weights())
    batch = fragment(driver.weights(), BOX)
    gradient, _ = worker.gradient([batch])
    driver.apply_gradient(gradient, batch.num_steps)
    single.learn([batch])
    np.testing.assert_allclose(driver.weights(), single.weights(), rtol=1e-6)
    assert (driver.version, driver.num_steps) == (1, batch.num_steps)


def test_the_target_is_renewed_every_n_minibatches() -> None:
    config = IMPACTConfig(hidden_sizes=(8,), num_slots=1, max_uses=2, num_minibatches=2)
    learner = IMPACTLearner(OBS, DISCRETE, config)
    batch = learner.prepare(fragment(learner.weights()))
    fresh = learner.target.flat_weights()
    learner.learn(batch)
    assert config.steps_per_target == 4
    np.testing.assert_array_equal(learner.target.flat_weights(), fresh)
    learner.learn(batch)
    np.testing.assert_array_equal(learner.target.flat_weights(), learner.weights())
    assert (learner.version, learner.target_version) == (4, 1)


def test_staleness_is_told_in_versions() -> None:
    learner = IMPACTLearner(OBS, DISCRETE, IMPACTConfig(hidden_sizes=(8,), num_minibatches=2))
    batch = learner.prepare(fragment(learner.weights()))
    assert learner.learn(batch)["train/staleness"] == 2
    assert learner.learn(batch)["train/staleness"] == 4


LEARNERS = {
    "a2c": (A2CLearner, A2CConfig),
    "ppo": (PPOLearner, PPOConfig),
    "impala": (IMPALALearner, IMPALAConfig),
    "impact": (IMPACTLearner, IMPACTConfig),
}


def learn_twice(learner, space, seeds=(0, 1)) -> None:
    for seed in seeds:
        batch = fragment(learner.weights(), space, seed=seed)
        learner.learn(learner.prepare(batch) if isinstance(learner, IMPACTLearner) else [batch])


@pytest.mark.parametrize("method", LEARNERS)
@pytest.mark.parametrize("space", [DISCRETE, BOX], ids=["discrete", "box"])
def test_seeds_and_states(method: str, space) -> None:
    """Same seed, same weights; and a learner that is restored goes on as the first one does."""
    learner_type, config_type = LEARNERS[method]
    config = config_type(hidden_sizes=(8,), normalize_running=True, anneal_steps=1000)
    first, twin, other = (learner_type(OBS, space, config, seed=seed) for seed in (3, 3, 4))
    for learner in (first, twin, other):
        learn_twice(learner, space)
    np.testing.assert_array_equal(first.weights(), twin.weights())
    assert not np.array_equal(first.weights(), other.weights())
    other.load_state_dict(first.state_dict())
    assert (other.version, other.num_steps) == (first.version, first.num_steps)
    for learner in (first, other):
        learn_twice(learner, space, (5, 6))
    np.testing.assert_array_equal(first.weights(), other.weights())
    assert not np.array_equal(first.weights(), twin.weights())


def test_the_step_size_falls_with_the_environment_steps() -> None:
    learner = A2CLearner(OBS, DISCRETE, A2CConfig(hidden_sizes=(8,), learning_rate=1.0, anneal_steps=40, anneal_to=0.1))
    batch = fragment(learner.weights())
    learner.learn([batch])
    assert learner.optimizer.learning_rate == pytest.approx(0.1 + 0.9 * (1 - batch.num_steps / 40))
    learner.learn([batch])
    assert learner.num_steps > 40
    assert learner.optimizer.learning_rate == pytest.approx(0.1)


def test_fragments_side_by_side() -> None:
    learner = A2CLearner(OBS, DISCRETE, A2CConfig(hidden_sizes=(8,)))
    parts = [fragment(learner.weights(), seed=seed, count=count) for seed, count in ((0, 2), (1, 3))]
    parts[0].version, parts[1].version = 7, 5
    joined = concat_fragments(parts)
    assert joined.obs.shape == (9, 5, 2)
    assert joined.version == 5
    np.testing.assert_array_equal(joined.reward[:, 2:], parts[1].reward)
    assert joined.num_steps == sum(part.num_steps for part in parts)
    with pytest.raises(ValueError, match=r"different lengths \[4, 8\]"):
        concat_fragments([parts[0], fragment(learner.weights(), length=4)])


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (PPOConfig, {"clip": 0.0}, "--clip is 0.0"),
        (PPOConfig, {"minibatch_size": 0}, "--minibatch-size is 0"),
        (IMPALAConfig, {"c_bar": 2.0}, "--c-bar is 2.0"),
        (IMPACTConfig, {"rho_max": 0.5}, "--rho-max is 0.5"),
        (IMPACTConfig, {"num_slots": 0}, "--num-slots is 0"),
        (A2CConfig, {"learning_rate": 0.0}, "--learning-rate is 0.0"),
        (A2CConfig, {"gamma": 1.5}, "--gamma is 1.5"),
        (A2CConfig, {"hidden_sizes": (8, 0)}, "--hidden-sizes is"),
    ],
)
def test_bad_settings_are_named(config, values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**values)
