"""The renderers, held against hand-worked pictures and against each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("cv2")

import cv2

import sim
from safe_rl.envs.protocols import Box2D, PlaneMap
from safe_rl.errors import UserError
from sim.navigation import NAVIGATION1_MAP, NAVIGATION2_MAP
from sim.plane_view import CameraPose, Colours, Look, PlaneCamera, PlaneRenderer, make_plane_renderer

Picture = npt.NDArray[np.uint8]

UNIT_MAP = PlaneMap(
    Box2D(0, 64, 0, 64), (Box2D(10.25, 20.5, 40, 48), Box2D(-500, 10, 0, 2)), goal=(50.0, 20.0), goal_radius=5.0,
    robot_radius=4.0,
)  # fmt: skip
"""One unit is one pixel of a picture that is 64 wide; y counts from below."""
TILTED = Look(
    Colours((180, 200, 160), (250, 0, 0), (10, 10, 30), (240, 240, 90)),
    CameraPose(shift_x=0.05, shift_y=-0.03, tilt_x_rad=0.05, tilt_y_rad=-0.04, roll_rad=0.05, zoom=1.02),
)
LOOKS = {"standard": Look(), "tilted": TILTED}
ROOT = Path(sim.__file__).parents[1]


def egl_works() -> bool:
    from sim.rendering import connect, disconnect

    try:
        disconnect(connect("egl"))
    except UserError:
        return False
    return True


def similarity(first: Picture, second: Picture) -> float:
    """Mean structural similarity (Wang et al., 2004) of the grey pictures, with a Gaussian window of 7 pixels."""
    a, b = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float64) for picture in (first, second))

    def mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return cv2.GaussianBlur(values, (7, 7), 1.5)

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b, cov = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2, mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    return float((top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean())


def mixed(first: tuple[int, int, int], second: tuple[int, int, int], share: float) -> npt.NDArray[np.float64]:
    return (1 - share) * np.array(first) + share * np.array(second)


def robot_place(renderer: PlaneRenderer, x: float, y: float) -> npt.NDArray[np.float64]:
    """Middle (column, row) of what changes in the picture when the robot enters."""
    change = np.abs(renderer.draw(x, y).astype(float) - renderer.draw(1e6, 1e6)).sum(2)
    rows, columns = np.mgrid[: len(change), : len(change)] + 0.5
    return np.array(((change * columns).sum(), (change * rows).sum())) / change.sum()


# Hand-worked


def test_the_rasteriser_colours_a_pixel_by_what_covers_it() -> None:
    picture = make_plane_renderer("opencv", UNIT_MAP, 64).draw(30.0, 30.0)
    colours = Colours()
    row = picture[64 - 44]  # through the middle of the box from x = 10.25 to 20.5
    np.testing.assert_array_equal(row[9], colours.floor)
    np.testing.assert_allclose(row[10], mixed(colours.floor, colours.wall, 0.75), atol=1.5)
    np.testing.assert_array_equal(row[11:20], [colours.wall] * 9)
    np.testing.assert_allclose(row[20], mixed(colours.floor, colours.wall, 0.5), atol=1.5)
    np.testing.assert_array_equal(row[21], colours.floor)
    column = picture[:, 15]
    np.testing.assert_array_equal(column[64 - 48 : 64 - 40], [colours.wall] * 8)
    np.testing.assert_array_equal(column[[15, 24]], [colours.floor] * 2)
    np.testing.assert_array_equal(picture[62:, :10], np.full((2, 10, 3), colours.wall))  # of the box that is far wider
    np.testing.assert_array_equal(picture[64 - 20, 50], colours.goal)


@pytest.mark.parametrize("place", [(30.0, 30.0), (30.3, 29.6), (45.5, 55.5)])
def test_the_robot_is_where_it_is_and_as_large_as_it_is(place: tuple[float, float]) -> None:
    renderer = make_plane_renderer("opencv", UNIT_MAP, 64)
    np.testing.assert_allclose(robot_place(renderer, *place), (place[0], 64 - place[1]), atol=0.05)
    picture = renderer.draw(*place)
    axis = np.array(Colours().robot, float) - Colours().floor
    background = renderer.draw(1e6, 1e6).astype(float)  # far outside: no robot
    covered = ((picture - background) @ axis / (axis @ axis)).sum()
    assert covered == pytest.approx(np.pi * 4.0**2, rel=0.02)


def test_a_camera_straight_above_maps_the_corners_of_the_bounds_to_those_of_the_picture() -> None:
    camera = PlaneCamera(UNIT_MAP, CameraPose(), 64)
    points = np.array(((0.0, 0.0), (64.0, 0.0), (64.0, 64.0), (32.0, 40.0)))
    pixels = np.array(((0.0, 64.0), (64.0, 64.0), (64.0, 0.0), (32.0, 24.0)))
    np.testing.assert_allclose(camera.pixels(points), pixels, atol=1e-9)
    np.testing.assert_allclose(camera.points(pixels), points, atol=1e-9)


@pytest.mark.parametrize(
    ("pose", "pixel"),
    [
        (CameraPose(shift_x=0.25), (16.0, 32.0)),  # the camera went right, the middle of the map left
        (CameraPose(shift_y=0.25), (32.0, 48.0)),
        (CameraPose(roll_rad=np.pi / 2, shift_x=0.25), (32.0, 16.0)),  # left is up
        (CameraPose(zoom=2.0, shift_x=0.125), (16.0, 32.0)),
        (CameraPose(tilt_x_rad=0.2), (32.0, 32.0)),  # it leans over what it looks at
    ],
)
def test_a_pose_moves_the_middle_of_the_map(pose: CameraPose, pixel: tuple[float, float]) -> None:
    np.testing.assert_allclose(PlaneCamera(UNIT_MAP, pose, 64).pixels(np.array(((32.0, 32.0),)))[0], pixel, atol=1e-9)


def test_what_a_leaning_camera_is_nearer_to_looks_larger() -> None:
    camera = PlaneCamera(UNIT_MAP, CameraPose(tilt_x_rad=0.2), 64)
    low, high = (camera.pixels(np.array(((0.0, y), (64.0, y))))[:, 1] for y in (24.0, 40.0))
    left, right = low - high
    assert right > 16 > left


def test_a_picture_is_the_callers_own() -> None:
    renderer = make_plane_renderer("opencv", UNIT_MAP, 64)
    first = renderer.draw(30.0, 30.0)
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(renderer.draw(30.0, 30.0), kept)


# Against each other


@pytest.mark.parametrize("renderer", ["tiny", "egl"])
@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", ["unit", "navigation1", "navigation2", "maze", "image_maze"])
def test_the_renderers_agree(renderer: str, look: str, name: str) -> None:
    """Structural similarity at least 0.988, at most 1.5 levels on average, the robot within a fifth of a pixel."""
    pytest.importorskip("pybullet")
    if renderer == "egl" and not egl_works():
        pytest.skip("no EGL here")
    from sim.image_maze import IMAGE_MAZE_MAP
    from sim.maze import MAZE_MAP

    maps = {"unit": UNIT_MAP, "navigation1": NAVIGATION1_MAP, "navigation2": NAVIGATION2_MAP, "maze": MAZE_MAP}
    plane_map = maps.get(name, IMAGE_MAZE_MAP)
    ours, theirs = make_plane_renderer("opencv", plane_map, 64), make_plane_renderer(renderer, plane_map, 64)
    bounds, rng = plane_map.bounds, np.random.default_rng(0)
    try:
        for drawer in (ours, theirs):
            drawer.set_look(LOOKS[look])
        middle = np.array((bounds.x_min + bounds.x_max, bounds.y_min + bounds.y_max)) / 2
        half = np.array((bounds.x_max - bounds.x_min, bounds.y_max - bounds.y_min)) / 2
        for x, y in (middle + half * rng.uniform(-0.8, 0.8, (2 if renderer == "egl" else 4, 2))).tolist():
            first, second = ours.draw(x, y), theirs.draw(x, y)
            assert similarity(first, second) > 0.988
            difference = np.abs(first.astype(int) - second)
            assert difference.mean() < 1.5
            assert (difference.max(2) > 64).mean() < 0.002  # edges alone, and few of them
            np.testing.assert_allclose(robot_place(ours, x, y), robot_place(theirs, x, y), atol=0.2)
    finally:
        theirs.close()


def test_the_measure_of_similarity_tells_pictures_apart() -> None:
    renderer = make_plane_renderer("opencv", UNIT_MAP, 64)
    first = renderer.draw(30.0, 30.0)
    assert similarity(first, first) == pytest.approx(1.0)
    assert similarity(first, renderer.draw(33.0, 30.0)) < 0.988  # three pixels
    renderer.set_look(Look(pose=CameraPose(shift_x=0.5 / 64)))
    assert similarity(first, renderer.draw(30.0, 30.0)) < 0.988  # half a pixel of everything


# What a machine cannot offer


def test_an_unknown_renderer_is_refused() -> None:
    with pytest.raises(UserError, match=r"'vulkan'.*opencv, tiny, egl"):
        make_plane_renderer("vulkan", UNIT_MAP, 64)


def in_a_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_a_machine_without_a_driver_names_the_package(tmp_path: Path) -> None:
    pytest.importorskip("pybullet")
    code = (
        "from sim.rendering import connect\nfrom safe_rl.errors import UserError\n"
        "try:\n    connect('egl')\nexcept UserError as error:\n    print(error)"
    )
    done = in_a_process(code, __EGL_VENDOR_LIBRARY_DIRS=str(tmp_path), __EGL_VENDOR_LIBRARY_FILENAMES="")
    assert done.returncode == 0, done.stderr
    assert "libegl" in done.stdout and "libgl1-mesa-dri" in done.stdout and "'tiny'" in done.stdout
    assert done.stdout.count("\n") == 1 and done.stderr == ""


def test_a_machine_without_libegl_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pybullet")
    from sim import rendering

    rendering._check_egl.cache_clear()

    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(rendering.ctypes, "CDLL", missing)
    try:
        with pytest.raises(UserError, match=r"libEGL\.so\.1: apt-get install libegl1"):
            rendering.connect("egl")
    finally:
        rendering._check_egl.cache_clear()


def test_egl_is_silent_and_draws_one_client_at_a_time() -> None:
    pytest.importorskip("pybullet")
    if not egl_works():
        pytest.skip("no EGL here")
    code = (
        "from sim.rendering import connect, disconnect\nfrom safe_rl.errors import UserError\n"
        "from sim.plane_view import make_plane_renderer\nfrom sim.navigation import NAVIGATION2_MAP\n"
        "first = make_plane_renderer('egl', NAVIGATION2_MAP, 32)\n"
        "before = first.draw(-50.0, 0.0)\n"
        "try:\n    connect('egl')\nexcept UserError as error:\n    print(error)\n"
        "assert (first.draw(-50.0, 0.0) == before).all()\n"  # the refused one has done no harm
        "first.close()\n"
        "second = make_plane_renderer('egl', NAVIGATION2_MAP, 32)\n"
        "assert (second.draw(-50.0, 0.0) == before).all()\nsecond.close()\nprint('done')"
    )
    done = in_a_process(code)
    assert done.stderr == ""
    first, last = done.stdout.strip().split("\n")
    assert "one environment a process" in first and last == "done"


def test_tiny_refuses_what_it_is_not() -> None:
    pytest.importorskip("pybullet")
    from sim.rendering import connect

    with pytest.raises(UserError, match=r"'opencv'.*tiny, egl"):
        connect("opencv")
