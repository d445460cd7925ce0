"""Simulated environments: point-mass navigation, a maze and arms in PyBullet, as Gymnasium environments.

Importing this package registers them; it loads neither PyBullet nor OpenCV.
"""

from __future__ import annotations

_ENVIRONMENTS: dict[str, tuple[str, str | None, int]] = {
    "safe_rl/Navigation1-v0": ("sim.navigation:Navigation1", "sim.navigation_vector:Navigation1Vector", 100),
    "safe_rl/Navigation2-v0": ("sim.navigation:Navigation2", "sim.navigation_vector:Navigation2Vector", 100),
    "safe_rl/DiscreteNavigation2-v0": ("sim.discrete:DiscreteNavigation2", None, 100),
    "safe_rl/Maze-v0": ("sim.maze:Maze", None, 100),
    "safe_rl/ImageMaze-v0": ("sim.image_maze:ImageMaze", None, 50),
    "safe_rl/ImageNavigation1-v0": ("sim.image_navigation:ImageNavigation1", None, 100),
    "safe_rl/ImageNavigation2-v0": ("sim.image_navigation:ImageNavigation2", None, 100),
    "safe_rl/ObjectExtraction-v0": ("sim.extraction:ObjectExtraction", None, 25),
    "safe_rl/ObjectExtractionDynamic-v0": ("sim.extraction:ObjectExtractionDynamic", None, 25),
    "safe_rl/Reach-v0": ("sim.reach:Reach", None, 50),
    "safe_rl/ImageReach-v0": ("sim.image_reach:ImageReach", None, 50),
}
"""Entry point, that of the vectorised environment, and horizon."""


def register_envs() -> None:
    """Registers the environments with Gymnasium; calling it again changes nothing."""
    from gymnasium.envs.registration import register, registry

    for env_id, (entry_point, vector_entry_point, horizon) in _ENVIRONMENTS.items():
        if env_id not in registry:
            register(env_id, entry_point, vector_entry_point=vector_entry_point, max_episode_steps=horizon)


register_envs()
