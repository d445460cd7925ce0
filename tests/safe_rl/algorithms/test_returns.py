"""GAE and V-trace against sums written out from the formulas, and against what they must become in special cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_rl.algorithms.returns import Returns, gae, vtrace


class Batch:
    """A random fragment of ``T`` steps of ``N`` environments with ends of both kinds."""

    def __init__(self, seed: int, length: int, count: int, ends: float = 0.3) -> None:
        rng = np.random.default_rng(seed)
        self.reward = rng.normal(size=(length, count)).astype(np.float32)
        self.values = rng.normal(size=(length + 1, count)).astype(np.float32)
        self.log_ratio = rng.normal(size=(length, count)).astype(np.float32)
        kind = rng.random((length, count))
        self.terminated, self.truncated = kind < ends / 2, (kind >= ends / 2) & (kind < ends)

    def arguments(self) -> tuple[np.ndarray, ...]:
        return self.reward, self.values, self.terminated, self.truncated


def vtrace_by_sums(batch: Batch, gamma: float, lam: float, rho_bar: float, c_bar: float) -> Returns:
    """Double sums in double precision, one environment at a time: the formula, not the recursion."""
    length, count = batch.reward.shape
    reward, values = batch.reward.astype(float), batch.values.astype(float)
    weight = np.exp(batch.log_ratio.astype(float))
    targets, advantages = np.zeros((2, length, count))
    for n in range(count):

        def correction(s: int, n: int = n) -> float:
            """``v_s - V_s``; nothing past the fragment or the end of an episode."""
            total, trace = 0.0, 1.0
            for t in range(s, length):
                next_value = 0.0 if batch.terminated[t, n] else values[t + 1, n]
                delta = min(rho_bar, weight[t, n]) * (reward[t, n] + gamma * next_value - values[t, n])
                total += gamma ** (t - s) * trace * delta
                if batch.terminated[t, n] or batch.truncated[t, n]:
                    break
                trace *= lam * min(c_bar, weight[t, n])
            return total

        for s in range(length):
            targets[s, n] = values[s, n] + correction(s)
            follows = 0.0 if batch.terminated[s, n] else values[s + 1, n]
            if not (batch.terminated[s, n] or batch.truncated[s, n]) and s + 1 < length:
                follows += lam * correction(s + 1)
            advantages[s, n] = min(rho_bar, weight[s, n]) * (reward[s, n] + gamma * follows - values[s, n])
    return Returns(advantages, targets)


shapes = {"seed": st.integers(0, 10_000), "length": st.integers(1, 12), "count": st.integers(1, 4)}
unit = st.floats(0.0, 1.0)


@settings(max_examples=60, deadline=None)
@given(**shapes, gamma=unit, lam=unit, c_bar=st.floats(0.1, 2.0), more=st.floats(0.0, 2.0))
def test_vtrace_is_the_double_sum(
    seed: int, length: int, count: int, gamma: float, lam: float, c_bar: float, more: float
) -> None:
    batch, rho_bar = Batch(seed, length, count), c_bar + more
    options = {"gamma": gamma, "gae_lambda": lam, "rho_bar": rho_bar, "c_bar": c_bar}
    found = vtrace(batch.log_ratio, *batch.arguments(), **options)
    wanted = vtrace_by_sums(batch, gamma, lam, rho_bar, c_bar)
    np.testing.assert_allclose(found.targets, wanted.targets, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.advantages, wanted.advantages, rtol=1e-3, atol=1e-3)
    assert found.advantages.dtype == found.targets.dtype == np.float32


@settings(max_examples=40, deadline=None)
@given(**shapes, gamma=unit, lam=unit)
def test_on_policy_vtrace_is_gae(seed: int, length: int, count: int, gamma: float, lam: float) -> None:
    batch = Batch(seed, length, count)
    ours = vtrace(np.zeros_like(batch.log_ratio), *batch.arguments(), gamma=gamma, gae_lambda=lam)
    theirs = gae(*batch.arguments(), gamma=gamma, gae_lambda=lam)
    np.testing.assert_allclose(ours.advantages, theirs.advantages, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours.targets, theirs.targets, rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(**shapes, gamma=unit)
def test_on_policy_with_lambda_one_the_targets_are_n_step_returns(
    seed: int, length: int, count: int, gamma: float
) -> None:
    batch = Batch(seed, length, count)
    found = vtrace(np.zeros_like(batch.log_ratio), *batch.arguments(), gamma=gamma).targets
    for n in range(count):
        after = float(batch.values[-1, n])
        for t in reversed(range(length)):
            if batch.terminated[t, n]:
                after = 0.0
            elif batch.truncated[t, n]:
                after = float(batch.values[t + 1, n])
            after = float(batch.reward[t, n]) + gamma * after
            assert found[t, n] == pytest.approx(after, rel=1e-4, abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(**shapes)
def test_what_follows_an_end_does_not_matter(seed: int, length: int, count: int) -> None:
    """An end at the first step; everything after it changes, except the final observation's value."""
    batch = Batch(seed, length + 1, count)
    batch.truncated[0], batch.terminated[0] = True, False
    first = [vtrace(batch.log_ratio, *batch.arguments(), gamma=0.9), gae(*batch.arguments(), gamma=0.9, gae_lambda=0.9)]
    batch.reward[1:] += 5.0
    batch.values[2:] -= 7.0
    second = [
        vtrace(batch.log_ratio, *batch.arguments(), gamma=0.9),
        gae(*batch.arguments(), gamma=0.9, gae_lambda=0.9),
    ]
    for before, after in zip(first, second, strict=True):
        np.testing.assert_array_equal(before.advantages[0], after.advantages[0])
        np.testing.assert_array_equal(before.targets[0], after.targets[0])


