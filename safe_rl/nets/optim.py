"""Adam and target updates over flat parameters: one operation each, whatever the number of networks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from safe_rl.nets.mlp import StackedMLP


class FlatAdam:
    """Adam over the parameters of one or several modules, without a walk over modules, groups and hooks at each step.

    It computes what ``torch.optim.Adam`` computes. A step inside a CUDA graph's capture is allowed.

    Args:
        modules: the module, or all the modules (none is possible too), to train; on their final device.
        learning_rate: step size.
        betas: decay rates of the two moment estimates.
        eps: added to the denominator.
    """

    def __init__(
        self,
        modules: nn.Module | Iterable[nn.Module],
        learning_rate: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        modules = [modules] if isinstance(modules, nn.Module) else list(modules)
        self.parameters: list[Tensor] = [p for module in modules for p in module.parameters() if p.requires_grad]
        places = {id(parameter): index for index, parameter in enumerate(self.parameters)}
        stacks = [m for module in modules for m in module.modules() if isinstance(m, StackedMLP)]
        self._stacks = [(stack, places[id(stack.flat)]) for stack in stacks if id(stack.flat) in places]
        self.learning_rate = learning_rate
        self.betas = betas
        self.eps = eps
        _keep_freed_memory()
        self.exp_avg = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        self.exp_avg_sq = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        self.num_steps = torch.zeros((), device=self.parameters[0].device if self.parameters else None)
        self._num_steps = [self.num_steps] * len(self.parameters)

    def step(self, loss: Tensor) -> None:
        """Takes one step down the gradient of ``loss`` with respect to this optimiser's parameters, and of no others.

        Args:
            loss: scalar; the sum of several losses trains several modules at once.
        """
        gradients = torch.autograd.grad(loss, self.parameters)
        self.apply(gradients)
        for stack, index in self._stacks:
            stack.recycle_gradient(gradients[index])

    @torch.no_grad()
    def apply(self, gradients: Sequence[Tensor]) -> None:
        """Takes one step along given gradients.

        Args:
            gradients: one for each of ``parameters``, in their order.
        """
        self.num_steps += 1
        # The kernel that torch.optim.Adam(fused=True) ends in: what comes before it there takes longer than the kernel.
        torch._fused_adam_(
            self.parameters,
            list(gradients),
            self.exp_avg,
            self.exp_avg_sq,
            [],
            self._num_steps,
            lr=self.learning_rate,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )
        for parameter in self.parameters:  # the fused kernel does not count its change, and caches depend on the count
            torch.autograd.graph.increment_version(parameter)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns copies of the moment estimates and of the step count."""
        return {name: tensor.clone() for name, tensor in self._state().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores what ``state_dict`` returned, in place.

        Raises:
            ValueError: if an entry is missing, unknown, or of another shape.
        """
        own = self._state()
        if own.keys() != state.keys():
            raise ValueError(f"optimiser state has entries {sorted(state)}, expected {sorted(own)}")
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                raise ValueError(
                    f"optimiser state {name}: shape {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
                )
        for name, tensor in own.items():
            tensor.copy_(state[name])

    def _state(self) -> dict[str, Tensor]:
        averages = {f"exp_avg.{i}": tensor for i, tensor in enumerate(self.exp_avg)}
        squares = {f"exp_avg_sq.{i}": tensor for i, tensor in enumerate(self.exp_avg_sq)}
        return {**averages, **squares, "num_steps": self.num_steps}


@torch.no_grad()
def polyak_update(target: nn.Module | Sequence[nn.Module], source: nn.Module | Sequence[nn.Module], tau: float) -> None:
    """Moves target parameters towards the source's: ``target <- (1 - tau) * target + tau * source``.

    Args:
        target: module, or modules, to move.
        source: module, or modules, of the same shapes in the same order.
        tau: share of the source, in [0, 1].
    """
    targets = [target] if isinstance(target, nn.Module) else target
    sources = [source] if isinstance(source, nn.Module) else source
    for to, towards in zip(targets, sources, strict=True):
        for p_to, p_towards in zip(to.parameters(), towards.parameters(), strict=True):
            p_to.lerp_(p_towards, tau)


def _keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next tensor instead of returning it to the system.

    glibc raises its thresholds for doing so to the size of the largest block that was freed (mallopt(3),
    ``M_MMAP_THRESHOLD``); this one is freed untouched. Without it a learner step cost up to 1,500 page faults, 2.5 ms.
    """
    torch.empty(30 * 2**20, dtype=torch.uint8)
