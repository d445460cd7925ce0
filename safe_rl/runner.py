"""The training loop: act, step, observe, update; log, evaluate and save on the way."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from safe_rl.checkpoint import save_checkpoint
from safe_rl.config import RunConfig
from safe_rl.envs.factory import CostEnv
from safe_rl.errors import EnvironmentFault
from safe_rl.evaluation import evaluate
from safe_rl.rollout import EpisodeRecord, Rollout
from safe_rl.run_log import RunLog, sync_episodes
from safe_rl.switch import Decision, Mode
from safe_rl.transitions import Transitions

logger = logging.getLogger(__name__)

ECHO_SEC = 0.5
"""Time within which a second Ctrl-C counts as the first one."""

Progress = Callable[[int, int, str], None]
"""``progress(done, total, status)``; called often."""
EpisodeCallback = Callable[["Runner", EpisodeRecord], bool | None]
"""Called after each training episode; returning True ends the training."""


class Agent(Protocol):
    """What the runner needs of a method."""

    def act(self, obs: npt.NDArray[np.float32], *, explore: bool) -> Decision:
        """Decides for ``N`` flat observations."""
        ...

    def observe(self, transitions: Transitions) -> None:
        """Takes what happened."""
        ...

    def update(self) -> dict[str, torch.Tensor]:
        """Takes one gradient step; returns scalar metrics."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores ``state_dict``."""
        ...


class Interrupt:
    """Turns Ctrl-C (and SIGTERM) into a request that the loop honours between two steps; a second one is immediate.

    One that comes at once is the first one's echo: a terminal signals a program and its launcher, which passes it on.
    """

    def __init__(self) -> None:
        self.requested = False
        self._requested_sec = 0.0
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.requested and now - self._requested_sec > ECHO_SEC:
            raise KeyboardInterrupt
        if not self.requested:
            self.requested, self._requested_sec = True, now

    def raise_if_requested(self) -> None:
        """Raises ``KeyboardInterrupt`` where one was asked for."""
        if self.requested:
            raise KeyboardInterrupt


