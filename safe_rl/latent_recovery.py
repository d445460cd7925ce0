"""Recovery from images by planning in a learned model of their features."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from safe_rl.config import RecoveryConfig
from safe_rl.cross_entropy import minimize
from safe_rl.data.image_replay import ImageReplayBuffer
from safe_rl.data.sequences import feature_sequences
from safe_rl.nets.latent_dynamics import LatentDynamics, consistency_loss, relative_errors
from safe_rl.nets.optim import FlatAdam
from safe_rl.planner_config import PlannerConfig
from safe_rl.recovery import QSamplingRecovery
from safe_rl.risk import RiskCritic

NUM_REMEMBERED = 16
"""Plans that are remembered as starts for the next ones."""


class LatentModelRecovery(QSamplingRecovery):
    """Executes the first action of the plan with the least ``Q_risk`` along it (arXiv 2010.15920, section IV).

    The plan's cost is ``mean_k Q_risk(z_k, a_k)``, where ``z_0`` are the features that the risk critic's encoder makes
    of the image and a latent model (``LatentDynamics``) tells the later ones. A search begins at zero actions or at one
    of the last plans, moved on by a step, whichever the model calls less risky from here: a plan of another episode is
    used only where it is good in this one, so nothing has to be forgotten between episodes.

    What the switch would execute in the next states of a batch is approximated by the least risky of a few actions:
    planning hundreds of times a gradient step is out of reach.

    Args:
        state_dim: number of features.
        act_dim: length of an action.
        config: settings of recovery policies.
        planner: settings of model and planner.
        risk: judges; it is not trained here.
        generator: CPU generator of the model's initial weights.
        device: where the model computes.
    """

    plans: torch.Tensor
    num_episodes: torch.Tensor
    model_loss: torch.Tensor
    model_error: torch.Tensor

    def __init__(
        self,
        state_dim: int,
        act_dim: int,
        config: RecoveryConfig,
        planner: PlannerConfig,
        risk: RiskCritic,
        *,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(act_dim, config, risk)
        self.planner = planner
        self.model = LatentDynamics(state_dim, act_dim, planner.hidden_sizes, generator=generator)
        # Apart for those that explore and those that do not: an evaluation must not change the training.
        self.register_buffer("plans", torch.zeros(2, NUM_REMEMBERED, planner.horizon, act_dim))
        for name in ("num_episodes", "model_loss", "model_error"):
            self.register_buffer(name, torch.zeros(()))
        self.to(device)
        self.optimizer = FlatAdam(self.model, planner.learning_rate)

    def act(self, obs: torch.Tensor, generator: torch.Generator, *, explore: bool) -> torch.Tensor:
        """See ``RecoveryPolicy``; without exploring the search has the same noise at each call, ``generator`` rests."""
        if not explore:
            generator = torch.Generator(obs.device).manual_seed(0)
        return self.plan(obs, generator, self.plans[int(explore)])[:, 0]

    def plan(self, obs: torch.Tensor, generator: torch.Generator, remembered: torch.Tensor) -> torch.Tensor:
        """Plans (N, horizon, act_dim) in ``N`` states, which take their places among the ``remembered`` ones."""
        planner, rows = self.planner, len(obs)
        noise = torch.randn(
            (planner.iterations, 1, planner.population, planner.horizon, self.act_dim),
            generator=generator, device=obs.device,
        )  # fmt: skip
        starts = torch.cat([torch.zeros_like(remembered[:1]), remembered])
        plans = minimize(lambda p: self.cost(obs, p), starts.expand(rows, -1, -1, -1), planner, noise)
        moved_on = torch.cat([plans[:, 1:], plans[:, -1:]], dim=1)
        remembered.copy_(torch.cat([moved_on, remembered])[: len(remembered)])
        return plans

    def cost(self, obs: torch.Tensor, plans: torch.Tensor) -> torch.Tensor:
        """``mean_k Q_risk(z_k, a_k)`` (N, P) of plans (N, P, horizon, act_dim); ``z_0`` is ``obs`` (N, state_dim)."""
        rows, population, horizon, _ = plans.shape
        actions = plans.flatten(0, 1)
        first = obs.repeat_interleave(population, dim=0)
        features = self.model.imagine(first, actions).flatten(0, 1)
        risk: torch.Tensor = self._risk[0](features, actions.flatten(0, 1))
        return risk.view(rows, population, horizon).mean(2)

    def fit(
        self, encoder: nn.Module, replay: ImageReplayBuffer, steps: int, generator: torch.Generator
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Fits the model to the sequences of a replay as ``encoder`` sees them now; yields the metrics of each step.

        Raises:
            UserError: No transitions follow each other for as long as is planned ahead.
        """
        sequences = feature_sequences(replay, self.planner.horizon, encoder)
        for features, actions in sequences.batches(self.planner.batch_size, steps, generator):
            predicted = self.model.unroll(features[:, 0], actions)
            loss = consistency_loss(predicted, features)
            self.optimizer.step(loss)
            self.model_loss.copy_(loss.detach())
            self.model_error.copy_(relative_errors(predicted.detach(), features).mean())
            yield self.metrics

    @property
    def metrics(self) -> dict[str, torch.Tensor]:
        """Of the model's last gradient step: its loss, and its error against that of "nothing moves"."""
        return {"recovery/model_loss": self.model_loss.clone(), "recovery/model_error": self.model_error.clone()}

    def refresh(
        self, num_ended: int, encoder: nn.Module, replay: ImageReplayBuffer, generator: torch.Generator
    ) -> None:
        """Counts episodes that have ended, and lets the model catch up with encoder and data when it is due."""
        every, before = self.planner.refresh_every, int(self.num_episodes)
        self.num_episodes += num_ended
        if every > 0 and before // every != (before + num_ended) // every:
            for _ in self.fit(encoder, replay, self.planner.refresh_steps, generator):
                pass
