"""The actors against ``torch.distributions`` and numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from safe_rl.nets.gaussian import DeterministicActor, TanhGaussianActor, _TanhGaussian


def test_density_equals_torch_distributions() -> None:
    actor = TanhGaussianActor(3, 2, (16, 16), generator=torch.Generator().manual_seed(0)).double()
    obs, noise = torch.randn(64, 3, dtype=torch.double), torch.randn(64, 2, dtype=torch.double)
    action, log_prob = actor.sample(obs, noise)
    mean, log_std = actor.net(obs)[0].chunk(2, dim=-1)
    gaussian = Independent(Normal(mean, log_std.exp()), 1)
    expected = TransformedDistribution(gaussian, [TanhTransform(cache_size=1)])
    torch.testing.assert_close(action, torch.tanh(mean + log_std.exp() * noise))
    torch.testing.assert_close(log_prob, expected.log_prob(action), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(actor.sample_action(obs, noise), action)
    torch.testing.assert_close(actor.mean_action(obs), torch.tanh(mean))


def test_density_by_hand() -> None:
    # u = 0.5 + 2 * 0 = 0.5: N(u; 0.5, 2) = 1 / (2 sqrt(2 pi)), divided by 1 - tanh(0.5)^2.
    action, log_prob = _TanhGaussian.apply(torch.tensor([[0.5, math.log(2.0)]]), torch.zeros(1, 1))
    assert action.item() == pytest.approx(math.tanh(0.5))
    expected = -math.log(2.0 * math.sqrt(2.0 * math.pi)) - math.log(1.0 - math.tanh(0.5) ** 2)
    assert log_prob.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("which", ["action", "log_prob", "both"])
def test_gradcheck(which: str) -> None:
    parameters = (2 * torch.randn(7, 6, dtype=torch.double)).clamp(-1.9, 1.9).requires_grad_()
    noise = torch.randn(7, 3, dtype=torch.double)

    def function(parameters: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        action, log_prob = _TanhGaussian.apply(parameters, noise)
        return {"action": action, "log_prob": log_prob, "both": (action, log_prob)}[which]

    assert torch.autograd.gradcheck(function, (parameters,))


def test_far_tails_stay_finite() -> None:
    parameters = torch.tensor([[60.0, 5.0], [-60.0, 5.0], [1e4, -50.0]], requires_grad=True)
    action, log_prob = _TanhGaussian.apply(parameters, torch.ones(3, 1))
    assert action.abs().max() <= 1.0
    assert log_prob.isfinite().all()
    (gradient,) = torch.autograd.grad(action.sum() + log_prob.sum(), [parameters])
    assert gradient.isfinite().all()
    assert torch.equal(gradient[:, 1], torch.zeros(3))  # the log standard deviation is clamped to [-20, 2]
    assert log_prob[0].item() == pytest.approx(
        -0.5 - 0.5 * math.log(2 * math.pi) - 2 + 2 * (60 + math.exp(2) - math.log(2)), rel=1e-5
    )


def test_recovery_actor_starts_with_a_tenth_and_learns_its_deviation() -> None:
    actor = DeterministicActor(3, 2, (16, 16), generator=torch.Generator().manual_seed(0))
    obs, noise = torch.randn(64, 3), torch.randn(64, 2)
    mean, action = actor.mean_action(obs), actor.sample(obs, noise)
    torch.testing.assert_close(action, (mean + 0.1 * noise).clamp(-1, 1))
    loss = (action * noise).mean()  # grows with the deviation
    gradients = torch.autograd.grad(loss, list(actor.parameters()))
    names = [name for name, _ in actor.named_parameters()]
    assert gradients[names.index("log_std")].min() > 0
    assert gradients[names.index("net.flat")].count_nonzero() > 0


def test_actions_stay_in_the_box_and_initial_deviation_is_a_choice() -> None:
    actor = DeterministicActor(1, 1, (4,), initial_std=0.5)
    obs, noise = torch.zeros(2, 1), torch.tensor([[100.0], [-100.0]])
    assert actor.sample(obs, noise).flatten().tolist() == [1.0, -1.0]
    assert actor.log_std.exp().item() == pytest.approx(0.5)
