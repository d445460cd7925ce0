"""The settings of agents and training. Field names are the command line's flags, field docstrings its help."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from safe_rl.normalization import NormalizeObs
from safe_rl.planner_config import PLANNING_KINDS, PlannerConfig
from safe_rl.validation import require, require_widths

Precision = Literal["float32", "bfloat16"]


@dataclass
class SACConfig:
    """Soft actor-critic, the task policy (arXiv 1812.05905)."""

    learning_rate: float = 3e-4
    """Adam step size of actor, critics and temperature."""
    gamma: float = 0.99
    """Discount of the reward."""
    tau: float = 0.005
    """Share of the critics that their targets take over at each step."""
    entropy: Literal["fixed", "auto"] = "fixed"
    """Hold the temperature at alpha, or tune it so that the policy keeps target_entropy."""
    alpha: float = 0.2
    """Temperature: weight of the entropy against the reward (its start value where entropy is auto)."""
    target_entropy: float | None = None
    """Entropy to keep, in nats (default: minus the number of action components; with Discrete actions
    target_entropy_share of the largest)."""
    target_entropy_share: float = 0.3
    """With Discrete actions the entropy to keep, as a share of that of uniform actions, log n."""
    exploration_noise: Literal["white", "pink"] = "white"
    """Draw actions in training independently, or by noise that remembers, so that the robot wanders further (Eberhard
    and others, ICLR 2023); a step's distribution is the same."""
    reward_scale: float = 1.0
    """Factor on the reward before it reaches the critics."""
    hidden_sizes: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of actor and critics."""

    def __post_init__(self) -> None:
        """Validates the values."""
        require(self.learning_rate > 0, "sac", "learning_rate", self.learning_rate, "positive")
        require(0 <= self.gamma <= 1, "sac", "gamma", self.gamma, "between 0 and 1")
        require(0 < self.tau <= 1, "sac", "tau", self.tau, "above 0 and at most 1")
        require(self.alpha >= 0, "sac", "alpha", self.alpha, "at least 0")
        require(self.entropy == "fixed" or self.alpha > 0, "sac", "alpha", self.alpha, "positive where entropy is auto")
        share = self.target_entropy_share
        require(0 <= share <= 1, "sac", "target_entropy_share", share, "between 0 and 1")
        require(self.reward_scale > 0, "sac", "reward_scale", self.reward_scale, "positive")
        require_widths("sac", self.hidden_sizes)


@dataclass
class RiskCriticConfig:
    """The risk critic Q_risk (Recovery RL, arXiv 2010.15920)."""

    gamma_risk: float = 0.8
    """Discount of future violations: how far ahead the critic looks, about 1 / (1 - gamma_risk) steps."""
    eps_risk: float = 0.3
    """Risk that is tolerated."""
    tau: float = 0.0002
    """Share of the critics that their targets take over at each step."""
    learning_rate: float = 3e-4
    """Adam step size of the critics."""
    num_critics: int = 2
    """Size of the ensemble."""
    quantile: float = 1.0
    """Which member counts, in order of their values: 1 the largest (pessimism), 0.5 the middle one, 0 the least."""
    hidden_sizes: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers."""
    loss: Literal["mse", "cross-entropy"] = "mse"
    """Squared error as in the paper, or cross-entropy against the bootstrapped probability."""
    pretrain_proposal: Literal["policy", "uniform"] = "policy"
    """What proposes the next action while no task policy is trained yet: the fresh policy, or uniform actions."""
    conservatism: float = 0.0
    """Weight in pretraining of a term that raises the risk of what is proposed over that of what the data show (CSC,
    arXiv 2010.14497); 0 for none."""
    positive_fraction: float | None = None
    """Share of violating transitions in each risk batch (default: as they come)."""
    pretrain_steps: int = 10_000
    """Gradient steps on the offline data before training; 0 for the ablation without pretraining."""
    update_online: bool = True
    """Go on updating the risk critic, and the recovery policy where there is one, while training."""

    def __post_init__(self) -> None:
        """Validates the values."""
        require(0 <= self.gamma_risk < 1, "risk", "gamma_risk", self.gamma_risk, "at least 0 and below 1")
        require(0 <= self.eps_risk <= 1, "risk", "eps_risk", self.eps_risk, "between 0 and 1")
        require(0 < self.tau <= 1, "risk", "tau", self.tau, "above 0 and at most 1")
        require(self.learning_rate > 0, "risk", "learning_rate", self.learning_rate, "positive")
        require(self.num_critics >= 1, "risk", "num_critics", self.num_critics, "at least 1")
        require(0 <= self.quantile <= 1, "risk", "quantile", self.quantile, "between 0 and 1")
        require(self.conservatism >= 0, "risk", "conservatism", self.conservatism, "at least 0")
        require_widths("risk", self.hidden_sizes)
        fraction = self.positive_fraction
        require(fraction is None or 0 < fraction < 1, "risk", "positive_fraction", fraction, "between 0 and 1")
        require(self.pretrain_steps >= 0, "risk", "pretrain_steps", self.pretrain_steps, "at least 0")

    @property
    def rank(self) -> int:
        """The place of the member that counts, in order of their values; the next higher where it is between two."""
        return math.ceil(self.quantile * (self.num_critics - 1))


