"""The dynamics model of PETS: an ensemble of networks that each predict a Gaussian."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -10.0, 0.5
"""Where the learned bounds of the logarithm of the variance begin, in units of the targets."""
BOUNDS_COEF = 0.01
"""Weight of the distance between these bounds in the loss."""


class Prediction(NamedTuple):
    """Gaussians of ``num_members`` networks."""

    mean: Tensor
    """(num_members, B, size)"""
    log_variance: Tensor
    """(num_members, B, size)"""


class GaussianEnsemble(nn.Module):
    """``num_members`` networks that predict how the state changes, and how surely (PETS, arXiv 1805.12114).

    Swish between the layers. Inputs are brought to mean 0 and deviation 1, targets (differences of states) to a mean
    square of 1, by statistics that ``adapt_to`` takes from data. All members are one product a layer.

    Args:
        num_members: number of networks.
        state_dim: length of a state.
        act_dim: length of an action.
        hidden_sizes: widths of the hidden layers.
        generator: CPU generator of the initial weights.
    """

    input_mean: Tensor
    input_scale: Tensor
    target_scale: Tensor
    lowest: Tensor
    highest: Tensor

    def __init__(
        self,
        num_members: int,
        state_dim: int,
        act_dim: int,
        hidden_sizes: Sequence[int],
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.num_members, self.state_dim = num_members, state_dim
        sizes = (state_dim + act_dim, *hidden_sizes, 2 * state_dim)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(sizes):
            # A matrix is stored with its narrow side first, as in StackedMLP: products with the other way are slow.
            shape = (fan_in, fan_out) if fan_in <= fan_out else (fan_out, fan_in)
            weight = torch.randn((num_members, *shape), generator=generator) / (2 * math.sqrt(fan_in))
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(num_members, 1, fan_out)))
        self._turned = [fan_in > fan_out for fan_in, fan_out in itertools.pairwise(sizes)]
        self.min_log_variance = nn.Parameter(torch.full((state_dim,), MIN_LOG_VARIANCE))
        self.max_log_variance = nn.Parameter(torch.full((state_dim,), MAX_LOG_VARIANCE))
        self.register_buffer("input_mean", torch.zeros(state_dim + act_dim))
        self.register_buffer("input_scale", torch.ones(state_dim + act_dim))
        self.register_buffer("target_scale", torch.ones(state_dim))
        self.register_buffer("lowest", torch.full((state_dim,), -torch.inf))
        self.register_buffer("highest", torch.full((state_dim,), torch.inf))

    @torch.no_grad()
    def adapt_to(self, inputs: Tensor, targets: Tensor) -> None:
        """Takes scales, and where states are, from inputs (n, state_dim + act_dim) and targets (n, state_dim)."""
        states = inputs[:, : self.state_dim]
        self.lowest.copy_(torch.minimum(states.amin(0), (states + targets).amin(0)))
        self.highest.copy_(torch.maximum(states.amax(0), (states + targets).amax(0)))
        self.input_mean.copy_(inputs.mean(0))
        self.input_scale.copy_(_usable(inputs.std(0, correction=0)))
        self.target_scale.copy_(_usable(targets.square().mean(0).sqrt()))

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Weight (num_members, in, out) and bias (num_members, 1, out) of each layer."""
        turned = zip(self.weights, self._turned, strict=True)
        return list(zip((w.mT if turn else w for w, turn in turned), self.biases, strict=True))

    def evaluate(self, x: Tensor, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The last layer's output (num_members, B, out) for inputs (num_members, B, in)."""
        last = len(layers) - 1
        for index, (weight, bias) in enumerate(layers):
            x = torch.baddbmm(bias, x.to(weight.dtype), weight)
            if index < last:
                x = functional.silu(x, inplace=not torch.is_grad_enabled())
        return x

    def forward(self, inputs: Tensor) -> Prediction:
        """Scaled changes of the state.

        Args:
            inputs: (num_members, B, state_dim + act_dim) states and actions as they are.
        """
        output = self.evaluate((inputs - self.input_mean) / self.input_scale, self.layers())
        mean, log_variance = output.chunk(2, dim=-1)
        return Prediction(mean, self.bounded(log_variance))

    def bounded(self, log_variance: Tensor) -> Tensor:
        """Bends ``log_variance`` (..., state_dim) softly into the learned bounds."""
        log_variance = self.max_log_variance - functional.softplus(self.max_log_variance - log_variance)
        return self.min_log_variance + functional.softplus(log_variance - self.min_log_variance)

    def loss(self, prediction: Prediction, targets: Tensor) -> Tensor:
        """``sum_members mean ((m - t)^2 / v + log v)`` and a little of the distance between the variance's bounds.

        Twice the negative log likelihood without its constant.

        Args:
            prediction: of ``forward``.
            targets: (num_members, B, state_dim) changes of the state as they are.
        """
        likelihood = gaussian_loss(prediction, targets / self.target_scale).mean(dim=(1, 2)).sum()
        return likelihood + BOUNDS_COEF * (self.max_log_variance - self.min_log_variance).sum()


class FastEnsemble:
    """A ``GaussianEnsemble`` as it is now, for a planner: its scales are part of the first and the last layer.

    Args:
        ensemble: the model.
        dtype: of the products between hidden layers, bfloat16 for instance; the other products are in float32.
    """

    def __init__(self, ensemble: GaussianEnsemble, dtype: torch.dtype = torch.float32) -> None:
        self._ensemble = ensemble
        layers = [(weight.detach(), bias.detach()) for weight, bias in ensemble.layers()]
        first, bias = layers[0]
        first = first / ensemble.input_scale[:, None]
        layers[0] = first, bias - (ensemble.input_mean @ first)[:, None]
        weight, bias = layers[-1]
        scale = torch.cat([ensemble.target_scale, torch.ones_like(ensemble.target_scale)])
        layers[-1] = (weight.mT * scale[:, None]).mT, bias * scale
        layers[1:-1] = [(weight.to(dtype), bias.to(dtype)) for weight, bias in layers[1:-1]]
        self._layers = layers

    def predict(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation (num_members, B, state_dim) of the state's change, in the state's units.

        Args:
            inputs: (num_members, B, state_dim + act_dim) states and actions as they are.
        """
        mean, log_variance = self._ensemble.evaluate(inputs, self._layers).chunk(2, dim=-1)
        return mean, (0.5 * self._ensemble.bounded(log_variance)).exp_().mul_(self._ensemble.target_scale)


def gaussian_loss(prediction: Prediction, targets: Tensor) -> Tensor:
    """``(m - t)^2 / v + log v`` of each number: twice its negative log likelihood, without the constant."""
    mean, log_variance = prediction
    return (mean - targets).square() * (-log_variance).exp() + log_variance


def _usable(scale: Tensor) -> Tensor:
    """A scale by which can be divided: that of a number which never changes is 1."""
    return torch.where(scale > 1e-6, scale, 1.0)
