from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from safe_rl.errors import UserError

pytest.importorskip("pybullet")

from sim.bullet import pybullet
from sim.extraction import ObjectExtraction, ObjectExtractionDynamic
from sim.extraction_scene import is_free, progress, standing_state

STILL = np.zeros(4, np.float32)
AMONG = np.array((0.012, 0.0, 0.13))
"""The gripper's point with the fingers either side of the target."""


@pytest.fixture
def env() -> Iterator[ObjectExtraction]:
    made = ObjectExtraction()
    yield made
    made.close()


@pytest.fixture
def dynamic() -> Iterator[ObjectExtractionDynamic]:
    made = ObjectExtractionDynamic()
    yield made
    made.close()


def act(x: float = 0.0, y: float = 0.0, z: float = 0.0, jaw: float = 0.0) -> np.ndarray:
    return np.array((x, y, z, jaw), np.float32)


def standing(gripper: Any = AMONG, jaw: float = 0.022) -> np.ndarray:
    return standing_state(np.array(gripper), jaw, np.zeros(2), np.zeros(3))


def with_rod(state: np.ndarray, point: tuple[float, ...], speed: tuple[float, ...] = (0.0, 0.0, 0.0)) -> np.ndarray:
    return np.concatenate((state, point, speed))


def brick(obs: np.ndarray, number: int) -> np.ndarray:
    return obs[6 + 7 * number : 13 + 7 * number]


def tilt_deg(turn: np.ndarray) -> float:
    return math.degrees(math.acos(np.clip(1 - 2 * (turn[0] ** 2 + turn[1] ** 2), -1, 1)))


def test_bricks_left_alone_stand(env: ObjectExtraction) -> None:
    start, _ = env.reset(seed=0)
    for _ in range(25):
        obs, reward, terminated, _, info = env.step(STILL)
    assert (terminated, info) == (False, {"cost": 0.0, "success": False}) and 0.0 < reward < 0.4
    np.testing.assert_allclose(obs, start, atol=1e-3)


def test_the_gripper_goes_where_it_is_told(env: ObjectExtraction) -> None:
    env.reset(seed=0)
    for action in (act(0.02, 0.0, 0.0), act(0.0, -0.01, 0.02), act(-0.9, 0.0, -0.9, -0.005)):
        before = env.get_state()["physics"]["joints"]
        obs, *_ = env.step(action)
        limited = np.clip(action, (-0.02, -0.02, -0.02, -0.01), (0.02, 0.02, 0.02, 0.01))
        moved = obs[:3] - [position for position, _ in before[:3]]
        np.testing.assert_allclose(moved, limited[:3], atol=1.5e-3)
    assert obs[5] == pytest.approx(0.022 - 0.005)
    np.testing.assert_allclose(obs[3:5], obs[5], atol=1e-3)
    for _ in range(25):
        obs, *_ = env.step(act(-0.02, 0.02, 0.02))  # to the end of the rails
    np.testing.assert_allclose(obs[:3], (-0.20, 0.12, 0.30), atol=2e-3)


def test_a_closed_gripper_lifts_the_target_and_an_open_one_does_not(env: ObjectExtraction) -> None:
    for jaw_move, lifted in ((-0.01, True), (0.0, False)):
        env.reset(seed=0, options={"state": standing()})
        for _ in range(2):
            _, reward, terminated, _, info = env.step(act(jaw=jaw_move))
            assert 0.3 < reward < 1.0 and not terminated
        for _ in range(3):
            obs, reward, terminated, _, info = env.step(act(z=0.02, jaw=jaw_move))
            if terminated:
                break
        assert info == {"cost": 0.0, "success": lifted} and (reward == 25.0) == lifted
        height = brick(obs, 1)[2] - 0.12
        assert height >= 0.03 if lifted else abs(height) < 1e-3
        for other in (0, 2):  # the neighbours stay
            np.testing.assert_allclose(brick(obs, other)[:3], (0.0, 0.05 * (other - 1), 0.12), atol=2e-3)


