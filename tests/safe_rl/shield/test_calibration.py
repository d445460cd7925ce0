from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_rl.errors import UserError
from safe_rl.shield.calibration import (
    CalibrationError,
    Promise,
    binomial_cdf,
    choose_threshold,
    missed_share,
    require_enough,
    upper_bound,
    wilson_interval,
)
from safe_rl.switch import RecoverySwitch

LTT, EXPECTED = Promise(0.05, 0.95), Promise(0.05, None)


def exact_cdf(num: int, probability: Fraction) -> list[Fraction]:
    total, cdf = Fraction(0), []
    for k in range(num + 1):
        total += math.comb(num, k) * probability**k * (1 - probability) ** (num - k)
        cdf.append(total)
    return cdf


@pytest.mark.parametrize(("num", "probability"), [(1, "1/2"), (59, "1/20"), (300, "1/100"), (500, "9/10")])
def test_binomial_tails_are_those_of_exact_fractions(num: int, probability: str) -> None:
    exact = exact_cdf(num, Fraction(probability))
    computed = binomial_cdf(num, float(Fraction(probability)))
    np.testing.assert_allclose(computed, [float(value) for value in exact], rtol=1e-11, atol=1e-300)


def test_binomial_tails_of_large_samples_sum_to_one_and_have_their_median_in_the_middle() -> None:
    cdf = binomial_cdf(200_000, 0.05)
    assert cdf[-1] == pytest.approx(1, abs=1e-9)
    assert cdf[9_999] == pytest.approx(0.5, abs=0.005)


@given(st.integers(1, 400), st.sampled_from(["0.01", "0.05", "0.2"]), st.sampled_from(["0.05", "0.1"]))
@settings(max_examples=40, deadline=None)
def test_as_many_misses_are_allowed_as_the_exact_p_value_rejects(num: int, rate: str, delta: str) -> None:
    exact = exact_cdf(num, Fraction(rate))
    rejected = sum(p <= Fraction(delta) for p in exact) - 1
    assert Promise(float(rate), 1 - float(delta)).allowed_misses(num) == rejected


def test_wilks_numbers() -> None:
    """95/95 tolerance limits as printed in tables: the extreme of 59 samples, the second of 93, the third of 124."""
    assert [LTT.allowed_misses(n) for n in (58, 59, 92, 93, 123, 124)] == [-1, 0, 0, 1, 1, 2]
    assert LTT.events_needed() == 59
    assert Promise(0.01, 0.99).events_needed() == 459
    assert Promise(0.5, 0.5).events_needed() == 1


@given(st.floats(0.005, 0.9), st.floats(0.5, 0.999))
@settings(max_examples=100, deadline=None)
def test_the_needed_number_is_the_least_that_suffices(rate: float, confidence: float) -> None:
    for promise in (Promise(rate, confidence), Promise(rate, None)):
        needed = promise.events_needed()
        assert promise.allowed_misses(needed) >= 0
        assert needed == 1 or promise.allowed_misses(needed - 1) < 0


def test_a_tiny_rate_asks_for_many_without_counting_them_one_by_one() -> None:
    with pytest.raises(CalibrationError, match=r"299,573,[\d,]+ episodes with a violation are needed"):
        require_enough(1000, Promise(1e-17, 0.95))


def test_risk_control_on_average_counts_in_decimals() -> None:
    assert [EXPECTED.allowed_misses(n) for n in (18, 19, 38, 39)] == [-1, 0, 0, 1]
    assert EXPECTED.events_needed() == 19
    assert Promise(0.29, None).allowed_misses(99) == 28  # 0.29 * 100 is 28.999999999999996 in binary


def test_the_threshold_lies_just_below_the_first_score_that_must_be_caught() -> None:
    scores = np.linspace(0.2, 0.9, 93, dtype=np.float32)
    chosen = choose_threshold(scores[::-1], LTT)
    assert chosen.eps_risk == float(np.nextafter(scores[1], np.float32(0)))
    assert (chosen.num_events, chosen.num_missed, chosen.allowed_misses) == (93, 1, 1)
    assert choose_threshold(scores[:39], EXPECTED).eps_risk == float(np.nextafter(scores[1], np.float32(0)))


def test_ties_are_missed_together_or_not_at_all() -> None:
    scores = np.array([0.1] + [0.5] * 92, np.float32)
    chosen = choose_threshold(scores, LTT)
    assert 0.1 <= chosen.eps_risk < 0.5
    assert chosen.num_missed == 1
    scores = np.array([0.1] * 2 + [0.5] * 91, np.float32)
    chosen = choose_threshold(scores, LTT)
    assert chosen.eps_risk < float(np.float32(0.1))
    assert (chosen.num_missed, chosen.allowed_misses) == (0, 1)


