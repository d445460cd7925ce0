"""Steps environments side by side and keeps count of their episodes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from safe_rl.algorithms.fragment import EpisodeSummary
from safe_rl.envs.factory import CostEnv
from safe_rl.envs.protocols import repeats_itself
from safe_rl.errors import EnvironmentFault
from safe_rl.switch import Decision, Mode
from safe_rl.transitions import Transitions

logger = logging.getLogger(__name__)


@dataclass
class EpisodeRecord:
    """What counts of a finished episode; a row of ``episodes.csv``."""

    episode: int
    """Number of the episode, in the order of their ends, from 0."""
    steps: int
    """Length of the episode."""
    return_: float
    """Sum of rewards."""
    cost: float
    """Number of steps that violated the constraint."""
    success: int
    """1 where the task was done at the last step."""
    violation: int
    """1 where a step violated the constraint."""
    recovery_steps: int
    """Steps on which the recovery policy acted."""
    wall_time_sec: float
    """Time since the training began, pauses not counted."""

    @classmethod
    def of(cls, summary: EpisodeSummary, number: int, wall_time_sec: float) -> EpisodeRecord:
        """The record of the run's ``number``-th episode, which a rollout worker has summed up."""
        return cls(
            episode=number,
            steps=summary.steps,
            return_=summary.return_,
            cost=summary.cost,
            success=int(summary.success),
            violation=int(summary.cost > 0),
            recovery_steps=summary.overridden,
            wall_time_sec=round(wall_time_sec, 3),
        )

    @classmethod
    def columns(cls) -> list[str]:
        """The column names of ``episodes.csv``."""
        return [field.name.rstrip("_") for field in fields(cls)]


def episode_seed(seed: int, number: int) -> int:
    """Returns the seed of a run's ``number``-th episode, which makes it repeatable by itself."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


class _Slot:
    """One environment and its unfinished episode."""

    def __init__(self, env: CostEnv) -> None:
        self.env = env
        self.start_number = -1
        self.actions: list[npt.NDArray[Any]] = []
        self.return_ = self.cost = 0.0
        self.recovery_steps = 0

    def begin(self, number: int, seed: int) -> npt.NDArray[np.float32]:
        """Starts the run's ``number``-th episode."""
        self.start_number = number
        self.actions = []
        self.return_ = self.cost = 0.0
        self.recovery_steps = 0
        obs, _ = self.env.reset(seed=episode_seed(seed, number))
        return self.env.flat(obs)

    def state_dict(self) -> dict[str, Any]:
        return {
            "start_number": self.start_number,
            "actions": np.array(self.actions),
            "return": self.return_,
            "cost": self.cost,
            "recovery_steps": self.recovery_steps,
        }


class Rollout:
    """``N`` environments, each restarted as soon as its episode ends.

    Every episode is reset with a seed of its own, derived from the run's seed and the episode's number. An interrupted
    episode of a deterministic simulation is thus restored without saving the simulator: reset, and repeat its actions.
    """

    def __init__(self, envs: list[CostEnv], seed: int) -> None:
        self.seed = seed
        self.slots = [_Slot(env) for env in envs]
        self.num_started = 0
        self.num_finished = 0
        self._fault: EnvironmentFault | None = None
        self.obs = np.stack([self._begin(slot) for slot in self.slots])
        """(N, obs_dim) current observations."""

    def step(self, decision: Decision, clock: Callable[[], float]) -> tuple[Transitions, list[EpisodeRecord]]:
        """Executes one decision for each environment.

        Args:
            decision: For the ``N`` current observations.
            clock: Tells the time since the training began, in seconds.

        Returns:
            The ``N`` transitions and the records of the episodes that ended.

        Raises:
            EnvironmentFault: An environment failed; the episodes stand where they stood before.
        """
        if self._fault is not None:
            raise self._fault
        results = [slot.env.step(action) for slot, action in zip(self.slots, decision.action, strict=True)]
        next_obs = np.stack([slot.env.flat(result[0]) for slot, result in zip(self.slots, results, strict=True)])
        transitions = Transitions(
            obs=self.obs,
            task_action=decision.task_action,
            action=decision.action,
            reward=np.array([result[1] for result in results], dtype=np.float32),
            cost=np.array([result[4]["cost"] for result in results], dtype=np.float32),
            next_obs=next_obs,
            terminated=np.array([result[2] for result in results]),
            truncated=np.array([result[3] for result in results]),
        )
        self.obs = next_obs.copy()
        records = []
        for row, (slot, (_, reward, terminated, truncated, info)) in enumerate(zip(self.slots, results, strict=True)):
            slot.actions.append(decision.action[row])
            slot.return_ += reward
            slot.cost += info["cost"]
            slot.recovery_steps += int(decision.mode[row] == Mode.RECOVERY)
            if terminated or truncated:
                records.append(self._finish(slot, success=info["success"], wall_time_sec=clock()))
                try:
                    self.obs[row] = self._begin(slot)
                except EnvironmentFault as fault:  # told at the next step: this one is complete
                    self._fault = fault
        return transitions, records

    def _begin(self, slot: _Slot) -> npt.NDArray[np.float32]:
        self.num_started += 1
        return slot.begin(self.num_started - 1, self.seed)

    def _finish(self, slot: _Slot, *, success: bool, wall_time_sec: float) -> EpisodeRecord:
        self.num_finished += 1
        return EpisodeRecord(
            episode=self.num_finished - 1,
            steps=len(slot.actions),
            return_=slot.return_,
            cost=slot.cost,
            success=int(success),
            violation=int(slot.cost > 0),
            recovery_steps=slot.recovery_steps,
            wall_time_sec=round(wall_time_sec, 3),
        )

    def state_dict(self) -> dict[str, Any]:
        """The counters, and of each unfinished episode what repeats it."""
        return {
            "num_started": self.num_started,
            "num_finished": self.num_finished,
            "obs": self.obs,
            "slots": {str(index): slot.state_dict() for index, slot in enumerate(self.slots)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the unfinished episodes by repeating them.

        Where an environment does not repeat itself, that episode is given up for a new one. One that says so (a
        physical robot) is not asked to: driving it blindly is no way to find out.
        """
        self.num_finished = state["num_finished"]
        self.num_started = state["num_started"]
        if "slots" not in state:  # written by workers, whose unfinished episodes are given up
            for slot in self.slots:
                slot.start_number = self.num_started
                self.num_started += 1
            return
        saved_obs = np.asarray(state["obs"])
        for index, slot in enumerate(self.slots):
            if not repeats_itself(slot.env):
                slot.start_number = self.num_started  # the episode that began with this object
                self.num_started += 1
                continue
            saved = state["slots"][str(index)]
            obs = slot.begin(saved["start_number"], self.seed)
            for action in np.asarray(saved["actions"]):
                obs = slot.env.flat(slot.env.step(action)[0])
                slot.actions.append(action)
            # An episode that has only begun needs no repeating: its start is as good as the former.
            if not slot.actions or np.array_equal(obs, saved_obs[index]):
                slot.return_, slot.cost = saved["return"], saved["cost"]
                slot.recovery_steps = saved["recovery_steps"]
            else:
                logger.warning(
                    "the environment does not repeat itself: the interrupted episode is given up, a new one begins"
                )
                obs = self._begin(slot)
            self.obs[index] = obs
