"""A stack of MLPs that is evaluated, and differentiated, as one: the building block of every actor and critic.

A learner step is made of some 35 products of 256 x 256 x 256; the rest is overhead. What is done here against it (times
on one thread, batch 256, hidden 256; see ``docs/results/learner_speed.md``):

* all parameters live in one flat tensor, so that the optimiser and the target update are one operation each;
* the backward pass is written by hand: it computes only the gradients that are asked for (none of the weights where a
  critic is frozen, none of the input where nobody needs it) and writes them straight into one flat buffer;
* a matrix is stored with its narrow side first: with an output of width 4, products take 11-16 us instead of 79 us;
* on the CPU one member is evaluated after the other, so that its activations are still in the cache when they are read
  again (and bmm is up to 9 times slower than mm where a side is narrow); on CUDA all members are one bmm a layer;
* the bfloat16 copy of the weights is made once after a change, not at each use.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

PRECISIONS = ("float32", "bfloat16")


class Layer(NamedTuple):
    """One layer's parameters, or their gradients, as views of a flat tensor.

    Of one member, or with a leading dimension of all members.
    """

    weight: Tensor
    """([num_members,] in, out)"""
    bias: Tensor
    """([num_members,] 1, out)"""


class StackedMLP(nn.Module):
    """``num_members`` ReLU MLPs of equal shape: twin critics, an ensemble, or a single network.

    All parameters are views of the one parameter ``flat``, member after member; a deep copy, ``.to(device)`` and
    ``load_state_dict`` keep it so. (Changes through ``flat.data`` are not noticed by the bfloat16 copy.)

    Args:
        num_members: number of MLPs.
        input_size: width of the input.
        hidden_sizes: width of each hidden layer.
        output_size: width of the output.
        generator: CPU generator of the initial weights; the global one where it is None.
        precision: ``"float32"``, or ``"bfloat16"`` to run the products between hidden layers in bfloat16. The
            parameters, the first and the last layer, and the output stay in the parameters' own type.

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
        self._low = _low_layers(precision, len(self.sizes) - 1)
        lengths = ((i * o, o) for i, o in itertools.pairwise(self.sizes))
        self._lengths = tuple(itertools.chain.from_iterable(lengths))
        self.flat = nn.Parameter(torch.empty(num_members * sum(self._lengths)))
        self._units: list[list[Layer]] | None = None
        self._low_weights: list[list[Tensor]] | None = None
        self._low_version = -1
        self._gradient: tuple[Tensor, list[list[Layer]]] | None = None
        self._gradient_is_free = False
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all parameters from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as ``torch.nn.Linear`` does.

        Args:
            generator: CPU generator; the global one where it is None.
        """
        for layers in self.units():
            for fan_in, layer in zip(self.sizes, layers, strict=False):
                bound = 1.0 / math.sqrt(fan_in)
                for parameter in layer:
                    parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave the cached views behind: they belong to this object's ``flat``."""
        return {**self.__dict__, "_units": None, "_low_weights": None, "_gradient": None, "_gradient_is_free": False}

    def _views(self, flat: Tensor, shape: tuple[int, ...]) -> list[Layer]:
        """Cuts ``flat`` (*shape, parameters of a member) into layers with the leading dimensions ``shape``."""
        pieces = iter(flat.split_with_sizes(self._lengths, dim=-1))
        layers = []
        for fan_in, fan_out in itertools.pairwise(self.sizes):
            if fan_in <= fan_out:
                weight = next(pieces).view(*shape, fan_in, fan_out)
            else:
                weight = next(pieces).view(*shape, fan_out, fan_in).mT
            layers.append(Layer(weight, next(pieces).view(*shape, 1, fan_out)))
        return layers

    def views_of(self, flat: Tensor) -> list[list[Layer]]:
        """Cuts a flat tensor (parameters, or their gradients) into units that are evaluated one after the other.

        Returns:
            The layers of each member on the CPU; on CUDA those of all members at once.
        """
        if flat.is_cuda:
            return [self._views(flat.view(self.num_members, -1), (self.num_members,))]
        return [self._views(member, ()) for member in flat.chunk(self.num_members)]

    def units(self) -> list[list[Layer]]:
        """Detached ``views_of`` the parameters, cached until ``flat`` moves to other memory."""
        units = self._units
        # The cached views keep their memory alive, so an equal address means the same memory.
        if units is None or units[0][0].weight.data_ptr() != self.flat.data_ptr():
            with torch.inference_mode(False):
                units = self._units = self.views_of(self.flat.detach())
            self._low_weights = None
        return units

    def low_weights(self) -> list[list[Tensor]]:
        """The units' weights as the products use them, in bfloat16 between hidden layers; cached until they change."""
        units = self.units()
        version = self.flat._version  # counts changes in place
        # On CUDA always: the replays of a captured graph do not pass here, so the casts must be among its kernels.
        if self._low_weights is None or self._low_version != version or self.flat.is_cuda:
            with torch.inference_mode(False), torch.no_grad():
                self._low_weights = [
                    [w.bfloat16() if low else w for (w, _), low in zip(layers, self._low, strict=True)]
                    for layers in units
                ]
            self._low_version = version
        return self._low_weights

    def gradient_buffer(self) -> tuple[Tensor, list[list[Layer]]]:
        """Memory for the gradient of ``flat`` and its ``views_of``, the former one where it was recycled."""
        spare, self._gradient_is_free = self._gradient if self._gradient_is_free else None, False
        if spare is None or (spare[0].device, spare[0].dtype) != (self.flat.device, self.flat.dtype):
            gradient = torch.empty_like(self.flat, requires_grad=False)
            spare = self._gradient = gradient, self.views_of(gradient)
        return spare

    def recycle_gradient(self, gradient: Tensor) -> None:
        """Lets the next backward pass write over ``gradient``, if it came from here: cutting a new one takes 25 us."""
        if self._gradient is not None and self._gradient[0].data_ptr() == gradient.data_ptr():
            self._gradient_is_free = True

    def forward(self, x: Tensor, *, freeze: bool = False) -> Tensor:
        """Evaluates all members.

        Args:
            x: (B, input_size) input shared by all members, or (num_members, B, input_size).
            freeze: treat the parameters as constants; the gradient still flows to ``x``.

        Returns:
            (num_members, B, output_size)
        """
        flat = self.flat.detach() if freeze else self.flat
        if torch.is_grad_enabled() and (x.requires_grad or flat.requires_grad):
            output: Tensor = _Differentiable.apply(x, flat, self)
            return output
        return self._evaluate(x, None)

    def ranked(self, x: Tensor, rank: int) -> Tensor:
        """One of the members' single outputs by its rank, with frozen parameters: what an actor climbs.

        A row's gradient passes through one member only, so that the backward pass costs as much as one member's.

        Args:
            x: (B, input_size) input.
            rank: 0 for the least output, ``num_members - 1`` for the largest.

        Returns:
            (B,)
        """
        if torch.is_grad_enabled() and x.requires_grad:
            value: Tensor = _Ranked.apply(x, self.flat.detach(), self, rank)
            return value
        return of_rank(self._evaluate(x, None).squeeze(-1), rank)[0]

    def _evaluate(self, x: Tensor, saved: list[Tensor] | None) -> Tensor:
        """Returns (num_members, B, output_size); appends the input of every layer of every unit to ``saved``."""
        units = self.units()
        low_weights = self.low_weights() if any(self._low) else [()] * len(units)
        inputs: tuple[Tensor, ...]
        if x.is_cuda:
            inputs = (x if x.dim() == 3 else x.expand(self.num_members, -1, -1),)
        else:
            inputs = (x,) * self.num_members if x.dim() == 2 else x.unbind()
        outputs = [self._evaluate_unit(*args, saved) for args in zip(inputs, units, low_weights, strict=True)]
        if x.is_cuda:
            return outputs[0]
        return outputs[0].unsqueeze(0) if len(outputs) == 1 else torch.stack(outputs)

    def _evaluate_unit(
        self, hidden: Tensor, layers: list[Layer], low_weights: Sequence[Tensor], saved: list[Tensor] | None
    ) -> Tensor:
        affine, product = (torch.baddbmm, torch.bmm) if hidden.dim() == 3 else (torch.addmm, torch.mm)
        last = len(layers) - 1
        for index, (weight, bias) in enumerate(layers):
            if self._low[index]:
                hidden = hidden.bfloat16()
            if saved is not None:
                saved.append(hidden)
            if self._low[index]:
                # The bias is added in full precision, after the product has been rounded.
                hidden = product(hidden, low_weights[index]).to(bias.dtype).add_(bias)
            else:
                hidden = affine(bias, hidden, weight)
            if index < last:
                hidden.relu_()
        return hidden

    def _differentiate_unit(
        self,
        grad: Tensor,
        inputs: Sequence[Tensor],
        layers: list[Layer],
        low_weights: Sequence[Tensor],
        grads: list[Layer] | None,
        needs_x: bool,
    ) -> Tensor:
        """Writes the parameters' gradients into ``grads``, if given; returns the input's (only if ``needs_x``)."""
        product = torch.bmm if grad.dim() == 3 else torch.mm
        for index in range(len(layers) - 1, -1, -1):
            low, hidden = self._low[index], inputs[index]
            weight = layers[index].weight
            if grads is not None:
                torch.sum(grad, dim=-2, keepdim=True, out=grads[index].bias)
            if low:
                grad, weight = grad.bfloat16(), low_weights[index]
                if grads is not None:
                    grads[index].weight.copy_(product(hidden.mT, grad))
            elif grads is not None:
                product(hidden.mT, grad, out=grads[index].weight)
            if index == 0 and not needs_x:
                break
            # Over a single output the product is an outer one: cheapest by broadcasting.
            grad = grad * weight.mT if weight.shape[-1] == 1 else product(grad, weight.mT)
            if index > 0:  # the ReLU's mask, in place
                torch.ops.aten.threshold_backward.grad_input(grad, hidden, 0, grad_input=grad)
            if low:
                grad = grad.to(layers[index].weight.dtype)
        return grad

    def in_precision(self, precision: str) -> StackedMLP:
        """The same parameters, evaluated in another precision: for who only reads them."""
        if precision == self.precision:
            return self
        view = copy.copy(self)  # shares the registered parameters, not the caches
        view.precision = precision
        view._low = _low_layers(precision, len(self.sizes) - 1)
        return view

    def extra_repr(self) -> str:
        """Describes the shape when the module is printed."""
        return f"num_members={self.num_members}, sizes={self.sizes}, precision={self.precision!r}"