def test_the_grasp_holds_by_friction_alone(env: ObjectExtraction) -> None:
    env.reset(seed=0, options={"state": standing()})
    for action in [act(jaw=-0.01)] * 2 + [act(z=0.01)] * 2:
        obs, *_ = env.step(action)
    held = brick(obs, 1)[2]
    assert held > 0.13
    for _ in range(10):
        obs, *_ = env.step(STILL)
    assert brick(obs, 1)[2] == pytest.approx(held, abs=1.5e-3)  # it creeps by less than a millimetre a second
    pads = {
        contact[3]
        for contact in pybullet.getContactPoints(
            env.world.gripper, env.world.bricks[1], physicsClientId=env.world.client
        )
        if contact[9] > 0
    }
    assert pads == {3, 4}
    assert pybullet.getNumConstraints(physicsClientId=env.world.client) == 0
    for _ in range(5):
        obs, *_ = env.step(act(jaw=0.005))
    assert brick(obs, 1)[2] == pytest.approx(0.12, abs=2e-3)  # let go, it drops


def test_the_dense_reward_is_of_how_far_the_task_is_done() -> None:
    target = (0.0, 0.0, 0.12)
    assert progress((0.012, 0.0, 0.13), 0.022, target) == pytest.approx(0.4)  # about the brick
    assert progress((-0.088, 0.0, 0.13), 0.022, target) == pytest.approx(0.4 * (1 - math.tanh(1.0)))  # 10 cm off
    assert progress((0.012, 0.0, 0.25), 0.022, target) == pytest.approx(0.4 * (1 - math.tanh(0.5)))  # 5 cm too high
    assert progress((0.012, 0.0, 0.13), 0.006, target) == pytest.approx(0.6)  # closed
    assert progress((-0.088, 0.0, 0.13), 0.006, target) < 0.1  # closed where nothing is
    assert progress((0.012, 0.0, 0.145), 0.006, (0.0, 0.0, 0.135)) == pytest.approx(0.8)  # half way up


def test_the_sparse_reward_is_the_papers() -> None:
    env = ObjectExtraction(reward="sparse")
    obs, _ = env.reset(seed=0)
    rewards, terminated = [], False
    while not terminated:
        obs, reward, terminated, _, info = env.step(env.expert_action(obs))
        rewards.append(reward)
    assert info["success"] and rewards == [-1.0] * (len(rewards) - 1) + [0.0]
    env.close()
    with pytest.raises(UserError, match="'shaped'"):
        ObjectExtraction(reward="shaped")  # type: ignore[arg-type]


@pytest.mark.parametrize("side", [-1, 1])
def test_a_push_among_the_bricks_topples_one_and_ends_the_episode(env: ObjectExtraction, side: int) -> None:
    env.reset(seed=0, options={"state": standing()})
    tilts = [0.0]
    for _ in range(15):
        obs, _, terminated, truncated, info = env.step(act(y=0.02 * side))
        tilts.append(max(tilt_deg(brick(obs, i)[3:]) for i in range(3)))
        assert terminated == (tilts[-1] > 15)
        if terminated:
            break
    assert (info["cost"], info["success"], truncated) == (1.0, False, False)
    assert max(tilts[:-1]) <= 15.001


def test_a_brick_that_leans_less_than_the_limit_is_no_violation(env: ObjectExtraction) -> None:
    state = standing((-0.17, 0.0, 0.13))
    angle = math.radians(2.0)
    state[6:13][3:] = (math.sin(angle / 2), 0.0, 0.0, math.cos(angle / 2))
    state[6:13][2] = 0.12 * math.cos(angle) + 0.015 * math.sin(angle)
    env.reset(seed=0, options={"state": state})
    for _ in range(10):
        obs, *_, info = env.step(STILL)
        assert info["cost"] == 0.0
    assert tilt_deg(brick(obs, 0)[3:]) < 0.5  # it has fallen back


def test_a_start_may_move_and_motions_are_seen(env: ObjectExtraction) -> None:
    state = standing((-0.17, 0.0, 0.13))
    env.reset(seed=0, options={"state": state})
    still, *_ = env.step(STILL)
    np.testing.assert_allclose(still[27:45], 0.0, atol=1e-3)
    state[33:39] = (0.12, 0.0, 0.03, 0.0, 1.0, 0.0)  # the middle brick tips over its far edge, at 1 rad/s
    begun, _ = env.reset(seed=0, options={"state": state})
    np.testing.assert_array_equal(begun, state.astype(np.float32))
    moved, *_ = env.step(STILL)
    assert tilt_deg(brick(moved, 1)[3:]) > 1.0 > 10 * tilt_deg(brick(still, 1)[3:])
    assert brick(moved, 1)[0] > 0.001
    np.testing.assert_allclose(moved[27:33], 0.0, atol=1e-3)  # its neighbour stands
    assert -1.0 < moved[37] < -0.1  # it comes back already


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: 1.0}, "gripper's x at 1"),
        ({5: 0.1}, "jaw at 0.1"),
        ({9: 0.5, 12: math.sqrt(0.75)}, "toppled"),
        ({12: 3.0}, "quaternion"),
        ({6: math.nan}, "finite"),
        ({0: 0.0, 1: 0.025}, "inside one another"),
    ],
)
def test_a_start_that_cannot_be_is_refused(env: ObjectExtraction, change: dict[int, float], message: str) -> None:
    state = standing()
    for index, value in change.items():
        state[index] = value
    with pytest.raises(UserError, match=message):
        env.reset(seed=0, options={"state": state})


