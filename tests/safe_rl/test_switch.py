from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from safe_rl.switch import Mode, RecoverySwitch

NAN = math.nan
KINDS = [lambda x: np.array(x, dtype=np.float32), lambda x: torch.tensor(x, dtype=torch.float32)]


@pytest.mark.parametrize("kind", KINDS, ids=["numpy", "torch"])
def test_truth_table_of_the_rule(kind):
    hands_over = RecoverySwitch(eps_risk=0.25).hands_over(kind([0.0, 0.2, 0.25, 0.2500001, 0.9, 1.0, NAN, math.inf]))
    assert hands_over.tolist() == [False, False, False, True, True, True, True, True]
    assert type(hands_over) is type(kind([0.0]))


@pytest.mark.parametrize("kind", KINDS, ids=["numpy", "torch"])
def test_truth_table_where_recovery_must_help(kind):
    #        task, recovery, hands over
    table = [
        (0.20, 0.10, False),  # safe: recovery is not asked, even where it would be safer
        (0.25, 0.10, False),
        (0.60, 0.50, True),  # unsafe, and recovery helps
        (0.60, 0.60, False),  # unsafe, but recovery is no better
        (0.60, 0.90, False),
        (0.60, NAN, True),  # an unknown recovery risk must not keep the unsafe action
        (NAN, 0.10, True),
        (NAN, NAN, True),
        (0.10, NAN, False),
    ]
    task, recovery, expected = zip(*table, strict=True)
    switch = RecoverySwitch(eps_risk=0.25, recovery_must_help=True)
    assert switch.hands_over(kind(task), kind(recovery)).tolist() == list(expected)


@pytest.mark.parametrize("kind", KINDS, ids=["numpy", "torch"])
def test_without_recovery_must_help_the_recovery_risk_does_not_count(kind):
    switch = RecoverySwitch(eps_risk=0.25)
    assert switch.hands_over(kind([0.6, 0.1]), kind([0.9, 0.0])).tolist() == [True, False]


@pytest.mark.parametrize("kind", KINDS, ids=["numpy", "torch"])
def test_recovery_must_help_without_a_known_recovery_risk_hands_over(kind):
    assert RecoverySwitch(0.25, recovery_must_help=True).hands_over(kind([0.6, 0.1])).tolist() == [True, False]


@pytest.mark.parametrize(("eps", "expected"), [(0.0, [False, True, True]), (1.0, [False, False, False])])
def test_extreme_thresholds(eps, expected):
    assert RecoverySwitch(eps).hands_over(np.array([0.0, 1e-6, 1.0])).tolist() == expected


def test_modes_are_stable_numbers():
    assert (Mode.TASK, Mode.RECOVERY, Mode.STOP) == (0, 1, 2)
