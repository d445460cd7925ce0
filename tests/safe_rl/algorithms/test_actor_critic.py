"""Policy and value networks: densities and gradients against ``torch.distributions``, workers against the learner."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.distributions import Categorical, Independent, Normal

from safe_rl.algorithms.action_heads import action_head
from safe_rl.algorithms.actor_critic import ActorCritic
from safe_rl.algorithms.numpy_policy import NumpyPolicy
from safe_rl.errors import UserError

OBS = spaces.Box(-np.inf, np.inf, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (8, 9, 3), np.uint8)
ACTIONS: dict[str, gym.Space] = {
    "discrete": spaces.Discrete(4),
    "box": spaces.Box(np.array([-1, 0], np.float32), np.array([3, 10], np.float32)),
    "image": spaces.Discrete(4),
    "image, box": spaces.Box(np.array([-1, 0], np.float32), np.array([3, 10], np.float32)),
}


def observations(kind: str) -> spaces.Box:
    return IMAGE if "image" in kind else OBS


def make(kind: str, seed: int = 0) -> ActorCritic:
    generator = torch.Generator().manual_seed(seed)
    net = ActorCritic(observations(kind), ACTIONS[kind], (8, 8), initial_log_std=-0.5, generator=generator)
    with torch.no_grad():  # the fresh policy is nearly uniform: every mistake would look right
        net.policy.flat.add_(torch.randn(net.policy.flat.shape, generator=generator), alpha=0.5)
    return net


def batch(kind: str, size: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    if "image" in kind:
        obs = torch.randint(0, 256, (size, 8 * 9 * 3), generator=generator, dtype=torch.uint8)
    else:
        obs = torch.randn(size, 3, generator=generator)
    if "box" not in kind:
        return obs, torch.randint(0, 4, (size,), generator=generator)
    return obs, torch.randn(size, 2, generator=generator)


def seen(net: ActorCritic, obs: torch.Tensor) -> torch.Tensor:
    return obs if net.encoder is None else net.encoder(obs)


def distribution(net: ActorCritic, kind: str, obs: torch.Tensor) -> Categorical | Independent:
    output = net.policy(seen(net, obs))[0]
    if "box" not in kind:
        return Categorical(logits=output)
    return Independent(Normal(output, net.head_parameters.exp().expand_as(output)), 1)


@pytest.mark.parametrize("kind", ACTIONS)
def test_densities_entropies_and_gradients(kind: str) -> None:
    """More states than actions, as in a fragment with its last observation."""
    net, (obs, action) = make(kind), batch(kind)
    states = torch.cat([obs, 2 * obs[:2]])
    expected, values = distribution(net, kind, obs), net.value(seen(net, states))[0, :, 0]
    rng = np.random.default_rng(0)
    d_log_prob, d_entropy = (rng.normal(size=6).astype(np.float32) for _ in range(2))
    d_values = rng.normal(size=8).astype(np.float32)
    loss = (
        (expected.log_prob(action) * torch.from_numpy(d_log_prob)).sum()
        + (expected.entropy() * torch.from_numpy(d_entropy)).sum()
        + (values * torch.from_numpy(d_values)).sum()
    )
    parameters = [parameter for part in net.trained for parameter in part.parameters()]
    wanted = torch.autograd.grad(loss, parameters)

    found = net.evaluate(states, action)
    np.testing.assert_allclose(found.log_prob, expected.log_prob(action).detach(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.entropy, expected.entropy().detach(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.values, values.detach(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(net.log_prob(obs, action), found.log_prob, rtol=1e-6)
    np.testing.assert_allclose(net.values(states), found.values, rtol=1e-6)
    gradients = net.backpropagate(found, d_log_prob, d_entropy, d_values)
    assert len(gradients) == 2 + ("box" in kind) + ("image" in kind)
    for ours, theirs in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ACTIONS)
def test_workers_decide_as_the_learner_would(kind: str) -> None:
    net = make(kind)
    if "image" not in kind:
        net.normalizer.update(np.random.default_rng(1).normal(2.0, 3.0, (50, 3)).astype(np.float32))
    policy = NumpyPolicy(observations(kind), ACTIONS[kind], (8, 8))
    policy.load(net.flat_weights())
    states = batch(kind, 7)[0]
    normalised = states if "image" in kind else net.normalizer(states)
    outputs = policy.outputs(states.numpy()).copy()
    np.testing.assert_allclose(outputs, net.policy(seen(net, normalised))[0].detach(), rtol=1e-4, atol=1e-5)
    noise = policy.head.noise(np.random.default_rng(3), (7,))
    action = policy.head.sample(outputs, policy.parameters, noise)
    log_prob = policy.head.log_prob(outputs, policy.parameters, action)
    np.testing.assert_allclose(log_prob, net.log_prob(normalised, torch.from_numpy(action)), rtol=1e-4, atol=1e-5)
    assert log_prob.dtype == np.float32


def test_discrete_draws_follow_the_probabilities() -> None:
    head = action_head(spaces.Discrete(3))
    wanted = np.array([0.6, 0.3, 0.1])
    logits = np.log(wanted).astype(np.float32) + 7.0
    noise = head.noise(np.random.default_rng(0), (40_000,))
    drawn = head.sample(np.broadcast_to(logits, noise.shape), np.zeros(0, np.float32), noise)
    np.testing.assert_allclose(np.bincount(drawn) / len(drawn), wanted, atol=0.01)
    assert head.mode(logits[None])[0] == 0


def test_continuous_draws_follow_mean_and_deviation() -> None:
    head = action_head(ACTIONS["box"])
    noise = head.noise(np.random.default_rng(0), (40_000,))
    mean = np.array([0.5, -0.25], np.float32)
    drawn = head.sample(np.broadcast_to(mean, noise.shape), np.log(np.array([0.1, 2.0], np.float32)), noise)
    np.testing.assert_allclose(drawn.mean(0), mean, atol=0.05)
    np.testing.assert_allclose(drawn.std(0), [0.1, 2.0], rtol=0.02)


def test_actions_reach_the_environment_in_its_units() -> None:
    box = action_head(ACTIONS["box"])
    found = box.to_env(np.array([[0.0, 0.0], [1.0, -1.0], [5.0, -5.0]], np.float32))
    np.testing.assert_allclose(found, [[1, 5], [3, 0], [3, 0]])
    shifted = action_head(spaces.Discrete(3, start=-1))
    np.testing.assert_array_equal(shifted.to_env(np.array([0, 1, 2])), [-1, 0, 1])


def test_flat_weights_carry_everything_over() -> None:
    first, second = make("box", seed=0), make("box", seed=1)
    first.normalizer.update(np.random.default_rng(1).normal(2.0, 3.0, (50, 3)).astype(np.float32))
    obs, action = batch("box")
    flat = first.flat_weights()
    assert flat.dtype == np.float32
    second.load_flat_weights(flat)
    np.testing.assert_array_equal(second.flat_weights(), flat)
    np.testing.assert_array_equal(second.log_prob(obs, action), first.log_prob(obs, action))
    np.testing.assert_array_equal(second.values(obs), first.values(obs))
    torch.testing.assert_close(second.normalizer(obs), first.normalizer(obs))
    flat[:] = math.nan  # a copy: nothing happens to the networks
    assert np.isfinite(first.values(obs)).all()


def test_weights_of_another_shape_are_refused() -> None:
    flat = make("box").flat_weights()
    for wrong in (flat[:-1], np.append(flat, np.float32(0))):
        with pytest.raises(ValueError, match="weights do not fit"):
            make("box").load_flat_weights(wrong)
    with pytest.raises(ValueError, match="do not fit a policy"):
        NumpyPolicy(OBS, ACTIONS["box"], (8, 8)).load(flat[:20])


def test_other_action_spaces_are_refused() -> None:
    with pytest.raises(UserError, match="must be Discrete or"):
        action_head(spaces.MultiBinary(3))
    with pytest.raises(UserError, match="no finite limits"):
        action_head(OBS)