def _low_layers(precision: str, count: int) -> tuple[bool, ...]:
    """Which of ``count`` layers have their products in bfloat16."""
    return tuple(precision == "bfloat16" and 0 < i < count - 1 for i in range(count))


class _Differentiable(torch.autograd.Function):
    """The evaluation of a ``StackedMLP``, once differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, flat: Tensor, module: StackedMLP) -> Tensor:
        saved: list[Tensor] = []
        output = module._evaluate(x, saved)
        ctx.save_for_backward(flat, *saved)  # flat, so that changing it before the backward pass is an error
        ctx.module = module
        ctx.shared_input = x.dim() == 2
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        _, *saved = ctx.saved_tensors
        module: StackedMLP = ctx.module
        needs_x, needs_flat, _ = ctx.needs_input_grad
        units = module.units()
        low_weights = module.low_weights() if any(module._low) else [()] * len(units)
        flat_grad, grads = module.gradient_buffer() if needs_flat else (None, [None] * len(units))
        output_grads = (grad,) if grad.is_cuda else grad.unbind()
        x_grads = []
        for unit, layers in enumerate(units):
            inputs = saved[unit * len(layers) : (unit + 1) * len(layers)]
            x_grads.append(
                module._differentiate_unit(output_grads[unit], inputs, layers, low_weights[unit], grads[unit], needs_x)
            )
        if not needs_x:
            return None, flat_grad, None
        x_grad = x_grads[0] if grad.is_cuda else torch.stack(x_grads)
        return (x_grad.sum(0) if ctx.shared_input else x_grad), flat_grad, None


def of_rank(values: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The value of a rank along the first axis (0 is the least), and where it stands; the ends are the cheapest."""
    if rank == len(values) - 1:
        found, where = values.max(0)
    else:
        found, where = values.min(0) if rank == 0 else values.kthvalue(rank + 1, 0)
    return found, where


