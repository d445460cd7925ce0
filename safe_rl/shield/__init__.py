"""Policy bundles that decide in control loops.

The names below are imported when they are first used: a robot with ONNX Runtime imports no PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safe_rl.shield.bundle import PolicyBundle
    from safe_rl.shield.decision import Reason, ShieldDecision
    from safe_rl.shield.shield import Shield
    from safe_rl.switch import Mode

_EXPORTS = {
    "Mode": "safe_rl.switch",
    "PolicyBundle": "safe_rl.shield.bundle",
    "Reason": "safe_rl.shield.decision",
    "Shield": "safe_rl.shield.shield",
    "ShieldDecision": "safe_rl.shield.decision",
}
"""Public name -> the module that defines it."""

__all__ = ["Mode", "PolicyBundle", "Reason", "Shield", "ShieldDecision"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'safe_rl.shield' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value
