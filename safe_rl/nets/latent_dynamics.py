"""A model of what an action does to the features of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from safe_rl.nets.mlp import StackedMLP

DECAY = 0.9
"""Weight of a step ahead against the one before it."""


class LatentDynamics(nn.Module):
    """``z' = z + f(z, a)`` between the features of images, learned without a decoder.

    The loss is the latent consistency of TD-MPC (arXiv 2203.04955): from the features of the first image alone the
    model is unrolled over a sequence's actions, and each prediction is compared with the features of the image that
    came. Unlike there it moves the encoder not at all, so that features cannot collapse to be easily predicted: they
    are the ones that ``Q_risk`` has made, and hold what risk depends on.

    Args:
        feature_dim: number of features; each is in (-1, 1).
        act_dim: length of an action.
        hidden_sizes: widths of the hidden layers.
        generator: CPU generator of the initial weights.
    """

    def __init__(
        self,
        feature_dim: int,
        act_dim: int,
        hidden_sizes: Sequence[int],
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.net = StackedMLP(1, feature_dim + act_dim, hidden_sizes, feature_dim, generator=generator)

    def forward(self, features: Tensor, action: Tensor) -> Tensor:
        """The next features (B, feature_dim) of actions (B, act_dim) in [-1, 1]."""
        return features + self.net(torch.cat([features, action], dim=1))[0]

    def unroll(self, features: Tensor, actions: Tensor) -> Tensor:
        """The features after each of a sequence of actions.

        Args:
            features: (B, feature_dim) of the first image.
            actions: (B, horizon, act_dim)

        Returns:
            (B, horizon, feature_dim)
        """
        predicted = []
        for action in actions.unbind(1):
            features = self(features, action)
            predicted.append(features)
        return torch.stack(predicted, dim=1)

    def imagine(self, features: Tensor, actions: Tensor) -> Tensor:
        """The features before each action (B, horizon, feature_dim), of those before the first (B, feature_dim).

        They are held where features of images can be: a planner must gain nothing by leaving it.
        """
        seen = [features]
        for action in actions[:, :-1].unbind(1):
            seen.append(self(seen[-1], action).clamp_(-1, 1))
        return torch.stack(seen, dim=1)


def consistency_loss(predicted: Tensor, features: Tensor) -> Tensor:
    """``mean_k 0.9^k |predicted_k - features_k|^2`` of predictions (B, horizon, feature_dim); see ``LatentDynamics``.

    Args:
        predicted: (B, horizon, feature_dim) what ``unroll`` gave.
        features: (B, horizon + 1, feature_dim) of the sequences, the first image included.
    """
    errors = step_errors(predicted, features[:, 1:])
    weights = DECAY ** torch.arange(len(errors), dtype=errors.dtype, device=errors.device)
    return (weights * errors).mean()


def step_errors(predicted: Tensor, features: Tensor) -> Tensor:
    """Mean square error (horizon,) of predictions (B, horizon, feature_dim), for each number of steps ahead."""
    return (predicted - features).square().mean(dim=(0, 2))


def relative_errors(predicted: Tensor, features: Tensor) -> Tensor:
    """``step_errors`` (horizon,) against those of "nothing moves": below 1 a model knows something.

    Arguments as of ``consistency_loss``.
    """
    still = features[:, :1].expand(-1, predicted.shape[1], -1)
    return step_errors(predicted, features[:, 1:]) / step_errors(still, features[:, 1:]).clamp(min=1e-12)
