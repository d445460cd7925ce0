from __future__ import annotations

import pytest
import torch

from safe_rl.nets.latent_dynamics import LatentDynamics, consistency_loss, relative_errors
from safe_rl.nets.optim import FlatAdam


def model(feature_dim=2, act_dim=2) -> LatentDynamics:
    return LatentDynamics(feature_dim, act_dim, (32,), generator=torch.Generator().manual_seed(0))


def added(made: LatentDynamics, step: float) -> LatentDynamics:
    """The model with ``f(z, a) = step``, whatever the input."""
    with torch.no_grad():
        made.net.flat.zero_()
        made.net.units()[0][-1].bias.fill_(step)
    return made


def test_it_unrolls_step_by_step():
    made, first, actions = added(model(), 0.3), torch.tensor([[0.5, -1.0]]), torch.zeros(1, 3, 2)
    expected = torch.tensor([[[0.8, -0.7], [1.1, -0.4], [1.4, -0.1]]])
    torch.testing.assert_close(made.unroll(first, actions), expected)
    torch.testing.assert_close(made.imagine(first, actions), torch.tensor([[[0.5, -1.0], [0.8, -0.7], [1.0, -0.4]]]))
    assert made.imagine(first, actions[:, :1]).tolist() == [[[0.5, -1.0]]]


def test_the_loss_and_the_relative_error_by_hand():
    predicted = torch.tensor([[[1.0], [1.0]]])
    features = torch.tensor([[[0.0], [0.5], [2.0]]])  # first image, then those after one and two steps
    # squared errors 0.25 and 1, of "nothing moves" 0.25 and 4
    assert consistency_loss(predicted, features).item() == pytest.approx((0.25 + 0.9 * 1.0) / 2)
    assert relative_errors(predicted, features).tolist() == pytest.approx([1.0, 0.25])


def test_it_learns_dynamics_that_depend_on_the_action():
    generator, made = torch.Generator().manual_seed(1), model()
    turn = torch.tensor([[0.0, 0.3], [-0.3, 0.0]])

    def sequences(count):
        actions = 2 * torch.rand(count, 4, 2, generator=generator) - 1
        features = [torch.rand(count, 2, generator=generator) - 0.5]
        for action in actions.unbind(1):
            features.append(features[-1] + action @ turn)
        return torch.stack(features, dim=1), actions

    optimizer = FlatAdam(made, 3e-3)
    for _ in range(400):
        features, actions = sequences(64)
        optimizer.step(consistency_loss(made.unroll(features[:, 0], actions), features))
    features, actions = sequences(500)
    with torch.no_grad():
        assert relative_errors(made.unroll(features[:, 0], actions), features).max() < 0.01


def test_the_gradient_of_an_unrolled_model_is_that_of_autograd():
    """One parameter array serves several steps of one loss: its gradients must add up."""
    made = model().double()
    features, actions = torch.rand(3, 4, 2).double(), torch.rand(3, 3, 2).double()

    def loss() -> torch.Tensor:
        return consistency_loss(made.unroll(features[:, 0], actions), features)

    (gradient,) = torch.autograd.grad(loss(), [made.net.flat])
    for index in range(0, len(made.net.flat), 17):
        with torch.no_grad():
            made.net.flat[index] += 1e-6
            above = loss().item()
            made.net.flat[index] -= 2e-6
            below = loss().item()
            made.net.flat[index] += 1e-6
        assert gradient[index].item() == pytest.approx((above - below) / 2e-6, abs=1e-7)
