"""Groups of long-lived actors: calls, broadcasts, and what happens when one dies."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from safe_rl.errors import UserError
from safe_rl.flow.engine import ActorOptions, Engine, LostReply, State, Token
from safe_rl.flow.errors import FlowError, LostItemError
from safe_rl.flow.host import COUNTER, Hello, Signal, Stream, method_of
from safe_rl.flow.metrics import Metrics
from safe_rl.flow.parallel import ParallelIterator

W = TypeVar("W")
T = TypeVar("T")
logger = logging.getLogger(__name__)


class Future(Generic[T]):
    """The answer to a call. It need not be asked for: an error that nobody reads comes with the actor's next item."""

    def __init__(self, handle: ActorHandle[Any], token: Token, call_id: int, name: str) -> None:
        self._handle, self._token, self._call_id, self._name = handle, token, call_id, name
        self._generation = handle.generation

    def done(self) -> bool:
        """Whether the answer is there."""
        return bool(self._handle.engine.wait([self._token], 0.0))

    def get(self, timeout_sec: float | None = None) -> T:
        """Waits for the answer and returns it.

        Raises:
            FlowError: The method raised, or there is no answer within ``timeout_sec``.
            LostItemError: The actor died.
        """
        handle, where = self._handle, str(self._handle)
        if not handle.engine.wait([self._token], timeout_sec):
            raise FlowError(f"{self._name} on {where} gave no answer within {timeout_sec:g} s")
        (reply,) = handle.engine.fetch([self._token])
        if isinstance(reply, LostReply):
            handle.mark_lost(self._generation, reply.reason)
            raise LostItemError(f"{self._name} on {where} was lost: {reply.reason}")
        if isinstance(reply, Signal):
            handle.read_errors.add(self._call_id)
            reply.raise_error(where)
        answer: T = reply
        return answer


