"""An agent of the core as the learner of a plan: it stores what workers did and takes the gradient steps due."""

from __future__ import annotations

import math
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from safe_rl.algorithms.fragment import Fragment
from safe_rl.algorithms.sac import SACAgent

Agent = TypeVar("Agent", bound=SACAgent)


class Due:
    """Counts the gradient steps that are due: ``next`` gives each one's number, and None while there is none.

    Args:
        agent: whose environment steps count; those so far are paid for.
        updates_per_step: gradient steps for each of them.
    """

    def __init__(self, agent: SACAgent, updates_per_step: float) -> None:
        self._agent, self._rate = agent, updates_per_step
        self._done = int(agent.num_observed * updates_per_step)

    def next(self) -> int | None:
        """See ``Supply``."""
        if self._done >= int(self._agent.num_observed * self._rate):
            return None
        self._done += 1
        return self._done


class OffPolicyLearner(Generic[Agent]):
    """What a plan needs of an agent.

    Args:
        agent: learns.
        updates_per_step: gradient steps for each environment step.
        fragment_steps: environment steps in a fragment.
    """

    def __init__(self, agent: Agent, updates_per_step: float, fragment_steps: int) -> None:
        self.agent, self.updates_per_step = agent, updates_per_step
        self.updates_a_turn = max(1, math.ceil(fragment_steps * updates_per_step))
        """Gradient steps to take before the next fragment is taken in, so that they keep up."""
        self._metrics: dict[str, float] = {}

    @property
    def num_steps(self) -> int:
        """Environment steps taken in."""
        return self.agent.num_observed

    @property
    def version(self) -> int:
        """Environment steps that the newest weights have seen."""
        return self.agent.num_observed

    def weights(self) -> npt.NDArray[np.float32]:
        """All that acting needs, one array, a copy."""
        return self.agent.policy_weights()

    def due(self) -> Due:
        """A counter of gradient steps."""
        return Due(self.agent, self.updates_per_step)

    def add(self, fragment: Fragment) -> None:
        """Stores a fragment's steps."""
        self._metrics = {"train/staleness": float(self.agent.num_observed - fragment.version)}
        if self.agent.has_risk and fragment.valid.any():
            self._metrics["safety/recovery_share"] = float(fragment.overridden.mean(where=fragment.valid))
        self.agent.observe(fragment.transitions())

    def metrics(self) -> dict[str, float]:
        """Of the last fragment: how many environment steps old its policy was, and how often recovery acted."""
        return self._metrics
