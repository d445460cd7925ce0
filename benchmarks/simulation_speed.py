"""Measures how fast the environments step.

Run it from the repository's root: ``python -m benchmarks.simulation_speed``. It uses one core and takes about a minute.

For Maze and Object Extraction the bare rate is that of ``stepSimulation`` alone with the same substeps, along the same
motions: a second world goes through the same episodes and only its ``stepSimulation`` is timed, alternately with the
environment's ``step``.
"""

from __future__ import annotations

import platform
import statistics
from time import perf_counter
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

import sim
from sim.bullet import pybullet
from sim.extraction import ROD_LOOKS, ObjectExtraction
from sim.extraction_scene import GRIPPER_RANGE, JAW_RANGE
from sim.image_reach import ImageReach
from sim.maze import MAX_FORCE, Maze

REPEATS = 7
MAZE_REPEATS = 15
EXTRACTION_REPEATS = 5

Times = npt.NDArray[np.float64]


def vector_steps_per_sec(env_id: str, num_envs: int = 1024, steps: int = 1000) -> float:
    """Returns environment steps a second of the vectorised navigation, resets included."""
    envs = gym.make_vec(env_id, num_envs=num_envs, vectorization_mode="vector_entry_point")
    envs.reset(seed=0)
    envs.action_space.seed(0)
    actions = [envs.action_space.sample() for _ in range(32)]
    start = perf_counter()
    for k in range(steps):
        envs.step(actions[k % 32])
    return num_envs * steps / (perf_counter() - start)


def single_steps_per_sec(env: gym.Env[Any, Any], steps: int) -> float:
    """Returns steps a second of one environment under random actions, resets included."""
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(256)]
    start = perf_counter()
    for k in range(steps):
        _, _, terminated, truncated, _ = env.step(actions[k % 256])
        if terminated or truncated:
            env.reset()
    return steps / (perf_counter() - start)


def maze_step_times(env: gym.Env[Any, Any], steps: int = 3000) -> tuple[Times, Times]:
    """Returns the seconds of each environment step and of each bare ``stepSimulation``, (steps,) both.

    The episodes are the same in every call: experts with noise from starts in all three chambers.
    """
    maze: Maze = env.unwrapped  # type: ignore[assignment]
    bare = Maze()
    rng = np.random.default_rng(0)
    env_times, bare_times = np.zeros(steps), np.zeros(steps)
    done, obs = True, np.zeros(2, np.float32)
    for k in range(steps):
        if done:
            segment_start = maze.sample_offline_segment(rng).state
            obs, _ = env.reset(options={"state": segment_start})
            bare.reset(options={"state": segment_start})
        noise = rng.normal(0.0, 0.3 * MAX_FORCE, 2)
        action = np.clip(maze.expert_action(obs) + noise, -MAX_FORCE, MAX_FORCE).astype(np.float32)
        start = perf_counter()
        obs, _, terminated, truncated, _ = env.step(action)
        env_times[k] = perf_counter() - start
        done = terminated or truncated
        _push(bare, action)
        start = perf_counter()
        pybullet.stepSimulation(physicsClientId=bare._client)
        bare_times[k] = perf_counter() - start
    bare.close()
    return env_times, bare_times


def extraction_step_times(env: gym.Env[Any, Any], steps: int = 1500) -> tuple[Times, Times]:
    """Returns the seconds of each environment step and of the bare ``stepSimulation`` of the same time, (steps,) both.

    The episodes are the same in every call: experts with noise, which grasp, lift and topple. The bare world is brought
    to each step's start and its motors are set, untimed.
    """
    extraction: ObjectExtraction = env.unwrapped  # type: ignore[assignment]
    bare = type(extraction)()
    calls = ROD_LOOKS if extraction.HAS_ROD else 1
    rng = np.random.default_rng(0)
    env_times, bare_times = np.zeros(steps), np.zeros(steps)
    done, obs, episode = True, np.zeros(0, np.float32), 0
    for k in range(steps):
        if done:
            obs, _ = env.reset(seed=episode)
            episode += 1
            bare.set_state(extraction.get_state())
        noise = 0.2 * extraction.action_space.high * rng.standard_normal(4)  # type: ignore[attr-defined]
        action = (extraction.expert_action(obs) + noise).astype(np.float32)
        _drive(bare, extraction, action)
        start = perf_counter()
        for _ in range(calls):
            pybullet.stepSimulation(physicsClientId=bare.world.client)
        bare_times[k] = perf_counter() - start
        start = perf_counter()
        obs, _, terminated, truncated, _ = env.step(action)
        env_times[k] = perf_counter() - start
        done = terminated or truncated
    bare.close()
    return env_times, bare_times


