"""Counters, gauges and timers that all operators of one plan share."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class MetricValues:
    """What has been recorded: also what travels from an actor to the driver beside an item."""

    counters: dict[str, float] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)
    timers: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Name -> seconds in total, and how many times."""


class Metrics:
    """The numbers of one plan. Every thread of the driver may write.

    ::

        gather ──> for_each ──> union ──> for_each ──> your loop
           └──────────┴────┬──────┴──────────┘             │
                        Metrics  <──── iterator.context ───┘

    Inside an operator's function it is ``current_metrics()``; outside, ``iterator.context``. A function that runs on an
    actor writes into the actor's own; what it wrote arrives with the next item.
    """

    def __init__(self) -> None:
        self._values = MetricValues()
        self._lock = threading.Lock()
        self._joined: Metrics | None = None
        self.dirty = False
        """Whether something was written since the last ``drain``."""

    def count(self, name: str, by: float = 1) -> None:
        """Adds to a counter."""
        metrics = self.root
        with metrics._lock:
            counters = metrics._values.counters
            counters[name] = counters.get(name, 0) + by
            metrics.dirty = True

    def gauge(self, name: str, value: float) -> None:
        """Sets a value that goes up and down: the last one stands."""
        metrics = self.root
        with metrics._lock:
            metrics._values.gauges[name] = value
            metrics.dirty = True

    @contextmanager
    def timer(self, name: str) -> Iterator[None]:
        """Adds the time of a ``with`` block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.merge(MetricValues(timers={name: (time.perf_counter() - began, 1)}))

    def counter(self, name: str) -> float:
        """Returns a counter; 0 where nothing was counted."""
        metrics = self.root
        with metrics._lock:
            return metrics._values.counters.get(name, 0)

    def snapshot(self) -> dict[str, float]:
        """Returns all numbers by name; a timer is the mean in seconds."""
        metrics = self.root
        with metrics._lock:
            values = metrics._values
            means = {name: total / times for name, (total, times) in values.timers.items()}
            return {**values.counters, **values.gauges, **means}

    def merge(self, values: MetricValues) -> None:
        """Adds what was recorded elsewhere."""
        metrics = self.root
        with metrics._lock:
            mine = metrics._values
            for name, by in values.counters.items():
                mine.counters[name] = mine.counters.get(name, 0) + by
            mine.gauges.update(values.gauges)
            for name, (total, times) in values.timers.items():
                before = mine.timers.get(name, (0.0, 0))
                mine.timers[name] = (before[0] + total, before[1] + times)
            metrics.dirty = True

    def drain(self) -> MetricValues:
        """Returns what was recorded and starts anew."""
        metrics = self.root
        with metrics._lock:
            values, metrics._values = metrics._values, MetricValues()
            metrics.dirty = False
            return values

    def join(self, other: Metrics) -> None:
        """Makes this one the same as another from now on: two streams have become one plan."""
        mine, theirs = self.root, other.root
        if mine is not theirs:
            theirs.merge(mine.drain())
            mine._joined = theirs

    @property
    def root(self) -> Metrics:
        """The one that is written to."""
        metrics = self
        while metrics._joined is not None:
            metrics = metrics._joined
        return metrics


CURRENT: ContextVar[Metrics] = ContextVar("metrics")


def current_metrics() -> Metrics:
    """Returns the metrics of the plan whose operator is running; outside of any, ones that nobody reads."""
    return CURRENT.get(None) or Metrics()