@dataclass
class RiskConfig(RiskCriticConfig):
    """The risk critic and the switch that asks it; the recovery policy takes over above eps_risk."""

    backup: Literal["composite", "task"] = "composite"
    """Whose next action the target follows: the switch's (the paper), or the task policy's (the authors' code)."""
    recovery_must_help: bool = False
    """Hand over only where the recovery action is less risky than the proposed one."""


@dataclass
class RecoveryConfig:
    """The recovery policy."""

    kind: Annotated[
        Literal["model-free", "q-sampling", "model-based", "latent-model", "least-risky"],
        tyro.conf.arg(aliases=["--recovery"]),
    ] = "model-free"
    """A policy trained to minimise Q_risk, the least risky of uniformly sampled actions, or the first action of the
    least risky plan in a learned model: model-based, or of images latent-model. With Discrete actions always
    least-risky, the best of all."""
    learning_rate: float = 3e-4
    """Adam step size of the model-free policy."""
    hidden_sizes: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of the model-free policy."""
    objective: Literal["risk", "logit"] = "risk"
    """What the model-free policy descends: Q_risk as in the paper, or the logit of it, whose gradient does not vanish
    where the risk is close to 1 and a rescue is needed most."""
    explore: bool = True
    """Sample the model-free recovery action with its learned noise while training, instead of taking its mean."""
    explore_above: float = 1.0
    """While training, take a uniformly random action where Q_risk of the recovery action itself is above this: little
    is left to lose, and Q_risk learns what else could be done. 1: never."""
    num_samples: int = 1000
    """Actions that q-sampling draws for a decision."""
    num_backup_samples: int = 16
    """Actions that q-sampling, model-based and latent-model draw for each next state of a batch."""

    def __post_init__(self) -> None:
        """Validates the values."""
        require(self.learning_rate > 0, "recovery", "learning_rate", self.learning_rate, "positive")
        require_widths("recovery", self.hidden_sizes)
        require(0 <= self.explore_above <= 1, "recovery", "explore_above", self.explore_above, "between 0 and 1")
        require(self.num_samples >= 1, "recovery", "num_samples", self.num_samples, "at least 1")
        require(self.num_backup_samples >= 1, "recovery", "num_backup_samples", self.num_backup_samples, "at least 1")


@dataclass
class EncoderConfig:
    """What turns observations that are images into features; of no use to other observations."""

    sharing: Literal["separate", "shared"] = "separate"
    """Give risk its own encoder, which the task cannot move, or share one that both train."""
    channels: tuple[int, ...] = (16, 32, 32)
    """Channels of the convolutions; each halves height and width."""
    feature_dim: int = 50
    """Number of features."""
    augmentation: Literal["none", "random-shift"] = "none"
    """Learn from images as they are, or shifted at random (DrQ, arXiv 2004.13649)."""
    pad: int = 4
    """Largest random shift, in pixels."""
    pretrain_steps: int = 0
    """Gradient steps on reconstructing the offline images (SAC-AE, arXiv 1910.01741) before risk is pretrained."""
    learning_rate: float = 1e-3
    """Adam step size of that; later an encoder learns at its critics' pace."""

    def __post_init__(self) -> None:
        """Validates the values."""
        sizes, some = self.channels, len(self.channels) > 0 and all(size > 0 for size in self.channels)
        require(some, "encoder", "channels", sizes, "one or more positive numbers")
        require(self.feature_dim >= 2, "encoder", "feature_dim", self.feature_dim, "at least 2")
        require(self.pad >= 1, "encoder", "pad", self.pad, "at least 1")
        require(self.pretrain_steps >= 0, "encoder", "pretrain_steps", self.pretrain_steps, "at least 0")
        require(self.learning_rate > 0, "encoder", "learning_rate", self.learning_rate, "positive")


