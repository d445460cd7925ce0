"""From NumPy to PyTorch."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor


def as_tensor(array: npt.NDArray[Any]) -> Tensor:
    """A tensor of an array: of its memory, or of a copy where that is read-only, as in an object store."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
