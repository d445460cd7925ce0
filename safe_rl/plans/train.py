"""`safe-rl train METHOD` as a function, for the methods that are plans."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from safe_rl.checkpoint import list_checkpoints, load_newest
from safe_rl.envs.factory import make_env
from safe_rl.flow.operators import WorkerWeights
from safe_rl.plans.backend import make_backend
from safe_rl.plans.config import OfflinePlanRunConfig, PlanRunConfig
from safe_rl.plans.methods import PLAN_METHODS
from safe_rl.plans.parts import Parts
from safe_rl.plans.runner import PlanRunner
from safe_rl.runner import Progress
from safe_rl.runs import misfit_named, prepare_run_folder
from safe_rl.training import required_dataset, start_safety

STRIDE = 1_000_003
"""Between the seeds of two sessions of a run, and so of their workers."""


def train_plan(
    method: str,
    run: PlanRunConfig,
    config: Any,
    *,
    progress: Progress | None = None,
    pretrain_progress: Progress | None = None,
) -> PlanRunner:
    """Trains by a plan and writes a run folder.

    Args:
        method: A name of ``PLAN_METHODS``.
        run: Where, how long, what is written; its ``envs_per_worker`` and ``fragment_length`` are given.
        config: The method's settings.
        progress: Told of the environment steps done.
        pretrain_progress: Told of the pretraining's progress, in gradient steps, where the method has one.

    Returns:
        The runner with its learner.

    Raises:
        UserError: Something is missing, damaged or does not fit; nothing was changed.
        FlowError: A stage of the plan failed; the state was saved, and ``resume`` goes on.
        KeyboardInterrupt: Ctrl-C; likewise.
    """
    torch.set_num_threads(run.threads)
    spec = PLAN_METHODS[method]
    probe = make_env(run.env, cost_key=run.cost_key)
    learner = spec.learner(probe.observation_space, probe.action_space, config, seed=run.seed)
    dataset = required_dataset(method, learner, run, probe) if isinstance(run, OfflinePlanRunConfig) else None
    probe.close()
    runner = PlanRunner(learner, run, progress)
    prepare_run_folder(
        run.output,
        {"method": method, **dataclasses.asdict(run), **dataclasses.asdict(config)},
        resume=run.resume,
        overwrite=run.overwrite,
    )
    if dataset is not None:
        learner.add_offline(dataset.transitions())
    if run.resume and list_checkpoints(runner.checkpoints):
        state = load_newest(runner.checkpoints)
        with misfit_named(run.output, run.env):
            learner.load_state_dict(state["agent"])
            runner.load_state_dict(state["runner"])
    elif isinstance(run, OfflinePlanRunConfig):
        start_safety(learner, run, pretrain_progress)
    with make_backend(run.workers, run.address) as backend:
        workers = backend.actors(
            spec.worker,
            run.workers,
            run.env,
            num_envs=run.envs_per_worker,
            fragment_length=run.fragment_length,
            seed=run.seed + STRIDE * runner.num_sessions,
            cost_key=run.cost_key,
            **spec.worker_arguments(config, max(run.workers, 1)),
        )
        runner.num_sessions += 1
        weights = WorkerWeights(backend, workers, learner)
        weights.send_all()
        runner.run(spec.plan(Parts(backend, workers, learner, weights)), backend.context)
    return runner
