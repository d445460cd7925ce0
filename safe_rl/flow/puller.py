"""Asks the shards of a stream for items, many at a time, and looks after those that die or hang."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from safe_rl.flow.engine import LostReply, Ref, State, Token
from safe_rl.flow.host import COUNTER, Signal, Stream
from safe_rl.flow.source import LIMIT_SEC, WaitingSource

if TYPE_CHECKING:
    from safe_rl.flow.actors import ActorGroup, ActorHandle


class Puller(WaitingSource):
    """One request is one item, whatever happens to the actor meanwhile, unless the shard ends or is dropped."""

    def __init__(self, group: ActorGroup[Any], stream: Stream, *, by_reference: bool) -> None:
        super().__init__()
        self._group, self.engine, self._by_reference = group, group.engine, by_reference
        self._stream_id = f"{next(COUNTER)} {stream.name}"
        self._packed = self.engine.pack(stream)
        self._pullers: dict[int, Callable[..., Any]] = {}
        self.pending: dict[Token, ActorHandle[Any]] = {}
        """The oldest request of each shard. The later ones are looked at after it, which keeps the shard's order."""
        self._under_way: dict[int, deque[tuple[Token, int]]] = {}
        self._payloads: dict[Token, Ref[Any]] = {}
        self._arrived: list[tuple[ActorHandle[Any], int, Any, Any]] = []
        self._owed: list[ActorHandle[Any]] = []
        self._ended: set[int] = set()
        self._asked_at: dict[int, float] = {}
        self._timeout_sec = group.options.timeout_sec
        self._next_look = 0.0

    def start(self) -> None:
        """Teaches the actors the stream."""
        for handle in self._group.handles:
            actor = handle.actor
            engine = self.engine
            self._under_way[handle.index] = deque()
            self._pullers[handle.index] = (
                engine.puller_by_reference(actor) if self._by_reference else engine.puller(actor)
            )
            engine.install(actor, self._stream_id, self._packed)

    def shards(self) -> list[ActorHandle[Any]]:
        """Those that still give items, or will again."""
        return [handle for handle in self._group.handles if handle.index not in self._ended]

    @property
    def idle(self) -> bool:
        """Whether nothing has been asked for that has not come."""
        return not (self.pending or self._arrived or self._owed)

    def ask(self, handle: ActorHandle[Any]) -> None:
        """Asks a shard for one more item; once it is back, where it is being restarted."""
        if handle.state is State.ALIVE:
            self._submit(handle)
        else:
            self._owed.append(handle)

    def collect(self) -> list[tuple[ActorHandle[Any], Any]]:
        """Returns all items that have come, the longest awaited first.

        Empty where nothing is asked for, or nothing has come and this source must not wait.
        """
        while True:
            if self._owed:
                self._settle()
            if self.idle:
                return []
            if self.blocking and not self._arrived:
                tokens = [*self.pending, *self.returns()] if self._owed else list(self.pending)
                ready = self.engine.wait(tokens, LIMIT_SEC)
                if self._owed:
                    ready = [token for token in ready if token in self.pending]
                for token, reply in zip(ready, self.engine.fetch(ready) if ready else (), strict=True):
                    self.arrive(token, reply)
            found = self._take()
            if self._timeout_sec is not None and time.monotonic() >= self._next_look:
                self._look_for_hung(self._timeout_sec)
            if found or not self.blocking:
                return found

    def arrive(self, token: Token, reply: Any) -> None:
        """Takes the answer to a request."""
        handle = self.pending.pop(token)
        under_way = self._under_way[handle.index]
        _, generation = under_way.popleft()
        if under_way:
            self.pending[under_way[0][0]] = handle
        self._arrived.append((handle, generation, reply, self._payloads.pop(token) if self._by_reference else reply))

    def close(self) -> None:
        """Forgets what is under way."""
        self.pending.clear()
        self._arrived.clear()
        self._payloads.clear()
        self._owed.clear()
        for handle in self._group.handles:
            with contextlib.suppress(Exception):  # the engine may be gone, and then there is nothing to tell it
                self.engine.uninstall(handle.actor, self._stream_id)

    def returns(self) -> list[Token]:
        """Returns what tells that an actor is back which owes an item."""
        if not self._owed:
            return []
        return list({handle.index: handle.hello_token for handle in self._owed}.values())

    def _submit(self, handle: ActorHandle[Any]) -> None:
        pull = self._pullers[handle.index]
        if handle.last_stream == self._stream_id:
            token = pull()
        else:
            token = pull(self._stream_id)
            handle.last_stream = self._stream_id
        if self._by_reference:
            token, payload = token
            self._payloads[token] = payload
        under_way = self._under_way[handle.index]
        under_way.append((token, handle.generation))
        if len(under_way) == 1:
            self.pending[token] = handle
        if self._timeout_sec is not None:
            self._asked_at[handle.index] = time.monotonic()

    def _settle(self) -> None:
        """Asks again those that are back."""
        owed, self._owed = self._owed, []
        for handle in owed:
            handle.look_for_return()
            if handle.state is State.ALIVE:
                self.engine.install(handle.actor, self._stream_id, self._packed)
                self._submit(handle)
            elif handle.state is State.RESTARTING:
                self._owed.append(handle)
        self._group.require_any()

    def _take(self) -> list[tuple[ActorHandle[Any], Any]]:
        found = []
        arrived, self._arrived = self._arrived, []
        for handle, generation, reply, payload in arrived:
            if isinstance(reply, LostReply):
                self._group.context.count("faults/lost_items")
                handle.mark_lost(generation, reply.reason)
                self._owed.append(handle)
            elif not isinstance(reply, Signal) or self._is_item(handle, reply):
                found.append((handle, reply.item if isinstance(reply, Signal) and not self._by_reference else payload))
        return found

    def _is_item(self, handle: ActorHandle[Any], signal: Signal) -> bool:
        """Does what a signal asks for; whether it comes with an item."""
        if signal.metrics is not None:
            self._group.context.merge(signal.metrics)
        if signal.kind == "ended":
            self._ended.add(handle.index)
        elif signal.kind == "skipped":
            self.ask(handle)
        elif signal.kind == "unknown" and signal.hello is not None:  # another process than the one that was taught
            handle.note_restart(signal.hello)
            self.engine.install(handle.actor, self._stream_id, self._packed)
            handle.last_stream = ""
            self.ask(handle)
        elif signal.kind == "raised":
            if signal.call_id not in handle.read_errors:
                signal.raise_error(str(handle))
            handle.read_errors.discard(signal.call_id)
            self.ask(handle)
        return signal.kind == "item"

    def _look_for_hung(self, timeout_sec: float) -> None:
        now = time.monotonic()
        self._next_look = now + timeout_sec / 10
        for token, handle in list(self.pending.items()):
            if now - self._asked_at[handle.index] > timeout_sec and not self.engine.wait([token], 0.0):
                if handle.state is State.ALIVE:
                    handle.mark_hung(f"no answer for {timeout_sec:g} s")
                    self._group.context.count("faults/hangs")
                self._forget(handle)

    def _forget(self, handle: ActorHandle[Any]) -> None:
        """What is under way on an actor that was killed will not come."""
        under_way = self._under_way[handle.index]
        del self.pending[under_way[0][0]]
        while under_way:
            token, _ = under_way.popleft()
            self._payloads.pop(token, None)
            self._group.context.count("faults/lost_items")
            self._owed.append(handle)