def _drive(bare: ObjectExtraction, extraction: ObjectExtraction, action: npt.NDArray[np.float32]) -> None:
    """Brings the bare world to the environment's state and sets its motors as the environment's step will."""
    bare.world.set(extraction._joints, extraction._bodies)
    moves = np.clip(action, extraction.action_space.low, extraction.action_space.high)  # type: ignore[attr-defined]
    targets = [
        min(max(joint[0] + float(move), low), high)
        for joint, move, (low, high) in zip(extraction._joints, moves[:3], GRIPPER_RANGE, strict=False)
    ]
    jaw = min(max(extraction._jaw + float(moves[3]), JAW_RANGE[0]), JAW_RANGE[1])
    bare.world.drive_gripper([*targets, jaw, jaw])
    if extraction.HAS_ROD:
        bare.world.drive_rod(extraction._sweep)


def frames_per_sec(frames: int = 200) -> float:
    """Returns the pictures a second of 64 x 64 that Image Reach takes."""
    env = ImageReach()
    env.reset(seed=0)
    start = perf_counter()
    for _ in range(frames):
        env.render_camera(64, 64)
    rate = frames / (perf_counter() - start)
    env.close()
    return rate


def report_share(name: str, repeats: list[tuple[Times, Times]]) -> None:
    """Reports rates from every step's median over the repeats, which a busy machine disturbs less than the sum."""
    env_times, bare_times = (np.median([times[i] for times in repeats], axis=0) for i in range(2))
    shares = [100 * float(bare.sum() / step.sum()) for step, bare in repeats]
    print(f"{name:<58} {len(env_times) / env_times.sum():>12,.0f} steps/s")
    print(
        f"{'  bare stepSimulation, same substeps and motions':<58} {len(bare_times) / bare_times.sum():>12,.0f} calls/s"
    )
    print(
        f"{'  share of the bare rate':<58} {100 * bare_times.sum() / env_times.sum():>12.1f} %        "
        f"(single repeats {min(shares):.1f} to {max(shares):.1f})"
    )


def _push(maze: Maze, action: np.ndarray[Any, Any]) -> None:
    force = (float(action[0]), float(action[1]), 0.0)
    pybullet.resetBaseVelocity(maze._robot, (0, 0, 0), (0, 0, 0), physicsClientId=maze._client)
    pybullet.applyExternalForce(maze._robot, -1, force, (0, 0, 0), pybullet.LINK_FRAME, physicsClientId=maze._client)


def report(name: str, values: list[float], unit: str, digits: int = 0) -> None:
    median = statistics.median(values)
    print(f"{name:<58} {median:>12,.{digits}f} {unit:<8} ({min(values):,.{digits}f} to {max(values):,.{digits}f})")


def main() -> None:
    sim.register_envs()
    print(
        f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}, gymnasium {gym.__version__}"
    )
    print(f"median of {REPEATS} repeats (smallest to largest)\n")
    for number in (1, 2):
        env_id = f"safe_rl/Navigation{number}-v0"
        vector = [vector_steps_per_sec(env_id) for _ in range(REPEATS)]
        report(f"Navigation {number}, 1,024 vectorised", vector, "steps/s")
        env = gym.make(env_id, disable_env_checker=True)
        report(
            f"Navigation {number}, one",
            [single_steps_per_sec(env.unwrapped, 30_000) for _ in range(REPEATS)],
            "steps/s",
        )
        report(
            f"Navigation {number}, one, with gymnasium.make's wrappers",
            [single_steps_per_sec(env, 30_000) for _ in range(REPEATS)],
            "steps/s",
        )
    maze = gym.make("safe_rl/Maze-v0", disable_env_checker=True)
    report_share("Maze", [maze_step_times(maze.unwrapped) for _ in range(MAZE_REPEATS)])
    report_share("Maze, with gymnasium.make's wrappers", [maze_step_times(maze) for _ in range(MAZE_REPEATS)])
    for name in ("ObjectExtraction", "ObjectExtractionDynamic"):
        env = gym.make(f"safe_rl/{name}-v0", disable_env_checker=True)
        report_share(name, [extraction_step_times(env.unwrapped) for _ in range(EXTRACTION_REPEATS)])
        env.close()
    for name in ("Reach", "ImageReach"):
        env = gym.make(f"safe_rl/{name}-v0", disable_env_checker=True)
        report(name, [single_steps_per_sec(env.unwrapped, 300) for _ in range(REPEATS)], "steps/s")
        env.close()
    report("ImageReach, 64 x 64 pictures by PyBullet's TinyRenderer", [frames_per_sec() for _ in range(REPEATS)], "1/s")


if __name__ == "__main__":
    main()
