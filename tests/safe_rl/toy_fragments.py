"""Fragments for tests of learners."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from safe_rl.algorithms.fragment import Fragment
from safe_rl.algorithms.numpy_policy import NumpyPolicy

OBS = spaces.Box(-np.inf, np.inf, (2,), np.float32)
DISCRETE = spaces.Discrete(2)
BOX = spaces.Box(-1.0, 1.0, (1,), np.float32)


def fragment(weights: np.ndarray, action_space: Any = DISCRETE, *, length: int = 8, count: int = 4, seed: int = 0):
    """What a worker with these weights might hand in: ends of both kinds, and the rows after them not valid."""
    rng = np.random.default_rng(seed)
    policy = NumpyPolicy(OBS, action_space, (8,))
    policy.load(weights)
    obs = rng.normal(size=(length + 1, count, 2)).astype(np.float32)
    outputs = np.stack([policy.outputs(row).copy() for row in obs[:-1]])
    action = policy.head.sample(outputs, policy.parameters, policy.head.noise(rng, (length, count)))
    kind = rng.random((length, count))
    terminated, truncated = kind < 0.1, (kind >= 0.1) & (kind < 0.2)
    valid = np.ones((length, count), np.bool_)
    for t in range(1, length):
        valid[t] = ~(terminated[t - 1] | truncated[t - 1])
        terminated[t] &= valid[t]
        truncated[t] &= valid[t]
    return Fragment(
        obs=obs,
        task_action=action,
        action=policy.head.to_env(action),
        log_prob=policy.head.log_prob(outputs, policy.parameters, action),
        reward=(rng.normal(size=(length, count)) * valid).astype(np.float32),
        cost=np.zeros((length, count), np.float32),
        terminated=terminated,
        truncated=truncated,
        valid=valid,
        overridden=np.zeros((length, count), np.bool_),
    )
