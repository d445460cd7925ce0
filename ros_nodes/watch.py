"""`python -m ros_nodes.watch`: the shield's state as a screen that stays up to date.

``python -m ros_nodes.watch robot1/shield/state`` watches another topic than ``shield/state``; ``--once`` prints the
next state and ends.
"""

from __future__ import annotations

import ros_nodes.require_ros  # noqa: F401  (before what it requires)

# isort: split
import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import DurabilityPolicy, QoSProfile
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

COLORS = {"TASK": "green", "RECOVERY": "blue", "STOP": "red"}
BAR_WIDTH = 30
FIRST_WITHIN_SEC = 10.0
QUIET_SEC = 2.0
"""Silence after which a state is shown as old."""


def screen(values: dict[str, str], name: str, age_sec: float) -> Panel:
    """A state as a panel.

    Args:
        values: The state message's values.
        name: The node's name.
        age_sec: Time since the message came.
    """
    mode = values.get("mode", "?")
    color = COLORS.get(mode, "yellow")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", min_width=10)
    table.add_column()
    table.add_row("mode", f"[bold {color}]{mode}[/] {values.get('reason', '')}")
    table.add_row("risk", _bar(values.get("risk", "nan"), color))
    for key, title in (("proposed", "proposed"), ("executed", "executed")):
        table.add_row(title, values.get(key, ""))
    table.add_row("decided in", f"{values.get('solve_time_ms', '?')} ms")
    for key, value in values.items():
        if key.startswith("age_sec."):
            table.add_row(key.removeprefix("age_sec."), f"{value} s ago")
    title = f"{name} ({values.get('control', '?')})"
    if age_sec > QUIET_SEC:
        return Panel(table, title=f"{title}: nothing for {age_sec:.0f} s", border_style="yellow", width=64)
    return Panel(table, title=title, border_style=color, width=64)


def _bar(risk: str, color: str) -> str:
    value = float(risk)
    if not 0 <= value <= 1:
        return risk
    filled = round(value * BAR_WIDTH)
    return f"{value:5.3f} [{color}]{'█' * filled}[/][dim]{'░' * (BAR_WIDTH - filled)}[/]"


class Watcher:
    """The last state of a topic."""

    def __init__(self, topic: str) -> None:
        self.node = rclpy.create_node("shield_watcher")
        self.topic = self.node.resolve_topic_name(topic)
        self.name = ""
        self.values: dict[str, str] = {}
        self._came_sec = time.monotonic()
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.node.create_subscription(DiagnosticStatus, topic, self._on_state, latched)

    def _on_state(self, state: Any) -> None:
        self.name, self.values = state.name, {entry.key: entry.value for entry in state.values}
        self._came_sec = time.monotonic()

    @property
    def age_sec(self) -> float:
        """Time since the last state, or since the start."""
        return time.monotonic() - self._came_sec

    def screen(self) -> Panel:
        """The last state, or that there is none."""
        if not self.values:
            return Panel(f"nothing on {self.topic} yet", width=64)
        return screen(self.values, self.name, self.age_sec)


def main(arguments: Sequence[str] | None = None) -> int:
    """Shows the state until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="watch", description=__doc__)
    parser.add_argument("topic", nargs="?", default="shield/state")
    parser.add_argument("--once", action="store_true", help="print the next state and end")
    args = parser.parse_args(arguments)
    rclpy.init(args=[])
    watcher, console = Watcher(args.topic), Console()
    try:
        if args.once:
            while not watcher.values and watcher.age_sec < FIRST_WITHIN_SEC:
                rclpy.spin_once(watcher.node, timeout_sec=0.1)
            console.print(watcher.screen())
            return 0 if watcher.values else 2
        with Live(watcher.screen(), console=console, refresh_per_second=10) as live:
            while rclpy.ok():
                rclpy.spin_once(watcher.node, timeout_sec=0.1)
                live.update(watcher.screen())
    except KeyboardInterrupt:
        pass
    finally:
        watcher.node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
