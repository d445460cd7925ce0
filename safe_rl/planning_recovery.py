"""Recovery by planning in a learned model: what all such recovery policies have in common."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import nn

from safe_rl.config import RecoveryConfig
from safe_rl.cross_entropy import Cost, Deadline, minimize
from safe_rl.data.replay_buffer import ReplayBuffer
from safe_rl.nets.optim import FlatAdam
from safe_rl.planner_budget import search_within
from safe_rl.planner_config import PlannerConfig
from safe_rl.recovery import QSamplingRecovery
from safe_rl.risk import RiskCritic

NUM_REMEMBERED = 16
"""Plans that are remembered as starts for the next ones."""


class PlanningRecovery(QSamplingRecovery):
    """Executes the first action of the plan with the least ``Q_risk`` along it (arXiv 2010.15920, section IV).

    A search begins at zero actions or at one of the episode's last plans, moved on by a step, whichever the model calls
    less risky from here. At an episode's end they are forgotten. Where nobody explores, every search begins at zero
    actions with the same noise, so that its result depends on the state alone.

    What the switch would execute in the next states of a batch is approximated by the least risky of a few actions:
    planning hundreds of times a gradient step is out of reach.

    Args:
        state_dim: length of a state.
        act_dim: length of an action.
        config: settings of recovery policies.
        planner: settings of model and planner.
        risk: judges; it is not trained here.
        generator: CPU generator of all that is random in the making of the model.
        device: where the model computes.

    Raises:
        UserError: no search keeps to ``planner.budget_ms`` here.
    """

    has_particles = False
    """Whether the model predicts several trajectories of a plan."""

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
        self.model = self._make_model(state_dim, act_dim, generator)
        self.register_buffer("plans", torch.zeros(NUM_REMEMBERED, planner.horizon, act_dim))
        for name in ("num_episodes", "model_loss", "model_error"):
            self.register_buffer(name, torch.zeros(()))
        self.to(device)
        self.optimizer = FlatAdam(self.model, planner.learning_rate)
        self._noise = torch.empty(0, device=device)
        self.search = planner
        """The settings that a plan is made with: the largest within the budget, where there is one."""
        if planner.budget_ms > 0:
            self.search = search_within(
                planner, lambda search: self._duration(search, state_dim), particles=self.has_particles
            )

    @abstractmethod
    def _make_model(self, state_dim: int, act_dim: int, generator: torch.Generator) -> nn.Module:
        """What is learned, of the sizes that ``planner`` says."""

    @abstractmethod
    def _cost(self, obs: torch.Tensor, search: PlannerConfig, generator: torch.Generator) -> Cost:
        """What judges plans (N, P, horizon, act_dim) in the states ``obs`` (N, state_dim) for one decision."""

    @abstractmethod
    def require_data(self, replay: ReplayBuffer) -> None:
        """Raises ``UserError`` where a model cannot be fitted to what is in a replay."""

    @abstractmethod
    def fit(
        self, encoder: nn.Module, replay: ReplayBuffer, steps: int, generator: torch.Generator
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Fits the model to a replay as ``encoder`` sees it now; yields the metrics of each step."""

    def act(self, obs: torch.Tensor, generator: torch.Generator, *, explore: bool) -> torch.Tensor:
        """See ``RecoveryPolicy``; without exploring ``generator`` rests."""
        if explore:
            return self.plan(obs, generator, self.plans)[:, 0]
        return self.plan(obs, torch.Generator(obs.device).manual_seed(0))[:, 0]

    def plan(
        self,
        obs: torch.Tensor,
        generator: torch.Generator,
        remembered: torch.Tensor | None = None,
        search: PlannerConfig | None = None,
    ) -> torch.Tensor:
        """Plans (N, horizon, act_dim) in ``N`` states, which take their places among the ``remembered`` ones.

        Args:
            obs: (N, state_dim) the states.
            generator: of the search's noise.
            remembered: (M, horizon, act_dim) plans to begin at, or none.
            search: settings to plan with, and without a deadline, instead of ``self.search``.
        """
        deadline = None
        if search is None:
            search = self.search
            if search.budget_ms > 0:
                deadline = Deadline(search.budget_ms / 1e3, self._clock(obs.device))
        shape = (search.iterations, 1, search.population, search.horizon, self.act_dim)
        if self._noise.shape != shape:
            with torch.inference_mode(False):
                self._noise = torch.empty(shape, device=obs.device)
        self._noise.normal_(generator=generator)
        starts = self.plans.new_zeros(1, search.horizon, self.act_dim)
        if remembered is not None:
            starts = torch.cat([starts, remembered])
        cost = self._cost(obs, search, generator)
        plans = minimize(cost, starts.expand(len(obs), -1, -1, -1), search, self._noise, deadline)
        if remembered is not None:
            moved_on = torch.cat([plans[:, 1:], plans[:, -1:]], dim=1)
            remembered.copy_(torch.cat([moved_on, remembered])[: len(remembered)])
        return plans

    def episodes_ended(self) -> None:
        """Forgets the plans: what was good in an episode is nothing to begin the next one with."""
        self.plans.zero_()

    def refresh(self, num_ended: int, encoder: nn.Module, replay: ReplayBuffer, generator: torch.Generator) -> None:
        """Counts episodes that have ended, and lets the model catch up with encoder and data when it is due."""
        every, before = self.planner.refresh_every, int(self.num_episodes)
        self.num_episodes += num_ended
        if every > 0 and before // every != (before + num_ended) // every:
            for _ in self.fit(encoder, replay, self.planner.refresh_steps, generator):
                pass

    @property
    def metrics(self) -> dict[str, torch.Tensor]:
        """Of the model's last gradient step: its loss, and its error against that of "nothing moves"."""
        return {"recovery/model_loss": self.model_loss.clone(), "recovery/model_error": self.model_error.clone()}

    @torch.inference_mode()
    def _duration(self, search: PlannerConfig, state_dim: int) -> float:
        """Seconds of a plan in one state, with starts to begin at as in an episode."""
        obs, clock = self.plans.new_zeros(1, state_dim), self._clock(self.plans.device)
        generator = torch.Generator(obs.device).manual_seed(0)
        started = clock()
        self.plan(obs, generator, torch.zeros_like(self.plans), search)
        return clock() - started

    @staticmethod
    def _clock(device: torch.device) -> Callable[[], float]:
        if device.type == "cuda":

            def clock() -> float:
                torch.cuda.synchronize(device)
                return time.perf_counter()

            return clock
        return time.perf_counter
