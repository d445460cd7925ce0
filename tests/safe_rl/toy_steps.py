"""Environments of three steps that tests of rollouts reach as ``toy_steps:<factory>``."""

from __future__ import annotations

import numpy as np
from toys import Broken, Script


def three_steps() -> Script:
    """Rewards 1, 2, 3, a cost on the second step, an end with success."""
    return Script(length=3, costs=(2,))


def three_steps_cut() -> Script:
    """The same, cut after the third step instead of ended, without success."""
    return Script(length=3, costs=(2,), terminates=False, success=False)


def broken_observation() -> Broken:
    """Returns an observation that is not a number."""
    return Broken(result=(np.array([0.0, np.nan], np.float32), 0.0, False, False, {}))
