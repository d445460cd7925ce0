"""The tasks of `benchmarks.impact_compare` that come from this project's environments."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pybullet", reason="the extra `sim` brings it")
pytest.importorskip("cv2", reason="the extra `sim` brings it")

from benchmarks.learning_tasks import image_navigation, maze


def test_a_wall_costs_twenty() -> None:
    env = maze()
    env.reset(seed=0, options={"state": (-0.16, -0.2)})
    env.step(np.float32([0.05, 0.0]))
    _, reward, terminated, _, info = env.step(np.float32([0.1, 0.0]))
    assert (info["cost"], terminated) == (1.0, True)
    assert -20.4 < reward < -20.0


def test_images_and_eight_headings() -> None:
    env = image_navigation()
    obs, _ = env.reset(seed=0, options={"state": (-50.0, 0.0)})
    assert obs.shape == (32, 32, 3)
    assert obs.dtype == np.uint8
    position = env.unwrapped.state
    for heading in range(8):
        env.reset(seed=heading, options={"state": (-50.0, 0.0)})
        _, reward, *_ = env.step(heading)
        moved = np.subtract(env.unwrapped.state, position)
        angle = 2 * np.pi * heading / 8
        np.testing.assert_allclose(moved, (np.cos(angle), np.sin(angle)), atol=0.3)  # the noise: 0.05 on each axis
        assert reward == pytest.approx(-0.5)  # a hundredth of the distance
