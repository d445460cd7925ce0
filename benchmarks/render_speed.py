"""Measures how fast cameras and image environments are.

Run it from the repository's root: ``python -m benchmarks.render_speed``. It uses one process and one core (Mesa's
OpenGL takes more) and about a minute; ``--cpu-time`` divides by the process's CPU time, for a machine that is busy with
other work. Every figure is the median of the repeats, smallest and largest beside it. A renderer that the machine
cannot offer is left out, with the reason.
"""

from __future__ import annotations

import platform
import statistics
import sys
from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any

import gymnasium as gym
import numpy as np

import sim
from safe_rl.envs.protocols import PlaneMap
from safe_rl.errors import UserError
from sim.image_maze import IMAGE_MAZE_MAP
from sim.navigation import NAVIGATION1_MAP, NAVIGATION2_MAP
from sim.plane_view import RENDERERS, Look, make_plane_renderer
from sim.randomization import Randomization

REPEATS = 7
SIZE = 64
MAPS = {"Image Maze": IMAGE_MAZE_MAP, "Navigation 1": NAVIGATION1_MAP, "Navigation 2": NAVIGATION2_MAP}
FRAMES = {"opencv": 4000, "tiny": 60, "egl": 20}
RANDOM = {"colours": 0.2, "light": 0.3, "camera": 0.03, "noise": 5.0, "latency": 0.5}


def frames_per_sec(renderer: str, plane_map: PlaneMap) -> list[float]:
    """Returns the pictures a second of a renderer, a number for each repeat, with the robot at random places."""
    bounds, count = plane_map.bounds, FRAMES[renderer]
    low, high = (bounds.x_min, bounds.y_min), (bounds.x_max, bounds.y_max)
    places = np.random.default_rng(0).uniform(low, high, (256, 2)).tolist()
    drawer = make_plane_renderer(renderer, plane_map, SIZE)
    drawer.draw(*places[0])

    def draw() -> None:
        for k in range(count):
            x, y = places[k % 256]
            drawer.draw(x, y)

    try:
        return _rates(draw, count)
    finally:
        drawer.close()


def looks_per_sec(renderer: str, plane_map: PlaneMap) -> list[float]:
    """Returns how often a second a renderer can take a new camera and new colours, as at the start of an episode."""
    rng, count = np.random.default_rng(0), 40
    randomization = Randomization(colours=0.2, camera=0.03)
    looks = [randomization.sample_look(rng) for _ in range(count)]
    drawer = make_plane_renderer(renderer, plane_map, SIZE)

    def change() -> None:
        for look in looks:
            drawer.set_look(look)

    try:
        return _rates(change, count)
    finally:
        drawer.set_look(Look())
        drawer.close()


def steps_per_sec(env_id: str, **options: Any) -> list[float]:
    """Returns the steps a second of an environment under random actions, resets included."""
    steps = 1500
    env = gym.make(env_id, disable_env_checker=True, **options)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(256)]

    def step() -> None:
        for k in range(steps):
            _, _, terminated, truncated, _ = env.step(actions[k % 256])
            if terminated or truncated:
                env.reset()

    try:
        return _rates(step, steps)
    finally:
        env.close()


def _rates(work: Callable[[], None], count: int) -> list[float]:
    clock = process_time if "--cpu-time" in sys.argv else perf_counter
    rates = []
    for _ in range(REPEATS):
        start = clock()
        work()
        rates.append(count / (clock() - start))
    return rates


def _row(what: str, rates: list[float], unit: str) -> str:
    return f"{what:<52} {statistics.median(rates):>9,.0f} {unit} ({min(rates):,.0f} to {max(rates):,.0f})"


def main() -> None:
    """Prints all figures."""
    sim.register_envs()
    print(f"{platform.machine()}, Python {platform.python_version()}, {SIZE} x {SIZE} pixels, {REPEATS} repeats")
    for renderer in RENDERERS:
        try:
            for name, plane_map in MAPS.items():
                print(_row(f"{renderer}, {name}", frames_per_sec(renderer, plane_map), "frames/s"), flush=True)
            print(_row(f"{renderer}, new colours and camera", looks_per_sec(renderer, IMAGE_MAZE_MAP), "looks/s"))
        except UserError as error:
            print(f"{renderer}: left out: {error}")
    for name in ("Navigation1", "Navigation2", "Maze"):
        print(_row(f"{name}, states", steps_per_sec(f"safe_rl/{name}-v0"), "steps/s"), flush=True)
        print(_row(f"Image{name}", steps_per_sec(f"safe_rl/Image{name}-v0"), "steps/s"), flush=True)
        print(_row(f"Image{name}, all randomised", steps_per_sec(f"safe_rl/Image{name}-v0", **RANDOM), "steps/s"))


if __name__ == "__main__":
    main()
