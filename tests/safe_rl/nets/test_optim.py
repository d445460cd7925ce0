"""Adam and target updates against PyTorch's own and against numbers by hand."""

from __future__ import annotations

import copy

import pytest
import torch

from safe_rl.nets.gaussian import DeterministicActor
from safe_rl.nets.mlp import StackedMLP
from safe_rl.nets.optim import FlatAdam, polyak_update


def make(seed: int = 0) -> StackedMLP:
    return StackedMLP(2, 3, (8, 8), 1, generator=torch.Generator().manual_seed(seed))


def test_equals_adam_of_torch_over_steps() -> None:
    ours, theirs = make(), make()
    optimizer, reference = FlatAdam(ours, 1e-2), torch.optim.Adam(theirs.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        x = torch.randn(16, 3, generator=generator)
        optimizer.step((ours(x) - x.sum(1, keepdim=True)).square().mean())
        reference.zero_grad()
        (theirs(x) - x.sum(1, keepdim=True)).square().mean().backward()
        reference.step()
    torch.testing.assert_close(ours.flat, theirs.flat, rtol=1e-5, atol=1e-6)


def test_first_step_moves_by_the_learning_rate_against_the_gradient() -> None:
    stack = make()
    before = stack.flat.detach().clone()
    FlatAdam(stack, 0.25).apply([torch.where(before > 0, 2.0, -3.0)])
    torch.testing.assert_close(stack.flat.detach(), before - 0.25 * torch.where(before > 0, 1.0, -1.0))


def test_trains_several_modules_at_once_and_touches_no_other() -> None:
    modules, apart = [make(1), make(2)], [make(1), make(2)]
    bystander = make(3)
    x = torch.randn(8, 3)
    together = FlatAdam(modules, 1e-2)
    separate = [FlatAdam(module, 1e-2) for module in apart]
    for _ in range(3):
        together.step(sum(m(x).square().sum() for m in modules) + bystander(x).sum())
        for optimizer, module in zip(separate, apart, strict=True):
            optimizer.step(module(x).square().sum())
    for module, other in zip(modules, apart, strict=True):
        torch.testing.assert_close(module.flat, other.flat)
    assert torch.equal(bystander.flat, make(3).flat)
    assert bystander.flat.grad is None


def test_a_gradient_kept_by_the_caller_is_not_overwritten() -> None:
    stack, x = make(), torch.randn(8, 3)
    optimizer = FlatAdam(stack, 1e-2)
    optimizer.step(stack(x).sum())
    (kept,) = torch.autograd.grad(stack(x).square().sum(), [stack.flat])
    copied = kept.clone()
    optimizer.step(stack(x).sum())
    stack(x).sum().backward()
    assert torch.equal(kept, copied)


def test_resumes_exactly() -> None:
    stack = DeterministicActor(3, 2, (8, 8))
    optimizer = FlatAdam(stack, 1e-2)
    obs, noise = torch.randn(6, 16, 3), torch.randn(6, 16, 2)

    def train(module: DeterministicActor, adam: FlatAdam, steps: range) -> None:
        for i in steps:
            adam.step(module.sample(obs[i], noise[i]).square().mean())

    train(stack, optimizer, range(3))
    resumed = copy.deepcopy(stack)
    resumed_optimizer = FlatAdam(resumed, 1e-2)
    state = optimizer.state_dict()
    train(stack, optimizer, range(3, 6))  # must not reach into the saved state
    resumed_optimizer.load_state_dict(state)
    train(resumed, resumed_optimizer, range(3, 6))
    for parameter, other in zip(stack.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(parameter, other)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert state["num_steps"] == 3


def test_an_optimiser_of_nothing_can_be_saved() -> None:
    optimizer = FlatAdam([], 1e-2)
    state = optimizer.state_dict()
    assert state == {"num_steps": 0}
    state["num_steps"] += 5
    assert optimizer.num_steps == 0  # what was saved is a copy
    optimizer.load_state_dict(state)
    assert optimizer.state_dict() == {"num_steps": 5}
    with pytest.raises(ValueError, match="has entries"):
        optimizer.load_state_dict({})


def test_foreign_state_is_refused() -> None:
    optimizer = FlatAdam(make(), 1e-2)
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match="has entries"):
        optimizer.load_state_dict({"exp_avg.0": state["exp_avg.0"]})
    with pytest.raises(ValueError, match=r"exp_avg_sq\.0: shape \(5,\)"):
        optimizer.load_state_dict({**state, "exp_avg_sq.0": torch.zeros(5)})


def test_polyak_by_hand() -> None:
    target, source = make(1), make(2)
    with torch.no_grad():
        target.flat.fill_(1.0)
        source.flat.fill_(3.0)
    polyak_update(target, source, 0.25)
    assert torch.equal(target.flat, torch.full_like(target.flat, 1.5))
    polyak_update([target], [source], 1.0)
    assert torch.equal(target.flat, source.flat)
    polyak_update(target, make(2), 0.0)
    assert torch.equal(target.flat, source.flat)


def test_polyak_needs_as_many_sources_as_targets() -> None:
    with pytest.raises(ValueError, match="shorter"):
        polyak_update([make(), make()], [make()], 0.5)
