"""The recovery switch: the one place where the rule of Recovery RL stands."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt


class Mode(IntEnum):
    """Who acts."""

    TASK = 0
    RECOVERY = 1
    STOP = 2


@dataclass
class Decision:
    """What is to be done in ``N`` states, and why. Actions are in the environment's units."""

    action: npt.NDArray[Any]
    """(N, act_dim) action to execute, or (N,) numbers of discrete ones."""
    task_action: npt.NDArray[Any]
    """(N, act_dim) or (N,) action the task policy proposed."""
    risk: npt.NDArray[np.float32]
    """(N,) ``Q_risk(s, task_action)`` in [0, 1]; NaN where no risk critic is in use."""
    mode: npt.NDArray[np.int8]
    """(N,) ``Mode`` of each row."""
    reason: str = ""
    """Machine-readable cause of the mode where it is not the risk, empty otherwise."""
    solve_time_sec: float = 0.0
    """Time the decision took."""


@dataclass(frozen=True)
class RecoverySwitch:
    """Hands over to the recovery policy where the proposed action leaves the safe set.

    ``T_safe = {(s, a): Q_risk(s, a) <= eps_risk}`` (Recovery RL, arXiv 2010.15920). Training, the composite backup
    of the risk critic, simulation and the robot all ask this object.
    """

    eps_risk: float
    """Largest tolerated ``Q_risk`` of a proposed action."""
    recovery_must_help: bool = False
    """Hand over only where the recovery action is less risky than the proposed one (not in the paper)."""

    def hands_over(self, task_risk: Any, recovery_risk: Any = None) -> Any:
        """Tells in which rows the recovery policy acts.

        Args:
            task_risk: (N,) ``Q_risk`` of the proposed actions, a NumPy array or a torch tensor.
            recovery_risk: (N,) ``Q_risk`` of the recovery actions; needed where ``recovery_must_help``.

        Returns:
            (N,) booleans of the same kind. A risk that is NaN counts as unsafe.
        """
        unsafe = ~(task_risk <= self.eps_risk)
        if self.recovery_must_help and recovery_risk is not None:
            unsafe = unsafe & ~(recovery_risk >= task_risk)
        return unsafe