def column(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)[:, None]


def test_gae_by_hand() -> None:
    """gamma 0.5, lambda 0.5. The second step is truncated (bootstrap 4), the last terminates (the 9 is unused)."""
    found = gae(
        column(1, 2, 3),
        column(1, 2, 4, 9),
        column(0, 0, 1).astype(bool),
        column(0, 1, 0).astype(bool),
        gamma=0.5,
        gae_lambda=0.5,
    )
    # deltas: 1 + 0.5 * 2 - 1 = 1;  2 + 0.5 * 4 - 2 = 2;  3 - 4 = -1
    np.testing.assert_allclose(found.advantages[:, 0], [1 + 0.25 * 2, 2, -1])
    np.testing.assert_allclose(found.targets[:, 0], [2.5, 4, 3])


def test_vtrace_by_hand() -> None:
    """Weights 4 and 1/2 under rho_bar 2 and c_bar 1, gamma 1/2, lambda 1, no end."""
    found = vtrace(
        np.log(column(4, 0.5)),
        column(1, 2),
        column(1, 2, 4),
        np.zeros((2, 1), bool),
        np.zeros((2, 1), bool),
        gamma=0.5,
        rho_bar=2.0,
    )
    # delta_0 = 2 (1 + 1 - 1) = 2, delta_1 = 0.5 (2 + 2 - 2) = 1; v_0 = 1 + 2 + 0.5 * 1 * 1 = 3.5, v_1 = 2 + 1 = 3
    np.testing.assert_allclose(found.targets[:, 0], [3.5, 3], rtol=1e-6)
    # A_0 = 2 (1 + 0.5 * 3 - 1) = 3, A_1 = 0.5 (2 + 0.5 * 4 - 2) = 1
    np.testing.assert_allclose(found.advantages[:, 0], [3, 1], rtol=1e-6)


@pytest.mark.parametrize("log_ratio", [80.0, 1e4, -1e4])
def test_policies_far_apart_stay_bounded(log_ratio: float) -> None:
    batch = Batch(0, 6, 2)
    found = vtrace(np.full_like(batch.log_ratio, log_ratio), *batch.arguments(), gamma=0.9)
    limit = 0.0 if log_ratio < 0 else math.log(1.0)
    wanted = vtrace(np.full_like(batch.log_ratio, limit), *batch.arguments(), gamma=0.9)
    if log_ratio < 0:  # nothing is known of that policy: the values stay what they are
        np.testing.assert_array_equal(found.targets, batch.values[:-1])
        np.testing.assert_array_equal(found.advantages, 0.0)
    else:
        np.testing.assert_allclose(found.targets, wanted.targets)
