"""The stack of MLPs against plain ``torch.nn.Linear`` networks, and the promises about its memory."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from safe_rl.nets.mlp import StackedMLP
from safe_rl.nets.optim import FlatAdam, polyak_update


def make(
    *, members: int = 2, sizes: tuple[int, ...] = (3, 16, 12, 2), seed: int = 0, precision: str = "float32"
) -> StackedMLP:
    first, *hidden, last = sizes
    return StackedMLP(members, first, hidden, last, generator=torch.Generator().manual_seed(seed), precision=precision)


def plain_networks(stack: StackedMLP) -> list[nn.Sequential]:
    """The same networks as a user would write them, with copies of the stack's parameters."""
    networks = []
    for layers in stack.units():
        modules: list[nn.Module] = []
        for weight, bias in layers:
            linear = nn.Linear(*weight.shape, dtype=weight.dtype)
            with torch.no_grad():
                linear.weight.copy_(weight.mT)
                linear.bias.copy_(bias[0])
            modules += [linear, nn.ReLU()]
        networks.append(nn.Sequential(*modules[:-1]))
    return networks


def evaluate_plainly(networks: list[nn.Sequential], x: torch.Tensor) -> torch.Tensor:
    return torch.stack([net(x if x.dim() == 2 else x[i]) for i, net in enumerate(networks)])


def flat_gradient(stack: StackedMLP, networks: list[nn.Sequential]) -> torch.Tensor:
    """The plain networks' gradients in the order of the stack's ``flat``."""
    gradient = torch.full_like(stack.flat.detach(), torch.nan)
    for layers, network in zip(stack.views_of(gradient), networks, strict=True):
        linears = [module for module in network if isinstance(module, nn.Linear)]
        for (weight, bias), linear in zip(layers, linears, strict=True):
            weight.copy_(linear.weight.grad.mT)
            bias.copy_(linear.bias.grad)
    return gradient


@settings(max_examples=25, deadline=None)
@given(
    members=st.integers(1, 4),
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=5).map(tuple),
    batch=st.integers(1, 6),
    shared=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_values_and_gradients_equal_plain_networks(
    members: int, sizes: tuple[int, ...], batch: int, shared: bool, seed: int
) -> None:
    stack = make(members=members, sizes=sizes, seed=seed).double()
    networks = plain_networks(stack)
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, sizes[0]) if shared else (members, batch, sizes[0])
    x = torch.randn(shape, generator=generator, dtype=torch.double, requires_grad=True)
    weights = torch.randn((members, batch, sizes[-1]), generator=generator, dtype=torch.double)

    expected = evaluate_plainly(networks, x)
    (expected * weights).sum().backward()
    expected_x, x.grad = x.grad, None
    actual = stack(x)
    (actual * weights).sum().backward()

    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(x.grad, expected_x)
    torch.testing.assert_close(stack.flat.grad, flat_gradient(stack, networks))


@pytest.mark.parametrize("shared", [True, False])
def test_gradcheck(shared: bool) -> None:
    stack = make(sizes=(3, 5, 4, 2)).double()
    x = torch.randn((6, 3) if shared else (2, 6, 3), dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, _: stack(x), (x, stack.flat))
    assert torch.autograd.gradcheck(lambda x: stack(x, freeze=True), (x,))


def test_frozen_parameters_get_no_gradient_but_the_input_does() -> None:
    stack = make()
    x = torch.randn(4, 3, requires_grad=True)
    stack(x, freeze=True).sum().backward()
    assert stack.flat.grad is None
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(("members", "rank"), [(1, 0), (2, 0), (2, 1), (5, 0), (5, 1), (5, 3), (5, 4)])
def test_ranked_is_the_sorted_value_of_plain_networks(members: int, rank: int) -> None:
    stack = make(members=members, sizes=(3, 16, 12, 1)).double()
    networks = plain_networks(stack)
    x = torch.randn(64, 3, dtype=torch.double, requires_grad=True)
    weights = torch.randn(64, dtype=torch.double)
    values = evaluate_plainly(networks, x).squeeze(-1)
    expected = values.sort(0).values[rank]
    (expected_x,) = torch.autograd.grad((expected * weights).sum(), [x])
    actual = stack.ranked(x, rank)
    (actual_x,) = torch.autograd.grad((actual * weights).sum(), [x])
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(actual_x, expected_x)
    torch.testing.assert_close(stack.ranked(x.detach(), rank), expected.detach())
    assert torch.autograd.gradcheck(lambda x: stack.ranked(x, rank), (x[:5],))


