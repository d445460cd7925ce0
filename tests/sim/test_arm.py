"""What all arms share."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

import sim
from safe_rl.errors import UserError

pytest.importorskip("pybullet")

from sim.arm import ArmEnv
from sim.bullet import pybullet
from sim.extraction import ObjectExtraction, ObjectExtractionDynamic
from sim.image_reach import ImageReach
from sim.reach import Reach

KINDS = [ObjectExtraction, ObjectExtractionDynamic, Reach, ImageReach]
IDS = ["safe_rl/ObjectExtraction-v0", "safe_rl/ObjectExtractionDynamic-v0", "safe_rl/ImageReach-v0"]


@pytest.fixture(params=KINDS)
def env(request: pytest.FixtureRequest) -> Iterator[ArmEnv]:
    made = request.param()
    yield made
    made.close()


def test_closing_frees_the_physics_client_and_nothing_else(env: ArmEnv) -> None:
    other = type(env)()
    other.reset(seed=0)
    client = other.world.client
    other.close()
    other.close()  # a second time is harmless
    assert not pybullet.isConnected(client)
    with pytest.raises(ResetNeeded):
        other.step(np.zeros(other.action_space.shape))
    for refused in (other.reset, lambda: other.set_state(env.get_state()), lambda: other.render_camera(32, 32)):
        with pytest.raises(UserError, match="closed"):
            refused()
    env.reset(seed=0)
    env.step(np.zeros(env.action_space.shape))


def test_an_environment_nobody_closes_frees_its_client(env: ArmEnv) -> None:
    other = type(env)()
    client = other.world.client
    del other
    gc.collect()
    assert not pybullet.isConnected(client)


def test_copies_go_on_from_the_same_state_in_their_own_physics(env: ArmEnv) -> None:
    copy.deepcopy(env).close()  # before the first reset too
    env.reset(seed=6)
    limit = env.action_space.high  # type: ignore[attr-defined]
    env.step(0.3 * limit)
    copies: list[Any] = [pickle.loads(pickle.dumps(env)), copy.deepcopy(env)]  # noqa: S301 - our own
    assert len({one.world.client for one in (env, *copies)}) == 3
    expected, restart = env.step(-0.2 * limit)[0], env.reset()[0]
    for other in copies:
        np.testing.assert_array_equal(other.step(-0.2 * limit)[0], expected)
        np.testing.assert_array_equal(other.reset()[0], restart)
        other.close()


def test_bad_actions_are_refused_and_move_nothing(env: ArmEnv) -> None:
    env.reset(seed=0)
    before = env.get_state()
    size = env.action_space.shape[0]  # type: ignore[index]
    for bad in (np.nan, np.inf, -np.inf):
        for index in range(size):
            action = np.zeros(size)
            action[index] = bad
            with pytest.raises(UserError, match="not finite"):
                env.step(action)
    with pytest.raises(UserError, match=f"must have {size}"):
        env.step(np.zeros(size + 1))
    assert env.get_state() == before


def test_pictures_show_a_state_that_was_set(env: ArmEnv) -> None:
    limit = env.action_space.high  # type: ignore[attr-defined]
    env.reset(seed=0)
    env.step(0.5 * limit)
    expected, state = env.render_camera(48, 40), env.get_state()
    assert expected.shape == (40, 48, 3) and expected.dtype == np.uint8
    env.reset(seed=1)
    env.step(-0.5 * limit)
    assert (env.render_camera(48, 40) != expected).any()
    env.set_state(state)
    np.testing.assert_array_equal(env.render_camera(48, 40), expected)
    # and looking changes nothing
    after = env.step(0.2 * limit)[0]
    env.set_state(state)
    np.testing.assert_array_equal(env.step(0.2 * limit)[0], after)


def test_an_unknown_render_mode_or_overlay_is_refused(env: ArmEnv) -> None:
    with pytest.raises(UserError, match="'ansi'"):
        type(env)(render_mode="ansi")
    with pytest.raises(UserError, match="'task'"):
        env.set_overlay("task")


def test_the_last_picture_tells_the_end(env: ArmEnv) -> None:
    cv2 = pytest.importorskip("cv2")
    assert cv2 is not None
    from sim.drawing import OUTCOME_COLOURS, STRIP_HEIGHT

    drawn = type(env)(render_mode="rgb_array")
    drawn.reset(seed=0)
    going_on: Any = drawn.render()
    limit = env.action_space.high  # type: ignore[attr-defined]
    sign = np.where(np.arange(len(limit)) == 0, 1.0, 0.0)
    terminated = False
    while not terminated:  # straight ahead: into the bricks, the second arm, or out of the workspace
        _, _, terminated, _, info = drawn.step(sign * limit)
    assert info["cost"] == 1.0
    ended: Any = drawn.render()

    def has(picture: np.ndarray) -> bool:
        return bool((picture[-STRIP_HEIGHT:] == OUTCOME_COLOURS["violation"]).all(-1).any())

    assert (has(going_on), has(ended)) == (False, True)
    drawn.close()


def test_a_window_needs_a_display(env: ArmEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    windowed = type(env)(render_mode="human")
    with pytest.raises(UserError, match="display"):
        windowed.reset(seed=0)
    windowed.close()


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("env_id", IDS)
def test_other_processes_see_the_same_physics(env_id: str, context: str) -> None:
    sim.register_envs()
    open_here = Reach()  # a client is open in this process while the others start
    kwargs: dict[str, Any] = {"num_envs": 2, "disable_env_checker": True}
    here = gym.make_vec(env_id, vectorization_mode="sync", **kwargs)
    there = gym.make_vec(env_id, vectorization_mode="async", vector_kwargs={"context": context}, **kwargs)
    try:
        np.testing.assert_array_equal(here.reset(seed=5)[0], there.reset(seed=5)[0])
        rng = np.random.default_rng(0)
        low, high = here.single_action_space.low, here.single_action_space.high  # type: ignore[attr-defined]
        for _ in range(8):
            action = rng.uniform(low, high, (2, *low.shape)).astype(np.float32)
            for ours, theirs in zip(here.step(action)[:4], there.step(action)[:4], strict=True):
                np.testing.assert_array_equal(ours, theirs)
    finally:
        there.close()
        here.close()
        open_here.close()
