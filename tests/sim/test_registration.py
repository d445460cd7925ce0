from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import pytest

import sim

ROOT = Path(sim.__file__).parents[1]


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.strip()


def test_registering_loads_neither_pybullet_nor_opencv() -> None:
    code = "import sys, sim; sim.register_envs(); print([m for m in ('pybullet', 'cv2', 'torch') if m in sys.modules])"
    assert run_python(code) == "[]"


def test_importing_the_package_registers() -> None:
    code = "import gymnasium, sim; print(gymnasium.spec('safe_rl/Navigation2-v0').entry_point)"
    assert run_python(code) == "sim.navigation:Navigation2"


def test_gymnasium_finds_the_environment_by_module_and_id() -> None:
    assert run_python("import gymnasium; print(gymnasium.make('sim:safe_rl/Navigation1-v0').unwrapped.spec.id)") == (
        "safe_rl/Navigation1-v0"
    )


def test_pybullet_prints_nothing_when_imported_and_standard_error_still_works() -> None:
    pytest.importorskip("pybullet")
    done = subprocess.run(
        [sys.executable, "-c", "import sys, sim.maze; print('after', file=sys.stderr)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "after\n")


def test_registering_twice_is_harmless() -> None:
    before = dict(gym.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sim.register_envs()
        sim.register_envs()
    assert dict(gym.registry) == before


@pytest.mark.parametrize("number", [1, 2])
def test_make_vec_finds_the_native_vector_environment(number: int) -> None:
    envs = gym.make_vec(f"safe_rl/Navigation{number}-v0", num_envs=3, vectorization_mode="vector_entry_point")
    assert type(envs.unwrapped).__name__ == f"Navigation{number}Vector"
    assert envs.unwrapped.max_episode_steps == 100
