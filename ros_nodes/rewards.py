"""What a step of a robot is worth: a topic says it, a goal, or a function of the user's. Without ROS."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from ros_nodes.robot_inputs import Inputs
from ros_nodes.robot_settings import FunctionSpec, GoalSpec, RobotSettings
from safe_rl.envs.spaces import flat_dim, flatten_observation
from safe_rl.errors import UserError

FloatArray = npt.NDArray[np.float32]
Judgement = tuple[float, bool, bool]
"""Reward, whether the episode ends, whether the task is done."""
RewardFunction = Callable[[Any, FloatArray, Any, dict[str, Any]], Judgement]
"""Of observation, action, next observation and info."""


def make_reward(settings: RobotSettings, inputs: Inputs, space: gym.Space[Any]) -> RewardFunction:
    """What tells the reward, whether the episode ends, and whether the task is done."""
    spec = settings.reward
    if isinstance(spec, GoalSpec):
        goal, indices = np.array(spec.goal, np.float32), list(spec.indices or range(len(spec.goal)))
        if max(indices) >= flat_dim(space):
            raise UserError(f"reward.indices is {indices}: the observation has {flat_dim(space)} numbers")

        def by_goal(obs: Any, action: FloatArray, next_obs: Any, info: dict[str, Any]) -> Judgement:
            distance = float(np.linalg.norm(flatten_observation(space, next_obs)[indices] - goal))
            return -distance, False, distance < spec.tolerance

        return by_goal
    if isinstance(spec, FunctionSpec):
        return _own_function(spec.function)
    topic = inputs.reward
    if topic is None:
        raise UserError("the reward's topic is not listened to")
    return lambda obs, action, next_obs, info: (float(topic.read().sum()), False, False)


def _own_function(text: str) -> RewardFunction:
    module_name, _, name = text.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), name, None)
    except Exception as error:  # whatever the user's module does when it is imported
        raise UserError(f"reward.function: cannot import {module_name}: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise UserError(f"reward.function: module {module_name} has no function {name}")

    def judge(obs: Any, action: FloatArray, next_obs: Any, info: dict[str, Any]) -> Judgement:
        told = function(obs, action, next_obs, info)
        reward, ends, success = told if isinstance(told, tuple) else (told, False, False)
        return float(reward), bool(ends), bool(success)

    return judge
