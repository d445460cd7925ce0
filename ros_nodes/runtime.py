"""How every node starts, spins and ends: one executor, one thread, an orderly end at Ctrl-C, SIGTERM and SIGHUP."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol

import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from safe_rl.errors import UserError

SPIN_SEC = 0.1
"""Longest wait before a signal is noticed where nothing else happens."""


class Ending(Protocol):
    """A node that has something to say before it goes."""

    def on_end(self) -> None:
        """Called once, while messages can still be sent."""
        ...


def run(make_node: Callable[[], Node], args: Sequence[str] | None = None) -> int:
    """Runs a node until Ctrl-C, SIGTERM or SIGHUP (a closed terminal).

    ROS's own signal handlers would close the publishers first; a node that moves a robot must still send its stop.

    Returns:
        The exit code: 0, or 2 where the node could not be made; the reason is one line on stderr.
    """
    try:
        rclpy.init(args=list(sys.argv if args is None else args), signal_handler_options=SignalHandlerOptions.NO)
    except (RCLError, RuntimeError, ValueError) as error:  # arguments, or a parameter file, that cannot be read
        return _refuse(error)
    stopping: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    executor = SingleThreadedExecutor()
    node: Node | None = None
    try:
        node = make_node()
        executor.add_node(node)
        while rclpy.ok() and not stopping:
            _spin_once(executor, node)
        return 0
    except UserError as error:
        return _refuse(error)
    except ExternalShutdownException:
        return 0
    finally:
        if node is not None:
            if rclpy.ok() and hasattr(node, "on_end"):
                node.on_end()
            executor.shutdown()
            node.destroy_node()
        rclpy.try_shutdown()


def _refuse(error: Exception) -> int:
    sys.stderr.write(f"{Path(sys.argv[0]).stem}: error: {' '.join(str(error).split())}\n")
    return 2


def _spin_once(executor: SingleThreadedExecutor, node: Node) -> None:
    try:
        executor.spin_once(SPIN_SEC)
    except RCLError as error:
        # An invalid change_state request from any client raises out of the executor on some distributions; it must
        # not take the node down.
        node.get_logger().error(f"ignored: {error}")
