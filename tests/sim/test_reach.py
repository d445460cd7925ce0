from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safe_rl.errors import UserError

pytest.importorskip("pybullet")

from sim.bullet import pybullet
from sim.image_reach import ImageReach
from sim.navigation import NAVIGATION2_MAP
from sim.plane_view import make_plane_renderer
from sim.reach import BLOCKS, GOAL, MAX_MOVE, WORKSPACE, Reach
from sim.reach_world import STYLUS_RADIUS, joint_table

CORNER_ROUNDING = 0.001
"""What Bullet's margins leave open at corners and edges."""


@pytest.fixture
def env() -> Iterator[Reach]:
    made = Reach()
    yield made
    made.close()


def move(x: float, y: float) -> np.ndarray:
    return np.array((x, y), np.float32)


def clearance(env: Reach, x: float, y: float) -> float:
    boxes = env.plane_map.obstacles
    gaps = [np.hypot(max(b.x_min - x, 0.0, x - b.x_max), max(b.y_min - y, 0.0, y - b.y_max)) for b in boxes]
    return min(gaps) - STYLUS_RADIUS


def test_the_joint_table_holds_the_stylus_upright_over_each_point(env: Reach) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        x, y = rng.uniform((WORKSPACE.x_min, WORKSPACE.y_min), (WORKSPACE.x_max, WORKSPACE.y_max))
        env.world.set([(angle, 0.0) for angle in joint_table(WORKSPACE).joints(x, y)], [])
        point = env.world.stylus_point()
        np.testing.assert_allclose(point, (x, y, 0.03 + 0.045), atol=1e-4)
        turn = pybullet.getLinkState(env.world.arm, env.world.stylus, physicsClientId=env.world.client)[5]
        down = np.array(pybullet.getMatrixFromQuaternion(turn)).reshape(3, 3)[:, 2]
        np.testing.assert_allclose(down, (0, 0, -1), atol=1e-3)


def test_the_stylus_goes_where_it_is_told(env: Reach) -> None:
    obs, _ = env.reset(seed=0, options={"state": (0.5, -0.2)})
    np.testing.assert_allclose(obs, (0.5, -0.2))
    for action in (move(0.03, 0.0), move(0.01, 0.03), move(5.0, 0.0)):
        before = obs
        obs, _, terminated, _, info = env.step(action)
        assert (terminated, info["cost"]) == (False, 0.0)
        np.testing.assert_allclose(obs - before, np.clip(action, -MAX_MOVE, MAX_MOVE), atol=5e-4)


def test_reward_and_success_are_of_the_distance_after_the_step(env: Reach) -> None:
    env.reset(seed=0, options={"state": (0.5, 0.13)})
    obs, reward, terminated, _, info = env.step(move(0.0, 0.02))
    assert reward == pytest.approx(-10 * np.hypot(*(obs - GOAL)), abs=1e-5)
    assert -0.42 < reward < -0.38 and not terminated
    _, reward, terminated, truncated, info = env.step(move(0.0, 0.02))
    assert (terminated, truncated, info) == (True, False, {"cost": 0.0, "success": True})


@pytest.mark.parametrize(
    ("start", "direction", "axis", "stop"),
    [
        ((0.5, -0.16), (0.0, 1.0), 1, BLOCKS[0].y_min - STYLUS_RADIUS),
        ((0.4, -0.08), (1.0, 0.0), 0, BLOCKS[0].x_min - STYLUS_RADIUS),
        ((0.4, 0.0), (0.0, 1.0), 1, BLOCKS[1].y_min - STYLUS_RADIUS),
        ((0.5, 0.07), (1.0, 0.0), 0, BLOCKS[2].x_min - STYLUS_RADIUS),
        ((0.5, 0.07), (-1.0, 0.0), 0, BLOCKS[1].x_max + STYLUS_RADIUS),
    ],
)
def test_blocks_stop_the_arm(
    env: Reach, start: tuple[float, float], direction: tuple[float, float], axis: int, stop: float
) -> None:
    obs, _ = env.reset(seed=0, options={"state": start})
    for _ in range(8):
        obs, _, terminated, _, info = env.step(MAX_MOVE * np.array(direction, np.float32))
        if terminated:
            break
    assert (info["cost"], info["success"]) == (1.0, False)
    assert obs[axis] == pytest.approx(stop, abs=3e-3)


@pytest.mark.parametrize(("direction", "axis", "edge"), [((-1, 0), 0, 0.35), ((1, 0), 0, 0.65), ((0, -1), 1, -0.25)])
def test_leaving_the_workspace_is_a_violation(env: Reach, direction: tuple[int, int], axis: int, edge: float) -> None:
    obs, _ = env.reset(seed=0, options={"state": (0.5, -0.18)})
    terminated = False
    while not terminated:
        before = obs
        obs, _, terminated, _, info = env.step(MAX_MOVE * np.array(direction, np.float32))
    assert info["cost"] == 1.0
    assert abs(obs[axis] - edge) <= STYLUS_RADIUS or abs(obs[axis]) > abs(edge)
    assert abs(before[axis] - edge) > STYLUS_RADIUS


def test_contacts_agree_with_the_geometry_of_the_way(env: Reach) -> None:
    rng = np.random.default_rng(0)
    counts = np.zeros(2, int)
    for _ in range(150):
        segment = env.sample_offline_segment(rng)
        obs, _ = env.reset(options={"state": segment.state})
        for _ in range(segment.max_steps):
            start = np.array((env._x, env._y))
            action = segment.policy(obs, rng)
            obs, _, terminated, _, info = env.step(action)
            way = [clearance(env, *(start + share * action)) for share in np.linspace(0, 1, 21)]
            if info["cost"]:
                assert min(way) <= CORNER_ROUNDING
            else:
                assert min(way) >= -CORNER_ROUNDING
            counts[int(info["cost"])] += 1
            if terminated:
                break
    assert counts.min() > 40


