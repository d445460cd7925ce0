"""Policy and value networks of on-policy methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from safe_rl.algorithms.action_heads import HeadTerms, action_head
from safe_rl.envs.spaces import flat_dim, image_shape
from safe_rl.nets.conv import ImageEncoder
from safe_rl.nets.tanh_mlp import TanhMLP
from safe_rl.normalization import ObservationNormalizer

Floats = npt.NDArray[np.float32]
CHANNELS = (16, 32, 32)
"""Of the convolutions where observations are images."""
FEATURE_DIM = 64
"""What the encoder makes of an image."""


class Evaluation(NamedTuple):
    """What the networks say of states and the actions taken there; the arrays share memory with tensors."""

    log_prob: Floats
    """(B,)"""
    entropy: Floats
    """(B,)"""
    values: Floats
    """(B,), or more where more states than actions were given."""
    terms: HeadTerms
    saved_policy: list[Tensor]
    saved_value: list[Tensor]
    features: Tensor
    """(B, feature_dim) of images, with their graph; else the observations."""


def image_encoder(observation_space: gym.Space[Any], generator: torch.Generator | None = None) -> ImageEncoder | None:
    """What policy and value network see of images; None where observations are none."""
    shape = image_shape(observation_space)
    return None if shape is None else ImageEncoder(shape, CHANNELS, FEATURE_DIM, generator=generator)


class ActorCritic(nn.Module):
    """A policy and a value network: tanh layers, orthogonal weights, nothing shared (arXiv 2006.05990).

    Where observations are images they share an encoder.

    Args:
        observation_space: a Box, or a Dict of Boxes, that is flattened; or an image.
        action_space: Discrete or Box.
        hidden_sizes: widths of the hidden layers of both.
        initial_log_std: of the Gaussian, in units of half the range of the actions.
        generator: CPU generator of the initial weights.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        hidden_sizes: Sequence[int] = (64, 64),
        *,
        initial_log_std: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.head = action_head(action_space)
        self.encoder = image_encoder(observation_space, generator)
        obs_dim = flat_dim(observation_space) if self.encoder is None else self.encoder.feature_dim
        self.policy = TanhMLP(obs_dim, hidden_sizes, self.head.output_size, output_gain=0.01, generator=generator)
        self.head_parameters = nn.Parameter(torch.full((self.head.num_parameters,), initial_log_std))
        self.value = TanhMLP(obs_dim, hidden_sizes, 1, output_gain=1.0, generator=generator)
        self.normalizer = ObservationNormalizer(obs_dim)

    @property
    def trained(self) -> list[nn.Module]:
        """The parts whose parameters ``backpropagate`` gives the gradients of, in their order."""
        parts: list[nn.Module] = [self.policy, self.value]
        if self.head.num_parameters:
            parts.append(nn.ParameterList([self.head_parameters]))
        return parts if self.encoder is None else [*parts, self.encoder]

    def _features(self, obs: Tensor) -> Tensor:
        return obs if self.encoder is None else self.encoder(obs)

    def evaluate(self, obs: Tensor, action: Tensor) -> Evaluation:
        """Values all of ``obs``, and the actions that were taken in the first of them.

        Args:
            obs: (B', obs_dim) normalised observations, or flat uint8 images, on the CPU.
            action: (B,) or (B, act_dim), ``B <= B'``.
        """
        features = self._features(obs)
        seen = features.detach()
        output, saved_policy = self.policy.run(seen[: len(action)])
        terms = self.head.terms(output, self.head_parameters.detach(), action)
        values, saved_value = self.value.run(seen)
        log_prob, entropy = terms.log_prob.numpy(), terms.entropy.numpy()
        return Evaluation(log_prob, entropy, values.view(-1).numpy(), terms, saved_policy, saved_value, features)

    def backpropagate(
        self, evaluation: Evaluation, d_log_prob: Floats, d_entropy: Floats, d_values: Floats
    ) -> list[Tensor]:
        """The gradients of ``trained``, for those of an evaluation's three arrays; overwritten by the next call."""
        d_output, d_parameters = self.head.derivative(
            evaluation.terms, torch.from_numpy(d_log_prob), torch.from_numpy(d_entropy)
        )
        d_value = torch.from_numpy(d_values).unsqueeze(-1)
        gradients = [
            self.policy.backpropagate(evaluation.saved_policy, d_output),
            self.value.backpropagate(evaluation.saved_value, d_value),
        ]
        if self.head.num_parameters:
            gradients.append(d_parameters)
        if self.encoder is not None:
            d_features = self.value.input_gradient(evaluation.saved_value, d_value)
            d_features[: len(d_output)] += self.policy.input_gradient(evaluation.saved_policy, d_output)
            gradients += torch.autograd.grad(evaluation.features, [self.encoder.flat], d_features)
        return gradients

    def log_prob(self, obs: Tensor, action: Tensor) -> Floats:
        """Log-probability (B,) of ``action`` in the normalised ``obs`` (B, obs_dim)."""
        output, _ = self.policy.run(self._features(obs).detach())
        return self.head.terms(output, self.head_parameters.detach(), action).log_prob.numpy()

    def values(self, obs: Tensor) -> Floats:
        """Values (B,) of the normalised ``obs`` (B, obs_dim)."""
        return self.value.run(self._features(obs).detach())[0].view(-1).numpy()

    def _parts(self) -> list[Tensor]:
        scale, encoder = self.normalizer, [] if self.encoder is None else [self.encoder.flat]
        return [self.policy.flat, self.head_parameters, scale.mean, scale.inverse_std, *encoder, self.value.flat]

    @torch.no_grad()
    def flat_weights(self) -> Floats:
        """All that acting and valuing need in one float32 array, a copy: policy, deviations, scale, encoder, value."""
        return torch.cat([part.reshape(-1) for part in self._parts()]).cpu().numpy()

    @torch.no_grad()
    def load_flat_weights(self, flat: Floats) -> None:
        """Takes over ``flat_weights`` of networks of the same shape.

        Raises:
            ValueError: The length differs.
        """
        parts = self._parts()
        pieces = np.split(flat, np.cumsum([part.numel() for part in parts])[:-1])
        if len(flat) != sum(part.numel() for part in parts):
            raise ValueError(f"{len(flat)} weights do not fit networks of {sum(part.numel() for part in parts)}")
        for part, piece in zip(parts, pieces, strict=True):
            part.copy_(torch.from_numpy(np.array(piece)).view_as(part))
