"""Recovery RL in an environment of your own: any Gymnasium environment that reports its constraint in ``info``.

A cart on a track of 4 m, which it must not leave; the task is to stand at 1.5 m. The constraint has a name of its own,
``info["off_track"]``, so that is what ``cost_key`` says.

python examples/own_environment.py --episodes 40 --output runs/examples/own
"""

import gymnasium as gym
import numpy as np
from example import run_example


class Track(gym.Env):
    """State: position (m) and speed (m/s); action: acceleration in [-1, 1] m/s^2, held for 0.2 s."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.speed = self.np_random.uniform(-1.5, 1.0), 0.0
        return self._observe(), {}

    def step(self, action):
        self.speed += 0.2 * float(action[0])
        self.position += 0.2 * self.speed
        off_track = abs(self.position) > 2.0
        arrived = abs(self.position - 1.5) < 0.1 and abs(self.speed) < 0.2
        info = {"off_track": off_track, "success": arrived}
        return self._observe(), -abs(self.position - 1.5), off_track or arrived, False, info

    def _observe(self):
        return np.array([self.position, self.speed], np.float32)


def make() -> gym.Env:
    """The factory that ``--env own_environment:make`` names."""
    return gym.wrappers.TimeLimit(Track(), max_episode_steps=60)


if __name__ == "__main__":
    run_example("own_environment:make", transitions=10_000, cost_key="off_track")
