"""Where a stream's items come from, and what to wait for while there is none."""

from __future__ import annotations

import enum
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
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

    def waiting(self) -> list[WaitingSource]:
        """Returns those whose actors may bring an item."""
        return [waiting for child in self.children for waiting in child.waiting()]

    def polled(self) -> bool:
        """Whether something else may bring an item, which has to be looked at."""
        return any(child.polled() for child in self.children)


class WaitingSource(Source, ABC):
    """Items that actors have been asked for."""

    engine: Engine
    pending: Mapping[Token, object]
    """What has been asked for and has not come."""

    @abstractmethod
    def returns(self) -> list[Token]:
        """Returns what tells that an actor is back which items are waited for from."""

    @abstractmethod
    def arrive(self, token: Token, reply: Any) -> None:
        """Takes the answer to what was pending."""

    def waiting(self) -> list[WaitingSource]:
        """Returns this one, where it waits for anything."""
        return [self] if self.pending or self.returns() else []


class PolledSource(Source):
    """Items of the driver itself; with children, it stands in their way while ``blocked``."""

    def __init__(self, children: Sequence[Source] = (), blocked: Callable[[], bool] = lambda: True) -> None:
        super().__init__(children)
        self._blocked = blocked

    def waiting(self) -> list[WaitingSource]:
        """Returns those of the children, unless it stands in their way."""
        return [] if self._blocked() else super().waiting()

    def polled(self) -> bool:
        """Whether it stands in the way, or a child has to be looked at."""
        return self._blocked() or super().polled()


def wait_for_any(source: Source, *, look_only: bool = False) -> None:
    """Returns when there may be an item again, having fetched all answers that are there, in one go.

    Args:
        source: What is drawn from.
        look_only: Do not wait.
    """
    sources = source.waiting()
    if not sources and not look_only:
        time.sleep(POLL_SEC)
    engines = {waiting.engine for waiting in sources}
    limit = 0.0 if look_only else LIMIT_SEC if len(engines) == 1 and not source.polled() else POLL_SEC
    for engine in engines:
        mine = [waiting for waiting in sources if waiting.engine is engine]
        owners = {token: waiting for waiting in mine for token in waiting.pending}
        returns = {token for waiting in mine for token in waiting.returns()}
        ready = engine.wait([*owners, *returns] if returns else list(owners), limit)
        arrived = [token for token in ready if token in owners] if returns else ready
        for token, reply in zip(arrived, engine.fetch(arrived) if arrived else (), strict=True):
            owners[token].arrive(token, reply)
