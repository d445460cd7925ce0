"""A stack of MLPs that is evaluated, and differentiated, as one: the building block of every actor and critic.

A learner step is made of some 35 products of 256 x 256 x 256; the rest is overhead. What this module does against it:

* all parameters live in one flat tensor, so that the optimiser and the target update are one operation each;
* the backward pass is written by hand: it computes only the gradients that are asked for (none of the weights where a critic
  is frozen, none of the input where nobody needs it) and writes weight gradients straight into one flat buffer;
* ReLU and its mask work in place on tensors that nobody else sees.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

PRECISIONS = ("float32", "bfloat16")


class Layer(NamedTuple):
    """Views of one layer's parameters in a flat tensor."""

    weight: Tensor
    """(num_members, in, out)"""
    bias: Tensor
    """(num_members, 1, out)"""


def layer_views(flat: Tensor, num_members: int, sizes: Sequence[int]) -> list[Layer]:
    """Cuts a flat tensor into the layers of a stack of MLPs.

    Args:
        flat: (num_parameters,) parameters, or their gradients.
        num_members: number of MLPs.
        sizes: width of the input, of each hidden layer and of the output.

    Returns:
        One ``Layer`` of views for each pair of consecutive sizes.
    """
    layers, start = [], 0
    for fan_in, fan_out in itertools.pairwise(sizes):
        middle = start + num_members * fan_in * fan_out
        end = middle + num_members * fan_out
        layers.append(
            Layer(
                flat[start:middle].view(num_members, fan_in, fan_out),
                flat[middle:end].view(num_members, 1, fan_out),
            )
        )
        start = end
    return layers


class StackedMLP(nn.Module):
    """``num_members`` ReLU MLPs of equal shape: twin critics, an ensemble, or a single network.

    All parameters are views of the one parameter ``flat``; a deep copy, ``.to(device)`` and ``load_state_dict`` keep it so.

    Args:
        num_members: number of MLPs.
        input_size: width of the input.
        hidden_sizes: width of each hidden layer.
        output_size: width of the output.
        generator: CPU generator of the initial weights; the global one where it is None.
        precision: ``"float32"``, or ``"bfloat16"`` to run the products between hidden layers in bfloat16. The parameters, the
            first and the last layer, and the output stay in the parameters' own type.

    Raises:
        ValueError: if ``precision`` is neither of the two.
    """

    def __init__(
        self,
        num_members: int,
        input_size: int,
        hidden_sizes: Sequence[int],
        output_size: int,
        *,
        generator: torch.Generator | None = None,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.num_members = num_members
        self.sizes = (input_size, *hidden_sizes, output_size)
        self.precision = precision
        num_parameters = sum(num_members * (i + 1) * o for i, o in itertools.pairwise(self.sizes))
        self.flat = nn.Parameter(torch.empty(num_parameters))
        self._views: list[Layer] | None = None
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all parameters from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as ``torch.nn.Linear`` does.

        Args:
            generator: CPU generator; the global one where it is None.
        """
        for fan_in, layer in zip(
            self.sizes, layer_views(self.flat.detach(), self.num_members, self.sizes), strict=False
        ):
            bound = 1.0 / math.sqrt(fan_in)
            for parameter in layer:
                draw = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
                parameter.copy_(draw)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave the cached views behind: they belong to this object's ``flat``."""
        return {**self.__dict__, "_views": None}

    def layers(self) -> list[Layer]:
        """Detached views of every layer, cached until ``flat`` moves to other memory."""
        views = self._views
        # The cached views keep their memory alive, so an equal address means the same memory.
        if views is None or views[0].weight.data_ptr() != self.flat.data_ptr():
            with torch.inference_mode(False):
                views = self._views = layer_views(self.flat.detach(), self.num_members, self.sizes)
        return views

    def forward(self, x: Tensor, *, freeze: bool = False) -> Tensor:
        """Evaluates all members.

        Args:
            x: (B, input_size) input shared by all members, or (num_members, B, input_size).
            freeze: treat the parameters as constants; the gradient still flows to ``x``.

        Returns:
            (num_members, B, output_size)
        """
        flat = self.flat.detach() if freeze else self.flat
        if torch.is_grad_enabled() and (flat.requires_grad or x.requires_grad):
            output: Tensor = _StackedMLPFunction.apply(x, flat, self)  # type: ignore[no-untyped-call]
            return output
        return _forward(x, self.layers(), self.precision)[-1]

    def extra_repr(self) -> str:
        """Describes the shape when the module is printed."""
        return f"num_members={self.num_members}, sizes={self.sizes}, precision={self.precision!r}"


def _forward(x: Tensor, layers: list[Layer], precision: str) -> list[Tensor]:
    """Returns the input of every layer and, last, the output; all of shape (num_members, B, width)."""
    num_members = layers[0].weight.shape[0]
    hidden = x if x.dim() == 3 else x.expand(num_members, -1, -1)
    activations = [hidden]
    for index, (weight, bias) in enumerate(layers):
        if precision == "bfloat16" and 0 < index < len(layers) - 1:
            product = torch.bmm(hidden.bfloat16(), weight.bfloat16()).to(weight.dtype)
            hidden = product.add_(bias)
        else:
            hidden = torch.baddbmm(bias, hidden, weight)
        if index < len(layers) - 1:
            hidden.relu_()
        activations.append(hidden)
    return activations


class _StackedMLPFunction(torch.autograd.Function):
    """The MLPs' forward and backward passes, once differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, flat: Tensor, module: StackedMLP) -> Tensor:
        *activations, output = _forward(x, module.layers(), module.precision)
        ctx.save_for_backward(flat, *activations)
        ctx.module = module
        ctx.shared_input = x.dim() == 2
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        flat, *activations = ctx.saved_tensors  # raises if the parameters were changed in between
        module: StackedMLP = ctx.module
        needs_x, needs_flat = ctx.needs_input_grad[:2]
        layers = module.layers()
        flat_grad = torch.empty_like(flat) if needs_flat else None
        grad_layers = layer_views(flat_grad, module.num_members, module.sizes) if flat_grad is not None else None
        for index in range(len(layers) - 1, -1, -1):
            low = module.precision == "bfloat16" and 0 < index < len(layers) - 1
            hidden = activations[index]
            factor = grad.bfloat16() if low else grad
            if grad_layers is not None:
                if low:
                    grad_layers[index].weight.copy_(torch.bmm(hidden.bfloat16().mT, factor))
                else:
                    torch.bmm(hidden.mT, grad, out=grad_layers[index].weight)
                torch.sum(grad, dim=1, keepdim=True, out=grad_layers[index].bias)
            if index == 0 and not needs_x:
                return None, flat_grad, None
            weight = layers[index].weight
            grad = torch.bmm(factor, weight.bfloat16().mT).to(grad.dtype) if low else torch.bmm(grad, weight.mT)
            if index > 0:
                grad = torch.ops.aten.threshold_backward(grad, hidden, 0)
        return (grad.sum(0) if ctx.shared_input else grad), flat_grad, None
