"""What a shield answers: who acts, with which action, and why, in words a program can compare."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from safe_rl.switch import Mode


class Reason(str, Enum):
    """Why the mode is what it is. The values are stable: logs, topics and recordings hold them."""

    NONE = ""
    """TASK: nothing speaks against the proposal."""
    RISK = "risk"
    """RECOVERY: ``Q_risk`` of the proposal is above eps_risk."""
    HYSTERESIS = "hysteresis"
    """RECOVERY: it has fallen below eps_risk, but not yet to release_risk."""
    MINIMUM_RECOVERY_TIME = "minimum_recovery_time"
    """RECOVERY: it has not lasted min_recovery_sec yet."""
    OBSERVATION_UNREADABLE = "observation_unreadable"
    """STOP: it is no array, or reading it raised."""
    OBSERVATION_ENTRY_MISSING = "observation_entry_missing"
    """STOP: a Dict observation lacks an entry."""
    OBSERVATION_WRONG_SHAPE = "observation_wrong_shape"
    """STOP."""
    OBSERVATION_WRONG_DTYPE = "observation_wrong_dtype"
    """STOP: it cannot be cast to the space's type without changing its kind."""
    OBSERVATION_NOT_FINITE = "observation_not_finite"
    """STOP: NaN or infinity, in float32."""
    PROPOSAL_UNREADABLE = "proposal_unreadable"
    """STOP: the other stack's command is no array, or reading it raised."""
    PROPOSAL_WRONG_SHAPE = "proposal_wrong_shape"
    """STOP."""
    PROPOSAL_WRONG_DTYPE = "proposal_wrong_dtype"
    """STOP."""
    PROPOSAL_NOT_FINITE = "proposal_not_finite"
    """STOP: NaN or infinity, in float32."""
    OUT_OF_DISTRIBUTION = "out_of_distribution"
    """STOP: the state is unlike those that the risk critic was calibrated on."""
    OUTPUT_NOT_FINITE = "output_not_finite"
    """STOP: a network answered NaN or infinity."""
    ENGINE_FAILED = "engine_failed"
    """STOP: computing the decision raised."""
    EXTERNAL = "external"
    """STOP: whoever runs the shield asked for it, by ``Shield.stop``."""
    OVERRUN = "overrun"
    """STOP: the decision took longer than deadline_sec."""


@dataclass(slots=True)
class ShieldDecision:
    """What is to be done in one state. Actions are in the environment's units."""

    action: npt.NDArray[np.float32]
    """(act_dim,) action to execute: finite and within the limits, whatever happened."""
    task_action: npt.NDArray[np.float32]
    """(act_dim,) what was proposed; NaN where it is unknown or no number."""
    risk: float
    """``Q_risk`` of the proposal in [0, 1]; NaN where it could not be computed."""
    mode: Mode
    """Who acts."""
    reason: Reason
    """Why."""
    distribution_score: float
    """How unlike the known data the state is (see ``safe_rl.shield.distribution``); NaN where that is not known."""
    solve_time_sec: float
    """Time the decision took."""
