from __future__ import annotations

import copy
import gc
import json
import math
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

import sim
from safe_rl.errors import UserError

pytest.importorskip("pybullet")

from sim.bullet import pybullet
from sim.maze import MAZE_MAP, TRAVEL, Maze

STEP = 0.1 / 0.08 * (1 / 240) ** 2 * 48 * 49 / 2
"""Metres a full force of 0.1 N moves 0.08 kg from rest in 48 semi-implicit Euler steps of 1/240 s: 0.0255."""
CORNER_ROUNDING = 0.0006
"""Bullet rounds the corners of boxes by about half a millimetre."""


@pytest.fixture
def maze() -> Any:
    env = Maze()
    yield env
    env.close()


def force(x: float, y: float) -> np.ndarray:
    return np.array((x, y), np.float32)


def clearance(x: float, y: float) -> float:
    """Distance of the robot's rim to the nearest wall."""
    boxes = MAZE_MAP.obstacles
    gaps = [math.hypot(max(b.x_min - x, 0.0, x - b.x_max), max(b.y_min - y, 0.0, y - b.y_max)) for b in boxes]
    return min(gaps) - 0.025


def test_a_full_force_moves_two_and_a_half_centimetres_from_rest_every_time(maze: Maze) -> None:
    assert pytest.approx(0.02552, abs=1e-5) == STEP
    maze.reset(seed=0, options={"state": (-0.2, 0.0)})
    for k in range(1, 3):  # at rest at the start of each step: no speed is kept from the one before
        obs, *_, info = maze.step(force(0.1, -0.05))
        np.testing.assert_allclose(obs, (-0.2 + k * STEP, -k * STEP / 2), atol=1e-7)
        assert info == {"cost": 0.0, "success": False}
    np.testing.assert_allclose(maze.step(force(0.0, 0.0))[0], obs, atol=1e-9)


def test_forces_are_clipped(maze: Maze) -> None:
    maze.reset(seed=0, options={"state": (0.0, 0.0)})
    np.testing.assert_allclose(maze.step(force(0.7, -30.0))[0], (STEP, -STEP), atol=1e-7)


def test_reward_and_success_are_of_the_rms_distance_after_the_step(maze: Maze) -> None:
    maze.reset(seed=0, options={"state": (0.2, 0.1)})
    _, reward, terminated, _, info = maze.step(force(0.0, 0.0))
    assert reward == pytest.approx(-np.sqrt((0.05**2 + 0.1**2) / 2), abs=1e-7)
    assert (terminated, info["success"]) == (False, False)
    maze.reset(options={"state": (0.25 - 0.043, 0.0)})  # rms 0.0304
    assert not maze.step(force(0.0, 0.0))[2]
    _, reward, terminated, truncated, info = maze.step(force(0.01, 0.0))  # rms 0.0286
    assert -0.03 < reward < -0.028
    assert (terminated, truncated, info) == (True, False, {"cost": 0.0, "success": True})


@pytest.mark.parametrize(
    ("start", "direction", "contact"),
    [
        ((-0.2, 0.25), (1, 0), -0.145),  # the walls' faces, less the robot's radius
        ((-0.2, 0.0), (-1, 0), -0.275),
        ((-0.2, 0.0), (0, 1), 0.275),
        ((-0.2, 0.0), (0, -1), -0.275),
        ((0.0, -0.2), (-1, 0), -0.055),
        ((0.0, -0.2), (1, 0), 0.055),
        ((0.2, -0.1), (-1, 0), 0.145),
        ((0.2, -0.1), (1, 0), 0.275),
        ((-0.1, 0.0), (0, 1), 0.195),  # the upper edge of the first gap
        ((-0.1, 0.0), (0, -1), -0.105),
        ((0.1, 0.15), (0, 1), 0.255),  # the second gap's
        ((0.1, 0.15), (0, -1), 0.055),
    ],
)
def test_walls_stop_the_robot_and_end_the_episode(
    maze: Maze, start: tuple[float, float], direction: tuple[int, int], contact: float
) -> None:
    axis = 0 if direction[0] else 1
    sign = direction[axis]
    obs, _ = maze.reset(seed=0, options={"state": start})
    for _ in range(20):
        before = obs
        obs, _, terminated, truncated, info = maze.step(force(0.1 * direction[0], 0.1 * direction[1]))
        if terminated:
            break
    assert (info["cost"], info["success"], truncated) == (1.0, False, False)
    assert obs[axis] == pytest.approx(contact, abs=2e-4)
    assert sign * (before[axis] + sign * STEP - contact) > 0  # not a step too early
    with pytest.raises(ResetNeeded):
        maze.step(force(0.0, 0.0))


