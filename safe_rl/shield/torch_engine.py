"""Decides with PyTorch, from the weights of a bundle."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch

from safe_rl.shield.bundle import PolicyBundle
from safe_rl.shield.engine import Evaluation, FloatArray
from safe_rl.shield.graph import DecisionGraph, Outputs


class TorchEngine:
    """See ``safe_rl.shield.engine.Engine``.

    Args:
        bundle: The bundle to decide with.

    Raises:
        UserError: Its weights are missing, damaged, or do not fit its description.
    """

    name = "torch"

    def __init__(self, bundle: PolicyBundle) -> None:
        self._graph = DecisionGraph.from_bundle(bundle)

    @torch.inference_mode()
    def decide(self, obs: npt.NDArray[Any], eps_risk: float) -> Evaluation:
        """See ``Engine``."""
        return _arrays(self._graph.decide(torch.from_numpy(obs), torch.tensor(eps_risk)))

    @torch.inference_mode()
    def filter(self, obs: npt.NDArray[Any], proposal: FloatArray, eps_risk: float) -> Evaluation:
        """See ``Engine``."""
        return _arrays(self._graph.filter(torch.from_numpy(obs), torch.from_numpy(proposal), torch.tensor(eps_risk)))


def _arrays(outputs: Outputs) -> Evaluation:
    proposal, recovery_action, risk, hands_over, features = (output.numpy() for output in outputs)
    return Evaluation(proposal, recovery_action, risk, hands_over, features)
