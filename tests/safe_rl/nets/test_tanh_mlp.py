"""The tanh network against ``torch.nn.Linear`` and ``torch.nn.Tanh``, in both of its ways to differentiate."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from safe_rl.nets.tanh_mlp import TanhMLP


def plain_network(net: TanhMLP) -> nn.Sequential:
    modules: list[nn.Module] = []
    for weight, bias in net.units()[0]:
        linear = nn.Linear(*weight.shape)
        with torch.no_grad():
            linear.weight.copy_(weight.mT)
            linear.bias.copy_(bias[0])
        modules += [linear, nn.Tanh()]
    return nn.Sequential(*modules[:-1])


def plain_gradient(net: TanhMLP, network: nn.Sequential) -> torch.Tensor:
    gradient = torch.full_like(net.flat.detach(), torch.nan)
    linears = [module for module in network if isinstance(module, nn.Linear)]
    for (weight, bias), linear in zip(net.views_of(gradient)[0], linears, strict=True):
        weight.copy_(linear.weight.grad.mT)
        bias.copy_(linear.bias.grad)
    return gradient


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.integers(1, 6), st.integers(0, 1000))
def test_values_and_gradients_are_those_of_plain_modules(sizes: list[int], batch: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, *hidden, last = sizes
    net = TanhMLP(first, hidden, last, generator=generator)
    x = torch.randn(batch, first, generator=generator)
    towards = torch.randn(batch, last, generator=generator)
    network, x_plain, x_ours = plain_network(net), x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = network(x_plain)
    (expected * towards).sum().backward()
    wanted = plain_gradient(net, network)

    output = net(x_ours)[0]
    by_autograd, x_grad = torch.autograd.grad((output * towards).sum(), [net.flat, x_ours])
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(by_autograd, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x_grad, x_plain.grad, rtol=1e-4, atol=1e-5)

    direct, saved = net.run(x)
    torch.testing.assert_close(direct, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.backpropagate(saved, towards), wanted, rtol=1e-4, atol=1e-5)


def test_an_autograd_gradient_is_not_overwritten() -> None:
    net = TanhMLP(3, (8,), 2, generator=torch.Generator().manual_seed(0))
    (held,) = torch.autograd.grad(net(torch.ones(4, 3)).sum(), [net.flat])
    before = held.clone()
    _, saved = net.run(torch.full((4, 3), -2.0))
    net.backpropagate(saved, torch.ones(4, 2))
    torch.testing.assert_close(held, before, rtol=0, atol=0)


def test_weights_are_orthogonal_with_their_gain_and_biases_zero() -> None:
    net = TanhMLP(4, (16, 16), 3, output_gain=0.01, generator=torch.Generator().manual_seed(1))
    for (weight, bias), gain in zip(net.units()[0], (2**0.5, 2**0.5, 0.01), strict=True):
        rows = weight if weight.shape[0] <= weight.shape[1] else weight.mT
        torch.testing.assert_close(rows @ rows.mT, gain**2 * torch.eye(len(rows)), rtol=1e-4, atol=1e-5)
        assert not bias.any()


def test_seeds_and_copies() -> None:
    def make(seed: int) -> TanhMLP:
        return TanhMLP(4, (8, 8), 3, generator=torch.Generator().manual_seed(seed))

    first = make(0)
    assert torch.equal(first.flat, make(0).flat)
    assert not torch.equal(first.flat, make(1).flat)
    twin = copy.deepcopy(first)
    with torch.no_grad():
        twin.flat.zero_()
    assert first.run(torch.ones(1, 4))[0].abs().sum() > 0
    assert twin.run(torch.ones(1, 4))[0].abs().sum() == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_agrees() -> None:
    net = TanhMLP(4, (8, 8), 3, generator=torch.Generator().manual_seed(0))
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(copy.deepcopy(net).cuda()(x.cuda()).cpu(), net(x), rtol=1e-4, atol=1e-5)