def test_a_contact_that_is_over_at_the_end_of_the_step_counts(maze: Maze) -> None:
    # Straight up at x = -0.058 passes the corner (-0.08, 0.22) at 2.2 cm: the robot is pushed aside and slides past it.
    obs, _ = maze.reset(seed=0, options={"state": (-0.058, 0.205)})
    obs, *_, info = maze.step(force(0.0, 0.1))
    assert obs[0] > -0.054
    assert clearance(*obs) > 0.002
    assert info["cost"] == 1.0


@pytest.mark.parametrize("lane", [0.06, 0.125, 0.19])
def test_the_gaps_are_passages(maze: Maze, lane: float) -> None:
    obs, _ = maze.reset(seed=0, options={"state": (-0.2, lane)})
    while obs[0] < 0.16:
        obs, *_, info = maze.step(force(0.1, 0.0))
        assert info["cost"] == 0.0
    assert obs[1] == pytest.approx(lane, abs=1e-6)


def test_contacts_agree_with_the_geometry_of_the_free_path(maze: Maze) -> None:
    rng = np.random.default_rng(0)
    counts = np.zeros(2, int)
    for _ in range(500):
        segment = maze.sample_offline_segment(rng)
        obs, _ = maze.reset(options={"state": segment.state})
        for _ in range(segment.max_steps):
            start = np.array(maze.get_state()["position"])
            action = segment.policy(obs, rng)
            obs, _, terminated, _, info = maze.step(action)
            path = [clearance(*(start + share * TRAVEL * action)) for share in np.linspace(0, 1, 11)]
            if info["cost"]:
                assert min(path) <= CORNER_ROUNDING
            else:
                assert min(path) >= -CORNER_ROUNDING
                np.testing.assert_allclose(obs, start + TRAVEL * action, atol=2e-6)
            counts[int(info["cost"])] += 1
            if terminated:
                break
    assert counts.min() > 150


def rollout(env: Maze, seed: int, steps: int = 150) -> np.ndarray:
    rng = np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed)
    seen = [obs]
    for _ in range(steps):
        obs, reward, terminated, _, info = env.step(rng.uniform(-0.1, 0.1, 2).astype(np.float32))
        seen += [obs, np.array((reward, info["cost"]))]
        if terminated:
            seen.append(env.reset()[0])
    return np.array(seen, np.float64)


def test_a_used_environment_repeats_a_fresh_ones_episodes_exactly(maze: Maze) -> None:
    expected = rollout(maze, seed=4)
    assert expected[:, 1].max() == 1.0  # with contacts among them
    for other in (7, 8, 4):
        again = rollout(maze, seed=other)
        assert np.array_equal(again, expected) == (other == 4)
    fresh = Maze()
    np.testing.assert_array_equal(rollout(fresh, seed=4), expected)
    fresh.close()


def test_a_state_restored_goes_on_as_the_original_into_the_contact(maze: Maze) -> None:
    other = Maze()
    maze.reset(seed=0, options={"state": (-0.2, 0.24)})
    maze.step(force(0.1, 0.02))
    maze.step(force(0.1, 0.02))  # millimetres from the wall
    other.reset(seed=9)
    other.set_state(json.loads(json.dumps(maze.get_state())))
    for action in (force(0.01, 0.05), force(0.1, 0.1)):
        ours, theirs = maze.step(action), other.step(action)
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert ours[1:] == theirs[1:]
    assert ours[4]["cost"] == 1.0
    np.testing.assert_array_equal(maze.reset()[0], other.reset()[0])
    other.close()


def test_starts_are_in_the_first_chamber_and_free(maze: Maze) -> None:
    starts = np.array([maze.reset(seed=seed)[0] for seed in range(300)])
    assert starts.min(0)[0] >= -0.22 and starts.max(0)[0] <= -0.13
    assert -0.22 <= starts.min(0)[1] < -0.2 and 0.2 < starts.max(0)[1] <= 0.22
    assert min(clearance(*start) for start in starts) > 0
    with pytest.raises(UserError, match="obstacle"):
        maze.reset(options={"state": (-0.1, 0.2)})