class _Ranked(torch.autograd.Function):
    """``StackedMLP.ranked``, once differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, flat: Tensor, module: StackedMLP, rank: int) -> Tensor:
        saved: list[Tensor] = []
        values = module._evaluate(x, saved).squeeze(-1)
        value, member = of_rank(values, rank)
        ctx.save_for_backward(flat, member, *saved)
        ctx.module = module
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        _, member, *saved = ctx.saved_tensors
        module: StackedMLP = ctx.module
        units, low_weights, depth = module.units(), module.low_weights(), len(module.sizes) - 1
        if grad.is_cuda:  # the number of a member's rows is known to the device alone
            grads = grad.new_zeros(module.num_members, len(grad), 1)
            grads.scatter_(0, member[None, :, None], grad[None, :, None])
            x_grads = module._differentiate_unit(grads, saved, units[0], low_weights[0], None, True)
            return x_grads.sum(0), None, None, None
        x_grad = grad.new_empty(len(grad), module.sizes[0])
        for unit, layers in enumerate(units):
            rows = (member == unit).nonzero().squeeze(1)
            inputs = [hidden.index_select(0, rows) for hidden in saved[unit * depth : (unit + 1) * depth]]
            unit_grad = module._differentiate_unit(
                grad.index_select(0, rows).unsqueeze(1), inputs, layers, low_weights[unit], None, True
            )
            x_grad.index_copy_(0, rows, unit_grad)
        return x_grad, None, None, None