def test_a_state_restored_goes_on_exactly(env: Reach) -> None:
    other = Reach()
    rng = np.random.default_rng(0)
    env.reset(seed=3)
    for _ in range(4):
        env.step(rng.uniform(-0.01, 0.01, 2))
    other.set_state(json.loads(json.dumps(env.get_state())))
    for _ in range(4):
        action = rng.uniform(-0.01, 0.03, 2)
        ours, theirs = env.step(action), other.step(action)
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert ours[1:] == theirs[1:]
        if ours[2]:
            break
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])
    other.close()


def test_the_expert_succeeds_from_anywhere(env: Reach) -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        point = rng.uniform((WORKSPACE.x_min, WORKSPACE.y_min), (WORKSPACE.x_max, WORKSPACE.y_max))
        if env.touches_obstacle(*point, margin=0.002):
            continue
        obs, _ = env.reset(options={"state": point})
        for _ in range(50):
            obs, _, terminated, _, info = env.step(env.expert_action(obs))
            if terminated:
                break
        assert info == {"cost": 0.0, "success": True}, point


def test_images_show_the_scene_and_nothing_else() -> None:
    env = ImageReach()
    first, info = env.reset(seed=0, options={"state": (0.5, -0.2)})
    assert info == {"cost": 0.0, "success": False}
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8

    def share(picture: np.ndarray, strongest: int) -> float:
        others = [channel for channel in range(3) if channel != strongest]
        return float((picture[:, :, strongest] > 1.5 * picture[:, :, others].max(-1).astype(float) + 20).mean())

    red, green, blue = (share(first, channel) for channel in range(3))
    assert 0.01 < red < 0.1 and 0.003 < green < 0.05 and 0.001 < blue < 0.03  # blocks, goal, stylus
    columns = np.where((first[:, :, 2] > 1.5 * first[:, :, :2].max(-1).astype(float) + 20).any(0))[0]
    moved, _ = env.reset(options={"state": (0.5, -0.15)})
    moved_columns = np.where((moved[:, :, 2] > 1.5 * moved[:, :, :2].max(-1).astype(float) + 20).any(0))[0]
    assert moved_columns.mean() > columns.mean() + 2  # y goes to the right
    env.close()


def test_images_and_states_are_of_the_same_physics(env: Reach) -> None:
    images = ImageReach(image_size=32)
    env.reset(seed=5)
    obs, _ = images.reset(seed=5)
    assert obs.shape == (32, 32, 3)
    rng = np.random.default_rng(0)
    for _ in range(10):
        action = rng.uniform(-0.012, 0.02, 2)
        state, reward, terminated, _, info = env.step(action)
        _, image_reward, image_terminated, _, image_info = images.step(action)
        assert (reward, terminated, info) == (image_reward, image_terminated, image_info)
        assert (images._x, images._y) == pytest.approx(tuple(state))
        if terminated:
            break
    images.close()


@pytest.mark.parametrize("size", [0, -3, 8])
def test_an_image_size_that_shows_nothing_is_refused(size: int) -> None:
    with pytest.raises(UserError, match=f"image_size={size} must be"):
        ImageReach(image_size=size)


def test_a_missing_arm_model_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import pybullet_data

    monkeypatch.setattr(pybullet_data, "getDataPath", lambda: str(tmp_path))
    with pytest.raises(UserError, match=r"panda\.urdf"):
        Reach()
    (tmp_path / "franka_panda").mkdir()
    (tmp_path / "franka_panda" / "panda.urdf").write_text("<robot name='panda'></robot>")
    with pytest.raises(UserError, match="meshes"):
        Reach()
    (tmp_path / "franka_panda" / "panda.urdf").write_text(
        """<robot name="panda"><link name="panda_hand"><visual><geometry><mesh filename="package://meshes/visual/hand.obj"/>
        </geometry></visual></link></robot>"""
    )
    with pytest.raises(UserError, match=r"meshes/collision/hand\.obj is missing"):
        Reach()


@pytest.mark.parametrize("made", ["reach", "tiny"])
def test_a_missing_mesh_of_our_own_is_named(made: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PyBullet goes on without it, and a policy would learn from pictures without obstacles."""
    from sim import bullet

    monkeypatch.setattr(bullet, "ASSETS", tmp_path)
    with pytest.raises(UserError, match=r"mesh .*\.obj is missing") as error:
        ImageReach() if made == "reach" else make_plane_renderer("tiny", NAVIGATION2_MAP, 32)
    assert "\n" not in str(error.value)


def test_a_start_in_a_block_is_refused(env: Reach) -> None:
    for state in ((0.5, -0.08), (0.2, 0.0), (0.5, 0.245)):
        with pytest.raises(UserError, match="obstacle"):
            env.reset(options={"state": state})
    bad: Any
    for bad in ((0.5,), "here", (np.nan, 0.0)):
        with pytest.raises(UserError, match="state"):
            env.reset(options={"state": bad})


def test_a_renderer_that_cannot_draw_an_arm_is_refused() -> None:
    for renderer in ("opencv", "gl"):
        with pytest.raises(UserError, match=f"unknown renderer '{renderer}'"):
            ImageReach(renderer=renderer)
