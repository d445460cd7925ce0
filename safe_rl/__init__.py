"""Recovery RL for robots: collect, pretrain, train, deploy, with the same shield in simulation and on the robot.

The names below are imported when they are first used, so that ``import safe_rl`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "CollectConfig": "safe_rl.data.collect",
    "Decision": "safe_rl.switch",
    "EnvironmentFault": "safe_rl.errors",
    "Mode": "safe_rl.switch",
    "OfflineDataset": "safe_rl.data.dataset",
    "RecoverySwitch": "safe_rl.switch",
    "ReportConfig": "safe_rl.report.report",
    "RunConfig": "safe_rl.config",
    "Transitions": "safe_rl.transitions",
    "UserError": "safe_rl.errors",
    "collect": "safe_rl.data.collect",
    "evaluate": "safe_rl.evaluation",
    "load_run": "safe_rl.runs",
    "make_env": "safe_rl.envs.factory",
    "preset_config": "safe_rl.presets",
    "train": "safe_rl.training",
    "write_report": "safe_rl.report.report",
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
