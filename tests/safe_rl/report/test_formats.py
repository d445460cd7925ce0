"""Numbers as the page shows them."""

from __future__ import annotations

import pytest

from safe_rl.report import formats
from safe_rl.report.groups import Quantity

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (0.02, "0.1"),
        (0.27, "0.3"),
        (1.0, "1"),
        (98.6, "99"),
        (99.7, "99.7"),
        (99.97, "99.9"),
        (100.0, "100"),
    ],
)
def test_a_share_is_whole_or_none_only_where_it_is(value: float, expected: str) -> None:
    assert formats.percent(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Quantity(220.2, 49.4), "220 <small>± 49</small>"),
        (Quantity(12.34, NAN), "12.3"),
        (Quantity(1.5, 0.25), "1.50 <small>± 0.25</small>"),
        (Quantity(0.00401, 0.0007), "0.0040 <small>± 0.0007</small>"),
        (3.0, "3.00"),
    ],
)
def test_a_ratio_keeps_its_first_digits(value: Quantity | float, expected: str) -> None:
    assert formats.ratio(value) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(8.4, "8 s"), (130.0, "2 min"), (9000.0, "2.5 h")])
def test_a_duration_has_a_fitting_unit(seconds: float, expected: str) -> None:
    assert formats.duration(seconds) == expected


def test_a_mean_of_counts() -> None:
    assert formats.quantity(Quantity(1299.2, 0.53)) == "1,299.2 <small>± 0.5</small>"
    assert formats.quantity(Quantity(3.0, NAN)) == "3"
