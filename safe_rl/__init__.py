"""Recovery RL for robots: collect, pretrain, train, deploy, with the same shield in simulation and on the robot.

The names below are imported when they are first used, so that ``import safe_rl`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "UserError": "safe_rl.errors",
    "EnvironmentFault": "safe_rl.errors",
    "make_env": "safe_rl.envs.factory",
    "Transitions": "safe_rl.transitions",
    "Decision": "safe_rl.switch",
    "Mode": "safe_rl.switch",
    "RecoverySwitch": "safe_rl.switch",
}
"""Public name -> the module that defines it."""

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'safe_rl' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
