"""The core's training, an agent and so many episodes of it, with its environments in rollout workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from safe_rl.algorithms.fragment import EpisodeSummary
from safe_rl.algorithms.off_policy_learner import OffPolicyLearner
from safe_rl.algorithms.risk_aware import RiskAwareAgent
from safe_rl.algorithms.sac import SACAgent
from safe_rl.config import RunConfig
from safe_rl.envs.factory import CostEnv, make_env
from safe_rl.flow import ActorGroup, LocalIterator
from safe_rl.flow.agent_worker import AgentWorker
from safe_rl.flow.operators import Update, WorkerWeights
from safe_rl.plans.backend import make_backend
from safe_rl.plans.parts import Parts
from safe_rl.plans.recovery_rl import recovery_rl
from safe_rl.plans.sac import sac
from safe_rl.rollout import EpisodeRecord, Rollout
from safe_rl.run_log import RunLog
from safe_rl.runner import EpisodeCallback, Progress, Runner
from safe_rl.runs import misfit_named

FRAGMENT_STEPS = 32
"""Environment steps in what a worker hands in: few, since its policy is as old as that."""
STRIDE = 1_000_003
"""Between the seeds of two sessions of a run, and so of their workers."""


class WorkerEpisodes(Rollout):
    """Counts the episodes that workers run; unfinished ones end with the session, since only workers know them."""

    def __init__(self) -> None:
        self.num_started = self.num_finished = self.num_sessions = 0

    def state_dict(self) -> dict[str, Any]:
        """The counters."""
        return {
            "num_started": self.num_started,
            "num_finished": self.num_finished,
            "num_sessions": self.num_sessions,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the counters, also of a run that had no workers before."""
        self.num_started, self.num_finished = state["num_started"], state["num_finished"]
        self.num_sessions = state.get("num_sessions", 1)


class EpisodesRunner(Runner):
    """``Runner`` whose step is the next update of a plan."""

    rollout: WorkerEpisodes
    plan: LocalIterator[Update]

    def _make_rollout(self, envs: list[CostEnv]) -> Rollout:
        return WorkerEpisodes()

    def _step(self, log: RunLog) -> bool:
        update = next(self.plan)
        self._metrics = {**self._metrics, **update.metrics}
        steps_before, self.num_steps = self.num_steps, self.agent.num_observed  # type: ignore[attr-defined]
        if self.num_steps // self.config.log_every != steps_before // self.config.log_every:
            self._metrics |= self.plan.context.snapshot()
            self._log_metrics(log)
        return self._finish_episodes([self._record(episode) for episode in update.episodes], log)

    def _record(self, episode: EpisodeSummary) -> EpisodeRecord:
        self.rollout.num_finished += 1
        self.rollout.num_started = self.rollout.num_finished
        return EpisodeRecord.of(episode, self.rollout.num_finished - 1, self.elapsed_sec())


def train_with_workers(
    method: str,
    agent: SACAgent,
    run: RunConfig,
    state: dict[str, Any] | None,
    callbacks: Iterable[EpisodeCallback],
    progress: Progress | None,
) -> None:
    """Trains an agent that is ready to begin, or to go on.

    Args:
        method: Name of the agent's method.
        agent: Learns in this process.
        run: Where, how long, what is written.
        state: The checkpoint to go on from, which the agent has loaded.
        callbacks: Called after each training episode.
        progress: Told of the episodes done.

    Raises:
        UserError: Ray is missing, or does not answer.
        FlowError: A stage of the plan failed; the state was saved.
        KeyboardInterrupt: The user asked to stop; likewise.
    """
    make_eval_env: Callable[[], CostEnv] = lambda: make_env(run.env, cost_key=run.cost_key)  # noqa: E731
    runner = EpisodesRunner(agent, [], run, make_eval_env=make_eval_env, callbacks=callbacks, progress=progress)
    if state is not None:
        with misfit_named(run.output, run.env):
            runner.load_state_dict(state["runner"])
    fragment_length = max(1, FRAGMENT_STEPS // run.num_envs)
    with make_backend(run.workers, run.address) as backend:
        workers: ActorGroup[Any] = backend.actors(
            AgentWorker,
            run.workers,
            run.env,
            method,
            agent.config,
            num_envs=run.num_envs,
            fragment_length=fragment_length,
            seed=run.seed + STRIDE * runner.rollout.num_sessions,
            cost_key=run.cost_key,
        )
        runner.rollout.num_sessions += 1
        learner = OffPolicyLearner(agent, run.updates_per_step, fragment_length * run.num_envs)
        weights = WorkerWeights(backend, workers, learner)
        weights.send_all()
        plan = recovery_rl if isinstance(agent, RiskAwareAgent) else sac
        parts: Parts[Any] = Parts(backend, workers, learner, weights)
        runner.plan = plan(parts)
        runner.run()
