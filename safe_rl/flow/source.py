"""Where a stream's items come from, and what to wait for while there is none."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from typing import Any

from safe_rl.flow.engine import Engine, Token

POLL_SEC = 0.001
"""How often a queue is looked at while actors are waited for, too."""
LIMIT_SEC = 1.0
"""After this long the sources look around, for actors that hang."""


class Nothing(enum.Enum):
    """What a stream gives when it has no item."""

    NOT_READY = "not ready"
    """Nothing now, and waiting here may not help: a replay buffer that is still empty, a queue that is full."""
    IN_FLIGHT = "in flight"
    """An actor is at work on it."""


NOT_READY = Nothing.NOT_READY
IN_FLIGHT = Nothing.IN_FLIGHT


class Source:
    """A node of the tree of what a stream draws from."""

    def __init__(self, children: Sequence[Source] = ()) -> None:
        self.children = tuple(children)
        self.blocking = True
        """Whether the stream itself may wait for its next item; not so where another stream may have one meanwhile."""

    def set_blocking(self, blocking: bool) -> None:
        """Decides it for this node and all below."""
        self.blocking = blocking
        for child in self.children:
            child.set_blocking(blocking)

    def awaited(self) -> Awaited:
        """Returns the answers of which any may bring an item."""
        found: Awaited = []
        for child in self.children:
            found += child.awaited()
        return found

    def polled(self) -> bool:
        """Whether something else may bring an item, which has to be looked at."""
        return any(child.polled() for child in self.children)


Awaited = list[tuple[Engine, Token, Callable[[Token, Any], None] | None]]
"""Engine, token, and who takes the answer; None where it is only waited for."""


class PolledSource(Source):
    """Items of the driver itself; with children, it stands in their way while ``blocked``."""

    def __init__(self, children: Sequence[Source] = (), blocked: Callable[[], bool] = lambda: True) -> None:
        super().__init__(children)
        self._blocked = blocked

    def awaited(self) -> Awaited:
        """Returns those of the children, unless it stands in their way."""
        return [] if self._blocked() else super().awaited()

    def polled(self) -> bool:
        """Whether it stands in the way, or a child has to be looked at."""
        return self._blocked() or super().polled()


def wait_for_any(source: Source, *, look_only: bool = False) -> None:
    """Returns when there may be an item again, having fetched all answers that are there, in one go.

    Args:
        source: What is drawn from.
        look_only: Do not wait.
    """
    by_engine: dict[Engine, dict[Token, Callable[[Token, Any], None] | None]] = {}
    for engine, token, take in source.awaited():
        by_engine.setdefault(engine, {})[token] = take
    if not by_engine and not look_only:
        time.sleep(POLL_SEC)
    limit = 0.0 if look_only else LIMIT_SEC if len(by_engine) == 1 and not source.polled() else POLL_SEC
    for engine, takers in by_engine.items():
        ready = [token for token in engine.wait(list(takers), limit) if takers[token] is not None]
        for token, reply in zip(ready, engine.fetch(ready) if ready else (), strict=True):
            take = takers[token]
            if take is not None:
                take(token, reply)
