"""The state of modules as one array: how weights travel to those who only act."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Floats = npt.NDArray[np.float32]


def _tensors(modules: Iterable[nn.Module]) -> list[Tensor]:
    return [tensor for module in modules for tensor in module.state_dict().values()]


def state_size(modules: Iterable[nn.Module]) -> int:
    """How many numbers ``flatten_state`` gives."""
    return sum(tensor.numel() for tensor in _tensors(modules))


def flatten_state(modules: Iterable[nn.Module]) -> Floats:
    """The parameters and buffers of modules in one float32 array, a copy."""
    return torch.cat([tensor.detach().reshape(-1).float() for tensor in _tensors(modules)]).cpu().numpy()


@torch.no_grad()
def load_flat_state(modules: Iterable[nn.Module], flat: Floats) -> None:
    """Takes over ``flatten_state`` of modules of the same shapes.

    Raises:
        ValueError: The length differs.
    """
    tensors = _tensors(modules)
    if len(flat) != sum(tensor.numel() for tensor in tensors):
        raise ValueError(f"{len(flat)} weights do not fit networks of {sum(tensor.numel() for tensor in tensors)}")
    pieces = np.split(flat, np.cumsum([tensor.numel() for tensor in tensors])[:-1])
    for tensor, piece in zip(tensors, pieces, strict=True):
        tensor.copy_(torch.from_numpy(np.array(piece)).view_as(tensor))
