"""An environment of a user's own, and some that misbehave: what ``--env corridor:make`` and its likes name."""

from __future__ import annotations

import gymnasium as gym
import numpy as np


class Corridor(gym.Env):
    """A point on a line with walls at -1 and 1; the goal is anywhere above 0.5."""

    stride = 0.3
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-0.9, 0.0)
        return self.observe(), {}

    def step(self, action):
        self.position += self.stride * float(action[0])
        bump = abs(self.position) > 1.0
        info = {"cost": bump, "bump": bump, "success": 0.5 < self.position <= 1.0}
        return self.observe(), self.position, bump, False, info

    def observe(self):
        return np.array([self.position, self.position**2], np.float32)


def make(steps: int = 8) -> gym.Env:
    """A working one."""
    return gym.wrappers.TimeLimit(Corridor(), max_episode_steps=steps)


def harmless() -> gym.Env:
    """One whose constraint is never violated."""
    env = Corridor()
    env.stride = 0.001
    return gym.wrappers.TimeLimit(env, max_episode_steps=8)


class _Faulty(gym.Wrapper):
    """Misbehaves in the 40th step of its life."""

    steps = 0

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        if self.steps >= 40:
            return self.misbehave(obs), reward, terminated, truncated, info
        return obs, reward, terminated, truncated, info


class _Raises(_Faulty):
    def misbehave(self, obs):
        raise RuntimeError("the motor is on fire")


class _GivesNaN(_Faulty):
    def misbehave(self, obs):
        return np.full_like(obs, np.nan)


class _ChangesShape(_Faulty):
    def misbehave(self, obs):
        return np.zeros(3, np.float32)


def raises() -> gym.Env:
    """One that raises in the middle of an episode."""
    return _Raises(make())


def gives_nan() -> gym.Env:
    """One that returns NaN."""
    return _GivesNaN(make())


def changes_shape() -> gym.Env:
    """One whose observations grow."""
    return _ChangesShape(make())


def not_an_environment() -> object:
    """A factory that returns something else."""
    return object()
