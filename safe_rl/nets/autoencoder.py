"""Pretraining of image encoders by reconstruction."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from safe_rl.nets.conv import KERNEL, PADDING, STRIDE, FlatModule, ImageEncoder, map_shape, to_maps

LATENT_PENALTY = 1e-6


class ImageDecoder(FlatModule):
    """The encoder backwards: a linear layer and transposed convolutions, from features to an image.

    Args:
        encoder: whose features and images they are.
        generator: CPU generator of the initial weights.
    """

    def __init__(self, encoder: ImageEncoder, *, generator: torch.Generator | None = None) -> None:
        shape, channels = encoder.shape, encoder.channels
        self.maps = [(*shape[:2], shape[2]), *(map_shape(shape, channels[: n + 1]) for n in range(len(channels)))][::-1]
        """The shape of each map, the image the last."""
        smallest = math.prod(self.maps[0])
        shapes: list[tuple[int, ...]] = [(smallest, encoder.feature_dim), (smallest,)]
        for (*_, inputs), (*_, outputs) in zip(self.maps[:-1], self.maps[1:], strict=True):
            shapes += [(inputs, outputs, KERNEL, KERNEL), (outputs,)]
        super().__init__(shapes)
        with torch.no_grad():
            for weight, bias in self._layers():
                fan_in = weight.shape[1] if weight.dim() == 2 else weight.shape[0] * (KERNEL / STRIDE) ** 2
                bound = math.sqrt(6.0 / fan_in)
                weight.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=generator))
                bias.zero_()
            # It begins by drawing next to nothing: unlearning a loud first guess silenced most of the ReLUs for good.
            self._layers()[-1][0].mul_(0.01)

    def _layers(self) -> list[tuple[Tensor, Tensor]]:
        pieces = self.pieces()
        return list(zip(pieces[::2], pieces[1::2], strict=True))

    def forward(self, features: Tensor) -> Tensor:
        """Images (B, C, H, W), about in [0, 1], of features (B, feature_dim)."""
        linear, *transposed = self._layers()
        height, width, channels = self.maps[0]
        x = functional.linear(features, *linear).view(-1, height, width, channels).permute(0, 3, 1, 2)
        for (weight, bias), (high, wide, _) in zip(transposed, self.maps[1:], strict=True):
            # A side of 2n - 1 and one of 2n both became n: the decoder must be told which it was.
            odd = (high - (STRIDE * x.shape[2] - 1), wide - (STRIDE * x.shape[3] - 1))
            x = functional.conv_transpose2d(x.relu(), weight, bias, STRIDE, PADDING, output_padding=odd)
        return x


class Autoencoder(nn.Module):
    """An encoder with a decoder behind it, regularised as in SAC-AE (arXiv 1910.01741).

    ``loss = mean (image - mean_image - decode(z))^2 + 1e-6 mean |z|^2`` with ``z = encode(image)``. Most of a camera's
    picture is the same in all images: taken from their running mean, it need not be learned before what moves is.

    Args:
        encoder: is trained along.
        generator: CPU generator of the decoder's initial weights.
    """

    mean_image: Tensor
    num_seen: Tensor

    def __init__(self, encoder: ImageEncoder, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.decoder = ImageDecoder(encoder, generator=generator)
        height, width, channels = encoder.shape
        self.register_buffer("mean_image", torch.zeros(channels, height, width))
        self.register_buffer("num_seen", torch.zeros(()))
        self._encoder = (encoder,)  # in a tuple, so that its parameters are not counted among this module's

    @torch.no_grad()
    def observe(self, images: Tensor) -> None:
        """Takes flat uint8 images (B, height * width * channels) into their mean; before the first ``loss``."""
        self.num_seen += len(images)
        batch_mean = to_maps(images, self._encoder[0].shape).mean(0)
        self.mean_image += (batch_mean - self.mean_image) * (len(images) / self.num_seen)

    def loss(self, images: Tensor) -> Tensor:
        """See the class; for flat uint8 images (B, height * width * channels)."""
        encoder = self._encoder[0]
        features = encoder(images)
        error = functional.mse_loss(self.decoder(features) + self.mean_image, to_maps(images, encoder.shape))
        return error + LATENT_PENALTY * features.square().sum(1).mean()

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """What decoder and encoder make of flat uint8 images (B, H * W * C): such images again."""
        decoded = self.decoder(self._encoder[0](images)) + self.mean_image
        return decoded.clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).flatten(1)
