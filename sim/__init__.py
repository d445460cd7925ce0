"""Simulated environments: point-mass navigation and a PyBullet maze, as Gymnasium environments.

Importing this package registers them; it loads neither PyBullet nor OpenCV.
"""

from __future__ import annotations

_ENVIRONMENTS = {
    "safe_rl/Navigation1-v0": ("sim.navigation:Navigation1", "sim.navigation_vector:Navigation1Vector"),
    "safe_rl/Navigation2-v0": ("sim.navigation:Navigation2", "sim.navigation_vector:Navigation2Vector"),
    "safe_rl/Maze-v0": ("sim.maze:Maze", None),
}
_HORIZON = 100


def register_envs() -> None:
    """Registers the environments with Gymnasium; calling it again changes nothing."""
    from gymnasium.envs.registration import register, registry

    for env_id, (entry_point, vector_entry_point) in _ENVIRONMENTS.items():
        if env_id not in registry:
            register(env_id, entry_point, vector_entry_point=vector_entry_point, max_episode_steps=_HORIZON)


register_envs()
