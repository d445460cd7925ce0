from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from safe_rl.errors import UserError
from safe_rl.nets.autoencoder import LATENT_PENALTY, Autoencoder
from safe_rl.nets.conv import ImageEncoder, map_shape
from safe_rl.nets.optim import FlatAdam


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(count: int, shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, int(np.prod(shape))), dtype=np.uint8))


class Reference(nn.Module):
    """The same network of PyTorch's layers, channels first, its map flattened in the order height, width, channels."""

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.shape = encoder.shape
        weights = encoder.weights()
        self.convolutions = nn.ModuleList()
        for weight, bias in weights.convolutions:
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, stride=2, padding=1)
            layer.weight.data, layer.bias.data = weight.detach().clone(), bias.detach().clone()
            self.convolutions.append(layer)
        self.linear = nn.Linear(weights.linear[0].shape[1], encoder.feature_dim)
        self.norm = nn.LayerNorm(encoder.feature_dim)
        for layer, (weight, bias) in ((self.linear, weights.linear), (self.norm, weights.norm)):
            layer.weight.data, layer.bias.data = weight.detach().clone(), bias.detach().clone()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = (images.view(-1, *self.shape).permute(0, 3, 1, 2).float() / 255).contiguous()
        for layer in self.convolutions:
            x = functional.relu(layer(x))
        x = x.permute(0, 2, 3, 1).reshape(len(x), -1)
        return torch.tanh(self.norm(self.linear(x)))


SHAPES = [(8, 8, 3), (9, 13, 3), (16, 16, 6), (11, 8, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_pytorchs_layers(shape):
    encoder = ImageEncoder(shape, (4, 6, 5), 7, generator=generator())
    with torch.no_grad():
        encoder.flat.add_(0.05 * torch.randn(encoder.flat.shape, generator=generator(1)))  # biases and scales too
    reference, images = Reference(encoder), random_images(5, shape)
    ours, theirs = encoder(images), reference(images)
    assert ours.shape == (5, 7)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), theirs, atol=1e-5, rtol=1e-5)
    weight = torch.randn(ours.shape, generator=generator(2))
    (gradient,) = torch.autograd.grad((ours * weight).sum(), encoder.flat)
    expected = torch.autograd.grad((theirs * weight).sum(), list(reference.parameters()))
    order = [*range(2 * len(reference.convolutions)), -4, -3, -2, -1]
    flat = torch.cat([expected[index].reshape(-1) for index in order])
    torch.testing.assert_close(gradient, flat, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [((64, 64, 3), (16, 32, 32), (8, 8, 32)), ((9, 13, 3), (4, 4), (3, 4, 4)), ((8, 8, 1), (2, 2, 2, 2), (1, 1, 2))],
)
def test_each_convolution_halves_the_map(shape, channels, expected):
    assert map_shape(shape, channels) == expected
    assert ImageEncoder(shape, channels, 5).map_shape == expected


def test_a_seed_decides_the_weights_and_tells_images_apart():
    first, same, other = (ImageEncoder((8, 8, 3), (4,), 6, generator=generator(s)) for s in (0, 0, 1))
    assert torch.equal(first.flat, same.flat)
    assert not torch.equal(first.flat, other.flat)
    features = first(random_images(6, (8, 8, 3)))
    assert features.abs().max() < 1
    assert torch.cdist(features, features).add(torch.eye(6)).min() > 0.01


@pytest.mark.parametrize("shape", [(3, 64, 64), (7, 64, 3), (64, 7, 3)])
def test_images_too_small_or_with_their_channels_first_are_refused_in_one_line(shape):
    with pytest.raises(UserError, match="height, width, channels") as caught:
        ImageEncoder(shape, (4,), 5)
    assert str(shape) in str(caught.value)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------- autoencoder


@pytest.mark.parametrize("shape", SHAPES)
def test_the_decoder_gives_images_of_the_encoders_shape(shape):
    encoder = ImageEncoder(shape, (4, 6, 5), 7, generator=generator())
    autoencoder = Autoencoder(encoder, generator=generator(1))
    images = random_images(3, shape)
    height, width, channels = shape
    assert autoencoder.decoder(encoder(images)).shape == (3, channels, height, width)
    again = autoencoder.reconstruct(images)
    assert (again.dtype, again.shape) == (torch.uint8, images.shape)


def test_the_loss_is_the_formula():
    encoder = ImageEncoder((8, 8, 3), (4,), 5, generator=generator())
    autoencoder = Autoencoder(encoder, generator=generator(1))
    images, seen = random_images(3, (8, 8, 3)), random_images(6, (8, 8, 3), seed=1)
    autoencoder.observe(seen[:4])
    autoencoder.observe(seen[4:])
    features = encoder(images)
    decoded = autoencoder.decoder(features).permute(0, 2, 3, 1).reshape(3, -1)
    expected = ((decoded + (seen / 255).mean(0) - images / 255) ** 2).mean() + LATENT_PENALTY * (features**2).sum() / 3
    torch.testing.assert_close(autoencoder.loss(images), expected)


def test_training_draws_what_it_sees():
    """One bright square on black, at 36 places: the mean image alone leaves an error of the pixels' variance."""
    scenes = np.zeros((36, 16, 16, 3), np.uint8)
    for place in range(36):
        y, x = 2 * (place // 6), 2 * (place % 6)
        scenes[place, y : y + 6, x : x + 6] = (250, 120, 30)
    images = torch.from_numpy(scenes.reshape(36, -1))
    encoder = ImageEncoder((16, 16, 3), (8, 8), 12, generator=generator())
    autoencoder = Autoencoder(encoder, generator=generator(1))
    optimizer = FlatAdam([autoencoder, encoder], 3e-3)
    before = encoder.flat.detach().clone()
    variance = (images / 255).var(0, correction=0).mean().item()
    autoencoder.observe(images)
    for _ in range(150):
        optimizer.step(autoencoder.loss(images))
    assert autoencoder.loss(images).item() < 0.2 * variance
    assert not torch.equal(encoder.flat, before)
    error = autoencoder.reconstruct(images).float() - images.float()
    assert error.square().mean().item() / 255**2 < 0.2 * variance
