"""A3C as a plan (arXiv 1602.01783); its loss is in ``safe_rl.algorithms.a2c``."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from safe_rl.algorithms.a2c import A2CConfig, A2CLearner
from safe_rl.algorithms.fragment import EpisodeSummary
from safe_rl.flow import LocalIterator
from safe_rl.flow.operators import Update, UpdateWorkerWeights
from safe_rl.flow.rollout_worker import RolloutWorker
from safe_rl.plans.parts import Parts


class Gradient(NamedTuple):
    """What a worker makes of a fragment."""

    values: npt.NDArray[np.float32]
    num_steps: int
    episodes: tuple[EpisodeSummary, ...]
    metrics: dict[str, float]


class GradientWorker(RolloutWorker):
    """A rollout worker that learns nothing itself, but says in which direction the weights should go.

    Args:
        env: As for ``RolloutWorker``.
        config: Settings of the loss.
        **kwargs: As for ``RolloutWorker``.
    """

    def __init__(self, env: str, config: A2CConfig, **kwargs: Any) -> None:
        super().__init__(env, hidden_sizes=config.hidden_sizes, **kwargs)
        self._learner = A2CLearner(self.envs.observation_space, self.envs.action_space, config)

    def set_weights(self, weights: npt.NDArray[np.float32], version: int) -> None:
        """Takes over ``ActorCritic.flat_weights``, for acting and for the gradient."""
        super().set_weights(weights, version)
        self._learner.net.load_flat_weights(weights)

    def gradient(self) -> Gradient:
        """Samples a fragment and computes its gradient (``ComputeGradients``)."""
        fragment = self.sample()
        values, metrics = self._learner.gradient([fragment])
        return Gradient(values, fragment.num_steps, fragment.episodes, metrics)


def a3c(parts: Parts[A2CLearner]) -> LocalIterator[Update]:
    """Asynchronous workers compute gradients; the learner applies each as it comes (``ApplyGradients``)."""

    def apply(gradient: Gradient) -> Update:
        parts.learner.apply_gradient(gradient.values, gradient.num_steps)
        return Update(gradient.episodes, gradient.metrics)

    return (
        parts.workers.iterate(GradientWorker.gradient)  # type: ignore[arg-type]
        .zip_with_source_actor()
        .gather_async()
        .for_each(lambda pair: (apply(pair[0]), pair[1]), name="apply_gradients")
        .for_each(UpdateWorkerWeights(parts.weights))
    )
