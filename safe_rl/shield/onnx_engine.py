"""Decides with ONNX Runtime, from the graphs of a bundle; a robot needs neither PyTorch nor Gymnasium for it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from safe_rl.errors import UserError
from safe_rl.shield.bundle import DECIDE_GRAPH, FILTER_GRAPH, WEIGHTS, PolicyBundle
from safe_rl.shield.engine import Evaluation, FloatArray
from safe_rl.shield.observation import ObservationLayout
from safe_rl.shield.spec import BundleSpec

FINGERPRINT = "safe_rl_fingerprint"
"""The entry of a graph's metadata that says for which bundle it was made."""
INPUTS = {DECIDE_GRAPH: ("obs", "eps_risk"), FILTER_GRAPH: ("obs", "proposed_action", "eps_risk")}
"""Names of the graphs' inputs; their outputs are named as the fields of ``Evaluation``."""

_FLOAT, _UINT8, _BOOL = "tensor(float)", "tensor(uint8)", "tensor(bool)"
_TYPES: dict[str, Any] = {_FLOAT: np.float32, _UINT8: np.uint8, _BOOL: np.bool_}
_CURE = "export the run again with --onnx"
# The key that leads out of the file. Its length can be written in several ways, so the word alone is looked for: ours
# never hold it.
_EXTERNAL_DATA = b"location"


class OnnxEngine:
    """See ``safe_rl.shield.engine.Engine``; not for several threads at once.

    Args:
        bundle: The bundle to decide with.

    Raises:
        UserError: A graph is missing, damaged, or not one of this bundle.
    """

    name = "onnx"

    def __init__(self, bundle: PolicyBundle) -> None:
        expected = fingerprint(bundle.spec, bundle.read_bytes(WEIGHTS))
        self._decide = _Graph(_open(bundle, DECIDE_GRAPH, expected))
        self._filter = _Graph(_open(bundle, FILTER_GRAPH, expected))

    def decide(self, obs: npt.NDArray[Any], eps_risk: float) -> Evaluation:
        """See ``Engine``."""
        return self._decide.run(obs, eps_risk)

    def filter(self, obs: npt.NDArray[Any], proposal: FloatArray, eps_risk: float) -> Evaluation:
        """See ``Engine``."""
        return self._filter.run(obs, proposal, eps_risk)


class _Graph:
    """A graph, with arrays bound to it for a single row: a fifth faster than handing new ones over at each call."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._names = [node.name for node in session.get_inputs()]
        self._binding = session.io_binding()
        self._inputs = [_row_of(node) for node in session.get_inputs()]
        self._outputs = [_row_of(node) for node in session.get_outputs()]
        for name, array in zip(self._names, self._inputs, strict=True):
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for node, array in zip(session.get_outputs(), self._outputs, strict=True):
            self._binding.bind_output(node.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def run(self, *inputs: npt.NDArray[Any] | float) -> Evaluation:
        if len(inputs[0]) != 1:  # type: ignore[arg-type]
            arrays = (np.asarray(value, row.dtype) for value, row in zip(inputs, self._inputs, strict=True))
            feed = dict(zip(self._names, arrays, strict=True))
            return Evaluation(*self._session.run(None, feed))
        for array, value in zip(self._inputs, inputs, strict=True):
            array[...] = value
        self._session.run_with_iobinding(self._binding)
        return Evaluation(*[array.copy() for array in self._outputs])


def _row_of(node: ort.NodeArg) -> Any:
    shape = [length if isinstance(length, int) else 1 for length in node.shape]
    return np.zeros(shape, _TYPES[node.type])


def fingerprint(spec: BundleSpec, weights: bytes) -> str:
    """What a graph was made from, in hexadecimal: the content of the weights' file and all that stands in the graph."""
    digest = hashlib.sha256(weights)
    fixed = [spec.observation_space, spec.action_space, spec.recovery, spec.switch.recovery_must_help]
    digest.update(json.dumps(fixed, sort_keys=True).encode())
    return digest.hexdigest()


def _open(bundle: PolicyBundle, name: str, expected_fingerprint: str) -> ort.InferenceSession:
    path, content = bundle.path / name, bundle.read_bytes(name)
    if _EXTERNAL_DATA in content:
        raise UserError(f"{path} refers to other files: refused; {_CURE}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # errors are raised
    try:
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no other base in common
        raise UserError(f"{path} cannot be loaded ({' '.join(str(error).split())[:200]}): {_CURE}") from error
    _check(session, bundle.spec, name, str(path))
    if session.get_modelmeta().custom_metadata_map.get(FINGERPRINT) != expected_fingerprint:
        raise UserError(f"{path} was not made from this bundle's {WEIGHTS} and description: {_CURE}")
    return session


def _check(session: ort.InferenceSession, spec: BundleSpec, name: str, path: str) -> None:
    """Compares names, types and shapes with those that the description leads to; ``...`` is any fixed length."""
    layout, act_dim = ObservationLayout(spec.observation_space), len(spec.limits.low)
    obs_dim = layout.size
    types = {"hands_over": _BOOL, "obs": _FLOAT if layout.image_shape is None else _UINT8}
    inputs: dict[str, Any] = {"obs": ("N", obs_dim), "proposed_action": ("N", act_dim), "eps_risk": ()}
    outputs: dict[str, Any] = {"proposal": ("N", act_dim), "recovery_action": ("N", act_dim), "risk": ("N",)}
    outputs |= {"hands_over": ("N",), "features": ("N", ...)}
    for kind, nodes, expected in (
        ("inputs", session.get_inputs(), {key: inputs[key] for key in INPUTS[name]}),
        ("outputs", session.get_outputs(), outputs),
    ):
        if [node.name for node in nodes] != list(expected):
            found = ", ".join(node.name for node in nodes)
            raise UserError(f"{path} has the {kind} {found}, not {', '.join(expected)}: {_CURE}")
        for node in nodes:
            shape, wanted = tuple(node.shape), expected[node.name]
            fits = len(shape) == len(wanted) and all(
                n == m or (m is ... and isinstance(n, int)) for n, m in zip(shape, wanted, strict=True)
            )
            if not fits:
                need = str(wanted).replace("Ellipsis", "any").replace("'", "")
                raise UserError(f"{path}: {node.name} has the shape {shape}, not {need}: {_CURE}")
            dtype = types.get(node.name, _FLOAT)
            if node.type != dtype:
                raise UserError(f"{path}: {node.name} is a {node.type}, not a {dtype}: {_CURE}")