scores_st = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=300) | st.lists(
    st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=300
)


@given(scores_st, st.sampled_from([0.05, 0.2, 0.5]), st.sampled_from([0.9, None]))
@settings(max_examples=200, deadline=None)
def test_it_is_the_largest_threshold_that_the_switch_itself_keeps(
    values: list[float], rate: float, confidence: float | None
) -> None:
    scores, promise = np.array(values, np.float32), Promise(rate, confidence)
    try:
        chosen = choose_threshold(scores, promise)
    except CalibrationError:
        allowed = promise.allowed_misses(len(scores))
        assert allowed < 0 or np.count_nonzero(scores <= 0) > allowed
        return
    assert 0 <= chosen.eps_risk < 1
    assert np.float32(chosen.eps_risk) == chosen.eps_risk
    missed = np.count_nonzero(~RecoverySwitch(chosen.eps_risk).hands_over(scores))
    assert missed == chosen.num_missed <= chosen.allowed_misses
    larger = float(np.nextafter(np.float32(chosen.eps_risk), np.float32(1)))
    if larger < 1:
        assert np.count_nonzero(~RecoverySwitch(larger).hands_over(scores)) > chosen.allowed_misses


def test_too_few_violations_are_refused_with_the_numbers() -> None:
    with pytest.raises(
        CalibrationError,
        match=r"^58 violations cannot support a miss rate of 0\.05 with confidence 0\.95: at least 59 episodes with a "
        r"violation are needed; these support a miss rate of 0\.051 at best$",
    ):
        choose_threshold(np.full(58, 0.9, np.float32), LTT)
    with pytest.raises(CalibrationError, match=r"^18 violations .* on average: at least 19 .* 0\.053 at best$"):
        choose_threshold(np.full(18, 0.9, np.float32), EXPECTED)


def test_a_critic_that_sees_nothing_is_refused() -> None:
    scores = np.full(200, 0.9, np.float32)
    scores[:12] = 0
    assert LTT.allowed_misses(200) == 4
    with pytest.raises(
        CalibrationError, match=r"gives 0 to 12 of 200 violations, and .* allows 4 .* of 0\.096 at best"
    ):
        choose_threshold(scores, LTT)
    with pytest.raises(CalibrationError, match=r"gives 0 to 200 of 200 .* supports nothing"):
        choose_threshold(np.zeros(200, np.float32), LTT)


def test_what_is_said_to_be_supported_is() -> None:
    scores = np.full(200, 0.9, np.float32)
    scores[:12] = 0
    for confidence in (0.95, None):
        rate = Promise(0.01, confidence).supported_miss_rate(200, 12)
        assert choose_threshold(scores, Promise(rate * 1.0001, confidence)).num_missed == 12
        with pytest.raises(CalibrationError):
            choose_threshold(scores, Promise(rate * 0.9999, confidence))


@pytest.mark.parametrize(
    "values", [{"miss_rate": 0.0}, {"miss_rate": 1.0}, {"miss_rate": math.nan}, {"confidence": 1.0}]
)
def test_promises_that_mean_nothing_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UserError, match=rf"--{next(iter(values)).replace('_', '-')} is {next(iter(values.values()))}"):
        Promise(**{"miss_rate": 0.05, "confidence": 0.95} | values)


def test_bounds_of_a_share() -> None:
    assert upper_bound(0, 59, 0.95) == pytest.approx(1 - 0.05 ** (1 / 59))
    assert upper_bound(4, 200, 0.95) == pytest.approx(0.04519, abs=1e-5)  # beta quantile 0.95 of (5, 196)
    assert upper_bound(7, 7, 0.95) == 1
    low, high = wilson_interval(np.array([0.0, 0.5]), np.array([10, 100]))
    np.testing.assert_allclose(low, [0, 0.4038], atol=1e-4)
    np.testing.assert_allclose(high, [0.2775, 0.5962], atol=1e-4)


def test_the_missed_share_compares_as_the_switch_does() -> None:
    scores = np.array([0.1, 0.3, 0.3, 0.7], np.float32)
    np.testing.assert_array_equal(missed_share(scores, [0.0, 0.1, 0.3, 0.69, 1.0]), [0, 0.25, 0.75, 0.75, 1])
