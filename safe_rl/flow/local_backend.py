"""Actors in this process: for tests, for debugging, and where one process is enough."""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from safe_rl.errors import UserError
from safe_rl.flow.backend import Backend
from safe_rl.flow.engine import ActorOptions, Engine, Ref, Token
from safe_rl.flow.host import Host, Method, Stream

T = TypeVar("T")


class _LocalRef(Ref[T]):
    """A value in this process."""

    def __init__(self, value: T) -> None:
        self._value = value

    def get(self, timeout_sec: float | None = None) -> T:
        return self._value


class _Call:
    """A call that runs when it is waited for, after all that was asked of its actor before."""

    __slots__ = ("actor", "done", "run", "value")

    def __init__(self, actor: _LocalActor, run: Callable[[], Any]) -> None:
        self.actor, self.run = actor, run
        self.done = False
        self.value: Any = None


class _LocalActor:
    def __init__(self, host: Host) -> None:
        self.host = host
        self._waiting: deque[_Call] = deque()
        self._lock = threading.RLock()

    def submit(self, run: Callable[[], Any]) -> _Call:
        call = _Call(self, run)
        self._waiting.append(call)
        return call

    def run_until(self, call: _Call) -> None:
        with self._lock:
            while not call.done:
                first = self._waiting.popleft()
                first.value = first.run()
                first.done = True


class _LocalEngine(Engine):
    """Calls in this process. A pull runs when it is waited for, the longest asked first; a message at once."""

    def spawn(
        self, cls: Callable[..., Any], index: int, args: tuple[Any, ...], kwargs: dict[str, Any], options: ActorOptions
    ) -> _LocalActor:
        host = Host()
        host.make(
            cls,
            index,
            tuple(_copied(_value(value), f"argument {number}") for number, value in enumerate(args)),
            {name: _copied(_value(value), f"argument {name}") for name, value in kwargs.items()},
        )
        return _LocalActor(host)

    def ask_hello(self, actor: _LocalActor) -> Token:
        return actor.submit(actor.host.hello)

    def pack(self, stream: Stream) -> Stream:
        return stream

    def install(self, actor: _LocalActor, stream_id: str, packed: Stream) -> None:
        actor.host.install(stream_id, packed)

    def uninstall(self, actor: _LocalActor, stream_id: str) -> None:
        actor.host.uninstall(stream_id)

    def puller(self, actor: _LocalActor) -> Callable[..., Token]:
        host = actor.host
        return lambda stream_id="": actor.submit(lambda: host.pull(stream_id))

    def puller_by_reference(self, actor: _LocalActor) -> Callable[..., tuple[Token, Ref[Any]]]:
        def pull(stream_id: str = "") -> tuple[Token, Ref[Any]]:
            ref: _LocalRef[Any] = _LocalRef(None)

            def run() -> Any:
                signal, ref._value = actor.host.pull_pair(stream_id)
                return signal

            return actor.submit(run), ref

        return pull

    def call(
        self, actor: _LocalActor, call_id: int, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Token:
        args = tuple(_value(value) for value in args)
        kwargs = {name: _value(value) for name, value in kwargs.items()}
        call = actor.submit(lambda: actor.host.call(call_id, method, *args, **kwargs))
        actor.run_until(call)
        return call

    def wait(self, tokens: Sequence[Token], timeout_sec: float | None) -> list[Token]:
        calls: list[_Call] = list(tokens)  # type: ignore[arg-type]
        ready: list[Token] = [call for call in calls if call.done]
        if not ready and calls:
            calls[0].actor.run_until(calls[0])
            ready.append(calls[0])
        return ready

    def fetch(self, tokens: Sequence[Token]) -> list[Any]:
        calls: list[_Call] = list(tokens)  # type: ignore[arg-type]
        return [call.value for call in calls]

    def kill(self, actor: _LocalActor, *, restart: bool) -> None:
        return


class LocalBackend(Backend):
    """Actors in this process, one after another: the same plan, deterministic, without Ray.

    What differs from Ray: items are handed on without a copy, a call cannot be timed out, and what kills this process
    kills the plan.
    """

    def __init__(self) -> None:
        super().__init__()
        self.engine = _LocalEngine()

    def _put(self, value: T) -> Ref[T]:
        return _LocalRef(_copied(value, "value"))


def _copied(value: T, what: str) -> T:
    """Returns a copy, as a worker of another process would get one."""
    try:
        return copy.deepcopy(value)
    except Exception as error:
        raise UserError(
            f"{what} ({type(value).__name__}) cannot be copied for an actor ({error}): pass what it is made from, "
            "and make it in the constructor"
        ) from error


def _value(value: Any) -> Any:
    return value.get() if isinstance(value, Ref) else value
