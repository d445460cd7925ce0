"""Random shifts of images, the augmentation of DrQ (arXiv 2004.13649)."""

from __future__ import annotations

import torch
from torch import Tensor


def random_shift(images: Tensor, shape: tuple[int, int, int], pad: int, generator: torch.Generator) -> Tensor:
    """Shifts each image by up to ``pad`` pixels in both directions; what moves in repeats the border.

    Args:
        images: (B, height * width * channels) flat images of any type.
        shape: height, width and channels.
        pad: largest shift, in pixels.
        generator: draws the shifts, on the images' device.

    Returns:
        (B, height * width * channels)
    """
    shifts = torch.randint(0, 2 * pad + 1, (2, len(images)), generator=generator, device=images.device)
    return shift(images, shape, pad, shifts)


def shift(images: Tensor, shape: tuple[int, int, int], pad: int, shifts: Tensor) -> Tensor:
    """Crops each image from itself with ``pad`` pixels of border on every side; ``pad`` leaves it where it is.

    Args:
        images: as in ``random_shift``.
        shape: as in ``random_shift``.
        pad: as in ``random_shift``.
        shifts: (2, B) top and left of each crop, from 0 to ``2 * pad``.
    """
    height, width, channels = shape
    x = images.view(-1, *shape)
    x = torch.cat([x[:, :1].expand(-1, pad, -1, -1), x, x[:, -1:].expand(-1, pad, -1, -1)], dim=1)
    x = torch.cat([x[:, :, :1].expand(-1, -1, pad, -1), x, x[:, :, -1:].expand(-1, -1, pad, -1)], dim=2)
    # All crops as a view; choosing one of each image copies whole rows.
    row, column = x.stride(1), x.stride(2)
    crops = x.as_strided(
        (len(x), 2 * pad + 1, 2 * pad + 1, height, width * channels), (x.stride(0), row, column, row, 1)
    )
    return crops[torch.arange(len(x), device=x.device), shifts[0], shifts[1]].flatten(1)