def test_offline_segments_come_from_all_chambers_in_halves(maze: Maze) -> None:
    rng = np.random.default_rng(0)
    starts, steps = [], {"expert": 0, "pushing": 0}
    for _ in range(600):
        segment = maze.sample_offline_segment(rng)
        starts.append(segment.state)
        obs, _ = maze.reset(options={"state": segment.state})
        for _ in range(segment.max_steps):
            obs, _, terminated, _, _ = maze.step(segment.policy(obs, rng))
            steps["expert" if "expert" in segment.policy.__qualname__ else "pushing"] += 1
            if terminated:
                break
    x = np.array(starts)[:, 0]
    chambers = np.array([(x < -0.145).sum(), (np.abs(x) < 0.055).sum(), (x > 0.145).sum()])
    assert chambers.sum() == 600 and chambers.min() > 150
    assert 0.45 < steps["expert"] / sum(steps.values()) < 0.55


def test_the_expert_takes_about_twenty_steps_and_never_touches(maze: Maze) -> None:
    lengths = []
    for seed in range(500):
        obs, _ = maze.reset(seed=seed)
        length, terminated = 0, False
        while not terminated and length < 100:
            obs, _, terminated, _, info = maze.step(maze.expert_action(obs))
            length += 1
        assert (info["success"], info["cost"]) == (True, 0.0)
        lengths.append(length)
    assert 15 < np.mean(lengths) < 30


def test_many_environments_in_one_process_are_independent() -> None:
    envs = [Maze() for _ in range(40)]
    for i, env in enumerate(envs):
        env.reset(seed=0, options={"state": (-0.2, 0.01 * (i - 20))})
    for _ in range(2):
        for i, env in enumerate(envs):
            env.step(force(0.0, 0.1 if i % 2 else -0.1))
    for i, env in enumerate(envs):
        y = 0.01 * (i - 20) + (2 * STEP if i % 2 else -2 * STEP)
        np.testing.assert_allclose(env.get_state()["position"], (-0.2, y), atol=1e-6)
        env.close()


def test_closing_frees_the_physics_client() -> None:
    first = Maze()
    ids = set()
    for _ in range(400):
        env = Maze()
        env.reset(seed=0)
        env.step(force(0.1, 0.0))
        ids.add(env._client)
        env.close()
        assert not pybullet.isConnected(env._client)
    assert len(ids) == 1
    env.close()  # a second time is harmless
    with pytest.raises(ResetNeeded):
        env.step(force(0.0, 0.0))
    with pytest.raises(UserError, match="closed"):
        env.reset()
    first.reset(seed=0)
    first.step(force(0.1, 0.0))  # another environment's client is untouched
    first.close()


def test_an_environment_nobody_closes_frees_its_client_too() -> None:
    env = Maze()
    client = env._client
    del env
    gc.collect()
    assert not pybullet.isConnected(client)


def test_copies_go_on_from_the_same_state_in_their_own_physics(maze: Maze) -> None:
    maze.reset(seed=6)
    maze.step(force(0.05, 0.05))
    copies = [pickle.loads(pickle.dumps(maze)), copy.deepcopy(maze)]  # noqa: S301 - our own
    gc.collect()
    assert len({env._client for env in (maze, *copies)}) == 3
    expected = maze.step(force(-0.02, 0.1))[0], maze.reset()[0]
    for other in copies:
        np.testing.assert_array_equal((other.step(force(-0.02, 0.1))[0], other.reset()[0]), expected)
        other.close()


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
def test_other_processes_see_the_same_physics(context: str, maze: Maze) -> None:
    sim.register_envs()
    maze.reset(seed=0)  # a client is open in this process while the others start
    kwargs: dict[str, Any] = {"num_envs": 2, "disable_env_checker": True}
    here = gym.make_vec("safe_rl/Maze-v0", vectorization_mode="sync", **kwargs)
    there = gym.make_vec("safe_rl/Maze-v0", vectorization_mode="async", vector_kwargs={"context": context}, **kwargs)
    try:
        np.testing.assert_array_equal(here.reset(seed=5)[0], there.reset(seed=5)[0])
        actions = np.random.default_rng(0).uniform(-0.1, 0.1, (25, 2, 2)).astype(np.float32)
        for action in actions:
            for ours, theirs in zip(here.step(action)[:4], there.step(action)[:4], strict=True):
                np.testing.assert_array_equal(ours, theirs)
    finally:
        there.close()
        here.close()
