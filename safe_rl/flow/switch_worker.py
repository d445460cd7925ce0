"""A rollout worker that carries the safety switch."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy.typing as npt

from safe_rl.algorithms.recovery_impact import RecoveryIMPACTAgent, RecoveryIMPACTConfig
from safe_rl.flow.rollout_worker import Bools, Floats, RolloutWorker
from safe_rl.switch import Mode


class SwitchWorker(RolloutWorker):
    """Acts by IMPACT's policy, except where the switch hands over to the recovery policy.

    Args:
        env: as for ``RolloutWorker``.
        config: the method's settings.
        **kwargs: as for ``RolloutWorker``.
    """

    def __init__(self, env: str, config: RecoveryIMPACTConfig, **kwargs: Any) -> None:
        super().__init__(env, hidden_sizes=config.impact.hidden_sizes, **kwargs)
        spaces = self.envs.observation_space, self.envs.action_space
        self.agent = RecoveryIMPACTAgent(*spaces, dataclasses.replace(config, replay_capacity=1))
        self.agent.generator.manual_seed(int(self._rng.integers(2**31)))

    def set_weights(self, weights: Floats, version: int) -> None:
        """Takes over ``RecoveryIMPACTAgent.weights``."""
        super().set_weights(weights, version)
        self.agent.load_watchers(weights)

    def execute(self, obs: Floats, action: npt.NDArray[Any], overridden: Bools) -> npt.NDArray[Any]:
        """The recovery action where ``Q_risk`` of the proposal is above the threshold; see ``RolloutWorker``."""
        decision = self.agent.watch(obs, action, explore=True)
        overridden[:] = decision.mode == Mode.RECOVERY
        return decision.action
