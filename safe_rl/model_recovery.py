"""Model-based recovery after PETS: planning in a probabilistic ensemble of dynamics models."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from safe_rl.cross_entropy import Cost
from safe_rl.data.replay_buffer import Batch, ReplayBuffer
from safe_rl.nets.gaussian_ensemble import FastEnsemble, GaussianEnsemble
from safe_rl.planner_config import PlannerConfig
from safe_rl.planning_recovery import PlanningRecovery

CHUNK = 2_000
"""States that are judged at once: their activations stay in the cache."""

Risk = Callable[[Tensor, Tensor], Tensor]
"""``Q_risk`` (B,) of states (B, state_dim) and actions (B, act_dim)."""


class ModelBasedRecovery(PlanningRecovery):
    """Plans in a model of the states (Recovery RL, arXiv 2010.15920, with PETS, arXiv 1805.12114).

    A plan's cost is the mean of ``Q_risk(s_k, a_k)`` over its steps and over the particles, each of which follows one
    network of the ensemble from the first step to the last (TSinf). The particles' noise is drawn once a decision and
    is the same for all plans, so that plans differ by what they do and not by their luck.

    Arguments and errors are those of ``PlanningRecovery``.
    """

    has_particles = True

    model: GaussianEnsemble

    def _make_model(self, state_dim: int, act_dim: int, generator: torch.Generator) -> GaussianEnsemble:
        """See ``PlanningRecovery``; decides too which data each network is to learn from."""
        size, hidden_sizes = self.planner.ensemble_size, self.planner.hidden_sizes
        model = GaussianEnsemble(size, state_dim, act_dim, hidden_sizes, generator=generator)
        self._bootstrap_seed = int(torch.randint(2**31, (), generator=generator))
        return model

    # ---------------------------------------------------------------- planning

    def _cost(self, obs: Tensor, search: PlannerConfig, generator: torch.Generator) -> Cost:
        """See ``PlanningRecovery``."""
        size, state_dim = search.ensemble_size, obs.shape[1]
        noise = torch.randn(
            (search.horizon - 1, size, 1, search.particles // size, state_dim), generator=generator, device=obs.device
        )
        low = search.precision == "bfloat16"
        risk = self._risk[0].in_precision("bfloat16") if low else self._risk[0]
        model = FastEnsemble(self.model, torch.bfloat16 if low else torch.float32)
        return lambda plans: self._mean_risk(obs, plans, noise, model, risk)

    def _mean_risk(self, obs: Tensor, plans: Tensor, noise: Tensor, model: FastEnsemble, risk: Risk) -> Tensor:
        """The cost (N, P) of plans (N, P, horizon, act_dim); see ``_cost``.

        Args:
            obs: (N, state_dim) where the plans begin.
            plans: what to do.
            noise: (horizon - 1, num_members, 1, particles of a member, state_dim) standard normal numbers.
            model: predicts.
            risk: judges.
        """
        rows, population, horizon, act_dim = plans.shape
        _, members, _, particles, state_dim = noise.shape
        actions = plans.flatten(0, 1)  # (N * P, horizon, act_dim)
        states = obs.repeat_interleave(population, dim=0)
        total = risk(states, actions[:, 0])
        # The particles of a member part only after the first prediction.
        inputs = torch.cat([states, actions[:, 0]], dim=1).expand(members, -1, -1)
        states = states[:, None]
        for step in range(1, horizon):
            mean, std = model.predict(inputs)
            shape = (members, len(actions), -1, state_dim)
            states = states + mean.view(shape) + std.view(shape) * noise[step - 1]
            states = states.clamp_(self.model.lowest, self.model.highest)  # (members, N * P, particles, state_dim)
            now = actions[:, step, None].expand(members, -1, particles, -1)
            inputs = torch.cat([states, now], dim=-1).view(members, -1, state_dim + act_dim)
            pieces = inputs.view(-1, state_dim + act_dim).split(CHUNK)
            judged = torch.cat([risk(piece[:, :state_dim], piece[:, state_dim:]) for piece in pieces])
            total = total + judged.view(members, -1, particles).mean(dim=(0, 2))
        return total.view(rows, population) / horizon

    # ---------------------------------------------------------------- learning

    def require_data(self, replay: ReplayBuffer) -> None:
        """Any transitions will do."""

    def fit(
        self, encoder: nn.Module, replay: ReplayBuffer, steps: int, generator: torch.Generator
    ) -> Iterator[dict[str, Tensor]]:
        """Fits the model to the transitions of a replay as ``encoder`` sees them now; yields the metrics of each step.

        Every network has its own resampling of the transitions, with replacement (bootstrap).
        """
        batch = Batch.from_rows(replay.rows[: len(replay)], replay.obs_dim, replay.act_dim)
        with torch.no_grad():
            states = encoder(batch.obs)
            targets = encoder(batch.next_obs) - states
        inputs = torch.cat([states, batch.action], dim=1)
        self.model.adapt_to(inputs, targets)
        resampled = self.resampling(len(inputs)).to(inputs.device)
        shape = (self.model.num_members, self.planner.batch_size)
        for _ in range(steps):
            drawn = torch.randint(len(inputs), shape, generator=generator, device=inputs.device)
            rows = resampled.gather(1, drawn)
            prediction = self.model(inputs[rows])
            loss = self.model.loss(prediction, targets[rows])
            self.optimizer.step(loss)
            self.model_loss.copy_(loss.detach())
            scaled = targets[rows] / self.model.target_scale
            error = (prediction.mean.detach() - scaled).square().mean() / scaled.square().mean().clamp(min=1e-12)
            self.model_error.copy_(error)
            yield self.metrics

    def resampling(self, count: int) -> Tensor:
        """Which of ``count`` transitions each network learns from (num_members, count); the same at every call."""
        generator = torch.Generator().manual_seed(self._bootstrap_seed)
        return torch.randint(count, (self.model.num_members, count), generator=generator)
