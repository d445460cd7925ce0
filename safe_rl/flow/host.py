"""What runs on an actor: the user's object, and the stages of the streams that are pulled from it."""

from __future__ import annotations

import itertools
import os
import platform
import socket
import sys
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import safe_rl
from safe_rl.flow.errors import RemoteTraceback, stage_error, stage_name
from safe_rl.flow.metrics import CURRENT, Metrics, MetricValues

Method = str | Callable[..., Any]
"""A method's name, or a function of the actor's object."""


@dataclass(frozen=True)
class Stage:
    """A function on the shard's actor, applied to each item."""

    operator: Literal["for_each", "filter"]
    function: Callable[..., Any]
    with_actor: bool = False
    """Whether the function takes the actor's object before the item."""
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", stage_name(self.operator, self.function))


@dataclass(frozen=True)
class Stream:
    """A method that is called again and again, and the stages that its results go through."""

    method: Method
    name: str
    stages: tuple[Stage, ...] = ()


@dataclass
class Signal:
    """What an actor answers in place of an item."""

    kind: Literal["item", "skipped", "ended", "unknown", "raised"]
    item: Any = None
    metrics: MetricValues | None = None
    stage: str = ""
    error: BaseException | None = None
    traceback: str = ""
    call_id: int = -1
    hello: Hello | None = None
    """Who does not know the stream."""

    def raise_error(self, where: str) -> None:
        """Raises what was raised on the actor, with the stage's name and the actor's traceback."""
        error = self.error or RuntimeError(self.traceback)
        if self.traceback and error.__traceback__ is None:  # it came from another process
            error.__cause__ = RemoteTraceback(self.traceback)
        raise stage_error(f"{self.stage} on {where}", error) from error


@dataclass(frozen=True)
class Hello:
    """How an actor introduces itself."""

    incarnation: str
    process: int
    node: str
    versions: dict[str, str] = field(default_factory=dict)


def library_versions() -> dict[str, str]:
    """Returns the versions that have to fit between driver and workers."""
    found = {"python": platform.python_version(), "safe_rl": safe_rl.__version__}
    for package in ("torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


class Host:
    """Owns one object of the user's class; called by one thread at a time, in the order of the calls."""

    def __init__(self) -> None:
        self.incarnation = uuid.uuid4().hex
        self._object: Any = None
        self._failed: Signal | None = None
        self._unread: Signal | None = None
        self._streams: dict[str, tuple[Callable[[], Any], Stream]] = {}
        self._last = ""
        self._metrics = Metrics()

    def make(self, cls: Callable[..., Any], index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Makes the object. What its constructor raises is kept for whoever asks."""
        try:
            self._object = cls(*args, index=index, **kwargs)
        except Exception as error:
            self._failed = self._raised(f"{getattr(cls, '__name__', cls)}(index={index})", error)

    def hello(self) -> Hello | Signal:
        """Answers who this is, or why there is no object."""
        return self._failed or self._introduction()

    def _introduction(self) -> Hello:
        return Hello(self.incarnation, os.getpid(), socket.gethostname(), library_versions())

    def install(self, stream_id: str, stream: Stream) -> None:
        """Learns the stages of a stream."""
        self._streams[stream_id] = (self._bind(stream.method), stream)

    def uninstall(self, stream_id: str) -> None:
        """Forgets a stream."""
        self._streams.pop(stream_id, None)

    def pull(self, stream_id: str = "") -> Any:
        """Returns the next item of a stream, or a ``Signal``. Without a name, of the one that was pulled last."""
        stream_id = self._last = stream_id or self._last
        if self._unread is not None:
            unread, self._unread = self._unread, None
            return unread
        installed = self._streams.get(stream_id)
        if installed is None:
            return Signal("unknown", hello=self._introduction())
        produce, stream = installed
        name = stream.name
        token = CURRENT.set(self._metrics)
        kind: Literal["item", "skipped"] = "item"
        try:
            try:
                item = produce()
            except StopIteration:
                return Signal("ended")
            for stage in stream.stages:
                name = stage.name
                result = stage.function(self._object, item) if stage.with_actor else stage.function(item)
                if stage.operator == "for_each":
                    item = result
                elif not result:
                    kind, item = "skipped", None
                    break
        except Exception as error:
            return self._raised(name, error)
        finally:
            CURRENT.reset(token)
        if self._metrics.dirty:
            return Signal(kind, item=item, metrics=self._metrics.drain())
        return item if kind == "item" else Signal("skipped")

    def pull_pair(self, stream_id: str = "") -> tuple[Signal | None, Any]:
        """Returns what the driver must see, and the item, which may stay where it is."""
        reply = self.pull(stream_id)
        if not isinstance(reply, Signal):
            return None, reply
        item, reply.item = reply.item, None
        return reply, item

    def call(self, call_id: int, method: Method, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of the object. Its error is kept, too: nobody may be waiting for the answer."""
        if self._failed is not None:
            return self._failed
        name = method if isinstance(method, str) else getattr(method, "__qualname__", "call")
        token = CURRENT.set(self._metrics)
        try:
            return self._bind(method)(*args, **kwargs)
        except Exception as error:
            self._unread = self._raised(f"call({name})", error)
            self._unread.call_id = call_id
            return self._unread
        finally:
            CURRENT.reset(token)

    def _bind(self, method: Method) -> Callable[..., Any]:
        if isinstance(method, str):
            bound: Callable[..., Any] = getattr(self._object, method)
            return bound
        return lambda *args, **kwargs: method(self._object, *args, **kwargs)

    def _raised(self, stage: str, error: Exception) -> Signal:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return Signal("raised", stage=stage, error=self._portable(error), traceback=text)

    def _portable(self, error: Exception) -> BaseException:
        """Returns the error as it can be handed to the driver; in the same process, as it is."""
        return error


def method_of(cls: Any, method: Callable[..., Any]) -> tuple[Method, str]:
    """Returns how to name a method to an actor, and how to name it to a person.

    A method of the class goes by name, so that a subclass's own is called; another function goes as it is.
    """
    name = getattr(method, "__name__", "")
    by_name = hasattr(cls, name) and getattr(method, "__qualname__", "").endswith(f".{name}")
    return (name, f"iterate({method.__qualname__})") if by_name else (method, stage_name("iterate", method))


COUNTER = itertools.count()
"""Numbers streams and calls."""

PYTHON = ".".join(map(str, sys.version_info[:2]))