class ActorHandle(Generic[W]):
    """One actor, to send messages to: ``handle.call(Worker.set_weights, weights, version)``."""

    def __init__(self, group: ActorGroup[W], index: int, actor: Any) -> None:
        self.group, self.index, self.actor = group, index, actor
        self.engine: Engine = group.engine
        self.state = State.ALIVE
        self.generation = 0
        """How many times it was found dead."""
        self.hello = Hello("", 0, "")
        self.read_errors: set[int] = set()
        """Calls whose error somebody has read, so that it need not come with the next item."""
        self.hello_token: Token = None
        self.last_stream = ""
        """The one it was asked for last."""
        self._back_by = 0.0

    def __str__(self) -> str:
        return f"{self.group.name} {self.index}"

    def __repr__(self) -> str:
        return f"<{self} {self.state.name.lower()}>"

    def call(self, method: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
        """Calls a method of the actor's object after all that was asked of the actor before, and returns at once.

        Args:
            method: A method of the class, as in ``Worker.set_weights``, or a function of the object.
            *args: Its arguments. A ``Ref`` goes by reference.
            **kwargs: The same by name.
        """
        if self.state is State.RESTARTING:
            self.look_for_return()
        call_id = next(COUNTER)
        token = self.engine.call(self.actor, call_id, method_of(self.group.cls, method)[0], args, kwargs)
        return Future(self, token, call_id, getattr(method, "__qualname__", str(method)))

    def mark_lost(self, generation: int, reason: str) -> None:
        """Notes that the actor died. Says nothing new where that death is known already."""
        if generation == self.generation and self.state is State.ALIVE:
            self.generation += 1
            self.state = State.RESTARTING
            self.last_stream = ""
            self.hello_token = self.engine.ask_hello(self.actor)
            self._back_by = time.monotonic() + self.group.options.restart_timeout_sec
            logger.warning("%s died (%s); it is being restarted", self, reason)

    def mark_hung(self, reason: str) -> None:
        """Kills an actor that does not answer, so that it is restarted."""
        self.engine.kill(self.actor, restart=True)
        self.mark_lost(self.generation, reason)

    def look_for_return(self) -> None:
        """Learns whether an actor that is being restarted is back, or will not come back."""
        if self.state is not State.RESTARTING:
            return
        if self.engine.wait([self.hello_token], 0.0):
            (hello,) = self.engine.fetch([self.hello_token])
            if isinstance(hello, Hello):
                self.state = State.ALIVE
                self.note_restart(hello)
            else:
                self._drop(hello.reason if isinstance(hello, LostReply) else f"{hello.stage}: {hello.error}")
        elif time.monotonic() > self._back_by:
            self._drop(f"not back within {self.group.options.restart_timeout_sec:g} s; no node may have room for it")

    def note_restart(self, hello: Hello) -> None:
        """Notes that another process answers now, and sends it what the hook sends."""
        if hello.incarnation == self.hello.incarnation:
            return
        self.hello = hello
        self.group.context.count("faults/restarts")
        logger.warning("%s is back", self)
        if self.group.restart_hook is not None:
            self.group.restart_hook(self)

    def _drop(self, reason: str) -> None:
        self.state = State.DROPPED
        self.group.last_drop = reason
        self.engine.kill(self.actor, restart=False)
        self.group.context.count("faults/dropped_actors")
        logger.warning("%s is dropped: %s; the others go on", self, reason)


class ActorGroup(Generic[W]):
    """Actors of one class, numbered from 0: ``backend.actors(Worker, 3)``."""

    def __init__(
        self,
        engine: Engine,
        context: Metrics,
        cls: Callable[..., W],
        num: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: ActorOptions,
    ) -> None:
        self.engine, self.context, self.cls, self.options = engine, context, cls, options
        self.name = getattr(cls, "__name__", str(cls))
        self.restart_hook: Callable[[ActorHandle[W]], None] | None = None
        self.last_drop = ""
        self._handles = [
            ActorHandle(self, index, engine.spawn(cls, index, args, kwargs, options)) for index in range(num)
        ]
        try:
            self._await_start()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self.handles)

    @property
    def handles(self) -> list[ActorHandle[W]]:
        """Those that are there or will be back."""
        return [handle for handle in self._handles if handle.state is not State.DROPPED]

    def iterate(self, method: Callable[[W], T]) -> ParallelIterator[T]:
        """Returns the stream of a method's results, called again and again on every actor. Nothing runs yet.

        A method that raises ``StopIteration`` ends its shard.
        """
        return ParallelIterator(self, Stream(*method_of(self.cls, method)))

    def broadcast(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Calls a method on every actor and does not wait.

        Put what is large first, once: ``workers.broadcast(Worker.set_weights, backend.put(weights), version)``.
        An actor that is being restarted is left out: see ``on_restart``.
        """
        for handle in self.handles:
            handle.look_for_return()
            if handle.state is State.ALIVE:
                handle.call(method, *args, **kwargs)

    def on_restart(self, hook: Callable[[ActorHandle[W]], None]) -> None:
        """Calls a function with each actor that was restarted, before anything else is asked of it.

        The actor has its constructor's arguments and nothing that was sent to it later, such as weights.
        """
        self.restart_hook = hook

    def require_any(self) -> None:
        """Raises ``FlowError`` where no actor is left."""
        if not self.handles:
            raise FlowError(f"none of the {len(self._handles)} {self.name} actors is left; the last: {self.last_drop}")

    def close(self) -> None:
        """Ends the actors."""
        for handle in self.handles:
            handle.state = State.DROPPED
            self.engine.kill(handle.actor, restart=False)

    def _await_start(self) -> None:
        waiting = {self.engine.ask_hello(handle.actor): handle for handle in self._handles}
        deadline = time.monotonic() + self.options.start_timeout_sec
        while waiting:
            ready = self.engine.wait(list(waiting), max(0.0, deadline - time.monotonic()))
            if not ready:
                started = len(self._handles) - len(waiting)
                raise UserError(
                    f"only {started} of {len(self._handles)} {self.name} actors started within "
                    f"{self.options.start_timeout_sec:g} s: ask for fewer, or wait until the cluster has room"
                )
            for token, reply in zip(ready, self.engine.fetch(ready), strict=True):
                handle = waiting.pop(token)
                if isinstance(reply, Signal):
                    reply.raise_error(str(handle))
                if isinstance(reply, LostReply):
                    raise UserError(f"{handle} could not be started: {reply.reason}")
                handle.hello = reply
