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
    x = torch.cat([x[:, :, :1].expand(-1, -1, pad, -1), x, x[:, :, -1:].expand(-1, -1, pad, -1)], dim=2)
    # Every row of a crop is a run of bytes. All runs there are make a view; choosing from it copies whole rows.
    runs = x.as_strided((x.shape[:3].numel() - width + 1, width * channels), (channels, 1))
    top, left = shifts[:, :, None]
    rows = (torch.arange(height, device=x.device) + (top - pad)).clamp_(0, height - 1)
    rows += height * torch.arange(len(x), device=x.device)[:, None]
    return runs.index_select(0, (rows * x.shape[2] + left).view(-1)).view(len(x), -1)
