"""Who acts while offline data is collected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from safe_rl.data.dataset import require_compatible
from safe_rl.envs.factory import CostEnv
from safe_rl.envs.protocols import OffersExpert, OffersOfflineSegments
from safe_rl.errors import EnvironmentFault, UserError

Action = npt.NDArray[Any]
Act = Callable[[Any], tuple[Action, Action]]
"""``act(obs) -> (action, task_action)``: what to execute and what was proposed, as the action space describes them."""

DEFAULT_NOISE = 0.1
"""Standard deviation of the noisy expert, as a share of the action range."""
SCRIPTED = ("auto", "boundary", "random", "expert", "noisy-expert")


@dataclass(frozen=True)
class Start:
    """How an episode begins and goes on."""

    act: Act
    options: dict[str, Any] | None = None
    """Passed to the environment's reset."""
    max_steps: int | None = None


Behaviour = Callable[[np.random.Generator], Start]
"""Draws the start of an episode; everything random in the episode comes from the generator."""


def make_behaviour(policy: str, noise: float | None, env: CostEnv) -> Behaviour:
    """Finds who acts.

    Args:
        policy: One of ``SCRIPTED``, or the folder of a run.
        noise: Standard deviation of Gaussian noise on the actions, as a share of their range; with Discrete actions the
            probability of a random one. None for the default of the policy.
        env: The environment.

    Raises:
        UserError: The environment does not offer it, the run does not fit, or noise makes no sense for it.
    """
    if policy == "auto":
        policy = "boundary" if isinstance(env.unwrapped, OffersOfflineSegments) else "random"
    if policy in ("boundary", "random") and noise:
        raise UserError(f"--noise {noise} has no meaning with --policy {policy}, which is random already: leave it out")
    if policy == "boundary":
        return _boundary(env)
    if policy == "random":
        return lambda rng: Start(_unchanged(lambda obs: random_action(env.action_space, rng)))
    if policy in ("expert", "noisy-expert"):
        act, noise = _expert(env), (DEFAULT_NOISE if policy == "noisy-expert" and noise is None else noise)
    else:
        act = _saved(policy, env)
    if not noise:
        return lambda rng: Start(act)
    share = noise
    _require_bounded(env.action_space)
    return lambda rng: Start(_with_noise(act, share, env.action_space, rng))


def random_action(space: Any, rng: np.random.Generator) -> Action:
    """Draws a uniform action; a standard normal number where a component has no bounds."""
    if isinstance(space, spaces.Discrete):
        return np.asarray(space.start + rng.integers(space.n))
    bounded = np.isfinite(space.low) & np.isfinite(space.high)
    low, high = np.where(bounded, space.low, 0.0), np.where(bounded, space.high, 1.0)
    action = np.where(bounded, rng.uniform(low, high), rng.standard_normal(space.shape))
    return np.clip(action, space.low, space.high).astype(space.dtype)


def _boundary(env: CostEnv) -> Behaviour:
    source = env.unwrapped
    if not isinstance(source, OffersOfflineSegments):
        raise UserError(f"environment {env.name} knows no boundary (no sample_offline_segment): use --policy random")

    def start(rng: np.random.Generator) -> Start:
        segment = source.sample_offline_segment(rng)
        return Start(_unchanged(lambda obs: segment.policy(obs, rng)), {"state": segment.state}, segment.max_steps)

    return start


def _expert(env: CostEnv) -> Act:
    source = env.unwrapped
    if not isinstance(source, OffersExpert):
        raise UserError(
            f"environment {env.name} has no expert (no expert_action): use --policy random or a run's folder"
        )
    return _unchanged(source.expert_action)


def _saved(policy: str, env: CostEnv) -> Act:
    if not Path(policy).exists():
        raise UserError(f"--policy {policy} is neither one of {', '.join(SCRIPTED)} nor the folder of a run")
    from safe_rl.runs import load_run  # imports torch, which nothing else here needs

    run = load_run(Path(policy))
    agent = run.make_agent()
    theirs = run.make_env()
    require_compatible(
        f"run {policy} (of {run.env_id})",
        (theirs.observation_space, theirs.action_space),
        f"environment {env.name}",
        (env.observation_space, env.action_space),
    )
    theirs.close()

    def act(obs: Any) -> tuple[Action, Action]:
        decision = agent.act(env.flat(obs)[None], explore=False)
        return decision.action[0], decision.task_action[0]

    return act


def _unchanged(policy: Callable[[Any], Action]) -> Act:
    def act(obs: Any) -> tuple[Action, Action]:
        action = policy(obs)
        return action, action

    return act


def _with_noise(act: Act, share: float, space: Any, rng: np.random.Generator) -> Act:
    def perturbed(action: Action) -> Action:
        if isinstance(space, spaces.Discrete):
            return random_action(space, rng) if rng.random() < share else action
        noise = share * (space.high - space.low) * rng.standard_normal(space.shape)
        return cast(Action, np.clip(np.asarray(action) + noise, space.low, space.high).astype(space.dtype))

    def noisy(obs: Any) -> tuple[Action, Action]:
        action, task_action = act(obs)
        executed = perturbed(action)
        # The noise is part of the proposal; only where a recovery policy stepped in was something else proposed.
        return executed, executed if np.array_equal(action, task_action) else task_action

    return noisy


def _require_bounded(space: Any) -> None:
    if isinstance(space, spaces.Box) and not space.is_bounded():
        raise UserError(f"--noise is a share of the action range, but {space} has no bounds: leave it out")


def checked_act(act: Act, obs: Any, env: CostEnv) -> tuple[Action, Action]:
    """Asks for an action and brings it to the space's type and shape.

    Raises:
        EnvironmentFault: The policy raised, or returned something else or not finite.
    """
    space = env.action_space
    try:
        # A discrete action becomes a number: an array of no dimension could not be looked up in a table.
        action, task_action = (np.asarray(a, dtype=space.dtype).reshape(space.shape or ())[()] for a in act(obs))
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise EnvironmentFault(f"the policy for {env.name} failed: {type(error).__name__}: {reason}") from error
    if not np.isfinite(action).all():
        raise EnvironmentFault(f"the policy for {env.name} returned the action {action}: actions must be finite")
    return action, task_action
