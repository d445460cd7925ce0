from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from safe_rl.errors import UserError
from safe_rl.shield.distribution import FeatureDistribution, flagging_threshold

FloatArray = npt.NDArray[np.float32]


def features_of(rng: np.random.Generator, num: int, offset: float = 0.0) -> FloatArray:
    """A hidden layer of width 64 that sees states of three numbers, like a risk critic's."""
    weights = np.random.default_rng(5).normal(size=(3, 64))
    states = rng.normal(size=(num, 3)) + offset
    return np.maximum(states @ weights + np.linspace(-1, 1, 64), 0).astype(np.float32)


def test_with_all_directions_it_is_the_mahalanobis_distance() -> None:
    rng = np.random.default_rng(0)
    data = (rng.normal(size=(500, 4)) @ rng.normal(size=(4, 4)) + 3).astype(np.float32)
    fitted = FeatureDistribution.fit(data, rank=4)
    difference = data[:20] - data.mean(axis=0)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", difference, np.linalg.inv(np.cov(data.T)), difference) / 4)
    np.testing.assert_allclose(fitted.score(data[:20]), expected, rtol=1e-3)


def test_what_the_directions_leave_out_counts_by_its_mean_variance() -> None:
    """Variances 16, 4 and 1 along the axes, one direction kept: the other two count as (4 + 1) / 2 each."""
    data = np.concatenate([np.diag([4.0, 2.0, 1.0]), -np.diag([4.0, 2.0, 1.0])]).astype(np.float32)
    fitted = FeatureDistribution.fit(data, rank=1)
    unit = 2 / 5  # variance with n - 1 of +-1, 0, 0, 0, 0
    scores = fitted.score(np.array([[4, 0, 0], [0, 2, 0], [0, 0, 1], [4, 2, 1]], np.float32))
    squares = np.array([16 / 16, 4 / 2.5, 1 / 2.5, 16 / 16 + 5 / 2.5]) / unit / 3
    np.testing.assert_allclose(scores**2, squares, rtol=1e-5)


def test_ordinary_features_score_about_one() -> None:
    rng = np.random.default_rng(1)
    fitted = FeatureDistribution.fit(features_of(rng, 2000))
    assert np.mean(fitted.score(features_of(rng, 2000)) ** 2) == pytest.approx(1, abs=0.1)


def test_one_row_scores_as_it_does_among_others() -> None:
    rng = np.random.default_rng(2)
    fitted = FeatureDistribution.fit(features_of(rng, 500))
    rows = np.concatenate([features_of(rng, 20), features_of(rng, 20, offset=8)])
    together = fitted.score(rows)
    one_by_one = np.concatenate([fitted.score(row[None]) for row in rows])
    assert one_by_one.dtype == together.dtype == np.float32
    np.testing.assert_allclose(one_by_one, together, rtol=1e-3)
    np.testing.assert_array_less(together[:20].max(), together[20:].min())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [1e30, np.inf, np.nan])
def test_features_beyond_reckoning_pass_no_threshold(value: float) -> None:
    fitted = FeatureDistribution.fit(features_of(np.random.default_rng(3), 500))
    for row in (np.full((1, 64), value, np.float32), np.eye(64, dtype=np.float32)[:1] * np.float32(value)):
        assert not fitted.score(row)[0] <= 1e6
        assert not (fitted.score(np.repeat(row, 3, axis=0)) <= 1e6).any()


def test_dead_and_equal_features() -> None:
    data = features_of(np.random.default_rng(4), 500)
    data[:, 10:20] = 0
    fitted = FeatureDistribution.fit(data)
    assert np.isfinite(fitted.score(data)).all()
    woken = data[:5].copy()
    woken[:, 10] = 3
    assert (fitted.score(woken) > 2 * fitted.score(data).max()).all()
    with pytest.raises(UserError, match="the same in all of the data"):
        FeatureDistribution.fit(np.ones((10, 3), np.float32))
    with pytest.raises(UserError, match="two or more rows of finite features; it got 1"):
        FeatureDistribution.fit(np.ones((1, 3), np.float32))