@dataclass
class AgentConfig:
    """What every agent has."""

    batch_size: int = 256
    """Transitions in a gradient step."""
    replay_capacity: int = 1_000_000
    """Online transitions kept."""
    start_steps: int = 100
    """Uniformly random task actions at the beginning of training (the switch watches them too)."""
    update_after: int = 0
    """Environment steps before the first update; at least one batch's worth of different states helps."""
    normalize_obs: NormalizeObs = "dataset"
    """Scale observations by the statistics of the dataset, by running ones, or not; never images."""
    precision: Precision = "float32"
    """Precision of the hidden layers' matrix products; weights stay in float32."""
    violation_ends_value: bool = True
    """Value a violation as the end of the episode, which makes crashing pay where rewards are negative. Switched off,
    the task critics look past it as if the episode went on."""
    demonstrations: bool = False
    """Train the task policy on the offline transitions too, where there is a dataset."""
    task_pretrain_steps: int = 0
    """Gradient steps of the task policy on the offline transitions before training (needs demonstrations)."""
    sac: SACConfig = field(default_factory=SACConfig)
    """Task policy."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Encoder of images."""

    def __post_init__(self) -> None:
        """Validates the values."""
        require(self.batch_size >= 1, "", "batch_size", self.batch_size, "at least 1")
        require(self.replay_capacity >= 1, "", "replay_capacity", self.replay_capacity, "at least 1")
        require(self.start_steps >= 0, "", "start_steps", self.start_steps, "at least 0")
        require(self.update_after >= 0, "", "update_after", self.update_after, "at least 0")
        steps = self.task_pretrain_steps
        require(steps >= 0, "", "task_pretrain_steps", steps, "at least 0")
        require(steps == 0 or self.demonstrations, "", "task_pretrain_steps", steps, "0 without --demonstrations")

    def for_run(self, *, episodes: int, dataset: bool) -> AgentConfig:
        """These settings as a run of so many episodes heeds them: without a dataset nothing is demonstrated."""
        if dataset or not self.demonstrations:
            return self
        return dataclasses.replace(self, demonstrations=False, task_pretrain_steps=0)

    def settings(self, *, images: bool) -> dict[str, Any]:
        """As a run keeps them, as JSON values: without those of the encoder where observations are no images."""
        settings = dataclasses.asdict(self)
        if not images:
            del settings["encoder"]
        return settings


@dataclass
class UnconstrainedConfig(AgentConfig):
    """SAC on the reward alone: what happens without a shield."""


@dataclass
class RiskAwareConfig(AgentConfig):
    """What every agent with a risk critic has."""

    risk: RiskCriticConfig = field(default_factory=RiskCriticConfig)
    """Risk critic."""

    def __post_init__(self) -> None:
        """Validates the values."""
        super().__post_init__()
        # What the task teaches a shared encoder, a risk critic that no longer learns would misread.
        apart = self.encoder.sharing == "separate" or self.risk.update_online
        require(apart, "encoder", "sharing", self.encoder.sharing, "separate with --risk.no-update-online")


