"""What a plan has trained, as an agent that acts: for evaluation, reports and videos."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from safe_rl.algorithms.numpy_policy import NumpyPolicy
from safe_rl.checkpoint import load_newest
from safe_rl.methods import config_from_dict
from safe_rl.runs import Run, misfit_named
from safe_rl.switch import Decision, Mode


class ActorCriticAgent:
    """An actor-critic's policy without its learner; nothing watches it."""

    has_risk = False

    def __init__(
        self, observation_space: gym.Space[Any], action_space: gym.Space[Any], hidden_sizes: tuple[int, ...]
    ) -> None:
        self.policy = NumpyPolicy(observation_space, action_space, hidden_sizes)
        self._rng = np.random.default_rng(0)

    def act(self, obs: npt.NDArray[np.float32], *, explore: bool) -> Decision:
        """Decides for ``N`` flat observations: the likeliest action, or with ``explore`` a draw."""
        began = time.perf_counter()
        head, count = self.policy.head, len(obs)
        if explore:
            outputs = self.policy.outputs(obs)
            action = head.sample(outputs, self.policy.parameters, head.noise(self._rng, (count,)))
        else:
            action = self.policy.mode(obs)
        action = head.to_env(action)
        return Decision(
            action=action,
            task_action=action,
            risk=np.full(count, np.nan, dtype=np.float32),
            mode=np.full(count, Mode.TASK, dtype=np.int8),
            solve_time_sec=time.perf_counter() - began,
        )


def load_agent(run: Run) -> Any:
    """The policy of a run's newest checkpoint: the learner itself where that can act, else an ``ActorCriticAgent``.

    Raises:
        UserError: There is no checkpoint, it is damaged, or does not fit the environment.
    """
    from safe_rl.plans.methods import PLAN_METHODS

    spec = PLAN_METHODS[run.method]
    config = config_from_dict(spec.config, run.config)
    acts = hasattr(spec.learner, "load_policy_state_dict")
    if acts:
        config = dataclasses.replace(config, replay_capacity=1)  # an agent that acts needs no replay
    env = run.make_env()
    learner = spec.learner(env.observation_space, env.action_space, config)
    env.close()
    state = load_newest(run.path / "checkpoints")
    if acts:
        with misfit_named(run.path, run.env_id):
            learner.load_policy_state_dict(state["agent"]["policy"])
        return learner
    agent = ActorCriticAgent(env.observation_space, env.action_space, config.hidden_sizes)
    with misfit_named(run.path, run.env_id):
        learner.load_state_dict(state["agent"])
    agent.policy.load(learner.weights())
    return agent
