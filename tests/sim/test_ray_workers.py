"""Ray's workers, processes of their own, see the same physics and pictures as this process, several at once in each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray")
pytest.importorskip("pybullet")
pytest.importorskip("cv2")

from safe_rl.envs.factory import make_env
from safe_rl.flow import ActorOptions, RayBackend

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]
ENVS = [
    "safe_rl/Maze-v0",
    "safe_rl/ImageMaze-v0?noise=5&latency=0.5",
    "safe_rl/ImageMaze-v0?renderer=tiny",
    "safe_rl/ObjectExtractionDynamic-v0",
    "safe_rl/ImageReach-v0?colours=0.2&light=0.3",
]
SEEDS = (3, 4)
STEPS = 6
PATIENCE_SEC = 120.0


def walker_class() -> type[Any]:
    """A class that is made in a function travels to the workers by value: they have not this file."""

    class Walker:
        def __init__(self, index: int = 0) -> None:
            self.index = index

        def walk(self, names: list[str], seed: int, steps: int) -> dict[str, Any]:
            """Flat observations of environments that are open together and step in turn."""
            import numpy as np

            from safe_rl.envs.factory import make_env

            envs = [make_env(name) for name in names]
            rng = np.random.default_rng(seed)
            seen = {env.name: [env.flat(env.reset(seed=seed)[0])] for env in envs}
            for _ in range(steps):
                for env in envs:
                    high = env.action_space.high  # type: ignore[attr-defined]
                    obs, _, terminated, _, _ = env.step(rng.uniform(-0.2 * high, 0.2 * high))
                    seen[env.name].append(env.flat(env.reset()[0] if terminated else obs))
            for env in envs:
                env.close()
            return {name: np.array(rows) for name, rows in seen.items()}

    return Walker


def test_workers_see_what_this_process_sees() -> None:
    walker = walker_class()
    open_here = make_env("safe_rl/ImageReach-v0")  # a physics client is open in this process while the workers start
    open_here.reset(seed=0)
    expected = [walker().walk(ENVS, seed, STEPS) for seed in SEEDS]
    with RayBackend(num_cpus=2) as backend:
        walkers = backend.actors(walker, 2, options=ActorOptions(num_cpus=0.1, start_timeout_sec=PATIENCE_SEC))
        asked = [
            handle.call(walker.walk, ENVS, seed, STEPS) for handle, seed in zip(walkers.handles, SEEDS, strict=True)
        ]
        found = [answer.get(PATIENCE_SEC) for answer in asked]
    for ours, theirs in zip(expected, found, strict=True):
        for name in ENVS:
            np.testing.assert_array_equal(theirs[name], ours[name], err_msg=name)
            assert (ours[name][0] != ours[name][-1]).any()  # it moves
    assert (expected[0][ENVS[0]] != expected[1][ENVS[0]]).any()
    open_here.close()
