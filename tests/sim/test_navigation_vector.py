from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from safe_rl.errors import UserError
from sim.navigation import Navigation, Navigation1, Navigation2
from sim.navigation_vector import Navigation1Vector, Navigation2Vector, NavigationVector


class Scripted:
    """A generator whose noise is given, one array of any leading size a call; zeros without it."""

    def __init__(self, noise: np.ndarray | None = None) -> None:
        self.noise = noise

    def standard_normal(self, size: Any) -> np.ndarray:
        return np.zeros(size) if self.noise is None else self.noise


@pytest.mark.parametrize(("single", "vector"), [(Navigation1, Navigation1Vector), (Navigation2, Navigation2Vector)])
def test_a_step_equals_the_single_environments_with_the_same_noise(
    single: type[Navigation], vector: type[NavigationVector]
) -> None:
    rng = np.random.default_rng(0)
    env = single()
    starts = rng.uniform((-85, -15), (10, 15), (1500, 2))
    starts[:300] = rng.uniform(-6, 6, (300, 2))  # about the goal
    starts[300:600] = rng.uniform((-31.5, -9), (-18.5, 9), (300, 2))  # about the block of Navigation 2
    starts = np.array([s for s in starts if not env.touches_obstacle(*s)], np.float32)
    actions = rng.uniform(-1.5, 1.5, starts.shape).astype(np.float32)
    noise = rng.standard_normal(starts.shape)

    envs = vector(len(starts), autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=0, options={"state": starts})
    envs._np_random = Scripted(noise)  # type: ignore[assignment]
    obs, rewards, terminated, truncated, info = envs.step(actions)

    for i, start in enumerate(starts):
        env.reset(seed=0, options={"state": start})
        env.np_random = Scripted(noise[i])  # type: ignore[assignment]
        one_obs, one_reward, one_terminated, one_truncated, one_info = env.step(actions[i])
        np.testing.assert_array_equal(obs[i], one_obs)
        assert rewards[i] == pytest.approx(one_reward, rel=1e-12)
        assert (terminated[i], truncated[i]) == (one_terminated, one_truncated)
        assert (info["cost"][i], info["success"][i]) == (one_info["cost"], one_info["success"])
    assert info["cost"].sum() > 20 and info["success"].sum() > 20


def assert_same(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, tuple):
        for our, their in zip(ours, theirs, strict=True):
            assert_same(our, their)
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_same(ours[key], theirs[key])
    elif theirs.dtype == object:
        assert ours.dtype == object
        for our, their in zip(ours, theirs, strict=True):
            assert (our is None) == (their is None)
            if their is not None:
                np.testing.assert_array_equal(our, their)
    else:
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_automatic_resets_are_gymnasiums(mode: AutoresetMode) -> None:
    num_envs, horizon = 6, 60

    def make() -> gym.Env[Any, Any]:
        return gym.wrappers.TimeLimit(Navigation2(), horizon)

    theirs = SyncVectorEnv([make] * num_envs, autoreset_mode=mode)
    ours = Navigation2Vector(num_envs, max_episode_steps=horizon, autoreset_mode=mode)
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    theirs.reset(seed=0)
    ours.reset(seed=0)
    for env in theirs.envs:
        env.unwrapped.np_random = Scripted()
    ours._np_random = Scripted()  # type: ignore[assignment]
    assert_same(ours.reset(), theirs.reset())

    rng = np.random.default_rng(0)
    ends = np.zeros(3)
    for _ in range(300):  # some robots run into the block, one passes it and succeeds, one dawdles until the time is up
        actions = rng.uniform(-1.0, 1.0, (num_envs, 2)).astype(np.float32) * 0.2
        actions[:, 0] += np.linspace(0.0, 1.0, num_envs)
        actions[-1] = (1.0, 0.5 if ours._positions[-1, 0] < -32 else -0.4 if ours._positions[-1, 0] > -19 else 0.0)
        our_step, their_step = ours.step(actions), theirs.step(actions)
        assert_same(our_step, their_step)
        info = our_step[4].get("final_info", our_step[4])
        ends += (info["cost"].sum(), info["success"].sum(), our_step[3].sum())
    assert (ends >= 3).all()


