"""The settings of recovery by planning; flags of the command line as those of ``safe_rl.config``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from safe_rl.validation import require, require_widths

PLANNING_KINDS = ("model-based", "latent-model")
"""The kinds of recovery that plan."""
MODEL_BASED_ALONE = ("ensemble_size", "particles", "precision")
"""Settings that the kind model-based heeds and latent-model does not."""
NOT_PRETRAINED = frozenset(
    {
        "population",
        "elites",
        "iterations",
        "particles",
        "momentum",
        "budget_ms",
        "precision",
        "refresh_every",
        "refresh_steps",
    }
)
"""Settings of the search, and of what is learned online: the model learns the same offline whatever they are."""


@dataclass
class PlannerConfig:
    """Model and planner of the recovery kinds model-based and latent-model; of no use to the others."""

    horizon: int = 5
    """Steps that are planned ahead; with latent-model also the length of the sequences that the model learns from."""
    population: int = 400
    """Plans that are compared in each iteration of the cross-entropy method."""
    elites: int = 40
    """The least risky of them, around which the next iteration draws."""
    iterations: int = 5
    """Iterations for a decision."""
    particles: int = 20
    """Predicted trajectories of each plan, a multiple of the ensemble's size (model-based alone)."""
    momentum: float = 0.1
    """Share of the former mean and deviation that an iteration keeps."""
    budget_ms: Annotated[float, tyro.conf.arg(aliases=["--planner-budget"])] = 0.0
    """Longest time of a plan in milliseconds: the largest search that keeps to it here is measured and chosen, and one
    that takes longer is cut between two iterations. 0 for no limit."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the products between hidden layers while planning, of Q_risk too (model-based alone)."""
    ensemble_size: int = 5
    """Networks of the model (model-based alone)."""
    hidden_sizes: tuple[int, ...] = (200, 200, 200)
    """Widths of the model's hidden layers."""
    learning_rate: float = 1e-3
    """Adam step size of the model."""
    batch_size: int = 64
    """Sequences (with model-based: transitions for each network) in a gradient step of the model."""
    pretrain_steps: int = 2_000
    """Gradient steps of the model on the offline data, after the risk critic's."""
    refresh_every: int = 10
    """Training episodes between refreshes of the model; 0 for none."""
    refresh_steps: int = 200
    """Gradient steps of a refresh, on offline and online data."""

    def __post_init__(self) -> None:
        """Validates the values."""
        section = "planner"
        counts = ("horizon", "population", "iterations", "ensemble_size", "batch_size", "pretrain_steps")
        for name in (*counts, "refresh_steps"):
            require(getattr(self, name) >= 1, section, name, getattr(self, name), "at least 1")
        need = f"at least 1 and at most the population, {self.population}"
        require(1 <= self.elites <= self.population, section, "elites", self.elites, need)
        size = self.ensemble_size
        whole = self.particles >= size and self.particles % size == 0
        require(whole, section, "particles", self.particles, f"a multiple of the ensemble's size, {size}")
        require(0 <= self.momentum < 1, section, "momentum", self.momentum, "at least 0 and below 1")
        budget = self.budget_ms
        require(0 <= budget < float("inf"), section, "budget_ms", budget, "at least 0 (0 for no limit) and finite")
        require_widths(section, self.hidden_sizes)
        require(self.learning_rate > 0, section, "learning_rate", self.learning_rate, "positive")
        require(self.refresh_every >= 0, section, "refresh_every", self.refresh_every, "at least 0")
