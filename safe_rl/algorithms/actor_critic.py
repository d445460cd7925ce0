"""Policy and value networks of on-policy methods, and the policy alone, in numpy, for those who only act."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from safe_rl.envs.spaces import flat_dim
from safe_rl.errors import UserError
from safe_rl.nets.gaussian import LOG_SQRT_2PI
from safe_rl.nets.tanh_mlp import TanhMLP
from safe_rl.normalization import ActionScaler, ObservationNormalizer

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


class ActorCritic(nn.Module):
    """A policy and a value network: tanh layers, orthogonal weights, nothing shared (arXiv 2006.05990).

    Args:
        observation_space: a Box, or a Dict of Boxes, that is flattened.
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
        obs_dim = flat_dim(observation_space)
        self.policy = TanhMLP(obs_dim, hidden_sizes, self.head.output_size, output_gain=0.01, generator=generator)
        self.head_parameters = nn.Parameter(torch.full((self.head.num_parameters,), initial_log_std))
        self.value = TanhMLP(obs_dim, hidden_sizes, 1, output_gain=1.0, generator=generator)
        self.normalizer = ObservationNormalizer(obs_dim)

    @property
    def trained(self) -> list[nn.Module]:
        """The parts whose parameters ``backpropagate`` gives the gradients of, in their order."""
        parts: list[nn.Module] = [self.policy, self.value]
        return [*parts, nn.ParameterList([self.head_parameters])] if self.head.num_parameters else parts

    def evaluate(self, obs: Tensor, action: Tensor) -> Evaluation:
        """Values all of ``obs``, and the actions that were taken in the first of them.

        Args:
            obs: (B', obs_dim) normalised observations, on the CPU.
            action: (B,) or (B, act_dim), ``B <= B'``.
        """
        output, saved_policy = self.policy.run(obs[: len(action)])
        terms = self.head.terms(output, self.head_parameters.detach(), action)
        values, saved_value = self.value.run(obs)
        return Evaluation(
            terms.log_prob.numpy(), terms.entropy.numpy(), values.view(-1).numpy(), terms, saved_policy, saved_value
        )

    def backpropagate(
        self, evaluation: Evaluation, d_log_prob: Floats, d_entropy: Floats, d_values: Floats
    ) -> list[Tensor]:
        """The gradients of ``trained``, for those of an evaluation's three arrays; overwritten by the next call."""
        d_output, d_parameters = self.head.derivative(
            evaluation.terms, torch.from_numpy(d_log_prob), torch.from_numpy(d_entropy)
        )
        policy = self.policy.backpropagate(evaluation.saved_policy, d_output)
        value = self.value.backpropagate(evaluation.saved_value, torch.from_numpy(d_values).unsqueeze(-1))
        return [policy, value, d_parameters] if self.head.num_parameters else [policy, value]

    def log_prob(self, obs: Tensor, action: Tensor) -> Floats:
        """Log-probability (B,) of ``action`` in the normalised ``obs`` (B, obs_dim)."""
        output, _ = self.policy.run(obs)
        return self.head.terms(output, self.head_parameters.detach(), action).log_prob.numpy()

    def values(self, obs: Tensor) -> Floats:
        """Values (B,) of the normalised ``obs`` (B, obs_dim)."""
        return self.value.run(obs)[0].view(-1).numpy()

    def _parts(self) -> list[Tensor]:
        scale = self.normalizer
        return [self.policy.flat, self.head_parameters, scale.mean, scale.inverse_std, self.value.flat]

    @torch.no_grad()
    def flat_weights(self) -> Floats:
        """All that acting and valuing need in one float32 array, a copy: policy, deviations, scale, value network."""
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


class NumpyPolicy:
    """The policy of an ``ActorCritic`` for small batches on the CPU, in preallocated numpy arrays.

    A decision for 32 states with 64-64 networks takes 11 us; PyTorch's modules take 26 us before the sampling.

    Args:
        observation_space: as for ``ActorCritic``.
        action_space: as for ``ActorCritic``.
        hidden_sizes: as for ``ActorCritic``.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        hidden_sizes: Sequence[int] = (64, 64),
    ) -> None:
        self.head = action_head(action_space)
        obs_dim = flat_dim(observation_space)
        # The module's views give the layout of the flat parameters; the arrays here share its memory.
        net = TanhMLP(obs_dim, hidden_sizes, self.head.output_size)
        self._flat = net.flat.detach().numpy()
        self._layers = [(weight.numpy(), bias.numpy()) for weight, bias in net.units()[0]]
        self._lengths = (len(self._flat), self.head.num_parameters, obs_dim, obs_dim)
        self.parameters = np.zeros(self.head.num_parameters, dtype=np.float32)
        self._mean, self._inverse_std = np.zeros(obs_dim, np.float32), np.ones(obs_dim, np.float32)
        self._scaled = False
        self._buffers: list[Floats] = []

    def load(self, flat: Floats) -> None:
        """Takes over ``ActorCritic.flat_weights``.

        Raises:
            ValueError: There are too few of them.
        """
        if len(flat) <= sum(self._lengths):
            raise ValueError(f"{len(flat)} weights do not fit a policy of {sum(self._lengths)}")
        weights, self.parameters, self._mean, self._inverse_std, _ = np.split(flat, np.cumsum(self._lengths))
        self._flat[:] = weights
        self._scaled = bool(self._mean.any() or (self._inverse_std != 1.0).any())

    def outputs(self, obs: Floats) -> Floats:
        """The network's outputs (N, output_size) for ``obs`` (N, obs_dim); overwritten by the next call."""
        if not self._buffers or len(self._buffers[0]) != len(obs):
            self._buffers = [np.empty((len(obs), bias.shape[-1]), np.float32) for _, bias in self._layers]
        hidden = np.clip((obs - self._mean) * self._inverse_std, -10.0, 10.0) if self._scaled else obs
        for index, ((weight, bias), out) in enumerate(zip(self._layers, self._buffers, strict=True)):
            np.matmul(hidden, weight, out=out)
            np.add(out, bias, out=out)
            if index < len(self._layers) - 1:
                np.tanh(out, out=out)
            hidden = out
        return hidden

    def mode(self, obs: Floats) -> Actions:
        """The most likely actions for ``obs`` (N, obs_dim), as the environment takes them."""
        return self.head.to_env(self.head.mode(self.outputs(obs)))
