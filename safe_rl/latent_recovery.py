"""Recovery from images by planning in a learned model of their features."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from safe_rl.cross_entropy import Cost
from safe_rl.data.image_replay import ImageReplayBuffer
from safe_rl.data.replay_buffer import ReplayBuffer
from safe_rl.data.sequences import feature_sequences, require_windows
from safe_rl.nets.latent_dynamics import LatentDynamics, consistency_loss, relative_errors
from safe_rl.planner_config import PlannerConfig
from safe_rl.planning_recovery import PlanningRecovery


class LatentModelRecovery(PlanningRecovery):
    """Plans in a latent model, ``LatentDynamics`` (arXiv 2010.15920, section IV).

    The plan's cost is ``mean_k Q_risk(z_k, a_k)``, where ``z_0`` are the features that the risk critic's encoder makes
    of the image and the model tells the later ones.

    Arguments and errors are those of ``PlanningRecovery``; ``state_dim`` is the number of features.
    """

    model: LatentDynamics

    def _make_model(self, state_dim: int, act_dim: int, generator: torch.Generator) -> LatentDynamics:
        """See ``PlanningRecovery``."""
        return LatentDynamics(state_dim, act_dim, self.planner.hidden_sizes, generator=generator)

    def _cost(self, obs: Tensor, search: PlannerConfig, generator: torch.Generator) -> Cost:
        """See ``PlanningRecovery``; the model has no noise."""
        return lambda plans: self.cost(obs, plans)

    def cost(self, obs: Tensor, plans: Tensor) -> Tensor:
        """``mean_k Q_risk(z_k, a_k)`` (N, P) of plans (N, P, horizon, act_dim); ``z_0`` is ``obs`` (N, state_dim)."""
        rows, population, horizon, _ = plans.shape
        actions = plans.flatten(0, 1)
        first = obs.repeat_interleave(population, dim=0)
        features = self.model.imagine(first, actions).flatten(0, 1)
        risk: Tensor = self._risk[0](features, actions.flatten(0, 1))
        return risk.view(rows, population, horizon).mean(2)

    def require_data(self, replay: ReplayBuffer) -> None:
        """See ``PlanningRecovery``: transitions must follow each other for as long as is planned ahead."""
        require_windows(_of_images(replay), self.planner.horizon)

    def fit(
        self, encoder: nn.Module, replay: ReplayBuffer, steps: int, generator: torch.Generator
    ) -> Iterator[dict[str, Tensor]]:
        """Fits the model to the sequences of a replay as ``encoder`` sees them now; yields the metrics of each step.

        Raises:
            UserError: No transitions follow each other for as long as is planned ahead.
        """
        sequences = feature_sequences(_of_images(replay), self.planner.horizon, encoder)
        for features, actions in sequences.batches(self.planner.batch_size, steps, generator):
            predicted = self.model.unroll(features[:, 0], actions)
            loss = consistency_loss(predicted, features)
            self.optimizer.step(loss)
            self.model_loss.copy_(loss.detach())
            self.model_error.copy_(relative_errors(predicted.detach(), features).mean())
            yield self.metrics


def _of_images(replay: ReplayBuffer) -> ImageReplayBuffer:
    if not isinstance(replay, ImageReplayBuffer):
        raise TypeError("a latent model learns from a replay of images")
    return replay
