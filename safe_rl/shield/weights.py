"""The arrays of a bundle's weights: taken out of an agent, and checked when they are read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from safe_rl.errors import UserError
from safe_rl.nets.conv import KERNEL, ImageEncoder, ImageShape, map_shape
from safe_rl.shield.bundle import Arrays

if TYPE_CHECKING:
    from torch import Tensor

    from safe_rl.algorithms.recovery_rl import RecoveryRLAgent
    from safe_rl.nets.mlp import StackedMLP

FloatArray = npt.NDArray[np.float32]
Layers = list[tuple[FloatArray, FloatArray]]
EncoderLayers = tuple[Layers, tuple[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]
"""The arrays of ``safe_rl.nets.conv.EncoderWeights``."""


def agent_arrays(agent: RecoveryRLAgent) -> Arrays:
    """What acting without exploration needs of an agent, as float32.

    ``normalizer.mean`` and ``.inverse_std`` (obs_dim,), or of images the ``encoder`` (and ``risk_encoder``, where risk
    has its own): ``.conv.<index>.weight`` (out, in, 3, 3), ``.linear.weight`` (feature_dim, map), ``.norm.weight``
    (feature_dim,) and the ``.bias`` of each; of the networks ``task_policy`` (its mean alone),
    ``risk_critic.<member>`` and ``recovery_policy`` each layer's ``.<index>.weight`` (out, in) and ``.<index>.bias``
    (out,); for recovery by sampling ``recovery.candidates`` (num_samples, act_dim) in [-1, 1] instead of the policy.
    """
    recovery: Any = agent.recovery
    critics = agent.risk_critic.critics
    arrays: Arrays = {}
    for name, encoder in agent.encoders().items():
        if isinstance(encoder, ImageEncoder):
            arrays |= _encoder_arrays(encoder, name)
        else:
            arrays |= {f"{name}.{key}": _numpy(encoder.get_buffer(key)) for key in ("mean", "inverse_std")}
    arrays |= _layer_arrays(agent.actor.net, 0, "task_policy", outputs=agent.act_dim)
    for member in range(critics.num_members):
        arrays |= _layer_arrays(critics, member, f"risk_critic.{member}")
    if agent.config.recovery.kind == "model-free":
        return arrays | _layer_arrays(recovery.actor.net, 0, "recovery_policy")
    return arrays | {"recovery.candidates": _numpy(recovery.fixed_candidates("cpu"))}


def _encoder_arrays(encoder: ImageEncoder, prefix: str) -> Arrays:
    weights = encoder.weights()
    layers = {f"conv.{index}": layer for index, layer in enumerate(weights.convolutions)}
    layers |= {"linear": weights.linear, "norm": weights.norm}
    arrays: Arrays = {}
    for name, (weight, bias) in layers.items():
        arrays |= {f"{prefix}.{name}.weight": _numpy(weight), f"{prefix}.{name}.bias": _numpy(bias)}
    return arrays


def _layer_arrays(net: StackedMLP, member: int, prefix: str, outputs: int | None = None) -> Arrays:
    layers = net.views_of(net.flat.detach().cpu())[member]
    arrays: Arrays = {}
    for index, (weight, bias) in enumerate(layers):
        rows = slice(outputs if index == len(layers) - 1 else None)
        arrays[f"{prefix}.{index}.weight"] = _numpy(weight.mT[rows])
        arrays[f"{prefix}.{index}.bias"] = _numpy(bias[0, rows])
    return arrays


def _numpy(tensor: Tensor) -> FloatArray:
    array: FloatArray = np.array(tensor.detach().cpu().float().numpy(), order="C")
    return array


class ArrayReader:
    """Takes arrays by name, checks them, and knows which are left.

    Args:
        arrays: The arrays.
        source: Where they come from; stands in errors.
    """

    def __init__(self, arrays: Arrays, source: str) -> None:
        self._left = dict(arrays)
        self._source = source

    def take(self, name: str, *shape: int | None) -> FloatArray:
        """Returns an array that must have this shape, None standing for any positive length.

        Raises:
            UserError: It is missing, not float32, or of another shape.
        """
        if name not in self._left:
            raise UserError(f"{self._source} has no array {name}: export the run again")
        array = self._left.pop(name)
        if array.dtype != np.float32:
            raise UserError(f"{self._source}: {name} is {array.dtype}, it must be float32: export the run again")
        wanted = tuple(n if m is None else m for n, m in zip(array.shape, shape, strict=False))
        if array.ndim != len(shape) or array.shape != wanted or array.size == 0:
            need = ", ".join("any" if length is None else str(length) for length in shape)
            raise UserError(f"{self._source}: {name} has shape {array.shape}, not ({need}): export the run again")
        return array

    def has(self, name: str) -> bool:
        """Whether an array of that name is left."""
        return name in self._left

    def count(self, pattern: str) -> int:
        """How many names are numbered without a gap; at least 1, so that a missing first one will be noticed."""
        number = 1
        while pattern.format(number) in self._left:
            number += 1
        return number

    def take_layers(self, prefix: str, inputs: int, outputs: int) -> Layers:
        """Returns weight (out, in) and bias (out,) of each layer of a network; see ``take``."""
        layers: Layers = []
        num_layers = self.count(prefix + ".{}.weight")
        for index in range(num_layers):
            weight = self.take(f"{prefix}.{index}.weight", outputs if index == num_layers - 1 else None, inputs)
            inputs = len(weight)
            layers.append((weight, self.take(f"{prefix}.{index}.bias", inputs)))
        return layers

    def take_encoder(self, prefix: str, shape: ImageShape) -> EncoderLayers:
        """Returns weights and biases of an encoder of images of that shape; see ``take``."""
        channels = shape[2]
        convolutions: Layers = []
        for index in range(self.count(prefix + ".conv.{}.weight")):
            weight = self.take(f"{prefix}.conv.{index}.weight", None, channels, KERNEL, KERNEL)
            channels = len(weight)
            convolutions.append((weight, self.take(f"{prefix}.conv.{index}.bias", channels)))
        last_map = map_shape(shape, [len(weight) for weight, _ in convolutions])
        linear = self.take(f"{prefix}.linear.weight", None, math.prod(last_map))
        features = len(linear)
        rest = [self.take(f"{prefix}.{name}", features) for name in ("linear.bias", "norm.weight", "norm.bias")]
        return convolutions, (linear, rest[0]), (rest[1], rest[2])

    def require_all_taken(self) -> None:
        """Raises ``UserError`` where an array is left that nothing needs."""
        if self._left:
            raise UserError(f"{self._source} has an unknown array {min(self._left)}: export the run again")
