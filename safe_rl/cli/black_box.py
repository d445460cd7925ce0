"""`safe-rl inspect FILE`: what the shield saw and did before it stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.table import Table

from safe_rl.cli.console import show
from safe_rl.shield.black_box import Recording, read_black_box
from safe_rl.switch import Mode

_SHOWN = 20
_WIDEST = 6
"""Numbers shown of an observation."""


def show_black_box(path: Path) -> None:
    """Prints the last decisions before a STOP.

    Raises:
        UserError: The file is missing, damaged, or no black box's.
    """
    recording = read_black_box(path)
    first = max(0, len(recording.reason) - _SHOWN)
    show(_overview(recording, path))
    show(_decisions(recording, first))
    if first:
        show(f"the last {_SHOWN} of {len(recording.reason)} decisions; the file holds all of them as safetensors")


def _overview(recording: Recording, path: Path) -> Table:
    table = Table("", str(path))
    seconds = recording.time_sec - recording.time_sec[-1]
    modes = {mode.name: int(np.sum(recording.mode == mode)) for mode in Mode}
    table.add_row("bundle", recording.source or "not named")
    table.add_row("written", recording.written)
    table.add_row("stopped because of", recording.reason[-1] or "nothing")
    table.add_row("decisions", f"{len(seconds):,} in {-seconds[0]:.3f} s")
    table.add_row("by mode", ", ".join(f"{count} {name}" for name, count in modes.items() if count))
    table.add_row("solve time", f"median {1e3 * np.median(recording.solve_time_sec):.3f} ms, "
                                f"longest {1e3 * recording.solve_time_sec.max():.3f} ms")  # fmt: skip
    return table


def _decisions(recording: Recording, first: int) -> Table:
    table = Table("seconds", "mode", "reason", "risk", "observation", "proposed", "answered")
    for row in range(first, len(recording.reason)):
        table.add_row(
            f"{recording.time_sec[row] - recording.time_sec[-1]:.3f}",
            Mode(recording.mode[row]).name,
            recording.reason[row],
            f"{recording.risk[row]:.3f}",
            *(_numbers(array[row]) for array in (recording.obs, recording.task_action, recording.action)),
        )
    return table


def _numbers(values: np.ndarray) -> str:
    shown = " ".join(f"{value:.4g}" for value in values[:_WIDEST])
    return shown if len(values) <= _WIDEST else f"{shown} ... ({len(values)})"
