"""The matrix products of a learner step and nothing else: no bias, no ReLU, no loss, no optimiser."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Product = tuple[Tensor, Tensor, Tensor]
"""Two factors and the memory of the result."""


def square_products(count: int, size: int, dtype: torch.dtype) -> Callable[[], None]:
    """``count`` products of ``size`` x ``size`` x ``size`` on the same three matrices, which stay in the cache."""
    a, b, out = (torch.randn(size, size).to(dtype) for _ in range(3))
    return products_runner([(a, b, out)] * count)


def learner_products(
    obs_dim: int, act_dim: int, batch_size: int, hidden: int, dtype: torch.dtype
) -> Callable[[], None]:
    """Exactly the products of a step of Recovery RL, in its order, each on the matrices it has in a learner.

    Products with a hidden layer on both sides are in ``dtype``, the narrow ones in float32. Every matrix has the layout
    that is fastest for it.
    """
    twins = obs_dim + act_dim
    actor, recovery = _Network(obs_dim, hidden, 2 * act_dim, dtype), _Network(obs_dim, hidden, act_dim, dtype)
    critics, critic_targets, risks, risk_targets = (
        [_Network(twins, hidden, 1, dtype) for _ in range(2)] for _ in range(4)
    )
    batch = _Activations(batch_size, (obs_dim, twins), hidden, (1, act_dim, 2 * act_dim), dtype)
    products = batch.forward(actor)  # a' of the task policy
    for network in critic_targets:
        products += batch.forward(network)
    for network in critics:
        products += batch.forward(network) + batch.backward(network, weights=True, inputs=False)
    products += batch.forward(actor)
    for network in critics:
        products += batch.forward(network) + batch.backward(network, weights=False, inputs=True)
    products += batch.backward(actor, weights=True, inputs=False)

    products += batch.forward(actor)
    for network in risks:  # does the switch hand over in s'?
        products += batch.forward(network)
    products += batch.forward(recovery)
    for network in risk_targets:
        products += batch.forward(network)
    for network in risks:
        products += batch.forward(network) + batch.backward(network, weights=True, inputs=False)
    products += batch.forward(recovery)
    for network in risks:
        products += batch.forward(network) + batch.backward(network, weights=False, inputs=True)
    products += batch.backward(recovery, weights=True, inputs=False)
    return products_runner(products)


class _Network:
    """Weights of three layers and memory for their gradients."""

    def __init__(self, input_size: int, hidden: int, output_size: int, dtype: torch.dtype) -> None:
        self.sizes = input_size, output_size
        self.first, self.first_grad = (torch.randn(input_size, hidden) for _ in range(2))
        self.middle, self.middle_grad = (torch.randn(hidden, hidden).to(dtype) for _ in range(2))
        self.last, self.last_grad = (torch.randn(output_size, hidden).mT for _ in range(2))


class _Activations:
    """Memory of a batch on its way through a network and back."""

    def __init__(
        self, rows: int, inputs: tuple[int, ...], hidden: int, outputs: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        self.x, self.x_grad = ({n: torch.randn(rows, n) for n in inputs} for _ in range(2))
        self.y, self.y_grad = ({n: torch.randn(rows, n) for n in outputs} for _ in range(2))
        self.h1, self.h1_grad, self.h2, self.h2_grad = (torch.randn(rows, hidden) for _ in range(4))
        self.h1_low, self.h1_grad_low, self.h2_low, self.h2_grad_low = (
            (h.to(dtype) for h in (self.h1, self.h1_grad, self.h2, self.h2_grad))
            if dtype != torch.float32
            else (self.h1, self.h1_grad, self.h2, self.h2_grad)
        )

    def forward(self, network: _Network) -> list[Product]:
        n, m = network.sizes
        return [
            (self.x[n], network.first, self.h1),
            (self.h1_low, network.middle, self.h2_low),
            (self.h2, network.last, self.y[m]),
        ]

    def backward(self, network: _Network, *, weights: bool, inputs: bool) -> list[Product]:
        n, m = network.sizes
        products = [
            (self.y_grad[m], network.last.mT, self.h2_grad),
            (self.h2_grad_low, network.middle.mT, self.h1_grad_low),
        ]
        if inputs:
            products.append((self.h1_grad, network.first.mT, self.x_grad[n]))
        if weights:
            products += [
                (self.h2.mT, self.y_grad[m], network.last_grad),
                (self.h1_low.mT, self.h2_grad_low, network.middle_grad),
                (self.x[n].mT, self.h1_grad, network.first_grad),
            ]
        return products


def products_runner(products: list[Product]) -> Callable[[], None]:
    """Computes the products one after the other; of stacks of matrices all of a stack at once."""

    def run() -> None:
        for a, b, out in products:
            (torch.bmm if a.dim() == 3 else torch.mm)(a, b, out=out)

    return run
