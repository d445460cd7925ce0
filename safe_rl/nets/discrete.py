"""Networks over discrete actions: a policy of probabilities, and critics that value all actions at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from safe_rl.nets.mlp import StackedMLP, of_rank


class ActionValues(StackedMLP):
    """Critics ``Q_i(s, .)`` of all ``n`` actions, to be read like critics of pairs (observation, action).

    An action is a row ``p`` of ``n`` numbers, and what is read is ``sum_a p_a Q_i(s, a)``: of a one-hot row the value
    of that action, of a policy's probabilities their exact expectation, with nothing to sample.

    Args:
        num_members: number of critics.
        obs_dim: width of the observation.
        act_dim: number of actions.
        hidden_sizes: width of each hidden layer.
        generator: CPU generator of the initial weights.
        precision: see ``StackedMLP``.
    """

    def __init__(
        self,
        num_members: int,
        obs_dim: int,
        act_dim: int,
        hidden_sizes: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        precision: str = "float32",
    ) -> None:
        super().__init__(num_members, obs_dim, hidden_sizes, act_dim, generator=generator, precision=precision)

    def forward(self, x: Tensor, *, freeze: bool = False) -> Tensor:
        """``sum_a p_a Q_i(s, a)`` (num_members, B, 1); ``x`` (B, obs_dim + n) is the observation, then ``p``."""
        obs, action = self._parts(x)
        return (super().forward(obs, freeze=freeze) * action).sum(-1, keepdim=True)

    def ranked(self, x: Tensor, rank: int) -> Tensor:
        """``sum_a p_a min_i Q_i(s, a)`` (B,), or of another rank; the gradient reaches ``p`` and nothing else.

        See ``forward`` for ``x``. The critics are ranked for each action, before the sum (arXiv 1910.07207).
        """
        obs, action = self._parts(x)
        return (self.all_ranked(obs, rank) * action).sum(-1)

    @torch.no_grad()
    def all_ranked(self, obs: Tensor, rank: int) -> Tensor:
        """``min_i Q_i(s, a)``, or of another rank, of all actions: (B, n) for observations (B, obs_dim)."""
        return of_rank(self._evaluate(obs, None), rank)[0]

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        obs_dim = self.sizes[0]
        return x[..., :obs_dim], x[..., obs_dim:]


def make_critics(
    num_members: int,
    obs_dim: int,
    act_dim: int,
    hidden_sizes: Sequence[int],
    *,
    discrete: bool,
    generator: torch.Generator | None = None,
    precision: str = "float32",
) -> StackedMLP:
    """Critics that are asked for the values of ``cat([obs, action])``; arguments as for ``ActionValues``."""
    if discrete:
        return ActionValues(num_members, obs_dim, act_dim, hidden_sizes, generator=generator, precision=precision)
    return StackedMLP(num_members, obs_dim + act_dim, hidden_sizes, 1, generator=generator, precision=precision)


class CategoricalActor(nn.Module):
    """The policy of SAC with discrete actions (arXiv 1910.07207): the network's outputs are logits.

    Args:
        obs_dim: width of the observation.
        act_dim: number of actions.
        hidden_sizes: width of each hidden layer.
        generator: CPU generator of the initial weights.
        precision: see ``StackedMLP``.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        hidden_sizes: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.net = StackedMLP(1, obs_dim, hidden_sizes, act_dim, generator=generator, precision=precision)

    def sample(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The whole distribution, in the place of a draw from it.

        Args:
            obs: (B, obs_dim) observations.
            noise: not needed.

        Returns:
            (B, n) probabilities ``pi(.|s)`` and (B,) ``sum_a pi(a|s) log pi(a|s)``.
        """
        log_prob = torch.log_softmax(self.net(obs)[0], dim=-1)
        prob = log_prob.exp()
        return prob, (prob * log_prob).sum(-1)

    def sample_action(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Draws one-hot actions (B, n) for observations (B, obs_dim) by uniform ``noise`` (B, n) in [0, 1)."""
        # The largest of logits plus Gumbel noise is a draw from their softmax.
        return one_hot(self.net(obs)[0] - (-noise.clamp(min=1e-20).log()).log())

    def mean_action(self, obs: Tensor) -> Tensor:
        """The likeliest actions (B, n), one-hot, for observations (B, obs_dim)."""
        return one_hot(self.net(obs)[0])


def one_hot(scores: Tensor) -> Tensor:
    """The action of the largest score in each row (B, n), as a one-hot row."""
    return torch.zeros_like(scores).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)
