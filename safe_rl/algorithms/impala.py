"""IMPALA: policy gradients from workers that lag behind, corrected by V-trace (arXiv 1802.01561)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safe_rl.algorithms.fragment import Fragment, concat_fragments
from safe_rl.algorithms.on_policy_learner import Metrics, OnPolicyConfig, OnPolicyLearner
from safe_rl.algorithms.returns import vtrace
from safe_rl.config import require
from safe_rl.nets.arrays import as_tensor


@dataclass
class IMPALAConfig(OnPolicyConfig):
    """IMPALA (arXiv 1802.01561)."""

    learning_rate: float = 6e-4
    """Adam step size."""
    gae_lambda: float = 1.0
    """Decay of the traces; the paper's is 1."""
    entropy_coef: float = 0.01
    """Weight of the entropy bonus."""
    normalize_advantages: bool = False
    """Shift and scale the advantages of each batch to mean 0 and deviation 1."""
    rho_bar: float = 1.0
    """Bound of the importance weight of a temporal difference."""
    c_bar: float = 1.0
    """Bound of the importance weight of what follows it."""

    def __post_init__(self) -> None:
        """Validates the values."""
        super().__post_init__()
        require(self.rho_bar > 0, "", "rho_bar", self.rho_bar, "positive")
        require(0 < self.c_bar <= self.rho_bar, "", "c_bar", self.c_bar, "positive and at most rho_bar")


class IMPALALearner(OnPolicyLearner[IMPALAConfig]):
    """IMPALA: one pass over each batch, whatever policy it comes from."""

    def learn(self, fragments: Sequence[Fragment]) -> Metrics:
        """One gradient step on fragments of one length."""
        config = self.config
        batch = concat_fragments(fragments)
        self.take_in(batch)
        evaluation = self.net.evaluate(self.observations(batch), as_tensor(batch.task_action).flatten(0, 1))
        log_ratio = evaluation.log_prob.reshape(batch.log_prob.shape) - batch.log_prob
        returns = vtrace(
            log_ratio,
            self.scaled_reward(batch),
            evaluation.values.reshape(len(batch.obs), -1),
            batch.terminated,
            batch.truncated,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            rho_bar=config.rho_bar,
            c_bar=config.c_bar,
        )
        staleness = self.version - batch.version
        # J = log pi(a|s) A with V-trace's A, which contains rho: dJ / d log pi = A
        advantages = self.scaled_advantages(returns.advantages, batch.valid)
        norm = self.descend(evaluation, advantages, returns.targets, batch.valid)
        return {
            "train/entropy": float(evaluation.entropy.mean()),
            "train/grad_norm": norm,
            "train/staleness": float(staleness),
        }
