"""Tiny environments that are imported by name, as a user's own would be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from safe_rl.data.episodes import Episode

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def tiny_env_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


@pytest.fixture
def box_spaces() -> tuple[spaces.Box, spaces.Box]:
    return spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Box(-1, 1, (1,), np.float32)


@pytest.fixture
def hand_made() -> list[Episode]:
    """Two episodes whose numbers can be followed by eye: three steps to a violation, two to the time limit."""
    first = Episode(
        obs={"": np.array([[0, 10], [1, 11], [2, 12], [3, 13]], dtype=np.float32)},
        action=np.array([[0.1], [0.2], [0.3]], dtype=np.float32),
        task_action=np.array([[0.1], [-0.2], [0.3]], dtype=np.float32),
        reward=np.array([-1.0, -2.0, -3.0]),
        cost=np.array([0, 0, 1], dtype=np.float32),
        success=np.array([False, False, False]),
        terminated=np.array([False, False, True]),
        truncated=np.array([False, False, False]),
        seed=7,
    )
    second = Episode(
        obs={"": np.array([[20, 30], [21, 31], [22, 32]], dtype=np.float32)},
        action=np.array([[0.4], [0.5]], dtype=np.float32),
        task_action=np.array([[0.4], [0.5]], dtype=np.float32),
        reward=np.array([-4.0, -5.0]),
        cost=np.array([0, 0], dtype=np.float32),
        success=np.array([False, True]),
        terminated=np.array([False, False]),
        truncated=np.array([False, True]),
        seed=None,
    )
    return [first, second]
