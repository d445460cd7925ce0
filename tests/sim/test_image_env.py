"""What the camera adds to a planar environment: frames, randomisation, lateness, states, copies, processes."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("cv2")

import sim
from safe_rl.envs.factory import make_env
from safe_rl.envs.protocols import OffersExpert, OffersOfflineSegments, OffersPlaneMap
from safe_rl.errors import UserError
from sim.image_env import ImageEnv
from sim.image_navigation import ImageNavigation1, ImageNavigation2
from sim.navigation import Navigation2
from sim.plane_view import Colours, make_plane_renderer

RIGHT = np.array((1.0, 0.0), np.float32)
EVERYTHING = {"colours": 0.2, "light": 0.3, "camera": 0.03, "noise": 5.0, "latency": 0.5}


def images(env: ImageEnv, seed: int | None, steps: int = 6) -> np.ndarray:
    seen = [env.reset(seed=seed)[0]]
    seen += [env.step(RIGHT)[0] for _ in range(steps)]
    return np.array(seen)


def places(env: ImageEnv, seed: int, steps: int = 6) -> np.ndarray:
    env.reset(seed=seed)
    found = [env.state]
    for _ in range(steps):
        env.step(RIGHT)
        found.append(env.state)
    return np.array(found)


def test_the_picture_is_that_of_the_state() -> None:
    env = ImageNavigation2()
    obs, _ = env.reset(seed=3)
    drawn = make_plane_renderer("opencv", env.plane_map, 64).draw(*env.state)
    np.testing.assert_array_equal(obs, drawn)
    obs, *_ = env.step(RIGHT)
    np.testing.assert_array_equal(obs, make_plane_renderer("opencv", env.plane_map, 64).draw(*env.state))


def test_the_robot_is_that_of_the_environment_of_states() -> None:
    env, plain = ImageNavigation2(**EVERYTHING), Navigation2()
    env.reset(seed=4)
    np.testing.assert_array_equal(env.state, plain.reset(seed=4)[0])
    for _ in range(10):
        ours, theirs = env.step(RIGHT), plain.step(RIGHT)
        np.testing.assert_array_equal(env.state, theirs[0])
        assert ours[1:] == theirs[1:]


def test_frames_are_those_of_the_steps_before_the_oldest_first() -> None:
    single, stacked = images(ImageNavigation1(), 0, 4), images(ImageNavigation1(frames=3), 0, 4)
    assert stacked.shape == (5, 64, 64, 9)
    for k in range(5):
        expected = [single[max(0, k - back)] for back in (2, 1, 0)]
        np.testing.assert_array_equal(stacked[k], np.concatenate(expected, axis=2))


def test_late_pictures_are_those_of_the_step_before() -> None:
    on_time, late = images(ImageNavigation1(), 0), images(ImageNavigation1(latency=1.0), 0)
    np.testing.assert_array_equal(late[0], on_time[0])
    np.testing.assert_array_equal(late[1:], on_time[:-1])
    sometimes = images(ImageNavigation1(latency=0.5), 1, 40)
    on_time = images(ImageNavigation1(), 1, 40)
    num_late = 0
    for k in range(1, 41):
        is_late = not np.array_equal(sometimes[k], on_time[k])
        num_late += is_late
        if is_late:
            np.testing.assert_array_equal(sometimes[k], on_time[k - 1])
    assert 10 < num_late < 30


def test_noise_has_the_deviation_that_was_asked_for() -> None:
    noisy = images(ImageNavigation2(noise=4.0), 0, 20).astype(float) - images(ImageNavigation2(), 0, 20)
    assert noisy.std() == pytest.approx(4.0, rel=0.03)  # rounding adds a little
    assert abs(noisy.mean()) < 0.05
    assert abs(np.corrcoef(noisy[0].ravel(), noisy[1].ravel())[0, 1]) < 0.03  # new in every picture


def test_colours_light_and_camera_change_with_the_episode_alone() -> None:
    floor = (2, 2)  # a pixel of floor, far from all else
    for option, strength in (("colours", 0.2), ("light", 0.3)):
        env = ImageNavigation2(**{option: strength})
        floors = []
        for _ in range(30):
            first, second = env.reset()[0][floor], env.step(RIGHT)[0][floor]
            np.testing.assert_array_equal(first, second)
            floors.append(first)
        spread = np.ptp(np.array(floors, float), axis=0)
        assert (spread > 25).all() and (spread <= 2 * 255 * strength).all()
    env = ImageNavigation2(camera=0.05)
    wall = Colours().wall
    middles = []
    for _ in range(30):
        rows, columns = np.nonzero((env.reset()[0] == wall).all(2))
        middles.append((rows.mean(), columns.mean()))
    assert (np.ptp(middles, axis=0) > 2.0).all() and (np.ptp(middles, axis=0) < 13.0).all()


def test_nothing_differs_where_nothing_is_randomised() -> None:
    env = ImageNavigation2()
    corners = [env.reset()[0][:8, :8] for _ in range(5)]
    for corner in corners:
        np.testing.assert_array_equal(corner, np.full((8, 8, 3), Colours().floor))


@pytest.mark.parametrize("option", EVERYTHING)
def test_each_randomisation_changes_pictures_and_repeats_by_the_seed(option: str) -> None:
    options = {option: EVERYTHING[option]}
    env = ImageNavigation1(**options)
    first, other, again = images(env, 1), images(env, 2), images(env, 1)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, images(ImageNavigation1(**options), 1))
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, images(ImageNavigation1(), 1))
    np.testing.assert_array_equal(places(env, 1), places(ImageNavigation1(), 1))  # the robot is not randomised


@pytest.mark.parametrize("renderer", ["opencv", "tiny"])
def test_a_state_brings_everything_back(renderer: str) -> None:
    if renderer == "tiny":
        pytest.importorskip("pybullet")
    env = ImageNavigation1(renderer=renderer, frames=2, **EVERYTHING)
    images(env, 5, 3)
    state = json.loads(json.dumps(env.get_state()))
    expected = [env.step(RIGHT)[0] for _ in range(4)] + [env.reset()[0]]
    images(env, 6, 2)
    other = ImageNavigation1(renderer=renderer, frames=2, **EVERYTHING)
    for restored in (env, other):
        restored.set_state(state)
        found = [restored.step(RIGHT)[0] for _ in range(4)] + [restored.reset()[0]]
        np.testing.assert_array_equal(found, expected)
        restored.close()


def test_copies_go_on_from_the_same_state() -> None:
    env = ImageNavigation1(**EVERYTHING)
    images(env, 5, 3)
    copies = [copy.deepcopy(env), pickle.loads(pickle.dumps(env))]  # noqa: S301 - our own
    expected = [env.step(RIGHT)[0] for _ in range(4)]
    for other in copies:
        np.testing.assert_array_equal([other.step(RIGHT)[0] for _ in range(4)], expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"environment": "ImageNavigation2"}, "a state of ImageNavigation2"),
        ({"shown": []}, None),
        ({"shown": [b"123"]}, "damaged"),
        ({"light": b"12345678"}, "damaged"),
        ({"rng": {}}, "damaged"),
        ({"look": {}}, "damaged"),
        ({"look": {"colours": {"floor": [1, 2]}}}, "damaged"),
        ({"robot": {"environment": "Maze"}}, "state of Maze"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change: dict[str, Any], words: str | None) -> None:
    env = ImageNavigation1(frames=1, **EVERYTHING)
    images(env, 5, 3)
    state = {**env.get_state(), **change}
    before = env.get_state()
    if words is None:
        env.set_state(state)
        return
    with pytest.raises(UserError, match=words):
        env.set_state(state)
    assert env.get_state() == before


def test_a_state_of_more_frames_or_larger_pictures_is_refused() -> None:
    for options in ({"frames": 2}, {"image_size": 32}):
        other = ImageNavigation1(**options)
        other.reset(seed=0)
        with pytest.raises(UserError, match="damaged"):
            ImageNavigation1().set_state(other.get_state())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"renderer": "vulkan"}, "unknown renderer 'vulkan'"),
        ({"image_size": 8}, "image_size=8"),
        ({"image_size": 64.0}, "image_size=64.0"),
        ({"frames": 0}, "frames=0"),
        ({"noise": -1.0}, "noise=-1.0"),
        ({"camera": 0.5}, "camera=0.5"),
        ({"light": "much"}, "light='much'"),
        ({"latency": float("nan")}, "latency=nan"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ImageNavigation1(**options)


def test_options_come_by_the_name_of_the_environment() -> None:
    env = make_env("safe_rl/ImageNavigation2-v0?image_size=32&frames=2&noise=3")
    assert env.observation_space.shape == (32, 32, 6)
    inner: Any = env.unwrapped
    assert inner.randomization.noise == 3


def test_offline_segments_start_where_the_camera_sees_them() -> None:
    env = ImageNavigation1()
    bounds, rng = env.plane_map.bounds, np.random.default_rng(0)
    starts = np.array([env.sample_offline_segment(rng).state for _ in range(300)])
    assert starts[:, 0].min() >= bounds.x_min and starts[:, 0].max() <= bounds.x_max
    assert starts[:, 0].min() < -50 and starts[:, 0].max() > 0  # the whole of what it sees


def test_a_segments_policy_looks_at_the_state() -> None:
    pytest.importorskip("pybullet")
    from sim.image_maze import ImageMaze, ThreeWallMaze

    env, plain = ImageMaze(), ThreeWallMaze()
    rng, same = np.random.default_rng(1), np.random.default_rng(1)
    for _ in range(20):
        ours, theirs = env.sample_offline_segment(rng), plain.sample_offline_segment(same)
        obs, _ = env.reset(options={"state": ours.state})
        np.testing.assert_array_equal(ours.policy(obs, rng), theirs.policy(env.state, same))
    env.close()


def test_the_hooks_are_offered() -> None:
    env = ImageNavigation2(frames=2)
    assert isinstance(env, OffersOfflineSegments) and isinstance(env, OffersExpert) and isinstance(env, OffersPlaneMap)
    points = np.array(((-50.0, 0.0), (-10.0, 20.0)))
    rows = env.plane_observation(points)
    assert rows.shape == (2, 64 * 64 * 6) and rows.dtype == np.uint8
    for point, row in zip(points, rows, strict=True):
        np.testing.assert_array_equal(env.reset(options={"state": point})[0].reshape(-1), row)
        assert env.plane_position(row) == tuple(point)


def test_a_closed_environment_says_so() -> None:
    env = ImageNavigation2()
    env.reset(seed=0)
    env.close()
    env.close()
    with pytest.raises(UserError, match="closed"):
        env.reset(seed=0)


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("renderer", ["opencv", "tiny"])
def test_other_processes_take_the_same_pictures(context: str, renderer: str) -> None:
    pytest.importorskip("pybullet")
    sim.register_envs()
    kwargs: dict[str, Any] = {"num_envs": 2, "disable_env_checker": True, "renderer": renderer, **EVERYTHING}
    here = gym.make_vec("safe_rl/ImageMaze-v0", vectorization_mode="sync", **kwargs)
    here.reset(seed=5)  # renderers are open in this process while the others start
    there = gym.make_vec(
        "safe_rl/ImageMaze-v0", vectorization_mode="async", vector_kwargs={"context": context}, **kwargs
    )
    try:
        np.testing.assert_array_equal(here.reset(seed=5)[0], there.reset(seed=5)[0])
        for action in np.random.default_rng(0).uniform(-0.3, 0.3, (6, 2, 2)).astype(np.float32):
            for ours, theirs in zip(here.step(action)[:4], there.step(action)[:4], strict=True):
                np.testing.assert_array_equal(ours, theirs)
    finally:
        there.close()
        here.close()


def test_the_facts_of_image_maze() -> None:
    pytest.importorskip("pybullet")
    from sim.image_maze import ImageMaze

    env = ImageMaze()
    assert env.action_space.high.tolist() == pytest.approx([0.3, 0.3])
    starts = np.array([(env.reset(seed=seed), env.state)[1] for seed in range(200)])
    assert np.abs(starts[:, 0]).max() <= 0.04 and starts[:, 1].min() >= 0 and starts[:, 1].max() <= 0.22
    assert env.plane_map.goal == (0.25, 0.25)
    for offset, expected in ((-0.042, True), (-0.043, False)):  # an rms distance of 0.0297 and 0.0304
        env.reset(options={"state": (0.25, 0.25 + offset)})
        assert env.step(np.zeros(2, np.float32))[4]["success"] is expected
    assert len(env.plane_map.obstacles) == 6 + 4  # three pairs and the rim
    env.close()
