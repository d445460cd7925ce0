"""Where a plan runs, for how long, and what it writes. Field names are flags, field docstrings their help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safe_rl.config import require, validate_session


@dataclass
class PlanRunConfig:
    """A training by a plan over rollout workers."""

    env: str
    """Environment: a registered id or package.module:factory."""
    output: Path
    """Folder of the run."""
    workers: int = 0
    """Processes that step environments, on Ray; 0: the same plan in this process, without Ray."""
    envs_per_worker: int | None = None
    """Environments that each steps side by side (default: the preset's)."""
    fragment_length: int | None = None
    """Steps of each environment in what a worker hands in (default: the preset's)."""
    address: str | None = None
    """Ray cluster to join: auto, or host:port (default: start one on this machine)."""
    steps: int = 1_000_000
    """Environment steps of the training."""
    stop_at_return: float | None = None
    """Stop early once the mean return of the last 100 episodes reaches this."""
    seed: int = 0
    """Seed of everything random; with several workers the order in which they hand in is not."""
    cost_key: str = "cost"
    """Entry of info that is the constraint."""
    resume: bool = False
    """Go on with the run in the output folder; the command line takes from it what is not given."""
    overwrite: bool = False
    """Replace the run in the output folder."""
    threads: int = 1
    """CPU threads of the learner."""
    log_every_sec: float = 1.0
    """Time between rows of metrics."""
    checkpoint_every_sec: float = 30.0
    """Time between checkpoints."""

    def __post_init__(self) -> None:
        """Validates the values."""
        validate_session(self.seed, self.threads, resume=self.resume, overwrite=self.overwrite)
        require(self.workers >= 0, "", "workers", self.workers, "at least 0")
        for name in ("envs_per_worker", "fragment_length"):
            value = getattr(self, name)
            require(value is None or value >= 1, "", name, value, "at least 1")
        require(self.steps >= 1, "", "steps", self.steps, "at least 1")
        require(self.log_every_sec > 0, "", "log_every_sec", self.log_every_sec, "positive")
        require(self.checkpoint_every_sec > 0, "", "checkpoint_every_sec", self.checkpoint_every_sec, "positive")
        require(self.address is None or self.workers > 0, "", "address", self.address, "left out with --workers 0")


@dataclass
class OfflinePlanRunConfig(PlanRunConfig):
    """A training by a plan that begins with offline data."""

    dataset: Path | None = None
    """Offline dataset."""
    pretrained: Path | None = None
    """Run folder of safe-rl pretrain whose risk critic and recovery policy to start from."""
