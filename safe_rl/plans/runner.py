"""Runs a plan: pulls its updates, logs, saves, and ends it."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from safe_rl.algorithms.fragment import EpisodeSummary
from safe_rl.checkpoint import save_checkpoint
from safe_rl.flow import LocalIterator, Metrics
from safe_rl.flow.operators import Update
from safe_rl.plans.config import PlanRunConfig
from safe_rl.rollout import EpisodeRecord
from safe_rl.run_log import RunLog, sync_episodes
from safe_rl.runner import Interrupt, Progress

RECENT = 100
"""Episodes that means are taken over."""


class PlanRunner:
    """Pulls a plan's updates until the wanted number of environment steps is reached.

    Args:
        learner: Counts the steps, and is what a checkpoint keeps.
        config: Where, how long, what is written.
        progress: Told of the steps done.
    """

    def __init__(self, learner: Any, config: PlanRunConfig, progress: Progress | None = None) -> None:
        self.learner, self.config = learner, config
        self.progress = progress or (lambda done, total, status: None)
        self.recent: deque[EpisodeRecord] = deque(maxlen=RECENT)
        self.num_episodes = self.num_successes = self.num_violations = 0
        self.num_sessions = 0
        """How often the run was started or gone on with: workers draw other numbers each time."""
        self._metrics: dict[str, Any] = {}
        self._time_before = 0.0
        self._started = time.perf_counter()
        self._logged = (0, 0.0)

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.config.output / "checkpoints"

    def elapsed_sec(self) -> float:
        """Training time so far, earlier sessions included."""
        return self._time_before + time.perf_counter() - self._started

    @property
    def return_mean(self) -> float:
        """Mean return of the last episodes; NaN before there are any."""
        return float(np.mean([record.return_ for record in self.recent])) if self.recent else float("nan")

    def run(self, plan: LocalIterator[Update], context: Metrics) -> None:
        """Trains; saves at the end, on Ctrl-C and when a stage of the plan fails.

        Args:
            plan: What to pull.
            context: Counters and timers of its operators.

        Raises:
            FlowError: A stage failed; the state was saved.
            KeyboardInterrupt: The user asked to stop; likewise.
        """
        self._started = time.perf_counter()
        self._logged = (self.learner.num_steps, self.elapsed_sec())
        saved_sec = logged_sec = time.perf_counter()
        log = RunLog(self.config.output, episodes_done=self.num_episodes, steps_done=self.learner.num_steps)
        try:
            with Interrupt() as interrupt:
                for update in plan:
                    self._take_in(update, log)
                    now = time.perf_counter()
                    if now - logged_sec >= self.config.log_every_sec:
                        logged_sec = now
                        self._log(log, context)
                    if now - saved_sec >= self.config.checkpoint_every_sec:
                        log.flush()  # a checkpoint counts episodes that must be there after a kill
                        self.save()
                        saved_sec = time.perf_counter()
                    if self._is_done() or interrupt.requested:
                        break
                interrupt.raise_if_requested()
        finally:
            self._log(log, context)
            log.close()
            self.save()

    def _take_in(self, update: Update, log: RunLog) -> None:
        self._metrics.update(update.metrics)
        for episode in update.episodes:
            record = self._record(episode)
            self.recent.append(record)
            self.num_successes += record.success
            self.num_violations += record.violation
            log.row(record)

    def _record(self, episode: EpisodeSummary) -> EpisodeRecord:
        self.num_episodes += 1
        return EpisodeRecord.of(episode, self.num_episodes - 1, self.elapsed_sec())

    def _is_done(self) -> bool:
        goal = self.config.stop_at_return
        reached = goal is not None and len(self.recent) == RECENT and self.return_mean >= goal
        return reached or self.learner.num_steps >= self.config.steps

    def _log(self, log: RunLog, context: Metrics) -> None:
        steps, seconds = self.learner.num_steps, self.elapsed_sec()
        steps_before, seconds_before = self._logged
        self._logged = (steps, seconds)
        recent = {
            "rollout/return_mean": self.return_mean,
            "rollout/length_mean": float(np.mean([r.steps for r in self.recent])) if self.recent else float("nan"),
            "rollout/success_rate": float(np.mean([r.success for r in self.recent])) if self.recent else float("nan"),
            "safety/violation_rate": float(np.mean([r.violation for r in self.recent]))
            if self.recent
            else float("nan"),
            "time/steps_per_sec": (steps - steps_before) / max(seconds - seconds_before, 1e-9),
            "time/elapsed_sec": seconds,
        }
        log.metrics(steps, self.num_episodes, {**self._metrics, **context.snapshot(), **recent})
        log.flush()
        status = f"return {self.return_mean:.4g}, {recent['time/steps_per_sec']:,.0f} steps/s"
        if self.num_violations or self.num_successes:
            status += f", {self.num_successes} successes, {self.num_violations} violations"
        self.progress(min(steps, self.config.steps), self.config.steps, status)

    def save(self) -> None:
        """Writes a checkpoint."""
        sync_episodes(self.config.output)
        state = {"agent": self.learner.state_dict(), "runner": self.state_dict()}
        save_checkpoint(self.checkpoints, self.learner.num_steps, state)

    def state_dict(self) -> dict[str, Any]:
        """The loop's own state; unfinished episodes of the workers are not part of it."""
        return {
            "num_episodes": self.num_episodes,
            "num_successes": self.num_successes,
            "num_violations": self.num_violations,
            "num_sessions": self.num_sessions,
            "elapsed_sec": self.elapsed_sec(),
            "recent": [vars(record) for record in self.recent],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores ``state_dict``."""
        self.num_episodes, self.num_sessions = state["num_episodes"], state["num_sessions"]
        self.num_successes, self.num_violations = state["num_successes"], state["num_violations"]
        self._time_before = state["elapsed_sec"]
        self.recent.extend(EpisodeRecord(**record) for record in state["recent"])
