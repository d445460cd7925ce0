"""Whether actors fit: onto the CPUs, and into each other's versions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from safe_rl.errors import UserError

RESOLUTION = 1e-4
"""Of a share of a CPU, as Ray counts it."""


def fitting_cpus(free_cpus: Sequence[float], num: int, wanted: float) -> float:
    """Returns how much of a CPU each of ``num`` actors can reserve so that all have a place.

    Args:
        free_cpus: Free CPUs of each node.
        num: Number of actors.
        wanted: What each should reserve, at most.

    Returns:
        ``wanted`` where that fits; else the largest share below one CPU; 0 where no CPU is free.
    """
    if wanted <= 0 or _places(free_cpus, wanted) >= num:
        return wanted
    shares = {
        math.floor(free / k / RESOLUTION) * RESOLUTION for free in free_cpus if free > 0 for k in range(1, num + 1)
    }
    fitting = [
        share for share in shares if 0 < share < min(1.0, wanted) + RESOLUTION and _places(free_cpus, share) >= num
    ]
    if wanted > 1 and _places(free_cpus, 1.0) >= num:
        return 1.0
    return max(fitting, default=0.0)


def _places(free_cpus: Sequence[float], share: float) -> int:
    return sum(math.floor(free / share + 1e-9) for free in free_cpus if free > 0)


def check_versions(mine: Mapping[str, str], nodes: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Compares the versions of the nodes with the driver's.

    Args:
        mine: Package -> version, of the driver.
        nodes: Node -> package -> version.

    Returns:
        A line for each node with versions that differ a little and may do.

    Raises:
        UserError: A node's versions differ so much that results or messages would not fit: Python's or PyTorch's minor
            version, NumPy's major one, or safe_rl's at all.
    """
    digits = {"python": 2, "torch": 2, "numpy": 1, "safe_rl": 9}
    lines = []
    for node, theirs in nodes.items():
        differing = [name for name in mine if theirs.get(name) != mine[name]]
        if not differing:
            continue
        text = ", ".join(f"{name} {theirs.get(name)} where this machine has {mine[name]}" for name in differing)
        if any(
            _leading(theirs.get(name, ""), digits[name]) != _leading(mine[name], digits[name]) for name in differing
        ):
            raise UserError(f"node {node} has {text}: install the same versions there")
        lines.append(f"node {node} has {text}; that may do, equal versions are safer")
    return lines


def _leading(version: str, digits: int) -> list[str]:
    return version.split("+")[0].split(".")[:digits]
