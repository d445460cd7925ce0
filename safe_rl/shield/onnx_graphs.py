"""Turns a decision into ONNX graphs; needs the packages onnx and onnxscript."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from safe_rl.shield.bundle import DECIDE_GRAPH, FILTER_GRAPH
from safe_rl.shield.engine import Evaluation
from safe_rl.shield.graph import DecisionGraph, Outputs
from safe_rl.shield.observation import ObservationLayout
from safe_rl.shield.onnx_engine import FINGERPRINT, INPUTS, fingerprint
from safe_rl.shield.spec import BundleSpec

OPSET = 18
"""Version of the operators; ONNX Runtime has known it since 1.14."""


class _Decide(nn.Module):
    def __init__(self, decision: DecisionGraph) -> None:
        super().__init__()
        self.decision = decision  # not "graph": the exporter has one of its own

    def forward(self, obs: Tensor, eps_risk: Tensor) -> Outputs:
        return self.decision.decide(obs, eps_risk)


class _Filter(nn.Module):
    def __init__(self, decision: DecisionGraph) -> None:
        super().__init__()
        self.decision = decision  # not "graph": the exporter has one of its own

    def forward(self, obs: Tensor, proposed_action: Tensor, eps_risk: Tensor) -> Outputs:
        return self.decision.filter(obs, proposed_action, eps_risk)


def make_graphs(graph: DecisionGraph, spec: BundleSpec, weights: bytes) -> dict[str, bytes]:
    """Makes both graphs of a bundle.

    Args:
        graph: The decision.
        spec: The bundle's description.
        weights: The content of its weights' file; the graphs are tied to it.

    Returns:
        Name and content of the two files.
    """
    layout = ObservationLayout(spec.observation_space)
    obs = torch.from_numpy(np.zeros((2, layout.size), layout.dtype))
    proposal, eps_risk = torch.zeros(2, len(graph.low)), torch.tensor(0.5)
    rows = {0: torch.export.Dim("N")}
    models = {
        DECIDE_GRAPH: _to_onnx(_Decide(graph), (obs, eps_risk), (rows, None), INPUTS[DECIDE_GRAPH]),
        FILTER_GRAPH: _to_onnx(_Filter(graph), (obs, proposal, eps_risk), (rows, rows, None), INPUTS[FILTER_GRAPH]),
    }
    for model in models.values():
        # The exporter notes from which line of whose source a node comes.
        body = model.graph
        for part in (model, body, *body.node, *body.input, *body.output, *body.value_info, *body.initializer):
            part.ClearField("metadata_props")
            part.ClearField("doc_string")
        model.metadata_props.add(key=FINGERPRINT, value=fingerprint(spec, weights))
    return {name: model.SerializeToString(deterministic=True) for name, model in models.items()}


def _to_onnx(module: nn.Module, arguments: Any, dynamic_shapes: Any, inputs: tuple[str, ...]) -> Any:
    with _quiet():
        program: Any = torch.onnx.export(
            module,
            arguments,
            input_names=inputs,
            output_names=Evaluation._fields,
            dynamic_shapes=dynamic_shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what the exporter says of itself from the user."""
    former = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(former)
