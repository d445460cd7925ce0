"""What computes a decision's numbers; PyTorch and ONNX Runtime do it behind one interface."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


class Evaluation(NamedTuple):
    """What the networks say of ``N`` states; actions are in the environment's units, within the action space."""

    proposal: FloatArray
    """(N, act_dim) what the task policy, or in filter mode another stack, proposes."""
    recovery_action: FloatArray
    """(N, act_dim) what the recovery policy would do."""
    risk: FloatArray
    """(N,) ``Q_risk`` of the proposal."""
    hands_over: npt.NDArray[np.bool_]
    """(N,) what ``RecoverySwitch`` says."""
    features: FloatArray
    """(N, num_features) the first risk critic's last hidden layer at (state, proposal)."""


class Engine(Protocol):
    """Evaluates a bundle's networks. Inputs are checked by the caller: finite, of the right type and shape."""

    name: str

    def decide(self, obs: npt.NDArray[Any], eps_risk: float) -> Evaluation:
        """Proposes by the task policy's mean action.

        Args:
            obs: (N, obs_dim) flat observations in the environment's units; images as uint8.
            eps_risk: Threshold of the switch.
        """
        ...

    def filter(self, obs: npt.NDArray[Any], proposal: FloatArray, eps_risk: float) -> Evaluation:
        """Judges given proposals (N, act_dim) in the environment's units; for the rest see ``decide``."""
        ...