def test_arrays_there_and_back() -> None:
    rng = np.random.default_rng(6)
    fitted = FeatureDistribution.fit(features_of(rng, 300))
    again = FeatureDistribution.from_arrays(fitted.to_arrays())
    rows = features_of(rng, 10)
    np.testing.assert_array_equal(again.score(rows), fitted.score(rows))
    assert again.num_features == 64


@pytest.mark.parametrize("fault", ["missing", "unknown", "dtype", "rank", "width", "negative", "ndim"])
def test_damaged_arrays_are_refused(fault: str) -> None:
    arrays = FeatureDistribution.fit(features_of(np.random.default_rng(7), 300)).to_arrays()
    change = {
        "missing": lambda: arrays.pop("mean"),
        "unknown": lambda: arrays.update(other=arrays["mean"]),
        "dtype": lambda: arrays.update(mean=arrays["mean"].astype(np.float64)),
        "rank": lambda: arrays.update(variances=arrays["variances"][1:]),
        "width": lambda: arrays.update(mean=arrays["mean"][1:]),
        "negative": lambda: arrays.update(variances=-arrays["variances"]),
        "ndim": lambda: arrays.update(mean=arrays["mean"][None]),
    }
    change[fault]()
    with pytest.raises(UserError, match="calibrate the bundle again"):
        FeatureDistribution.from_arrays(arrays)


def test_threshold_by_hand() -> None:
    """Nine episodes, rate 0.2: the flagged shares may add up to 0.2 * 10 - 1 = 1."""
    scores = np.array([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], np.float32)
    episode = np.array([0, 0, 1, 1, 2, 3, 4, 5, 6, 7])
    episode[-1] = 8
    # Of episode 0 both steps (share 1/2 each) may be flagged, a third step may not.
    assert flagging_threshold(scores[:9], np.minimum(episode[:9], 8), 0.25)[0] == 7
    chosen = flagging_threshold(np.append(scores, [0.5]).astype(np.float32), np.append(episode, 7), 0.2)
    assert chosen == (7, 0.2)


def test_ties_are_not_flagged_in_part() -> None:
    scores = np.array([5, 5, 5, 1, 1, 1, 1, 1, 1], np.float32)
    assert flagging_threshold(scores, np.arange(9), 0.2)[0] == 5


def test_few_episodes_flag_nothing_and_say_which_rate_they_support() -> None:
    scores = np.arange(30, dtype=np.float32)
    assert flagging_threshold(scores, np.repeat(np.arange(10), 3), 0.001) == (29, 1 / 11)
    assert flagging_threshold(np.arange(999, dtype=np.float32), np.arange(999), 0.001) == (998, 0.001)


def test_the_share_of_flagged_steps_is_kept_on_average_with_steps_that_depend_on_each_other() -> None:
    rng, rate = np.random.default_rng(8), 0.05
    shares = []
    for _ in range(400):
        level = rng.normal(size=(60, 1)).repeat(10, axis=1) + 0.3 * rng.normal(size=(60, 10))
        scores, episode = level.astype(np.float32), np.repeat(np.arange(59), 10)
        threshold, _ = flagging_threshold(scores[:59].reshape(-1), episode, rate)
        shares.append(np.mean(scores[59] > threshold))
    assert np.mean(shares) <= rate + 3 * np.std(shares) / 20
    assert np.mean(shares) > rate / 3


def test_held_out_features_are_flagged_at_the_rate_and_far_ones_always() -> None:
    rng, rate = np.random.default_rng(9), 0.01
    fitted = FeatureDistribution.fit(features_of(rng, 1000))
    threshold, kept = flagging_threshold(fitted.score(features_of(rng, 4000)), np.arange(4000), rate)
    assert kept == rate
    assert np.mean(fitted.score(features_of(rng, 20_000)) > threshold) == pytest.approx(rate, abs=0.006)
    assert (fitted.score(features_of(rng, 100, offset=10)) > threshold).all()