def test_ranked_where_one_member_always_wins() -> None:
    stack = make(sizes=(3, 16, 1))
    with torch.no_grad():
        stack.units()[1][-1].bias.add_(100.0)
    x = torch.randn(8, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(stack.ranked(x, 1).sum(), [x])
    (expected,) = torch.autograd.grad(stack(x, freeze=True)[1].sum(), [x])
    torch.testing.assert_close(gradient, expected)


def test_two_uses_in_one_loss_add_their_gradients() -> None:
    stack = make().double()
    a, b = torch.randn(2, 5, 3, dtype=torch.double).unbind()
    separate = sum(torch.autograd.grad(stack(x).square().sum(), [stack.flat])[0].clone() for x in (a, b))
    (together,) = torch.autograd.grad(stack(a).square().sum() + stack(b).square().sum(), [stack.flat])
    torch.testing.assert_close(together, separate)


def test_changing_parameters_before_the_backward_pass_is_an_error() -> None:
    stack = make()
    loss = stack(torch.randn(4, 3)).sum()
    FlatAdam(stack, 1e-3).step(stack(torch.randn(4, 3)).sum())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_initial_parameters_are_those_of_linear_layers_and_follow_the_seed() -> None:
    stack = make(members=3, sizes=(4, 400, 1))
    for layers in stack.units():
        for fan_in, layer in zip((4, 400), layers, strict=True):
            bound = fan_in**-0.5
            assert layer.weight.abs().max() <= bound
            assert layer.weight.std() == pytest.approx(bound / 3**0.5, rel=0.15)
    assert torch.equal(make(seed=1).flat, make(seed=1).flat)
    assert not torch.equal(make(seed=1).flat, make(seed=2).flat)
    one, other = make().units()
    assert not torch.equal(one[0].weight, other[0].weight)


def assert_views_follow_flat(stack: StackedMLP) -> None:
    """Every layer must be a view of ``flat``: setting it to zero must silence the stack."""
    probe = copy.deepcopy(stack)
    x = torch.ones(2, stack.sizes[0], dtype=stack.flat.dtype)
    probe(x)
    with torch.no_grad():
        probe.flat.zero_()
    assert probe(x).count_nonzero() == 0
    assert [name for name, _ in probe.named_parameters()] == ["flat"]


def test_copies_conversions_and_loading_keep_one_flat_tensor() -> None:
    stack = make()
    x = torch.randn(4, 3)
    before = stack(x)
    clone = copy.deepcopy(stack)
    with torch.no_grad():
        clone.flat.add_(1.0)
    assert torch.equal(stack(x), before)
    assert not torch.equal(clone(x), before)
    double = copy.deepcopy(stack).double()
    torch.testing.assert_close(double(x.double()).float(), before)
    other = make(seed=5)
    other(x)
    other.load_state_dict(stack.state_dict())
    assert torch.equal(other(x), before)
    buffer = io.BytesIO()
    torch.save(stack.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    for module in (clone, double, other, stack.to("cpu")):
        assert_views_follow_flat(module)


def test_module_made_and_used_in_inference_mode_can_still_be_trained() -> None:
    stack = make(precision="bfloat16")
    with torch.inference_mode():
        stack(torch.randn(1, 3))
    before = stack.flat.detach().clone()
    FlatAdam(stack, 1e-3).step(stack(torch.randn(4, 3)).sum())
    assert not torch.equal(stack.flat, before)


@pytest.mark.parametrize("members", [1, 2])
def test_bfloat16_stays_close_to_float32(members: int) -> None:
    full, low = (make(members=members, sizes=(4, 256, 256, 1), precision=p) for p in ("float32", "bfloat16"))
    x = torch.randn(256, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    weights = torch.randn(members, 256, 1, generator=torch.Generator().manual_seed(2))
    results = []
    for stack in (full, low):
        output = stack(x)
        results.append((output, *torch.autograd.grad((output * weights).sum(), [stack.flat, x])))
    # bfloat16 keeps 8 bits: one rounding is worth up to 2^-9 = 0.002. A gradient also jumps where a unit next to zero
    # changes sides: a share p of flipped units moves it by about sqrt(p).
    for exact, rounded, bound in zip(*results, (0.005, 0.08, 0.08), strict=True):
        assert rounded.dtype == torch.float32
        error = (exact - rounded).norm() / exact.norm()
        assert 0 < error < bound


def test_bfloat16_follows_every_change_of_the_parameters() -> None:
    stack, target = make(precision="bfloat16"), make(precision="bfloat16", seed=3)
    x = torch.randn(4, 3)

    def assert_fresh(module: StackedMLP) -> None:
        assert torch.equal(module(x), copy.deepcopy(module)(x))  # a copy has no cache

    for module in (stack, target):
        module(x)
    FlatAdam(stack, 0.1).step(stack(x).square().sum())
    assert_fresh(stack)
    polyak_update(target, stack, 0.5)
    assert_fresh(target)
    target.load_state_dict(stack.state_dict())
    assert_fresh(target)
    stack.reset_parameters()
    assert_fresh(stack)


def test_unknown_precision_is_named() -> None:
    with pytest.raises(ValueError, match="float32, bfloat16, got 'half'"):
        make(precision="half")
