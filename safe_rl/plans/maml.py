"""MAML as a plan (arXiv 1703.03400); its loss is in ``safe_rl.algorithms.maml``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from safe_rl.algorithms.fragment import Fragment
from safe_rl.algorithms.maml import MAMLConfig, MAMLLearner, MAMLPolicy, MetaGradient, make_net
from safe_rl.envs.factory import make_env
from safe_rl.envs.protocols import OffersTasks
from safe_rl.errors import UserError
from safe_rl.flow import Backend, LocalIterator
from safe_rl.flow.operators import BroadcastWeights, TrainOneStep, Update, WorkerWeights
from safe_rl.flow.rollout_worker import RolloutWorker
from safe_rl.plans.parts import Parts


class MAMLWorker(RolloutWorker):
    """Draws a task, adapts to it, and says how the weights before should have been.

    Args:
        env: A family of tasks (``OffersTasks``); all the worker's environments have the same task.
        config: The method's settings.
        **kwargs: As for ``RolloutWorker``. ``fragment_length`` should hold whole episodes and their resets.

    Raises:
        UserError: The environment has no tasks.
    """

    def __init__(self, env: str, config: MAMLConfig, **kwargs: Any) -> None:
        super().__init__(env, hidden_sizes=config.hidden_sizes, **kwargs)
        self.config = config
        self.copies: list[Any] = [copy.unwrapped for copy in getattr(self.envs, "envs", [])]
        if not self.copies or not all(isinstance(copy, OffersTasks) for copy in self.copies):
            raise UserError(f"environment {env} has no tasks: give it sample_task and set_task (OffersTasks)")
        self.adapting = MAMLPolicy(make_net(self.envs.observation_space, self.envs.action_space, config))

    def set_weights(self, weights: npt.NDArray[np.float32], version: int) -> None:
        """Takes over ``MAMLLearner.weights``."""
        super().set_weights(weights, version)
        self.adapting.net.load_flat_weights(weights)

    def set_task(self, task: Any) -> None:
        """Gives all environments a task."""
        for copy in self.copies:
            copy.set_task(task)

    def sample_with(self, parameters: torch.Tensor) -> Fragment:
        """New episodes by adapted, or other, parameters."""
        weights = self.adapting.net.flat_weights()
        weights[: len(parameters)] = parameters.detach().numpy()
        self.policy.load(weights)
        self._begin()
        return self.sample()

    def meta_gradient(self) -> MetaGradient:
        """A task's inner step and its outer gradient."""
        self.set_task(self.copies[0].sample_task(self._rng))
        before = self.adapting.parameters.requires_grad_()
        first = self.sample_with(before)
        adapted = self.adapting.adapt(before, first, self.config)
        second = self.sample_with(adapted)
        (gradient,) = torch.autograd.grad(self.adapting.objective(adapted, second, self.config.gamma), before)
        num_steps = first.num_steps + second.num_steps
        return MetaGradient(gradient.numpy(), num_steps, mean_return(first), mean_return(second))


def mean_return(fragment: Fragment) -> float:
    """Mean return of the episodes that ended in a fragment."""
    return float(np.mean([episode.return_ for episode in fragment.episodes])) if fragment.episodes else float("nan")


def maml(parts: Parts[MAMLLearner]) -> LocalIterator[Update]:
    """Workers adapt to a task each; the learner steps along the mean of their outer gradients."""
    return (
        parts.workers.iterate(MAMLWorker.meta_gradient)  # type: ignore[arg-type]
        .gather_sync()
        .batch(parts.learner.config.tasks_per_step)
        .for_each(TrainOneStep(parts.learner.learn))
        .for_each(BroadcastWeights(parts.weights))
    )


def meta_train(
    env: str,
    config: MAMLConfig,
    backend: Backend,
    *,
    num_updates: int,
    num_workers: int = 1,
    episodes_per_task: int = 20,
    fragment_length: int = 21,
    seed: int = 0,
    threads: int = 1,
    progress: Callable[[int, dict[str, float]], None] | None = None,
) -> MAMLLearner:
    """Meta-trains for a number of outer steps.

    It stands beside ``safe-rl train``, which trains one policy for one task and saves that: here what is learned is
    only where an adaptation starts from.

    Args:
        env: A family of tasks.
        config: Settings.
        backend: Where the workers run.
        num_updates: Outer steps.
        num_workers: Workers, each with a task at a time.
        episodes_per_task: Environments of each, stepped together.
        fragment_length: Steps of an episode, and one for its reset.
        seed: Of everything random.
        threads: CPU threads of the learner.
        progress: Told of each step and its metrics.

    Raises:
        UserError: The environment cannot be made, or has no tasks.
        FlowError: A stage failed.
    """
    torch.set_num_threads(threads)
    probe = make_env(env)
    learner = MAMLLearner(probe.observation_space, probe.action_space, config, seed=seed)
    probe.close()
    settings: dict[str, Any] = {"num_envs": episodes_per_task, "fragment_length": fragment_length, "seed": seed}
    workers = backend.actors(MAMLWorker, num_workers, env, config, **settings)
    weights = WorkerWeights(backend, workers, learner)  # type: ignore[arg-type]
    weights.send_all()
    plan = maml(Parts(backend, workers, learner, weights))  # type: ignore[arg-type]
    for number, update in enumerate(plan.take(num_updates)):
        if progress is not None:
            progress(number, dict(update.metrics))
    return learner