class Runner:
    """Trains an agent in its environments until the wanted number of episodes is reached."""

    def __init__(
        self,
        agent: Agent,
        envs: list[CostEnv],
        config: RunConfig,
        *,
        make_eval_env: Callable[[], CostEnv],
        callbacks: Iterable[EpisodeCallback] = (),
        progress: Progress | None = None,
    ) -> None:
        self.agent = agent
        self.config = config
        self.rollout = self._make_rollout(envs)
        self.make_eval_env = make_eval_env
        self.callbacks = list(callbacks)
        self.progress = progress or (lambda done, total, status: None)
        self.num_steps = 0
        self.num_successes = self.num_violations = 0
        self.recent: deque[EpisodeRecord] = deque(maxlen=50)
        self._metrics: dict[str, Any] = {}
        self._time_before = 0.0
        self._started = time.perf_counter()
        self._since_log = _StepStatistics()

    def _make_rollout(self, envs: list[CostEnv]) -> Rollout:
        return Rollout(envs, self.config.seed)

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.config.output / "checkpoints"

    def elapsed_sec(self) -> float:
        """Training time so far, earlier sessions included."""
        return self._time_before + time.perf_counter() - self._started

    def run(self) -> None:
        """Trains; saves at the end, on Ctrl-C and when the environment fails.

        Raises:
            EnvironmentFault: The environment failed; the state was saved.
            KeyboardInterrupt: The user asked to stop; the state was saved, except half a step that a second Ctrl-C cut.
        """
        self._started = time.perf_counter()  # what came before, pretraining for example, is no training time
        log = RunLog(self.config.output, episodes_done=self.rollout.num_finished, steps_done=self.num_steps)
        try:
            with Interrupt() as interrupt:
                while self.rollout.num_finished < self.config.episodes and not interrupt.requested:
                    if self._step(log):
                        break
                self.save()
                interrupt.raise_if_requested()
        except EnvironmentFault:
            self.save()
            raise
        finally:
            log.close()

    def _step(self, log: RunLog) -> bool:
        """One step of every environment and the learning due for it; returns whether a callback ends the training."""
        decision = self.agent.act(self.rollout.obs, explore=True)
        transitions, records = self.rollout.step(decision, self.elapsed_sec)
        self.agent.observe(transitions)
        self.num_steps += len(transitions)
        self._since_log.add(decision)
        steps_before = self.num_steps - len(transitions)
        updates_per_step = self.config.updates_per_step
        for _ in range(int(steps_before * updates_per_step), int(self.num_steps * updates_per_step)):
            self._metrics = self.agent.update()
        if self.num_steps // self.config.log_every != steps_before // self.config.log_every:
            self._log_metrics(log)
        return self._finish_episodes(records, log)

    def _finish_episodes(self, records: list[EpisodeRecord], log: RunLog) -> bool:
        """Counts the episodes that ended in one step, all of them before anything is saved."""
        for record in records:
            self.num_successes += record.success
            self.num_violations += record.violation
            self.recent.append(record)
            log.episode(record, self.num_steps)
            status = f"{self.num_successes} successes, {self.num_violations} violations"
            self.progress(record.episode + 1, self.config.episodes, status)
        if self._is_due(self.config.eval_every, records):
            self._evaluate(log)
        if self._is_due(self.config.checkpoint_every, records):
            self.save()
        return any([bool(callback(self, record)) for record in records for callback in self.callbacks])

    @staticmethod
    def _is_due(every: int, records: list[EpisodeRecord]) -> bool:
        return every > 0 and any((record.episode + 1) % every == 0 for record in records)

    def _log_metrics(self, log: RunLog) -> None:
        """Writes a row: what the latest update tells, and what happened since the row before."""
        seconds = self.elapsed_sec()
        recent: dict[str, float] = {
            "rollout/return_mean": _mean([record.return_ for record in self.recent]),
            "rollout/success_rate": _mean([record.success for record in self.recent]),
            "safety/violation_rate": _mean([record.violation for record in self.recent]),
            "time/steps_per_sec": self.num_steps / max(seconds, 1e-9),
            "time/elapsed_sec": seconds,
        }
        log.metrics(self.num_steps, self.rollout.num_finished, {**self._metrics, **self._since_log.summary(), **recent})
        self._since_log = _StepStatistics()

    def _evaluate(self, log: RunLog) -> None:
        env = self.make_eval_env()
        try:
            result = evaluate(self.agent, env, self.config.eval_episodes, seed=self.config.seed)
        finally:
            env.close()
        log.metrics(self.num_steps, self.rollout.num_finished, {f"eval/{k}": v for k, v in result.summary().items()})

    def save(self) -> None:
        """Writes a checkpoint."""
        sync_episodes(self.config.output)
        save_checkpoint(
            self.checkpoints, self.num_steps, {"agent": self.agent.state_dict(), "runner": self.state_dict()}
        )

    def state_dict(self) -> dict[str, Any]:
        """The loop's own state."""
        return {
            "num_steps": self.num_steps,
            "num_successes": self.num_successes,
            "num_violations": self.num_violations,
            "metrics": {name: float(value) for name, value in self._metrics.items()},
            "elapsed_sec": self.elapsed_sec(),
            "recent": [vars(record) for record in self.recent],
            "since_log": vars(self._since_log),
            "rollout": self.rollout.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores ``state_dict``."""
        self.num_steps = state["num_steps"]
        self.num_successes, self.num_violations = state["num_successes"], state["num_violations"]
        self._metrics = state["metrics"]
        self._time_before = state["elapsed_sec"]
        self.recent.extend(EpisodeRecord(**record) for record in state["recent"])
        self._since_log = _StepStatistics(**state["since_log"])
        self.rollout.load_state_dict(state["rollout"])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


class _StepStatistics:
    """What happened since the last row of metrics."""

    def __init__(self, steps: int = 0, recovery_steps: int = 0, risk_sum: float = 0.0) -> None:
        self.steps, self.recovery_steps, self.risk_sum = steps, recovery_steps, risk_sum

    def add(self, decision: Decision) -> None:
        self.steps += len(decision.mode)
        self.recovery_steps += int((decision.mode == Mode.RECOVERY).sum())
        self.risk_sum += float(decision.risk.sum())

    def summary(self) -> dict[str, float]:
        if self.steps == 0 or np.isnan(self.risk_sum):  # workers count for themselves; no risk critic is in use
            return {}
        return {
            "safety/recovery_share": self.recovery_steps / self.steps,
            "safety/mean_risk": self.risk_sum / self.steps,
        }