@dataclass
class RecoveryRLConfig(RiskAwareConfig):
    """Recovery RL (arXiv 2010.15920)."""

    risk: RiskConfig = field(default_factory=RiskConfig)
    """Risk critic and switch."""
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    """Recovery policy."""
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    """Model and planner, of the recovery kinds model-based and latent-model."""
    relabel_actions: bool = True
    """Train the task policy on what it proposed; off for the ablation that trains it on what was executed."""
    risk_price: float = 0.0
    """Price that the task policy pays for the risk of what it proposes, in units of the environment's reward, so that
    it learns to need the switch less; 0 for the paper's Recovery RL."""
    learn_from_both: bool = False
    """Train the task policy on what it proposed and on what was executed, each half of the times: another ablation."""

    def __post_init__(self) -> None:
        """Validates the values."""
        super().__post_init__()
        require(self.risk_price >= 0, "", "risk_price", self.risk_price, "at least 0")
        require(
            self.relabel_actions or not self.learn_from_both, "", "learn_from_both", True, "off without relabelling"
        )

    def settings(self, *, images: bool) -> dict[str, Any]:
        """See ``AgentConfig``; without those of the planner where nobody plans."""
        settings = super().settings(images=images)
        if self.recovery.kind not in PLANNING_KINDS:
            del settings["planner"]
        return settings


@dataclass
class RunConfig:
    """Where a run happens, for how long, and what it writes."""

    env: str
    """Environment: a registered id or package.module:factory."""
    output: Path
    """Folder of the run."""
    seed: int = 0
    """Seed of everything random."""
    cost_key: str = "cost"
    """Entry of info that is the constraint."""
    dataset: Path | None = None
    """Offline dataset."""
    pretrained: Path | None = None
    """Run folder of safe-rl pretrain whose risk critic and recovery policy to start from."""
    episodes: int = 300
    """Training episodes; of several environments those that end in the same step as the last one count too."""
    resume: bool = False
    """Go on with the run in the output folder; the command line takes from it what is not given."""
    overwrite: bool = False
    """Replace the run in the output folder."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    threads: int = 1
    """CPU threads; networks this small gain nothing from more."""
    num_envs: int = 1
    """Environments stepped side by side; with workers, by each of them."""
    workers: int = 0
    """Processes that step environments, on Ray, while this one learns; 0: all in this process, without Ray."""
    address: str | None = None
    """Ray cluster to join: auto, or host:port (default: start one on this machine)."""
    updates_per_step: float = 1.0
    """Gradient steps for each environment step."""
    eval_every: int = 0
    """Training episodes between evaluations; 0 for none."""
    eval_episodes: int = 10
    """Episodes of an evaluation, apart from the training ones."""
    checkpoint_every: int = 25
    """Training episodes between checkpoints."""
    log_every: int = 200
    """Environment steps between rows of metrics."""
    stop_at_success_rate: float | None = None
    """Stop early once this share of the last 50 episodes succeeded without a violation."""

    def __post_init__(self) -> None:
        """Validates the values."""
        validate_session(self.seed, self.threads, resume=self.resume, overwrite=self.overwrite)
        require(self.episodes >= 1, "", "episodes", self.episodes, "at least 1")
        require(self.num_envs >= 1, "", "num_envs", self.num_envs, "at least 1")
        require(self.workers >= 0, "", "workers", self.workers, "at least 0")
        require(self.address is None or self.workers > 0, "", "address", self.address, "left out with --workers 0")
        require(self.updates_per_step >= 0, "", "updates_per_step", self.updates_per_step, "at least 0")
        require(self.eval_every >= 0, "", "eval_every", self.eval_every, "at least 0")
        require(self.eval_episodes >= 1, "", "eval_episodes", self.eval_episodes, "at least 1")
        require(self.checkpoint_every >= 1, "", "checkpoint_every", self.checkpoint_every, "at least 1")
        require(self.log_every >= 1, "", "log_every", self.log_every, "at least 1")
        rate = self.stop_at_success_rate
        require(rate is None or 0 < rate <= 1, "", "stop_at_success_rate", rate, "above 0 and at most 1")


def validate_session(seed: int, threads: int, *, resume: bool, overwrite: bool) -> None:
    """Validates what training and pretraining have in common.

    Raises:
        UserError: A value is out of range, or both ``resume`` and ``overwrite`` are asked for.
    """
    require(0 <= seed < 2**63, "", "seed", seed, "at least 0 and below 2^63")
    require(threads >= 1, "", "threads", threads, "at least 1")
    require(not (resume and overwrite), "", "overwrite", overwrite, "off when --resume is given")