def test_without_automatic_resets_an_ended_episode_waits_for_its_own() -> None:
    envs = Navigation1Vector(3, autoreset_mode="Disabled")
    with pytest.raises(ResetNeeded):
        envs.step(np.zeros((3, 2), np.float32))
    envs.reset(seed=0, options={"state": np.array(((-50, 0), (-50, 4.9), (-40, 1)), np.float32)})
    obs, _, terminated, _, _ = envs.step(np.array(((0, 0), (0, 1), (0, 0)), np.float32))
    np.testing.assert_array_equal(terminated, (False, True, False))
    with pytest.raises(ResetNeeded):
        envs.step(np.zeros((3, 2), np.float32))
    after, info = envs.reset(options={"reset_mask": terminated})
    np.testing.assert_array_equal(after[[0, 2]], obs[[0, 2]])
    assert abs(after[1, 0] + 50) < 6
    np.testing.assert_array_equal(info["_cost"], terminated)
    assert not envs.step(np.zeros((3, 2), np.float32))[2].any()


def test_the_horizon_truncates_each_episode_by_itself() -> None:
    envs = Navigation1Vector(2, max_episode_steps=10)
    envs.reset(seed=0)
    envs.reset(options={"state": np.array(((-50, 0), (-50, 4.9)), np.float32)})
    ends = []
    for step in range(1, 25):
        actions = np.array(((0, 0), (0, 1 if step == 3 else 0)), np.float32)
        _, _, terminated, truncated, _ = envs.step(actions)
        ends += [(step, i, bool(terminated[i]), bool(truncated[i])) for i in np.flatnonzero(terminated | truncated)]
    assert ends == [
        (3, 1, True, False),
        (10, 0, False, True),
        (13, 1, False, True),
        (20, 0, False, True),
        (23, 1, False, True),
    ]


def test_seeds_and_copies() -> None:
    def rollout(seed: int) -> np.ndarray:
        envs = Navigation2Vector(5)
        obs = [envs.reset(seed=seed)[0]]
        obs += [envs.step(np.ones((5, 2), np.float32))[0] for _ in range(30)]
        return np.array(obs)

    first = rollout(1)
    np.testing.assert_array_equal(first, rollout(1))
    assert not np.array_equal(first, rollout(2))
    assert len(np.unique(first[0], axis=0)) == 5

    envs = Navigation2Vector(5)
    obs, _ = envs.reset(seed=1)
    obs[:] = 1e6
    after = envs.step(np.zeros((5, 2), np.float32))[0]
    np.testing.assert_allclose(after, first[0], atol=0.4)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((2, 2)), "shape"),
        (np.zeros((3, 3)), "shape"),
        (np.array(((0, 0), (0, np.nan), (0, 0))), "not finite"),
        (np.array(((np.inf, 0), (0, 0), (0, 0))), "not finite"),
    ],
)
def test_bad_actions_are_refused(actions: np.ndarray, message: str) -> None:
    envs = Navigation1Vector(3)
    envs.reset(seed=0)
    with pytest.raises(UserError, match=message):
        envs.step(actions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state": np.zeros((2, 2))}, "state"),
        ({"state": np.full((3, 2), np.nan)}, "state"),
        ({"state": np.array(((0, 0), (0, 5), (0, 0)))}, "obstacle"),
        ({"reset_mask": np.ones(3)}, "reset_mask"),
        ({"reset_mask": np.array((True, False, True))}, "first reset"),
    ],
)
def test_bad_reset_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Navigation1Vector(3).reset(seed=0, options=options)


@pytest.mark.parametrize("arguments", [{"num_envs": 0}, {"max_episode_steps": 0}])
def test_bad_sizes_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(UserError, match=next(iter(arguments))):
        Navigation1Vector(**arguments)
