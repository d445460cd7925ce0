"""The ensemble of PETS: its loss, its bounds and its scales by hand; its batching member by member."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from safe_rl.nets.gaussian_ensemble import FastEnsemble, GaussianEnsemble, Prediction, gaussian_loss
from safe_rl.nets.mlp import StackedMLP


def ensemble(members: int = 3, hidden: tuple[int, ...] = (16, 16, 16), seed: int = 0) -> GaussianEnsemble:
    return GaussianEnsemble(members, 2, 1, hidden, generator=torch.Generator().manual_seed(seed))


def scaled() -> GaussianEnsemble:
    made = ensemble()
    made.input_mean.copy_(torch.tensor([10.0, -3.0, 0.5]))
    made.input_scale.copy_(torch.tensor([4.0, 0.5, 2.0]))
    made.target_scale.copy_(torch.tensor([0.1, 7.0]))
    return made


INPUTS = torch.randn(3, 50, 3, generator=torch.Generator().manual_seed(1)) * 3


def test_the_loss_of_a_gaussian_by_hand():
    """``(m - t)^2 / v + log v``: (1 - 3)^2 / 4 + log 4, and 0 + log 0.25."""
    prediction = Prediction(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 0.25]).log())
    loss = gaussian_loss(prediction, torch.tensor([3.0, 2.0]))
    assert loss.tolist() == pytest.approx([1 + math.log(4), -math.log(4)])


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-4, 4))
def test_the_loss_is_twice_the_negative_log_likelihood_without_its_constant(mean, target, log_variance):
    prediction = Prediction(torch.tensor(mean), torch.tensor(log_variance))
    normal = torch.distributions.Normal(mean, math.exp(0.5 * log_variance))
    expected = -2 * normal.log_prob(torch.tensor(target)) - math.log(2 * math.pi)
    assert gaussian_loss(prediction, torch.tensor(target)).item() == pytest.approx(expected.item(), abs=1e-3, rel=1e-3)


def test_the_whole_loss_sums_the_members_and_charges_for_the_distance_of_the_bounds():
    """Two members of mean loss 1 and 9, and 0.01 * 2 numbers * (0.5 + 10); targets 0.2 are 2 in units of 0.1."""
    made = ensemble(members=2)
    made.target_scale.fill_(0.1)
    prediction = Prediction(torch.tensor([1.0, 5.0]).view(2, 1, 1).expand(2, 4, 2), torch.zeros(2, 4, 2))
    loss = made.loss(prediction, torch.full((2, 4, 2), 0.2))
    assert loss.item() == pytest.approx(1 + 9 + 0.01 * 2 * 10.5, rel=1e-5)


def test_variances_are_bent_into_their_bounds():
    """In the middle of (-10, 0.5) both bends are log(1 + e^-5.25) and cancel nearly; far outside the bound remains."""
    made = ensemble()
    bounded = made.bounded(torch.tensor([[-4.75, -4.75], [50.0, -50.0]]))
    upper = 0.5 - math.log1p(math.exp(5.25))
    middle = -10 + math.log1p(math.exp(upper + 10))
    assert bounded[0].tolist() == pytest.approx([middle, middle], abs=1e-4)
    # log(1 + e^x) of the least distance, 10.5, stands above the lower bound
    assert bounded[1].tolist() == pytest.approx([-10 + math.log1p(math.exp(10.5)), -10.0], abs=1e-4)


@given(st.floats(-1e4, 1e4))
def test_no_variance_leaves_its_bounds(log_variance):
    bounded = ensemble().bounded(torch.full((1, 2), log_variance))
    assert (bounded >= -10).all()
    assert (bounded <= 0.5 + 1e-4).all()


def test_the_bounds_are_learned():
    made = ensemble()
    loss = made.loss(made(INPUTS), torch.zeros(3, 50, 2))
    for gradient in torch.autograd.grad(loss, [made.min_log_variance, made.max_log_variance]):
        assert (gradient != 0).all()


def test_all_members_at_once_are_as_each_by_itself():
    made = scaled()
    mean, log_variance = made(INPUTS)
    for member in range(3):
        x = (INPUTS[member] - made.input_mean) / made.input_scale
        for index, (weight, bias) in enumerate(made.layers()):
            x = x @ weight[member] + bias[member]
            x = functional.silu(x) if index < 3 else x
        torch.testing.assert_close(mean[member], x[:, :2])
        torch.testing.assert_close(log_variance[member], made.bounded(x[:, 2:]))
    assert (mean[0] - mean[1]).abs().max() > 1e-3  # they differ


def test_a_planner_sees_the_same_in_the_states_units():
    made = scaled()
    with torch.inference_mode():
        mean, log_variance = made(INPUTS)
        fast_mean, fast_std = FastEnsemble(made).predict(INPUTS)
        low_mean, low_std = FastEnsemble(made, torch.bfloat16).predict(INPUTS)
    torch.testing.assert_close(fast_mean, mean * made.target_scale)
    torch.testing.assert_close(fast_std, (0.5 * log_variance).exp() * made.target_scale)
    torch.testing.assert_close(low_mean, fast_mean, rtol=0.05, atol=0.03 * float(fast_mean.abs().max()))
    torch.testing.assert_close(low_std, fast_std, rtol=0.05, atol=0.0)
    assert not torch.equal(low_mean, fast_mean)


def test_scales_and_range_come_from_the_data():
    """States 1, 3 and 5 (mean 3, deviation sqrt(8/3)); a number that never moves keeps its scale."""
    made = ensemble()
    inputs = torch.tensor([[1.0, 2.0, 0.0], [3.0, 2.0, 0.0], [5.0, 2.0, 0.0]])
    made.adapt_to(inputs, torch.tensor([[3.0, 0.0], [-4.0, 0.0], [0.0, 0.0]]))
    assert made.input_mean.tolist() == [3.0, 2.0, 0.0]
    assert made.input_scale.tolist() == pytest.approx([math.sqrt(8 / 3), 1.0, 1.0])
    assert made.target_scale.tolist() == pytest.approx([math.sqrt(25 / 3), 1.0])
    assert made.lowest.tolist() == [-1.0, 2.0]
    assert made.highest.tolist() == [5.0, 2.0]


def test_a_stack_in_another_precision_reads_the_same_parameters():
    stack = StackedMLP(2, 3, (32, 32), 1, generator=torch.Generator().manual_seed(0))
    low, x = stack.in_precision("bfloat16"), INPUTS[0]
    assert stack.in_precision("float32") is stack
    with torch.no_grad():
        before = stack(x), low(x)
        torch.testing.assert_close(*before, atol=0.02, rtol=0.02)
        assert not torch.equal(*before)
        stack.flat.mul_(2.0)
        torch.testing.assert_close(stack(x), low(x), atol=0.1, rtol=0.02)
        assert not torch.equal(low(x), before[1])
    assert stack.precision == "float32"
