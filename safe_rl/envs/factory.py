"""Makes an environment from its name and gives every one the same contract."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from safe_rl.envs.plugins import register_plugins
from safe_rl.envs.spaces import flat_dim, flatten_observation, image_shape
from safe_rl.errors import EnvironmentFault, UserError
from safe_rl.user_code import import_attribute, one_line

logger = logging.getLogger(__name__)


def make_env(env: str, *, cost_key: str = "cost", render_mode: str | None = None, **kwargs: Any) -> CostEnv:
    """Makes a registered environment, or one of the user's own.

    Args:
        env: A registered Gymnasium id (``safe_rl/Navigation1-v0``), or ``package.module:factory`` that names a class or
            a function returning an environment. Either may be followed by arguments for it, as in
            ``safe_rl/ImageMaze-v0?frames=2&noise=4``.
        cost_key: The entry of ``info`` that is the constraint.
        render_mode: As in Gymnasium; passed on only if given.
        **kwargs: Passed to the environment; they outweigh the arguments in its name.

    Raises:
        UserError: The environment does not exist or cannot be made.
    """
    base, arguments = split_arguments(env)
    kwargs = {**arguments, **kwargs}
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    made = _make_from_factory(base, kwargs) if ":" in base else _make_registered(base, kwargs)
    return CostEnv(made, cost_key, env)


def split_arguments(env: str) -> tuple[str, dict[str, Any]]:
    """Takes the arguments off an environment's name: ``id?name=value&name=value``.

    A value that reads as a number, ``true`` or ``false`` is one; all else is text.

    Raises:
        UserError: An argument is no ``name=value``.
    """
    base, _, query = env.partition("?")
    arguments: dict[str, Any] = {}
    for part in query.split("&") if query else []:
        name, equals, value = part.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"no environment {env!r}: name=value, joined by '&', must follow the '?', not {part!r}")
        arguments[name] = _value(value)
    return base, arguments


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _make_registered(env: str, kwargs: dict[str, Any]) -> gym.Env[Any, Any]:
    if env not in gym.registry:
        register_plugins()
    try:
        return gym.make(env, disable_env_checker=True, **kwargs)
    except gym.error.Error as error:
        raise UserError(f"no environment {env!r}: {one_line(error)}") from error
    except ImportError as error:
        raise UserError(f"environment {env!r} needs {error.name}: pip install 'safe_rl[sim]'") from error
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"environment {env!r} raised {type(error).__name__}: {one_line(error)}") from error


def _make_from_factory(env: str, kwargs: dict[str, Any]) -> gym.Env[Any, Any]:
    factory = import_attribute(env, "environment", "factory")
    if not callable(factory):
        raise UserError(f"{env} is no factory: name a class or a function that returns an environment")
    try:
        made = factory(**kwargs)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"factory {env!r} raised {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(made, gym.Env):
        raise UserError(f"factory {env!r} returned {type(made).__name__}, not a gymnasium.Env")
    return made


class CostEnv(gym.Wrapper[Any, Any, Any, Any]):
    """The contract every learner here relies on.

    ``step`` returns Gymnasium's 5-tuple (the 6-tuple of Safety-Gymnasium, with the cost third, is adapted);
    ``info["cost"]`` is the constraint indicator, 0.0 or 1.0, and ``info["success"]`` a bool. Observations and rewards
    are finite and of the declared shape, or an ``EnvironmentFault`` names what is not.
    """

    def __init__(self, env: gym.Env[Any, Any], cost_key: str = "cost", name: str = "") -> None:
        super().__init__(env)
        self.cost_key = cost_key
        self.name = name or str(env)
        self.obs_dim = flat_dim(env.observation_space)
        space = env.observation_space
        self._vector_shape = space.shape if isinstance(space, gym.spaces.Box) and len(space.shape) == 1 else None
        self._saw_cost = False
        self._steps_without_cost = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment; raises ``EnvironmentFault`` on an unusable observation."""
        try:
            obs, info = self.env.reset(seed=seed, options=options)
        except UserError:
            raise
        except Exception as error:
            raise EnvironmentFault(
                f"environment {self.name} raised in reset: {type(error).__name__}: {one_line(error)}"
            ) from error
        self._check_observation(obs)
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Steps the environment; raises ``EnvironmentFault`` where it raises or returns something unusable."""
        obs, reward, terminated, truncated, info, cost = self._checked_step(action)
        info = {**info, "cost": self._indicator(cost), "success": _is_success(info)}
        return obs, reward, terminated, truncated, info

    def step_flat(self, action: Any) -> tuple[npt.ArrayLike, float, float, bool, bool, bool]:
        """``step`` without its dictionaries, for loops over fast environments.

        Returns:
            Observation (obs_dim,), perhaps the environment's own array: copy it; reward, cost, success, terminated and
            truncated.
        """
        obs, reward, terminated, truncated, info, cost = self._checked_step(action)
        flat = self.flat(obs) if self._vector_shape is None else obs
        return flat, reward, self._indicator(cost), _is_success(info), terminated, truncated

    def _checked_step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any], SupportsFloat]:
        try:
            result: tuple[Any, ...] = self.env.step(action)
        except UserError:
            raise
        except Exception as error:
            raise EnvironmentFault(
                f"environment {self.name} raised in step: {type(error).__name__}: {one_line(error)}"
            ) from error
        obs, reward, terminated, truncated, info, cost = self._unpack(result)
        self._check_observation(obs)
        if not math.isfinite(reward):
            raise EnvironmentFault(f"environment {self.name} returned the reward {reward}: rewards must be finite")
        return obs, reward, bool(terminated), bool(truncated), info, cost

    def flat(self, obs: Any) -> npt.NDArray[Any]:
        """Flattens one observation to ``(obs_dim,)``: float32, or uint8 of an image."""
        return flatten_observation(self.observation_space, obs)

    def _unpack(self, result: Any) -> tuple[Any, float, Any, Any, dict[str, Any], SupportsFloat]:
        """Takes Gymnasium's five values, or the six with the cost third, apart."""
        if not isinstance(result, tuple) or len(result) not in (5, 6) or not isinstance(result[-1], dict):
            values = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
            raise EnvironmentFault(
                f"environment {self.name} returned {values} from step: it must return observation, reward, terminated, "
                "truncated and the dictionary info"
            )
        obs, reward, *cost, terminated, truncated, info = result
        try:
            number = float(reward)
        except (TypeError, ValueError) as error:
            raise EnvironmentFault(
                f"environment {self.name} returned the reward {reward}: it must be a number"
            ) from error
        return obs, number, terminated, truncated, info, cost[0] if cost else self._cost_from(info)

    def _cost_from(self, info: dict[str, Any]) -> SupportsFloat:
        if self.cost_key in info:
            self._saw_cost = True
            cost: SupportsFloat = info[self.cost_key]
            return cost
        if not self._saw_cost:
            self._steps_without_cost += 1
            if self._steps_without_cost == 1000:
                logger.warning(
                    "%s gave no info[%r] in 1,000 steps: nothing counts as a violation; name the entry with --cost-key",
                    self.name, self.cost_key,
                )  # fmt: skip
        return 0.0

    def _indicator(self, cost: SupportsFloat) -> float:
        try:
            value = float(cost)
        except (TypeError, ValueError) as error:
            raise EnvironmentFault(
                f"environment {self.name} returned {cost!r} as the constraint info[{self.cost_key!r}]: "
                "it must be a number"
            ) from error
        if math.isnan(value):
            raise EnvironmentFault(f"environment {self.name} returned NaN as the constraint info[{self.cost_key!r}]")
        return 1.0 if value > 0.0 else 0.0

    def _check_observation(self, obs: Any) -> None:
        # The usual case in a tenth of the time; where the square is too large for a float, the words below decide.
        if (
            type(obs) is np.ndarray
            and obs.shape == self._vector_shape
            and obs.dtype == np.float32
            and math.isfinite(obs.dot(obs))
        ):
            return
        problem = _misfit(self.observation_space, obs)
        if problem:
            raise EnvironmentFault(f"environment {self.name} returned an observation {problem}")


