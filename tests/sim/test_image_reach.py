"""What the camera adds to Reach: randomisation, states, and two renderers that agree."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("pybullet")
pytest.importorskip("cv2")

from safe_rl.envs.factory import make_env
from safe_rl.errors import UserError
from sim.arm import Camera
from sim.image_reach import ImageReach
from sim.plane_view import CameraPose
from sim.randomization import Randomization
from sim.reach import Reach
from sim.reach_world import COLOURS
from sim.rendering import connect, disconnect

Picture = npt.NDArray[np.uint8]

EVERYTHING = {"colours": 0.2, "light": 0.3, "camera": 0.03, "noise": 5.0, "latency": 0.5}
FORTH = np.array((0.004, 0.006), np.float32)
START = {"state": (0.5, -0.18)}
TABLE, SHEET = (60, 5), (45, 10)
"""Pixels of the table and of the sheet on it, far from all else."""


def images(env: ImageReach, seed: int | None, steps: int = 4) -> Picture:
    seen = [env.reset(seed=seed, options=START)[0]]
    seen += [env.step(FORTH)[0] for _ in range(steps)]
    return np.array(seen)


@pytest.fixture
def plain() -> Iterator[ImageReach]:
    made = ImageReach()
    yield made
    made.close()


@pytest.fixture
def wild() -> Iterator[ImageReach]:
    made = ImageReach(frames=2, **EVERYTHING)
    yield made
    made.close()


@pytest.mark.parametrize("option", EVERYTHING)
def test_each_randomisation_changes_pictures_and_repeats_by_the_seed(plain: ImageReach, option: str) -> None:
    env, fresh = (ImageReach(**{option: EVERYTHING[option]}) for _ in range(2))
    first, other, again = images(env, 1), images(env, 2), images(env, 1)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, images(fresh, 1))
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, images(plain, 1))
    env.close()
    fresh.close()


def test_the_arm_is_not_randomised(wild: ImageReach) -> None:
    states = Reach()
    states.reset(seed=3)
    wild.reset(seed=3)
    for _ in range(5):
        theirs = states.step(FORTH)
        assert wild.step(FORTH)[1:] == theirs[1:]
        np.testing.assert_array_equal(np.array(wild.plane_position(np.zeros(0)), np.float32), theirs[0])
    states.close()


def test_nothing_differs_where_nothing_is_randomised(plain: ImageReach) -> None:
    first = images(plain, 0)
    np.testing.assert_array_equal(first, images(plain, 1))
    for place, part in ((TABLE, "table"), (SHEET, "sheet")):  # faces up: its very colour
        np.testing.assert_allclose(first[0][place], 255 * np.array(COLOURS[part]), atol=1.0)


def test_colours_and_light_change_with_the_episode_alone() -> None:
    for option, strength in (("colours", 0.2), ("light", 0.3)):
        env = ImageReach(**{option: strength})
        seen = []
        for _ in range(15):
            first, second = env.reset(options=START)[0], env.step(FORTH)[0]
            for place in (TABLE, SHEET):
                np.testing.assert_array_equal(first[place], second[place])
            seen.append(np.concatenate((first[TABLE], first[SHEET])).astype(float))
        assert (np.ptp(seen, axis=0) > 25).all()
        if option == "colours":
            middle = 255 * np.array((*COLOURS["table"], *COLOURS["sheet"]))
            assert np.abs(np.array(seen) - middle).max() <= 255 * strength + 1
        env.close()


def test_every_part_has_a_colour_of_its_own() -> None:
    env = ImageReach()
    before = env.reset(options={"state": (0.5, 0.0)})[0].astype(int)
    found: list[set[tuple[int, int]]] = []
    for part in COLOURS:
        env.world.paint({**COLOURS, part: (0.4, 0.9, 0.9)})
        changed = np.abs(env.render_camera(64, 64) - before).max(2) > 25
        found.append(set(zip(*np.nonzero(changed), strict=True)))
        assert found[-1], part
    assert sum(map(len, found)) == len(set().union(*found))
    env.world.paint(COLOURS)
    np.testing.assert_array_equal(env.render_camera(64, 64), before)
    env.close()


def test_the_lamp_leans_and_surfaces_show_it(plain: ImageReach) -> None:
    plain.reset(options=START)
    overhead = plain.render_camera(64, 64).astype(int)
    plain._lamp = (0.6, 0.0, 0.8)
    leaning = plain.render_camera(64, 64).astype(int)
    assert (leaning[SHEET] < overhead[SHEET]).all()
    front = (46, 40)  # the face of a block towards the camera, and the lamp
    assert overhead[front][0] > 1.5 * overhead[front][1] and leaning[front][0] > overhead[front][0] + 20
    env = ImageReach(light=0.3)
    lamps = []
    for seed in range(20):
        env.reset(seed=seed)
        lamps.append(env._lamp)
        assert np.linalg.norm(env._lamp) == pytest.approx(1.0)
    leans = np.arctan2(np.array(lamps)[:, :2], np.array(lamps)[:, 2:])
    assert np.abs(leans).max() <= 0.3 and (np.ptp(leans, axis=0) > 0.3).all()
    env.close()


@pytest.mark.parametrize(
    ("pose", "moved"),
    [
        (CameraPose(), Camera((0, 0, 2), (0, 0, 0), (0, 1, 0), 90)),
        (CameraPose(shift_x=0.25, shift_y=-0.5), Camera((1, -2, 2), (1, -2, 0), (0, 1, 0), 90)),  # it sees a width of 4
        (CameraPose(tilt_x_rad=np.pi / 4), Camera((2**0.5, 0, 2**0.5), (0, 0, 0), (0, 1, 0), 90)),
        (CameraPose(roll_rad=np.pi / 2), Camera((0, 0, 2), (0, 0, 0), (-1, 0, 0), 90)),
        (CameraPose(zoom=2.0), Camera((0, 0, 2), (0, 0, 0), (0, 1, 0), np.degrees(2 * np.arctan(0.5)))),
    ],
)
def test_a_pose_moves_the_camera(pose: CameraPose, moved: Camera) -> None:
    found = Camera((0, 0, 2), (0, 0, 0), (0, 1, 0), 90).moved(pose)
    for name in ("eye", "target", "up", "field_of_view_deg"):
        np.testing.assert_allclose(getattr(found, name), getattr(moved, name), atol=1e-12, err_msg=name)


def test_a_moved_camera_shifts_the_picture_by_its_share(plain: ImageReach) -> None:
    plain.reset(options=START)

    def goal(pose: CameraPose) -> npt.NDArray[np.float64]:
        picture = plain.render_camera(64, 64, plain.CAMERA.moved(pose)).astype(float)
        green = picture[:, :, 1] > 1.5 * picture[:, :, [0, 2]].max(2) + 20
        return np.array(np.nonzero(green)).mean(1)

    shift = goal(CameraPose(shift_x=0.05, shift_y=0.05)) - goal(CameraPose())
    np.testing.assert_allclose(shift, (3.2, -3.2), atol=0.8)  # up in the picture: the scene goes down


def test_late_pictures_are_those_of_the_step_before(plain: ImageReach) -> None:
    env = ImageReach(latency=1.0)
    on_time, late = images(plain, 0), images(env, 0)
    np.testing.assert_array_equal(late[0], on_time[0])
    np.testing.assert_array_equal(late[1:], on_time[:-1])
    env.close()


def test_noise_has_the_deviation_that_was_asked_for(plain: ImageReach) -> None:
    env = ImageReach(noise=4.0)
    off = images(env, 0).astype(float) - images(plain, 0)
    assert off[:, 50:, :20].std() == pytest.approx(4.0, rel=0.05)
    env.close()


def test_a_state_brings_everything_back(wild: ImageReach, plain: ImageReach) -> None:
    images(wild, 5, 2)
    state = json.loads(json.dumps(wild.get_state()))
    expected = [wild.step(FORTH)[0] for _ in range(3)] + [wild.reset()[0]]
    copied = pickle.loads(pickle.dumps(wild))  # noqa: S301 - our own
    images(wild, 6, 2)
    other = ImageReach(frames=2, **EVERYTHING)
    for restored in (wild, other):
        restored.set_state(state)
        found = [restored.step(FORTH)[0] for _ in range(3)] + [restored.reset()[0]]
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(copied.step(FORTH)[0], copy.deepcopy(other).step(FORTH)[0])
    with pytest.raises(UserError, match="2 frames instead of 1"):
        plain.set_state(state)
    for one in (other, copied):
        one.close()


@pytest.mark.parametrize(
    "change",
    [{"pose": {"zoom": 1.0}}, {"colours": {}}, {"lamp": "up"}, {"shown": ["?"]}, {"light": [1.0]}, {"rng": {}}],
    ids=lambda change: next(iter(change)),
)
def test_a_damaged_state_changes_nothing(wild: ImageReach, change: dict[str, Any]) -> None:
    images(wild, 5, 2)
    before = wild.get_state()
    physics = before["physics"]
    images(wild, 6, 2)
    kept = wild.get_state()
    with pytest.raises(UserError, match="damaged"):
        wild.set_state({**before, "physics": {**physics, "camera": {**physics["camera"], **change}}})
    assert wild.get_state() == kept


def test_options_come_by_the_name_of_the_environment() -> None:
    env = make_env("safe_rl/ImageReach-v0?image_size=32&frames=2&noise=3&camera=0.02&renderer=tiny")
    assert env.observation_space.shape == (32, 32, 6)
    inner: Any = env.unwrapped
    assert inner.randomization == Randomization(noise=3, camera=0.02)
    env.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [({"colours": 2.0}, "colours=2.0"), ({"frames": 0}, "frames=0"), ({"latency": -0.1}, "latency=-0.1")],
)
def test_options_out_of_range_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ImageReach(**options)


def test_the_map_shows_the_stylus_at_rest(plain: ImageReach) -> None:
    points = np.array(((0.5, -0.2), (0.42, 0.0)))
    images(plain, 0)
    rows, after = plain.plane_observation(points), plain.get_state()
    for point, row in zip(points, rows, strict=True):
        np.testing.assert_array_equal(plain.reset(options={"state": point})[0].reshape(-1), row)
    images(plain, 0)
    assert plain.get_state()["physics"]["joints"] == after["physics"]["joints"]


# The renderers


@pytest.mark.parametrize("options", [{}, {"colours": 0.2, "light": 0.3, "camera": 0.03}], ids=["plain", "random"])
def test_opengl_sees_what_tinyrenderer_sees(options: dict[str, Any]) -> None:
    """At most 4 levels of 255 on average, the same colour where a surface faces up, edges alone far apart."""
    try:
        disconnect(connect("egl"))
    except UserError:
        pytest.skip("no EGL here")
    tiny, egl = ImageReach(**options), ImageReach(renderer="egl", **options)
    rng = np.random.default_rng(0)
    try:
        for seed in range(5):
            state = tiny.sample_offline_segment(rng).state
            pictures = [env.reset(seed=seed, options={"state": state})[0] for env in (tiny, egl)]
            pictures += [env.step(FORTH)[0] for env in (tiny, egl)]
            for ours, theirs in (pictures[:2], pictures[2:]):
                off = np.abs(ours.astype(int) - theirs)
                assert off.mean() < 4.0
                assert (off.max(2) > 32).mean() < 0.01
                np.testing.assert_allclose(ours[TABLE].astype(int), theirs[TABLE], atol=3)
                np.testing.assert_allclose(ours[SHEET].astype(int), theirs[SHEET], atol=3)
    finally:
        tiny.close()
        egl.close()
