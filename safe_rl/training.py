"""`safe-rl train` as a function."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch

from safe_rl.algorithms.risk_aware import RiskAwareAgent
from safe_rl.algorithms.sac import SACAgent
from safe_rl.checkpoint import list_checkpoints, load_newest
from safe_rl.config import AgentConfig, RecoveryRLConfig, RunConfig
from safe_rl.data.dataset import OfflineDataset
from safe_rl.envs.factory import CostEnv, make_env
from safe_rl.errors import UserError
from safe_rl.methods import make_agent
from safe_rl.planner_config import PLANNING_KINDS
from safe_rl.pretraining import load_pretrained, open_dataset, pretrain_safety, read_pretrained
from safe_rl.rollout import EpisodeRecord
from safe_rl.runner import EpisodeCallback, Progress, Runner
from safe_rl.runs import misfit_named, prepare_run_folder, read_config

logger = logging.getLogger(__name__)


def train(
    method: str,
    run: RunConfig,
    agent_config: AgentConfig,
    *,
    callbacks: Iterable[EpisodeCallback] = (),
    progress: Progress | None = None,
    pretrain_progress: Progress | None = None,
) -> SACAgent:
    """Trains an agent and writes its run folder.

    Args:
        method: A name of ``safe_rl.methods.METHODS``.
        run: Where, how long, what is written.
        agent_config: The method's settings.
        callbacks: Called after each training episode.
        progress: Told of the training's progress, in episodes.
        pretrain_progress: Told of the pretraining's progress, in gradient steps.

    Returns:
        The trained agent.

    Raises:
        UserError: Something is missing, damaged or does not fit; nothing was changed.
        EnvironmentFault: The environment failed; the state was saved, and ``resume`` goes on.
        KeyboardInterrupt: Ctrl-C; likewise.
    """
    require_one_planner(run, agent_config)
    torch.set_num_threads(run.threads)
    agent_config = agent_config.for_run(episodes=run.episodes, dataset=run.dataset is not None)
    with contextlib.ExitStack() as stack:
        here = run.num_envs if run.workers == 0 else 1  # the workers make their own
        envs = [stack.enter_context(make_env(run.env, cost_key=run.cost_key)) for _ in range(here)]
        agent = make_agent(
            method, agent_config, envs[0].observation_space, envs[0].action_space, seed=run.seed, device=run.device
        )
        dataset = required_dataset(method, agent, run, envs[0])
        settings = agent.config.settings(images=agent.image_shape is not None)
        config = {"method": method, **dataclasses.asdict(run), **settings}
        prepare_run_folder(run.output, config, resume=run.resume, overwrite=run.overwrite)
        if dataset is not None:
            agent.add_offline(dataset.transitions())
            dataset.release()
        if run.stop_at_success_rate is not None:
            callbacks = [*callbacks, StopAtSuccessRate(run.stop_at_success_rate)]
        checkpoints = run.output / "checkpoints"
        state = load_newest(checkpoints) if run.resume and list_checkpoints(checkpoints) else None
        if state is not None:
            with misfit_named(run.output, run.env):
                agent.load_state_dict(state["agent"])
        else:
            if isinstance(agent, RiskAwareAgent):
                start_safety(agent, run, pretrain_progress)
            total = agent.config.task_pretrain_steps
            for done, _ in enumerate(agent.pretrain_task(total), start=1):
                if pretrain_progress is not None:
                    pretrain_progress(done, total, "task policy")
        if run.workers > 0:
            from safe_rl.plans.episodes import train_with_workers

            train_with_workers(method, agent, run, state, callbacks, progress)
            return agent
        # Only now does the first episode begin: a robot should not stand at its start for minutes.
        runner = Runner(
            agent,
            envs,
            run,
            make_eval_env=lambda: make_env(run.env, cost_key=run.cost_key),
            callbacks=callbacks,
            progress=progress,
        )
        if state is not None:
            with misfit_named(run.output, run.env):
                runner.load_state_dict(state["runner"])
        runner.run()
        return agent


def require_one_planner(run: RunConfig, config: AgentConfig) -> None:
    """Raises ``UserError`` where a recovery that plans would have to do so in several places, or too often at once."""
    if not isinstance(config, RecoveryRLConfig) or config.recovery.kind not in PLANNING_KINDS:
        return
    if run.workers > 0:
        raise UserError(
            f"--workers is {run.workers}: --recovery.kind {config.recovery.kind} trains in one process, with 0"
        )
    if run.num_envs > 1 and config.planner.budget_ms > 0:
        raise UserError(
            f"--num-envs is {run.num_envs}: --planner.budget-ms is the time of one plan, give 1 or leave it out"
        )


class ReadsOffline(Protocol):
    """The settings of a run that say what it learns from before its first episode."""

    env: str
    output: Path
    cost_key: str
    dataset: Path | None
    pretrained: Path | None
    resume: bool


def start_safety(agent: RiskAwareAgent, run: ReadsOffline, progress: Progress | None = None) -> None:
    """Gives an agent that has its offline transitions a risk critic and a recovery policy: loads or pretrains them."""
    if run.pretrained is not None:
        load_pretrained(agent, run.pretrained)
    else:
        pretrain_safety(agent, run.output, progress)


def _warn_of_another_environment(pretrained: Path, env: str) -> None:
    """Equal shapes need not mean the same; a robot after its simulation is the case where they do."""
    trained_in = read_config(pretrained)["env"]
    if trained_in != env:
        logger.warning(
            "%s was pretrained in %s, not in %s: what it takes for risky is what was there", pretrained, trained_in, env
        )


def required_dataset(method: str, agent: SACAgent, run: ReadsOffline, env: CostEnv) -> OfflineDataset | None:
    """Opens what a run reads, so that what is wrong with it is said before anything is written.

    Returns:
        The dataset; a method that learns no risk can do without one.

    Raises:
        UserError: Something is missing, damaged or does not fit.
    """
    if not isinstance(agent, RiskAwareAgent):
        if run.pretrained is not None:
            raise UserError(f"method {method} learns no risk: leave --pretrained out")
        return None if run.dataset is None else open_dataset(run.dataset, env, run.cost_key, learns_risk=False)
    if run.dataset is None:
        raise UserError(
            f"method {method} learns risk from offline data: "
            "collect some with safe-rl collect and name it with --dataset"
        )
    dataset = open_dataset(run.dataset, env, run.cost_key)
    if run.pretrained is not None and not run.resume:
        read_pretrained(agent, run.pretrained)
        _warn_of_another_environment(run.pretrained, run.env)
    return dataset


class StopAtSuccessRate:
    """Ends the training once a share of the last 50 episodes succeeded without a violation."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, runner: Runner, record: EpisodeRecord) -> bool:
        """See ``EpisodeCallback``."""
        good = [r.success and not r.violation for r in runner.recent]
        return len(good) == runner.recent.maxlen and sum(good) >= self.share * len(good)
