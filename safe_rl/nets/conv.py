"""What turns camera images into the features that actors and critics of images see."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from safe_rl.errors import UserError

KERNEL, STRIDE, PADDING = 3, 2, 1
SMALLEST_SIDE = 8

ImageShape = tuple[int, int, int]
"""Height, width, channels."""


class FlatModule(nn.Module):
    """A module whose parameters are views of the one parameter ``flat``, so that an optimiser has one array to step.

    Args:
        shapes: of the parameters, in order.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self._shapes = tuple(shapes)
        self._lengths = [math.prod(shape) for shape in shapes]
        self.flat = nn.Parameter(torch.empty(sum(self._lengths)))

    def pieces(self) -> list[Tensor]:
        """The parameters, differentiable."""
        return [p.view(s) for p, s in zip(self.flat.split_with_sizes(self._lengths), self._shapes, strict=True)]


class EncoderWeights(NamedTuple):
    """The parameters of an ``ImageEncoder``, or views of them."""

    convolutions: list[tuple[Tensor, Tensor]]
    """Weight (out, in, 3, 3) and bias (out,) of each."""
    linear: tuple[Tensor, Tensor]
    """Weight (feature_dim, height * width * channels of the last map) and bias (feature_dim,)."""
    norm: tuple[Tensor, Tensor]
    """Scale and offset (feature_dim,) of the layer normalisation."""


class ImageEncoder(FlatModule):
    """Convolutions, a linear layer, layer normalisation and tanh, as in SAC-AE (arXiv 1910.01741) and DrQ (2004.13649).

    Unlike theirs every 3 x 3 convolution has the stride 2, which leaves an eighth of their products: of 64 x 64 pixels
    an 8 x 8 map, in which it is still to be seen where things are. Forward and backward pass of 128 images took 34 ms
    of one core with channels (16, 32, 32), the four layers of SAC-AE 221 ms.

    Args:
        shape: height, width and channels of the images.
        channels: of the convolutions.
        feature_dim: number of features.
        generator: CPU generator of the initial weights.

    Raises:
        UserError: The images are too small, or their channels do not come last.
    """

    def __init__(
        self,
        shape: ImageShape,
        channels: Sequence[int],
        feature_dim: int,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        if min(shape[:2]) < SMALLEST_SIDE:
            raise UserError(
                f"the observation is an image of shape {shape}: it must be (height, width, channels) with "
                f"{SMALLEST_SIDE} pixels a side or more; transpose it or choose a larger one"
            )
        self.shape, self.channels, self.feature_dim = shape, tuple(channels), feature_dim
        self.map_shape = map_shape(shape, channels)
        inputs = [shape[2], *channels[:-1]]
        shapes: list[tuple[int, ...]] = []
        for fan_in, fan_out in zip(inputs, channels, strict=True):
            shapes += [(fan_out, fan_in, KERNEL, KERNEL), (fan_out,)]
        shapes += [(feature_dim, math.prod(self.map_shape)), (feature_dim,), (feature_dim,), (feature_dim,)]
        super().__init__(shapes)
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws weights from U(-sqrt(6 / fan_in), sqrt(6 / fan_in)), which keeps the spread behind a ReLU; biases 0."""
        weights = self.weights()
        for weight, bias in (*weights.convolutions, weights.linear):
            bound = math.sqrt(6.0 / math.prod(weight.shape[1:]))
            weight.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=generator))
            bias.zero_()
        scale, offset = weights.norm
        scale.fill_(1.0)
        offset.zero_()

    def weights(self) -> EncoderWeights:
        """The parameters by their places, differentiable."""
        *pieces, linear, linear_bias, scale, offset = self.pieces()
        convolutions = list(zip(pieces[::2], pieces[1::2], strict=True))
        return EncoderWeights(convolutions, (linear, linear_bias), (scale, offset))

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, feature_dim) in (-1, 1) of flat uint8 images (B, height * width * channels)."""
        if torch.is_grad_enabled() and self.flat.requires_grad:
            return encode(images, self.shape, self.weights(), _ConvReLU.apply)
        return encode(images, self.shape, self.weights())

    def extra_repr(self) -> str:
        """Describes the shape when the module is printed."""
        return f"{self.shape}, channels={self.channels}, feature_dim={self.feature_dim}"


def conv_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution that halves height and width of (B, C, H, W), and a ReLU."""
    return functional.conv2d(x, weight, bias, stride=STRIDE, padding=PADDING).relu_()


class _ConvReLU(torch.autograd.Function):
    """``conv_relu``, once differentiable: the ReLU's mask goes over the gradient in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = conv_relu(x, weight, bias)
        ctx.save_for_backward(x, weight, y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight, y = ctx.saved_tensors
        torch.ops.aten.threshold_backward.grad_input(grad, y, 0, grad_input=grad)
        sides = [STRIDE] * 2, [PADDING] * 2, [1] * 2
        grads: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.convolution_backward(
            grad, x, weight, [len(weight)], *sides, False, [0, 0], 1, ctx.needs_input_grad
        )
        return grads


def encode(
    images: Tensor,
    shape: ImageShape,
    weights: EncoderWeights,
    layer: Callable[[Tensor, Tensor, Tensor], Tensor] = conv_relu,
) -> Tensor:
    """What ``ImageEncoder`` computes, of given weights; ``layer`` is ``conv_relu`` or computes the same."""
    x = to_maps(images, shape)
    for weight, bias in weights.convolutions:
        x = layer(x, weight, bias)
    # In the order of the memory, which holds the channels last: flattening copies nothing.
    x = functional.linear(x.permute(0, 2, 3, 1).flatten(1), *weights.linear)
    return functional.layer_norm(x, x.shape[1:], *weights.norm).tanh()


def to_maps(images: Tensor, shape: ImageShape) -> Tensor:
    """Flat uint8 images (B, H * W * C) as floats in [0, 1] (B, C, H, W), the channels last in memory."""
    return images.view(-1, *shape).permute(0, 3, 1, 2).float().mul_(1 / 255)


def map_shape(shape: ImageShape, channels: Sequence[int]) -> ImageShape:
    """Height, width and channels of the last convolution's map."""
    height, width, _ = shape
    for _ in channels:
        height, width = -(-height // STRIDE), -(-width // STRIDE)
    return height, width, channels[-1]
