"""Which engine decides."""

from __future__ import annotations

import importlib.util
from typing import Literal

from safe_rl.errors import UserError
from safe_rl.shield.bundle import PolicyBundle
from safe_rl.shield.engine import Engine

EngineName = Literal["auto", "onnx", "torch"]


def load_engine(bundle: PolicyBundle, name: EngineName = "auto") -> Engine:
    """Loads what evaluates a bundle's networks.

    Args:
        bundle: The bundle.
        name: ``onnx``, ``torch``, or ``auto``: ONNX Runtime where the bundle has graphs and it is installed, else
            PyTorch.

    Raises:
        UserError: The engine is not installed, the bundle has no graphs for it, or its files do not fit.
    """
    has_runtime = importlib.util.find_spec("onnxruntime") is not None
    if name == "onnx" or (name == "auto" and bundle.has_graphs and has_runtime):
        if not bundle.has_graphs:
            raise UserError(f"{bundle.path} has no ONNX graphs: make them with safe-rl export RUN --onnx")
        if not has_runtime:
            raise UserError("onnxruntime is not installed: pip install onnxruntime")
        from safe_rl.shield.onnx_engine import OnnxEngine

        return OnnxEngine(bundle)
    if importlib.util.find_spec("torch") is None:
        cure = "pip install onnxruntime" if bundle.has_graphs else "make ONNX graphs with safe-rl export RUN --onnx"
        raise UserError(f"no engine can run {bundle.path}: PyTorch is not installed; {cure}")
    from safe_rl.shield.torch_engine import TorchEngine

    return TorchEngine(bundle)
