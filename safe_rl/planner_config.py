"""The settings of recovery by a latent model; flags of the command line as those of ``safe_rl.config``."""

from __future__ import annotations

from dataclasses import dataclass

from safe_rl.validation import require, require_widths


@dataclass
class PlannerConfig:
    """Latent model and planner of the recovery kind latent-model; of no use to the others."""

    horizon: int = 5
    """Steps that are planned ahead, and length of the sequences that the model learns from."""
    population: int = 400
    """Plans that are compared in each iteration of the cross-entropy method."""
    elites: int = 40
    """The least risky of them, around which the next iteration draws."""
    iterations: int = 5
    """Iterations for a decision."""
    momentum: float = 0.1
    """Share of the former mean and deviation that an iteration keeps."""
    hidden_sizes: tuple[int, ...] = (200, 200, 200)
    """Widths of the model's hidden layers."""
    learning_rate: float = 1e-3
    """Adam step size of the model."""
    batch_size: int = 64
    """Sequences in a gradient step of the model."""
    pretrain_steps: int = 2_000
    """Gradient steps of the model on the offline sequences, after the risk critic's."""
    refresh_every: int = 10
    """Training episodes between refreshes of the model, since its encoder goes on learning; 0 for none."""
    refresh_steps: int = 200
    """Gradient steps of a refresh, on offline and online sequences."""

    def __post_init__(self) -> None:
        """Validates the values."""
        section = "planner"
        for name in ("horizon", "population", "iterations", "batch_size", "pretrain_steps", "refresh_steps"):
            require(getattr(self, name) >= 1, section, name, getattr(self, name), "at least 1")
        need = f"at least 1 and at most the population, {self.population}"
        require(1 <= self.elites <= self.population, section, "elites", self.elites, need)
        require(0 <= self.momentum < 1, section, "momentum", self.momentum, "at least 0 and below 1")
        require_widths(section, self.hidden_sizes)
        require(self.learning_rate > 0, section, "learning_rate", self.learning_rate, "positive")
        require(self.refresh_every >= 0, section, "refresh_every", self.refresh_every, "at least 0")
