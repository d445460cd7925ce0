"""`safe-rl view`."""

from __future__ import annotations

from safe_rl.cli.console import show
from safe_rl.report.trajectories import Trajectory
from safe_rl.report.view import ViewConfig, view
from safe_rl.switch import Mode

__all__ = ["ViewConfig", "run_view"]


def run_view(config: ViewConfig) -> None:
    """Shows or films the episodes and says how each ended."""
    number = 0

    def tell(trajectory: Trajectory) -> None:
        nonlocal number
        number += 1
        recovery, stop = (int((trajectory.modes == mode).sum()) for mode in (Mode.RECOVERY, Mode.STOP))
        acted = f", {recovery} by the recovery policy" if recovery else ""
        acted += f", {stop} stopped" if stop else ""
        show(f"episode {number}: {trajectory.outcome} after {len(trajectory.modes)} steps{acted}")

    view(config, tell)
    if config.output is not None:
        show(f"video in {config.output}")
