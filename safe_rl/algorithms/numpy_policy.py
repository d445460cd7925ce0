"""The policy alone, in numpy, for those who only act."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch

from safe_rl.algorithms.action_heads import Actions, action_head
from safe_rl.algorithms.actor_critic import image_encoder
from safe_rl.envs.spaces import flat_dim
from safe_rl.nets.tanh_mlp import TanhMLP

Floats = npt.NDArray[np.float32]


class NumpyPolicy:
    """The policy of an ``ActorCritic`` for small batches on the CPU, in preallocated numpy arrays.

    A decision for 32 states with 64-64 networks takes 11 us; PyTorch's modules take 26 us before the sampling. Only the
    encoder of images stays PyTorch's.

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
        self._encoder = image_encoder(observation_space)
        encoded = 0 if self._encoder is None else self._encoder.flat.numel()
        obs_dim = flat_dim(observation_space) if self._encoder is None else self._encoder.feature_dim
        # The module's views give the layout of the flat parameters; the arrays here share its memory.
        net = TanhMLP(obs_dim, hidden_sizes, self.head.output_size)
        self._flat = net.flat.detach().numpy()
        self._layers = [(weight.numpy(), bias.numpy()) for weight, bias in net.units()[0]]
        self._lengths = (len(self._flat), self.head.num_parameters, obs_dim, obs_dim, encoded)
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
        weights, self.parameters, self._mean, self._inverse_std, encoder, _ = np.split(flat, np.cumsum(self._lengths))
        self._flat[:] = weights
        if self._encoder is not None:
            self._encoder.flat.detach().numpy()[:] = encoder
        self._scaled = bool(self._mean.any() or (self._inverse_std != 1.0).any())

    def outputs(self, obs: npt.NDArray[Any]) -> Floats:
        """The network's outputs (N, output_size) for ``obs`` (N, obs_dim); overwritten by the next call."""
        if self._encoder is not None:
            with torch.no_grad():
                obs = self._encoder(torch.from_numpy(obs)).numpy()
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

    def mode(self, obs: npt.NDArray[Any]) -> Actions:
        """The most likely actions for ``obs`` (N, obs_dim), as the environment takes them."""
        return self.head.to_env(self.head.mode(self.outputs(obs)))
