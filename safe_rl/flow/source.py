"""Where a stream's items come from, and what to wait for while there is none."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence

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

    def tokens(self) -> list[tuple[Engine, Token]]:
        """Returns the answers of which any may bring an item."""
        return [token for child in self.children for token in child.tokens()]

    def polled(self) -> bool:
        """Whether something else may bring an item, which has to be looked at."""
        return any(child.polled() for child in self.children)


class PolledSource(Source):
    """Items of the driver itself; with children, it stands in their way while ``blocked``."""

    def __init__(self, children: Sequence[Source] = (), blocked: Callable[[], bool] = lambda: True) -> None:
        super().__init__(children)
        self._blocked = blocked

    def tokens(self) -> list[tuple[Engine, Token]]:
        """Returns those of the children, unless it stands in their way."""
        return [] if self._blocked() else super().tokens()

    def polled(self) -> bool:
        """Whether it stands in the way, or a child has to be looked at."""
        return self._blocked() or super().polled()


def wait_for_any(source: Source) -> None:
    """Returns when there may be an item again."""
    by_engine: dict[Engine, list[Token]] = {}
    for engine, token in source.tokens():
        by_engine.setdefault(engine, []).append(token)
    if not by_engine:
        time.sleep(POLL_SEC)
        return
    limit = LIMIT_SEC if len(by_engine) == 1 and not source.polled() else POLL_SEC
    for engine, tokens in by_engine.items():
        engine.wait(list(dict.fromkeys(tokens)), limit)
