"""Recovery RL with discrete actions, in an environment of Gymnasium's: a walk along a cliff on slippery ground.

Cliff Walking is a grid of 4 x 12 tiles; the start is at the lower left, the goal at the lower right, and between them
is the cliff. Two steps in three slip sideways, so the shortest way is a dangerous one. Here the fall is no price of 100
but a constraint of its own, ``info["fell"]``, and it ends the episode. Who knows the cliff need never fall.

python examples/cliff_walking.py --episodes 100 --output runs/examples/cliff
"""

import gymnasium as gym
import numpy as np
from example import run_example
from gymnasium.envs.toy_text.cliffwalking import CliffWalkingEnv


class CliffWithConstraint(gym.Wrapper):
    """Observations are one-hot (48,), one number a tile; every step costs a reward of 1."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = gym.spaces.Box(0.0, 1.0, (int(env.observation_space.n),), np.float32)
        self._tiles = np.eye(int(env.observation_space.n), dtype=np.float32)

    def reset(self, **kwargs):
        tile, info = self.env.reset(**kwargs)
        return self._tiles[tile].copy(), info

    def step(self, action):
        tile, reward, arrived, truncated, info = self.env.step(action)
        fell = reward < -1
        info = {**info, "fell": float(fell), "success": arrived}
        return self._tiles[tile].copy(), -1.0, arrived or fell, truncated, info


def make(render_mode: str | None = None) -> gym.Env:
    """The factory that ``--env cliff_walking:make`` names."""
    cliff = CliffWithConstraint(CliffWalkingEnv(render_mode=render_mode, is_slippery=True))
    return gym.wrappers.TimeLimit(cliff, max_episode_steps=200)


if __name__ == "__main__":
    run_example("cliff_walking:make", transitions=5_000, cost_key="fell")
