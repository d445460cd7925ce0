"""Distributions over actions: how a policy network's output is read, by learners (torch) and by workers (numpy)."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from safe_rl.errors import UserError
from safe_rl.nets.gaussian import LOG_SQRT_2PI
from safe_rl.normalization import ActionScaler

Floats = npt.NDArray[np.float32]
Actions = npt.NDArray[Any]


class HeadTerms(NamedTuple):
    """What a distribution says of a batch of actions."""

    log_prob: Tensor
    """(B,)"""
    entropy: Tensor
    """(B,)"""
    saved: tuple[Tensor, ...]
    """What ``derivative`` needs."""


class ActionHead(Protocol):
    """A distribution over actions: how a network's output is read, by the learner (torch) and by workers (numpy)."""

    output_size: int
    """Width of the policy network's output."""
    num_parameters: int
    """Parameters besides the network's."""

    def terms(self, output: Tensor, parameters: Tensor, action: Tensor) -> HeadTerms:
        """Log-probability of ``action`` and entropy for the network's ``output`` (B, output_size)."""
        ...

    def derivative(self, terms: HeadTerms, d_log_prob: Tensor, d_entropy: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients (B, output_size) of the output and (num_parameters,) of the parameters.

        Args:
            terms: of the actions.
            d_log_prob: (B,) gradient of their log-probabilities.
            d_entropy: (B,) gradient of the entropies.
        """
        ...

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """What ``sample`` needs of chance: (*shape, output_size)."""
        ...

    def sample(self, output: Floats, parameters: Floats, noise: Floats) -> Actions:
        """Draws actions by the given noise."""
        ...

    def mode(self, output: Floats) -> Actions:
        """The most likely actions."""
        ...

    def log_prob(self, output: Floats, parameters: Floats, action: Actions) -> Floats:
        """Log-probability of ``action``, for any leading dimensions."""
        ...

    def to_env(self, action: Actions) -> Actions:
        """The actions as the environment takes them."""
        ...


class Categorical:
    """Discrete actions: the network's outputs are logits."""

    num_parameters = 0

    def __init__(self, space: gym.spaces.Discrete) -> None:
        self.output_size = int(space.n)
        self._start = int(space.start)

    def terms(self, output: Tensor, parameters: Tensor, action: Tensor) -> HeadTerms:
        """See ``ActionHead``; ``action`` (B,) int64."""
        log_probs = torch.log_softmax(output, dim=-1)
        probs = log_probs.exp()
        entropy = (probs * log_probs).sum(-1).neg_()
        index = action.unsqueeze(-1)
        return HeadTerms(log_probs.gather(-1, index).squeeze(-1), entropy, (index, log_probs, probs))

    def derivative(self, terms: HeadTerms, d_log_prob: Tensor, d_entropy: Tensor) -> tuple[Tensor, Tensor]:
        """See ``ActionHead``: ``d log p_a / d logits = [a] - p`` and ``d H / d logits = -p (log p + H)``."""
        index, log_probs, probs = terms.saved
        d_log_prob = d_log_prob.unsqueeze(-1)
        factor = torch.addcmul(d_log_prob, d_entropy.unsqueeze(-1), log_probs + terms.entropy.unsqueeze(-1))
        d_output = factor.mul_(probs).neg_().scatter_add_(-1, index, d_log_prob)
        return d_output, d_output.new_empty(0)

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Gumbel noise: the largest of logits plus such noise is a draw from their softmax."""
        uniform = generator.random((*shape, self.output_size), dtype=np.float32)
        exponential = -np.log1p(-uniform)  # 1 - uniform is never zero
        return -np.log(np.maximum(exponential, np.float32(1e-30)))

    def sample(self, output: Floats, parameters: Floats, noise: Floats) -> Actions:
        """See ``ActionHead``."""
        return (output + noise).argmax(axis=-1)

    def mode(self, output: Floats) -> Actions:
        """See ``ActionHead``."""
        return output.argmax(axis=-1)

    def log_prob(self, output: Floats, parameters: Floats, action: Actions) -> Floats:
        """See ``ActionHead``."""
        shifted = output - output.max(axis=-1, keepdims=True)
        chosen = np.take_along_axis(shifted, action[..., None], axis=-1)[..., 0]
        return chosen - np.log(np.exp(shifted).sum(axis=-1))

    def to_env(self, action: Actions) -> Actions:
        """See ``ActionHead``."""
        return action + self._start if self._start else action


class DiagonalGaussian:
    """Continuous actions: the outputs are means, in units that map [-1, 1] to the limits; one deviation for all states.

    Draws past the limits are clipped on their way to the environment, not squashed; the density is the Gaussian's. That
    is what PPO's implementations do (arXiv 2006.05990 compares the two). The parameters are the deviations' logarithms.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self._scaler = ActionScaler(space)
        self.output_size = self.num_parameters = self._scaler.act_dim

    def terms(self, output: Tensor, parameters: Tensor, action: Tensor) -> HeadTerms:
        """See ``ActionHead``; ``action`` (B, act_dim)."""
        inverse_std = torch.exp(-parameters)
        z = (action - output) * inverse_std
        total_log_std = parameters.sum()
        log_prob = z.square().sum(-1).mul_(-0.5) - (total_log_std + self.output_size * LOG_SQRT_2PI)
        entropy = total_log_std + self.output_size * (0.5 + LOG_SQRT_2PI)
        return HeadTerms(log_prob, entropy.expand(len(output)), (z, inverse_std))

    def derivative(self, terms: HeadTerms, d_log_prob: Tensor, d_entropy: Tensor) -> tuple[Tensor, Tensor]:
        """See ``ActionHead``: with ``z = (a - mean) / std``, ``d log p`` is ``z / std`` and ``z^2 - 1`` for log std."""
        z, inverse_std = terms.saved
        d_log_prob = d_log_prob.unsqueeze(-1)
        d_parameters = ((z.square() - 1.0) * d_log_prob).sum(0) + d_entropy.sum()
        return z * inverse_std * d_log_prob, d_parameters

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Standard normal noise."""
        return generator.standard_normal((*shape, self.output_size), dtype=np.float32)

    def sample(self, output: Floats, parameters: Floats, noise: Floats) -> Actions:
        """See ``ActionHead``."""
        return output + np.exp(parameters) * noise

    def mode(self, output: Floats) -> Actions:
        """See ``ActionHead``."""
        return output.copy()

    def log_prob(self, output: Floats, parameters: Floats, action: Actions) -> Floats:
        """See ``ActionHead``."""
        z = (action - output) * np.exp(-parameters)
        log_prob: Floats = -0.5 * np.square(z).sum(-1) - (parameters.sum() + self.output_size * LOG_SQRT_2PI)
        return log_prob.astype(np.float32, copy=False)

    def to_env(self, action: Actions) -> Actions:
        """See ``ActionHead``."""
        return self._scaler.to_env(action)


def action_head(space: gym.Space[Any]) -> ActionHead:
    """Builds the distribution for an action space.

    Raises:
        UserError: The space is neither Discrete nor a bounded, one-dimensional Box.
    """
    if isinstance(space, gym.spaces.Discrete):
        return Categorical(space)
    if not isinstance(space, gym.spaces.Box):
        raise UserError(f"action space {space} is not supported: it must be Discrete or a one-dimensional Box")
    return DiagonalGaussian(space)
