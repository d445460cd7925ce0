"""Several copies of an environment behind one ``step``, whatever kind it is."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv

from safe_rl.envs.factory import CostEnv, make_env
from safe_rl.envs.plugins import register_plugins
from safe_rl.envs.spaces import flat_dim, flat_dtype, flatten_observations
from safe_rl.errors import EnvironmentFault

logger = logging.getLogger(__name__)

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


class BatchedStep(NamedTuple):
    """What ``N`` environments returned; each array (N,), but for the observations."""

    obs: npt.NDArray[Any]
    """(N, obs_dim) float32, or uint8 of images."""
    reward: Floats
    cost: Floats
    success: Bools
    terminated: Bools
    truncated: Bools


class BatchedEnv(Protocol):
    """``N`` environments that restart by themselves, one step after their episode ended.

    As in Gymnasium's ``NEXT_STEP`` mode, the observation that ends an episode is returned as any other; the step after
    it ignores its action and returns the first observation of the next episode, with the reward 0. Nothing may be
    learned from that step; who steps knows it from the flags of the step before.
    """

    num_envs: int
    observation_space: gym.Space[Any]
    """Of one environment."""
    action_space: gym.Space[Any]
    """Of one environment."""

    def reset(self, seed: int) -> Floats:
        """Starts all episodes afresh; returns the observations (N, obs_dim)."""
        ...

    def step(self, action: npt.NDArray[Any]) -> BatchedStep:
        """Steps every environment by its row of ``action``.

        Raises:
            EnvironmentFault: An environment raised, or returned something unusable.
        """
        ...

    def close(self) -> None:
        """Closes the environments."""
        ...


def make_batched_env(env: str, num_envs: int, *, cost_key: str = "cost") -> BatchedEnv:
    """Makes ``num_envs`` environments: vectorised where the environment itself is, else one beside the other.

    Args:
        env: As for ``make_env``.
        num_envs: How many.
        cost_key: The entry of ``info`` that is the constraint.

    Raises:
        UserError: The environment does not exist or cannot be made.
    """
    vector = None if ":" in env else _vectorised(env, num_envs)
    if vector is not None:
        return VectorisedEnv(vector, cost_key, env)
    envs = [make_env(env, cost_key=cost_key) for _ in range(num_envs)]
    for other in envs[1:]:
        other._saw_cost = True  # the first one tells where there is no cost; the others need not say it again
    return SeparateEnvs(envs)


def _vectorised(env: str, num_envs: int) -> VectorEnv[Any, Any, Any] | None:
    """The environment's own vectorised form, if it has one that can reset in the next step."""
    if env not in gym.registry:
        register_plugins()
    spec = gym.registry.get(env)
    if spec is None or spec.vector_entry_point is None or spec.additional_wrappers:
        return None
    choices: list[dict[str, Any]] = [{}, {"autoreset_mode": AutoresetMode.NEXT_STEP}]
    for options in choices:
        try:
            made = gym.make_vec(env, num_envs=num_envs, vectorization_mode="vector_entry_point", **options)
        except Exception as error:  # what its constructor does is its own; the single environment tells the user more
            logger.debug("no vectorised %s with %s: %s", env, options, error)
            return None
        if made.metadata.get("autoreset_mode") == AutoresetMode.NEXT_STEP:
            return made
        made.close()
    return None


class SeparateEnvs:
    """Environments stepped one after the other."""

    def __init__(self, envs: list[CostEnv]) -> None:
        self.envs = envs
        self.num_envs = len(envs)
        self.observation_space, self.action_space = envs[0].observation_space, envs[0].action_space
        self._obs_dtype = flat_dtype(self.observation_space)
        self._ended = np.zeros(self.num_envs, dtype=np.bool_)

    def reset(self, seed: int) -> Floats:
        """See ``BatchedEnv``."""
        self._ended[:] = False
        seeds = np.random.SeedSequence(seed).generate_state(self.num_envs)
        return np.stack([env.flat(env.reset(seed=int(s))[0]) for env, s in zip(self.envs, seeds, strict=True)])

    def step(self, action: npt.NDArray[Any]) -> BatchedStep:
        """See ``BatchedEnv``."""
        obs = np.empty((self.num_envs, self.envs[0].obs_dim), dtype=self._obs_dtype)
        reward, cost = np.zeros((2, self.num_envs), dtype=np.float32)
        success, terminated, truncated = np.zeros((3, self.num_envs), dtype=np.bool_)
        for i, env in enumerate(self.envs):
            if self._ended[i]:
                obs[i] = env.flat(env.reset()[0])
                continue
            obs[i], reward[i], cost[i], success[i], terminated[i], truncated[i] = env.step_flat(action[i])
        self._ended = terminated | truncated
        return BatchedStep(obs, reward, cost, success, terminated, truncated)

    def close(self) -> None:
        """Closes the environments."""
        for env in self.envs:
            env.close()


class VectorisedEnv:
    """An environment that is vectorised by itself, in ``NEXT_STEP`` mode."""

    def __init__(self, env: VectorEnv[Any, Any, Any], cost_key: str, name: str) -> None:
        self.env, self.cost_key, self.name = env, cost_key, name
        self.num_envs = env.num_envs
        self.observation_space, self.action_space = env.single_observation_space, env.single_action_space
        self._obs_dim = flat_dim(self.observation_space)
        self._no_cost = np.zeros(self.num_envs, dtype=np.float32)
        self._no_success = np.zeros(self.num_envs, dtype=np.bool_)

    def reset(self, seed: int) -> Floats:
        """See ``BatchedEnv``."""
        return self._flat(self.env.reset(seed=seed)[0])

    def step(self, action: npt.NDArray[Any]) -> BatchedStep:
        """See ``BatchedEnv``."""
        try:
            obs, reward, terminated, truncated, info = self.env.step(action)
        except Exception as error:
            message = " ".join(str(error).split())
            raise EnvironmentFault(
                f"environment {self.name} raised in step: {type(error).__name__}: {message}"
            ) from error
        cost, success = self._no_cost, self._no_success
        if info:
            cost = (np.asarray(info.get(self.cost_key, cost)) > 0).astype(np.float32)
            success = np.asarray(info.get("success", success), dtype=np.bool_)
        reward = np.asarray(reward, dtype=np.float32)
        if not np.isfinite(reward.sum()):
            raise EnvironmentFault(f"environment {self.name} returned a reward that is not finite")
        return BatchedStep(self._flat(obs), reward, cost, success, terminated, truncated)

    def _flat(self, obs: Any) -> Floats:
        flat = flatten_observations(self.observation_space, obs)
        # A sum is finite where all of its terms are (or they are astronomic): one pass instead of two.
        if flat.shape != (self.num_envs, self._obs_dim) or not np.isfinite(flat.sum()):
            raise EnvironmentFault(
                f"environment {self.name} returned observations that are not finite, or of shape {flat.shape} instead "
                f"of {(self.num_envs, self._obs_dim)}"
            )
        return flat

    def close(self) -> None:
        """Closes the environments."""
        self.env.close()
