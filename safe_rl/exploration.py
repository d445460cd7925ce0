"""Exploration noise that remembers: a policy that wanders off instead of trembling on the spot."""

from __future__ import annotations

import math
from typing import Any

import torch

MEMORIES_STEPS = (0, 4, 16, 64)
"""Time constants of the processes that are summed: the power falls as 1/f between periods of 4 and 400 steps."""


class PinkNoise:
    """Normal draws whose power falls as ``1/f`` (Eberhard and others, Pink Noise Is All You Need, ICLR 2023).

    Every single draw is N(0, 1), so the policy's distribution in a state is what it was; but draws that follow each
    other are alike, and their sum goes far. It is made step by step, as a sum of Ornstein-Uhlenbeck processes,

        x_k <- rho_k x_k + sqrt(1 - rho_k^2) xi_k,    rho_k = exp(-1 / memory_k),    noise = sum_k x_k / sqrt(K),

    with ``xi_k ~ N(0, I)`` and the memories ``MEMORIES_STEPS``. It does not begin anew with an episode.

    Args:
        act_dim: Number of action components; each has noise of its own.
        generator: Draws the ``xi``.
    """

    def __init__(self, act_dim: int, generator: torch.Generator) -> None:
        self.act_dim, self._generator = act_dim, generator
        rho = [math.exp(-1 / steps) if steps else 0.0 for steps in MEMORIES_STEPS]
        self._rho = torch.tensor(rho, device=generator.device)[:, None, None]
        self._processes = torch.empty(len(rho), 0, act_dim, device=generator.device)

    def draw(self, rows: int) -> torch.Tensor:
        """The draws (rows, act_dim) of one step, a row for each environment; other rows than before begin anew."""
        fresh = self._fresh(rows)
        if rows != self._processes.shape[1]:
            self._processes = fresh
        else:
            self._processes = self._rho * self._processes + (1 - self._rho**2).sqrt() * fresh
        return self._processes.sum(0) / math.sqrt(len(self._rho))

    def _fresh(self, rows: int) -> torch.Tensor:
        shape = (len(self._rho), rows, self.act_dim)
        return torch.randn(shape, generator=self._generator, device=self._generator.device)

    def state_dict(self) -> dict[str, Any]:
        """Where the processes are."""
        return {"processes": self._processes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores ``state_dict``."""
        self._processes = state["processes"].to(self._generator.device)
