"""A shield in the place of an agent, so that what evaluates the one evaluates the other."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from safe_rl.shield.decision import Reason
from safe_rl.shield.observation import ObservationLayout
from safe_rl.shield.shield import Shield
from safe_rl.switch import Decision


class ShieldAgent:
    """Acts by ``shield.decide`` in one environment, and counts the reasons.

    Each observation takes the robot's way through the shield: in its own shape and type, checked, flattened.
    """

    def __init__(self, shield: Shield) -> None:
        self.shield = shield
        self.reasons: Counter[Reason] = Counter()
        """Decisions by reason."""
        self._layout = ObservationLayout(shield.bundle.spec.observation_space)

    def act(self, obs: npt.NDArray[np.float32], *, explore: bool) -> Decision:
        """Decides for the flat observation of one environment (1, obs_dim); a shield never explores."""
        decision = self.shield.decide(self._layout.unflatten(obs[0]))
        self.reasons[decision.reason] += 1
        return Decision(
            action=decision.action[None],
            task_action=decision.task_action[None],
            risk=np.array([decision.risk], dtype=np.float32),
            mode=np.array([decision.mode], dtype=np.int8),
            reason=decision.reason.value,
            solve_time_sec=decision.solve_time_sec,
        )