@pytest.mark.parametrize("state", [np.zeros(27), "here", [1.0]])
def test_a_start_of_another_size_is_refused(env: ObjectExtraction, state: Any) -> None:
    with pytest.raises(UserError, match="45 numbers"):
        env.reset(seed=0, options={"state": state})


def test_the_second_arm_sweeps_past_and_stops(dynamic: ObjectExtractionDynamic) -> None:
    sides = set()
    for seed in range(8):
        obs, _ = dynamic.reset(seed=seed)
        points, speeds = [obs[45:48]], [obs[48:51]]
        side = np.sign(speeds[0][1])
        sides.add(side)
        for _ in range(18):
            obs, *_, info = dynamic.step(act(x=-0.02))
            assert info["cost"] == 0.0
            points.append(obs[45:48])
            speeds.append(obs[48:51])
        steps = sum(speed[1] != 0 for speed in speeds)
        assert steps <= 15
        moves = np.diff(points, axis=0)[: steps - 1]
        np.testing.assert_allclose(moves, np.array(speeds[: steps - 1]) * 0.1, atol=1.5e-3)
        assert side * points[0][1] < -0.05 and 0.155 < side * points[-1][1] < 0.19
        np.testing.assert_allclose(points[-1], points[-2], atol=1e-4)
    assert sides == {-1.0, 1.0}


def test_touching_the_second_arm_is_a_violation(dynamic: ObjectExtractionDynamic) -> None:
    gripper = standing((-0.08, 0.0, 0.13))
    for y, hit in ((-0.10, True), (0.10, False)):  # it comes, or it goes away
        dynamic.reset(seed=0, options={"state": with_rod(gripper, (-0.115, y, 0.08), (0.0, 0.2, 0.0))})
        costs = []
        for _ in range(6):
            *_, terminated, _, info = dynamic.step(STILL)
            costs.append(info["cost"])
            if terminated:
                break
        assert (max(costs) == 1.0) == hit
        assert costs[0] == 0.0
    # above the gripper it passes
    dynamic.reset(seed=0, options={"state": with_rod(gripper, (-0.115, -0.10, 0.17), (0.0, 0.2, 0.0))})
    assert all(dynamic.step(STILL)[4]["cost"] == 0.0 for _ in range(10))


@pytest.mark.parametrize("kind", [ObjectExtraction, ObjectExtractionDynamic])
def test_a_state_restored_goes_on_exactly_through_grasps_and_falls(kind: type[ObjectExtraction]) -> None:
    first, second = kind(), kind()
    rng = np.random.default_rng(0)
    grasped = fallen = 0
    for seed in range(6):
        obs, _ = first.reset(seed=seed)
        second.reset(seed=99)
        for step in range(25):
            if step % 6 == 5:
                second.set_state(json.loads(json.dumps(first.get_state())))
            action = first.expert_action(obs) + (seed % 3) * 0.004 * rng.standard_normal(4).astype(np.float32)
            ours = first.step(action)
            if step >= 5:
                theirs = second.step(action)
                np.testing.assert_array_equal(ours[0], theirs[0])
                assert ours[1:] == theirs[1:]
            obs = ours[0]
            if ours[2]:
                grasped += ours[4]["success"]
                fallen += ours[4]["cost"]
                break
        np.testing.assert_array_equal(first.reset()[0], second.reset()[0])
    assert grasped >= 2 and fallen >= 1
    first.close()
    second.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda physics: physics["joints"].pop(),
        lambda physics: physics["bodies"].pop(),
        lambda physics: physics.pop("jaw"),
        lambda physics: physics.update(jaw=math.nan),
        lambda physics: physics["bodies"].__setitem__(0, [[0, 0], [0, 0, 0, 1], [0, 0, 0], [0, 0, 0]]),
        lambda physics: physics.update(sweep=[0.0, 0.0]),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(env: ObjectExtraction, damage: Any) -> None:
    env.reset(seed=0)
    state = json.loads(json.dumps(env.get_state()))
    before = json.dumps(env.get_state())
    damage(state["physics"])
    with pytest.raises(UserError, match="damaged"):
        env.set_state(state)
    assert json.dumps(env.get_state()) == before


