"""Networks over discrete actions: what a row of probabilities reads, and what gradients it gets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_rl.nets.discrete import ActionValues, CategoricalActor, make_critics, one_hot
from safe_rl.nets.mlp import StackedMLP


def critics(members=2, obs_dim=3, count=4, seed=0) -> ActionValues:
    return ActionValues(members, obs_dim, count, (8,), generator=torch.Generator().manual_seed(seed))


def constant(*members: list[float]) -> ActionValues:
    """Critics that say these values of the actions, whatever the observation."""
    made = ActionValues(len(members), 1, len(members[0]), ())
    with torch.no_grad():
        made.flat.zero_()
        for unit, values in zip(made.units(), members, strict=True):
            unit[0].bias.copy_(torch.tensor([values]))
    return made


def all_values(made: ActionValues, obs: torch.Tensor) -> torch.Tensor:
    return StackedMLP.forward(made, obs)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**16))
def test_a_one_hot_row_reads_its_column(members, count, rows, seed):
    made = critics(members, 3, count, seed)
    generator = torch.Generator().manual_seed(seed)
    obs = torch.randn((rows, 3), generator=generator)
    number = torch.randint(count, (rows,), generator=generator)
    row = one_hot(torch.nn.functional.one_hot(number, count).float())
    expected = all_values(made, obs)[:, torch.arange(rows), number]
    x = torch.cat([obs, row], dim=1)
    torch.testing.assert_close(made(x).squeeze(-1), expected)
    torch.testing.assert_close(made.ranked(x, 0), expected.amin(0))
    torch.testing.assert_close(made.ranked(x, len(expected) - 1), expected.amax(0))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**16))
def test_probabilities_read_the_weighted_sum(count, rows, seed):
    made = critics(2, 3, count, seed)
    generator = torch.Generator().manual_seed(seed)
    obs = torch.randn((rows, 3), generator=generator)
    prob = torch.rand((rows, count), generator=generator).softmax(1)
    columns = torch.stack([made(torch.cat([obs, row.expand(rows, -1)], 1))[..., 0] for row in torch.eye(count)], -1)
    torch.testing.assert_close(made(torch.cat([obs, prob], 1)).squeeze(-1), (columns * prob).sum(-1))


def test_the_least_is_taken_of_each_action_and_not_of_the_sum():
    made = constant([1.0, 5.0, 0.0], [3.0, 2.0, 0.0])
    x = torch.tensor([[0.0, 0.5, 0.25, 0.25]])
    assert made.ranked(x, 0).item() == pytest.approx(0.5 * 1 + 0.25 * 2)  # the sums are 1.75 and 2.0
    assert made.ranked(x, 1).item() == pytest.approx(0.5 * 3 + 0.25 * 5)
    assert made(x).flatten().tolist() == pytest.approx([1.75, 2.0])


def test_the_gradient_of_the_least_reaches_the_probabilities_alone():
    made = constant([1.0, 5.0], [3.0, 2.0])
    prob = torch.tensor([[0.5, 0.5]], requires_grad=True)
    obs = torch.zeros(1, 1, requires_grad=True)
    made.ranked(torch.cat([obs, prob], 1), 0).sum().backward()
    assert prob.grad.tolist() == [[1.0, 2.0]]
    assert obs.grad.tolist() == [[0.0]]
    assert made.flat.grad is None


def test_the_gradient_of_the_values_is_autograds():
    made = critics().double()
    x = torch.randn((5, 7), dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, flat: made(x), (x, made.flat))
    # Only the taken action's output moves: its column of the last bias has the gradient, B times, the others none.
    x = torch.cat([torch.randn(5, 3).double(), torch.eye(4)[2].expand(5, -1).double()], 1)
    made(x).sum().backward()
    last = made.views_of(made.flat.grad)[0][-1].bias
    assert last.tolist() == [[0.0, 0.0, 5.0, 0.0]]


@pytest.mark.parametrize("discrete", [True, False])
def test_critics_of_both_kinds_are_asked_alike(discrete):
    made = make_critics(2, 3, 4, (8,), discrete=discrete)
    assert made(torch.randn(5, 7)).shape == (2, 5, 1)
    assert made.ranked(torch.randn(5, 7), 0).shape == (5,)


def actor_with(logits: list[float]) -> CategoricalActor:
    made = CategoricalActor(1, len(logits), ())
    with torch.no_grad():
        made.net.flat.zero_()
        made.net.units()[0][0].bias.copy_(torch.tensor([logits]))
    return made


def test_an_actor_by_hand():
    prob = torch.tensor([0.2, 0.5, 0.3])
    made = actor_with((prob.log() + 3).tolist())
    obs = torch.zeros(2, 1)
    found, expected_log_prob = made.sample(obs, torch.zeros(2, 3))
    torch.testing.assert_close(found, prob.expand(2, -1))
    torch.testing.assert_close(expected_log_prob, (prob * prob.log()).sum().expand(2))
    assert made.mean_action(obs).tolist() == [[0, 1, 0]] * 2


def test_draws_are_as_frequent_as_they_are_likely():
    made = actor_with(torch.tensor([0.2, 0.5, 0.3]).log().tolist())
    noise = torch.rand((30_000, 3), generator=torch.Generator().manual_seed(0))
    rows = made.sample_action(torch.zeros(30_000, 1), noise)
    assert (rows.sum(1) == 1).all()
    assert rows.mean(0).tolist() == pytest.approx([0.2, 0.5, 0.3], abs=0.01)
    assert made.sample_action(torch.zeros(1, 1), torch.zeros(1, 3)).sum() == 1  # noise at its least is no infinity


def test_the_gradient_of_the_entropy_is_right():
    made = CategoricalActor(3, 4, (8,), generator=torch.Generator().manual_seed(0)).double()
    obs = torch.randn((5, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    noise = torch.zeros(5, 4)
    assert torch.autograd.gradcheck(lambda flat: made.sample(obs, noise), (made.net.flat,))