def _is_success(info: Mapping[str, Any]) -> bool:
    return bool(info.get("success", info.get("is_success", False)))


def _misfit(space: gym.Space[Any], obs: Any) -> str:
    """Says in what an observation does not fit its space, in words that follow "observation"; nothing where it does."""
    if isinstance(space, gym.spaces.Dict):
        if not isinstance(obs, Mapping):
            return f"of type {type(obs).__name__}; its space says a dictionary"
        for key, subspace in space.spaces.items():
            if key not in obs:
                return f"without the entry {key!r}"
            if problem := _misfit(subspace, obs[key]):
                return f"with an entry {key!r} {problem}"
        return ""
    if image_shape(space) is not None:
        image = np.asarray(obs)
        if image.shape != space.shape:
            return f"of shape {image.shape}; its space says {space.shape}"
        return "" if image.dtype == np.uint8 else f"of type {image.dtype}; its space says uint8"
    try:
        numbers = np.asarray(obs, dtype=np.float32)
    except (TypeError, ValueError):
        return f"that is not made of numbers: {' '.join(str(obs).split())[:200]}"
    if numbers.shape != space.shape:
        return f"of shape {numbers.shape}; its space says {space.shape}"
    if not np.isfinite(numbers).all():
        return f"that is not finite: {' '.join(str(obs).split())[:200]}"
    return ""
