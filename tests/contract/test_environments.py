"""What every registered environment promises."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import sim
from safe_rl.envs.protocols import OffersExpert, OffersOfflineSegments, OffersPlaneMap
from safe_rl.errors import UserError

sim.register_envs()
ENV_IDS = sorted(env_id for env_id in gym.registry if env_id.startswith("safe_rl/"))


@dataclass(frozen=True)
class Promise:
    """What an environment says of itself."""

    violating_share: tuple[float, float]
    """Of its offline transitions."""
    horizon: int
    obs_shape: tuple[int, ...] = (2,)
    num_actions: int = 2
    """Components of an action, or how many discrete ones there are."""
    needs: str | None = None

    slowness: int = 1
    """Divides what is asked of it."""
    is_discrete: bool = False

    @property
    def is_image(self) -> bool:
        return len(self.obs_shape) == 3


PROMISES = {
    # What the paper's authors collect: 6.3 %, 8 % and 12 %.
    "safe_rl/Navigation1-v0": Promise((0.05, 0.075), 100),
    "safe_rl/Navigation2-v0": Promise((0.07, 0.105), 100),
    "safe_rl/DiscreteNavigation2-v0": Promise((0.07, 0.105), 100, num_actions=8, is_discrete=True),
    "safe_rl/Maze-v0": Promise((0.08, 0.14), 100, needs="pybullet"),
    "safe_rl/ImageMaze-v0": Promise((0.15, 0.25), 50, (64, 64, 3), needs="pybullet"),
    "safe_rl/ImageNavigation1-v0": Promise((0.05, 0.075), 100, (64, 64, 3), needs="cv2"),
    "safe_rl/ImageNavigation2-v0": Promise((0.07, 0.105), 100, (64, 64, 3), needs="cv2"),
    "safe_rl/ObjectExtraction-v0": Promise((0.05, 0.13), 25, (45,), 4, "pybullet", 4),
    "safe_rl/ObjectExtractionDynamic-v0": Promise((0.05, 0.13), 25, (51,), 4, "pybullet", 4),
    "safe_rl/Reach-v0": Promise((0.08, 0.15), 50, needs="pybullet", slowness=4),
    "safe_rl/ImageReach-v0": Promise((0.06, 0.18), 50, (64, 64, 3), needs="pybullet", slowness=10),
}


def test_all_are_listed() -> None:
    assert sorted(PROMISES) == ENV_IDS


def make(env_id: str, **kwargs: Any) -> gym.Env[Any, Any]:
    needs = PROMISES[env_id].needs
    if needs:
        pytest.importorskip(needs)
    return gym.make(env_id, disable_env_checker=True, **kwargs)


@pytest.fixture(params=ENV_IDS)
def env(request: pytest.FixtureRequest) -> Iterator[gym.Env[Any, Any]]:
    made = make(request.param)
    yield made
    made.close()


@pytest.fixture(params=[env_id for env_id in ENV_IDS if PROMISES[env_id].obs_shape == (2,)])
def plane_env(request: pytest.FixtureRequest) -> Iterator[gym.Env[Any, Any]]:
    made = make(request.param)
    yield made
    made.close()


@pytest.fixture(params=ENV_IDS)
def drawn_env(request: pytest.FixtureRequest) -> Iterator[gym.Env[Any, Any]]:
    pytest.importorskip("cv2")
    made = make(request.param, render_mode="rgb_array")
    yield made
    made.close()


def random_action(env: gym.Env[Any, Any], rng: np.random.Generator, share: float = 1.0) -> Any:
    """A uniform action, up to a share of the largest where there is one."""
    space: Any = env.action_space
    if PROMISES[env.spec.id].is_discrete:
        return rng.integers(space.n)
    return rng.uniform(share * space.low, share * space.high).astype(np.float32)


def resting_action(env: gym.Env[Any, Any], step: int) -> Any:
    """What leaves the robot where it is, or brings it back every second step."""
    if PROMISES[env.spec.id].is_discrete:
        return (0, 4)[step % 2]
    return np.zeros(env.action_space.shape, np.float32)


def rollout(env: gym.Env[Any, Any], seed: int, steps: int | None = None, share: float = 1.0) -> dict[str, np.ndarray]:
    """Random actions from a seed, up to a share of the largest, episodes after one another."""
    if steps is None:
        steps = max(60, 250 // PROMISES[env.spec.id].slowness)
    rng = np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed)
    kept: dict[str, list[Any]] = {"obs": [obs], "reward": [], "cost": [], "terminated": [], "truncated": []}
    for _ in range(steps):
        obs, reward, terminated, truncated, info = env.step(random_action(env, rng, share))
        for name, value in zip(kept, (obs, reward, info["cost"], terminated, truncated), strict=True):
            kept[name].append(value)
        if terminated or truncated:
            kept["obs"].append(env.reset()[0])
    return {name: np.array(values) for name, values in kept.items()}


def test_gymnasiums_checker_passes(drawn_env: gym.Env[Any, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for harmless in (".*minimum value is -infinity", ".*maximum value is infinity", ".*not within the observation"):
            warnings.filterwarnings("ignore", message=harmless)
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version")
        warnings.filterwarnings("ignore", message=".*symmetric and normalized space")
        check_env(drawn_env.unwrapped, skip_render_check=True)  # it would open windows; test_pictures draws


def test_spaces_and_types(env: gym.Env[Any, Any]) -> None:
    obs, info = env.reset(seed=0)
    promise = PROMISES[env.spec.id]
    dtype = np.uint8 if promise.is_image else np.float32
    assert env.observation_space.shape == promise.obs_shape and env.observation_space.dtype == dtype
    space: Any = env.action_space
    if promise.is_discrete:
        assert space == gym.spaces.Discrete(promise.num_actions)
    else:
        assert space.shape == (promise.num_actions,) and space.dtype == np.float32
        assert np.isfinite(space.low).all() and np.isfinite(space.high).all()
    assert obs.dtype == dtype and env.observation_space.contains(obs)
    assert info == {"cost": 0.0, "success": False}
    obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert obs.dtype == dtype and env.observation_space.contains(obs)
    assert isinstance(reward, float) and np.isfinite(reward)
    assert isinstance(terminated, bool) and isinstance(truncated, bool)
    assert isinstance(info["cost"], float) and info["cost"] in (0.0, 1.0)
    assert isinstance(info["success"], bool)


def test_a_seed_fixes_everything_and_another_changes_it(env: gym.Env[Any, Any]) -> None:
    first = rollout(env, 1)
    other = rollout(env, 2)
    again = rollout(env, 1)  # in a used environment
    fresh = make(env.spec.id)
    for repeated in (again, rollout(fresh, 1)):
        for name, values in first.items():
            np.testing.assert_array_equal(values, repeated[name], err_msg=name)
    fresh.close()
    assert not np.array_equal(first["obs"][:50], other["obs"][:50])


def test_resets_differ_and_repeat_per_seed(env: gym.Env[Any, Any]) -> None:
    env.reset(seed=0)
    starts = np.array([env.reset()[0] for _ in range(20)])
    assert len(np.unique(starts, axis=0)) == 20
    np.testing.assert_array_equal(env.reset(seed=5)[0], env.reset(seed=5)[0])
    assert not np.array_equal(env.reset(seed=5)[0], env.reset(seed=6)[0])


def test_returned_arrays_are_the_callers_own(env: gym.Env[Any, Any]) -> None:
    share = 0.2  # the episode goes on for ten steps
    expected = rollout(env, 3, steps=10, share=share)["obs"]
    rng = np.random.default_rng(3)
    obs, _ = env.reset(seed=3)
    for k in range(10):
        np.testing.assert_array_equal(obs, expected[k])
        kept = obs
        obs, *_ = env.step(random_action(env, rng, share))
        np.testing.assert_array_equal(kept, expected[k])  # the step has not written into it
        if k % 2:
            kept[:] = 77  # writing into it does not reach the environment


def test_the_action_is_not_written_to(env: gym.Env[Any, Any]) -> None:
    env.reset(seed=0)
    if PROMISES[env.spec.id].is_discrete:
        pytest.skip("a number cannot be written to")
    action = np.resize(np.array((1e3, -1e3), np.float32), env.action_space.shape)
    before = action.copy()
    env.step(action)
    np.testing.assert_array_equal(action, before)


def test_the_observation_is_never_constant(env: gym.Env[Any, Any]) -> None:
    changes = rollout(env, 0)["obs"].std(0) > 0
    if PROMISES[env.spec.id].is_image:  # most of the background never changes
        assert changes.mean() > 0.01
    else:
        assert changes.all()


def test_only_the_horizon_truncates_and_only_success_or_violation_terminates(env: gym.Env[Any, Any]) -> None:
    horizon = PROMISES[env.spec.id].horizon
    env.reset(seed=2)
    for step in range(1, horizon + 1):
        _, _, terminated, truncated, info = env.step(resting_action(env, step))
        assert (terminated, truncated, info["cost"]) == (False, step == horizon, 0.0)
    seen = {0.0: 0, 1.0: 0}
    for seed in range(5):
        kept = rollout(env, seed)
        assert np.isfinite(kept["reward"]).all()
        assert (kept["terminated"] >= (kept["cost"] > 0)).all()
        for cost in seen:
            seen[cost] += int((kept["cost"] == cost).sum())
    assert seen[0.0] > 100


def test_every_end_is_a_success_or_a_violation(env: gym.Env[Any, Any]) -> None:
    hooks, rng = env.unwrapped, np.random.default_rng(0)
    for episode in range(200 // PROMISES[env.spec.id].slowness):
        segment = hooks.sample_offline_segment(rng)  # type: ignore[attr-defined]
        obs, _ = env.reset(options={"state": segment.state})
        for _ in range(60):
            action = segment.policy(obs, rng) if episode % 2 else hooks.expert_action(obs)  # type: ignore[attr-defined]
            obs, _, terminated, _, info = env.step(action)
            assert terminated == (info["cost"] == 1.0 or info["success"])
            if terminated:
                break


def test_a_given_start_is_taken(env: gym.Env[Any, Any]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        state = env.unwrapped.sample_offline_segment(rng).state  # type: ignore[attr-defined]
        obs, _ = env.reset(options={"state": state})
        again, _ = env.reset(options={"state": list(state)})
        np.testing.assert_array_equal(obs, again)
        if not PROMISES[env.spec.id].is_image:
            np.testing.assert_allclose(obs, state, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("env_id", [env_id for env_id in ENV_IDS if PROMISES[env_id].needs])
def test_a_state_of_another_environment_is_refused_in_one_line(env_id: str) -> None:
    env = make(env_id).unwrapped
    other = make("safe_rl/Reach-v0" if "Extraction" in env_id else "safe_rl/ObjectExtraction-v0").unwrapped
    env.reset(seed=0)
    other.reset(seed=0)
    before = env.get_state()  # type: ignore[attr-defined]
    for state in (other.get_state(), {}, None):  # type: ignore[attr-defined]
        with pytest.raises(UserError, match=r"state of") as error:
            env.set_state(state)  # type: ignore[attr-defined]
        assert "\n" not in str(error.value)
    assert env.get_state() == before  # type: ignore[attr-defined]
    env.close()
    other.close()


def test_a_state_survives_json_and_goes_on_exactly(env: gym.Env[Any, Any]) -> None:
    hooks: Any = env.unwrapped
    rng = np.random.default_rng(0)
    actions = [random_action(env, rng, 0.2) for _ in range(4)]
    env.reset(seed=3)
    env.step(actions[0])
    state = json.loads(json.dumps(hooks.get_state()))
    expected = [env.step(action)[:4] for action in actions] + [env.reset()[0]]
    rollout(env, 4, steps=5)
    other = make(env.spec.id)
    other.reset(seed=8)
    for restored in (env, other):
        restored.reset()
        restored.unwrapped.set_state(state)  # type: ignore[attr-defined]
        for action, (obs, *rest) in zip(actions, expected[:-1], strict=True):
            found, *others = restored.step(action)
            np.testing.assert_array_equal(found, obs)
            assert others[:3] == rest
        np.testing.assert_array_equal(restored.reset()[0], expected[-1])
    other.close()


def test_a_damaged_state_is_refused_in_one_line_and_changes_nothing(env: gym.Env[Any, Any]) -> None:
    hooks: Any = env.unwrapped
    env.reset(seed=3)
    damaged = hooks.get_state()
    env.reset(seed=4)
    before = hooks.get_state()
    for entry in damaged.keys() - {"environment"}:
        for change in ({key: value for key, value in damaged.items() if key != entry}, {**damaged, entry: "x"}):
            if entry == "ended" and "ended" in change:
                continue  # anything is true or false
            with pytest.raises(UserError, match="set_state of") as error:
                hooks.set_state(change)
            assert "\n" not in str(error.value)
            assert hooks.get_state() == before


def test_the_map_agrees_with_what_the_environment_does(plane_env: gym.Env[Any, Any]) -> None:
    env = plane_env
    hooks = env.unwrapped
    assert isinstance(hooks, OffersPlaneMap)
    plane_map, rng = hooks.plane_map, np.random.default_rng(0)
    bounds = plane_map.bounds
    points = rng.uniform((bounds.x_min, bounds.y_min), (bounds.x_max, bounds.y_max), (300, 2))
    observations = hooks.plane_observation(points)
    assert observations.shape == (300, 2) and observations.dtype == np.float32
    inside = 0
    for point, observation in zip(points, observations, strict=True):
        np.testing.assert_allclose(hooks.plane_position(observation), point, rtol=1e-5)
        gaps = [
            np.hypot(max(b.x_min - point[0], 0, point[0] - b.x_max), max(b.y_min - point[1], 0, point[1] - b.y_max))
            for b in plane_map.obstacles
        ]
        if min(gaps) <= plane_map.robot_radius:
            inside += 1
            with pytest.raises(UserError, match="obstacle"):
                env.reset(options={"state": point})
            continue
        np.testing.assert_array_equal(env.reset(options={"state": point})[0], observation)
        reach = 1.5 if PROMISES[env.spec.id].is_discrete else 0.3 * env.action_space.high[0]  # type: ignore[attr-defined]
        if min(gaps) > plane_map.robot_radius + reach:
            # Well clear, and standing still where one can: only noise moves it.
            assert env.step(resting_action(env, 0))[4]["cost"] == 0.0
    assert 10 < inside < 250
    goal_obs = hooks.plane_observation(np.array([plane_map.goal]))[0]
    env.reset(options={"state": goal_obs})
    assert env.step(resting_action(env, 0))[4]["success"]


def test_the_expert_succeeds_without_violation(env: gym.Env[Any, Any]) -> None:
    hooks = env.unwrapped
    assert isinstance(hooks, OffersExpert)
    for seed in range(100 // PROMISES[env.spec.id].slowness):
        obs, _ = env.reset(seed=seed)
        done = False
        while not done:
            action = hooks.expert_action(obs)
            assert env.action_space.contains(action)
            obs, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
        assert (info["success"], info["cost"]) == (True, 0.0), seed


def test_offline_segments_violate_as_often_as_the_papers_data(env: gym.Env[Any, Any]) -> None:
    hooks, rng = env.unwrapped, np.random.default_rng(0)
    assert isinstance(hooks, OffersOfflineSegments)
    transitions = violations = 0
    while transitions < 8000 // (PROMISES[env.spec.id].slowness + 1):
        segment = hooks.sample_offline_segment(rng)
        obs, _ = env.reset(options={"state": segment.state})
        for _ in range(segment.max_steps):
            action = segment.policy(obs, rng)
            assert env.action_space.contains(action)
            obs, _, terminated, _, info = env.step(action)
            transitions += 1
            violations += int(info["cost"])
            if terminated:
                break
    low, high = PROMISES[env.spec.id].violating_share
    assert low < violations / transitions < high


def test_offline_segments_depend_on_the_given_generator_alone(env: gym.Env[Any, Any]) -> None:
    hooks: Any = env.unwrapped

    def sample(seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        drawn = []
        for _ in range(5):
            segment = hooks.sample_offline_segment(rng)
            obs = segment.state
            if PROMISES[env.spec.id].is_image:  # its policy looks at the state behind the picture
                obs, _ = env.reset(options={"state": segment.state})
            drawn.append(np.append(segment.state, segment.policy(obs, rng)))
        return drawn

    env.reset(seed=0)
    first = sample(1)
    env.reset(seed=9)
    np.testing.assert_array_equal(first, sample(1))
    assert not np.array_equal(first, sample(2))


def test_pictures(drawn_env: gym.Env[Any, Any]) -> None:
    env = drawn_env
    env.reset(seed=0)
    first: Any = env.render()
    assert first.dtype == np.uint8 and first.ndim == 3 and first.shape[2] == 3
    assert min(first.shape[:2]) >= 200 and max(first.shape[:2]) <= 640
    assert first.shape[0] % 2 == 0 and first.shape[1] % 2 == 0
    assert first.std() > 5
    np.testing.assert_array_equal(first, env.render())
    kept = copy.copy(first)
    env.step(0 if PROMISES[env.spec.id].is_discrete else np.array(env.action_space.high))  # type: ignore[attr-defined]
    second: Any = env.render()
    assert (first != second).any()
    np.testing.assert_array_equal(first, kept)  # the caller's own
    env.unwrapped.set_overlay("RECOVERY", 0.4, 0.3)  # type: ignore[attr-defined]
    overlaid: Any = env.render()
    assert overlaid.shape == first.shape and (overlaid != second).any()
    assert env.metadata["render_fps"] > 0
