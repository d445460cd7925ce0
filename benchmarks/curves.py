"""What a training run of `benchmarks.impact_compare` or of one of its peers leaves: a curve.

Peers run in environments of their own, so nothing here needs more than the standard library.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

RECENT = 100


@dataclass
class Curve:
    """One run. Returns are means of the last 100 episodes; the first entries are those of 20 episodes."""

    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    goal_steps: int | None = None
    """Steps until the goal was reached; None where it was not."""
    goal_seconds: float | None = None
    rate: float = 0.0
    """Environment steps a second over the whole run."""
    load: float = 0.0
    """Processes waiting for the machine in the minute before the end."""

    def to_json(self) -> str:
        """One line, for `parse_curve`."""
        return json.dumps(dataclasses.asdict(self))


def parse_curve(text: str) -> Curve:
    """The curve in what a run printed or a file holds: the last line that is an object. Libraries print, too.

    Raises:
        ValueError: No line is a curve.
    """
    lines = [line for line in text.splitlines() if line.startswith("{")]
    try:
        return Curve(**json.loads(lines[-1]))
    except (IndexError, TypeError, ValueError) as error:
        raise ValueError(f"no curve in what was printed, which ends with {text[-500:]!r}") from error


class Recorder:
    """Makes a curve of what is told. Its clock starts when it is made."""

    def __init__(self, goal: float, limit_steps: int, limit_sec: float, *, stop_at_goal: bool = False) -> None:
        self.goal, self.limit_steps, self.limit_sec, self.stop_at_goal = goal, limit_steps, limit_sec, stop_at_goal
        self.curve = Curve()
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.started = time.perf_counter()
        self._next = 0

    def add(self, returns: Iterable[float], steps: int) -> bool:
        """Takes the returns of finished episodes; says whether the run is over."""
        self.recent.extend(returns)
        curve, seconds = self.curve, time.perf_counter() - self.started
        mean = statistics.fmean(self.recent) if self.recent else float("nan")
        if len(self.recent) == RECENT and mean >= self.goal and curve.goal_steps is None:
            curve.goal_steps, curve.goal_seconds = steps, seconds
        reached = self.stop_at_goal and curve.goal_steps is not None
        over = reached or steps >= self.limit_steps or seconds > self.limit_sec
        if len(self.recent) >= 20 and (steps >= self._next or over):
            self._next = steps + self.limit_steps // 200
            curve.steps.append(steps)
            curve.seconds.append(seconds)
            curve.returns.append(mean)
        curve.rate, curve.load = steps / seconds, os.getloadavg()[0]
        return over


def peer_parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all peers have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--goal", type=float, default=475.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-steps", type=int, default=2_000_000)
    parser.add_argument("--limit-sec", type=float, default=300.0)
    return parser


def peer_recorder(options: argparse.Namespace) -> Recorder:
    """A recorder for a peer, with these options."""
    return Recorder(options.goal, options.limit_steps, options.limit_sec, stop_at_goal=True)