def successes_and_violations(env: ObjectExtraction, noise: float, episodes: int) -> tuple[float, float]:
    rng = np.random.default_rng(1)
    ends = np.zeros(2)
    for seed in range(episodes):
        obs, _ = env.reset(seed=1000 + seed)
        for _ in range(25):
            action = env.expert_action(obs) + 2 * noise * env.action_space.high * rng.standard_normal(4)  # type: ignore[attr-defined]
            obs, _, terminated, _, info = env.step(action)
            if terminated:
                break
        ends += (info["success"], info["cost"])
    success, violation = ends / episodes
    return success, violation


@pytest.mark.parametrize("kind", [ObjectExtraction, ObjectExtractionDynamic])
def test_the_noisy_expert_both_succeeds_and_violates(kind: type[ObjectExtraction]) -> None:
    env = kind()
    success, violation = successes_and_violations(env, 0.1, 40)
    assert success > 0.6 and 0.0 < violation < 0.4
    success, violation = successes_and_violations(env, 0.2, 20)
    assert violation > 0.4
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ObjectExtraction, ObjectExtractionDynamic])
def test_the_expert_succeeds_in_nearly_all_of_two_hundred_episodes(kind: type[ObjectExtraction]) -> None:
    env = kind()
    success, violation = successes_and_violations(env, 0.0, 200)
    assert success >= 0.97 and violation <= 0.01
    env.close()


@pytest.mark.parametrize("kind", [ObjectExtraction, ObjectExtractionDynamic])
def test_offline_segments_start_free_and_push_carry_or_follow_the_expert(kind: type[ObjectExtraction]) -> None:
    env, rng = kind(), np.random.default_rng(0)
    segments = [env.sample_offline_segment(rng) for _ in range(400)]
    assert all(is_free(segment.state, margin=0.0) for segment in segments)
    names = [segment.policy.__qualname__.partition(".")[0] for segment in segments]
    share = {name: names.count(name) / len(names) for name in set(names)}
    assert set(share) == {"_pushing_policy", "_carrying_policy", "_noisy_expert"}
    assert 0.42 < share["_pushing_policy"] < 0.56
    assert 0.23 < share["_carrying_policy"] < 0.37
    for segment in segments[:30]:
        env.reset(options={"state": segment.state})
    env.close()


def test_what_is_carried_is_lifted_or_falls(env: ObjectExtraction) -> None:
    rng = np.random.default_rng(1)
    outcomes = []
    while len(outcomes) < 60:
        segment = env.sample_offline_segment(rng)
        if "carrying" not in segment.policy.__qualname__:
            continue
        obs, _ = env.reset(options={"state": segment.state})
        for _ in range(segment.max_steps):
            obs, _, terminated, _, info = env.step(segment.policy(obs, rng))
            if terminated:
                break
        outcomes.append((info["success"], info["cost"] > 0))
    lifted, fallen = np.mean(outcomes, axis=0)
    assert 0.1 < lifted < 0.7
    assert 0.1 < fallen < 0.6


def test_free_of_bricks_agrees_with_bullet(env: ObjectExtraction) -> None:
    rng = np.random.default_rng(0)
    agreed = {True: 0, False: 0}
    for _ in range(400):
        state = standing((rng.uniform(-0.1, 0.05), rng.uniform(-0.1, 0.1), rng.uniform(0.05, 0.28)), 0.02)
        env._start(state)
        env.world.set(env._joints, env._bodies)
        depths = [
            point[8]
            for body in env.world.bricks
            for point in pybullet.getClosestPoints(env.world.gripper, body, 0.02, physicsClientId=env.world.client)
        ]
        deepest = min(depths, default=1.0)
        if deepest < -1e-3:
            assert not is_free(state, margin=0.0)
            agreed[False] += 1
        elif deepest > 4e-3:  # a brick may be turned, and is taken to be
            assert is_free(state, margin=0.0)
            agreed[True] += 1
    assert min(agreed.values()) > 50
