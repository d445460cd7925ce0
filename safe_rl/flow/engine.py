"""What a backend gives to the operators: few things, so that the operators themselves are written once."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from safe_rl.errors import UserError
from safe_rl.flow.host import Method, Stream

T = TypeVar("T")

Token = Hashable
"""Stands for the answer to a call that may still be running."""


class State(enum.Enum):
    """Of an actor, as far as the driver knows."""

    ALIVE = enum.auto()
    RESTARTING = enum.auto()
    DROPPED = enum.auto()


@dataclass(frozen=True)
class ActorOptions:
    """How actors are placed, and how long one waits for them. In this process only the checks of the values apply."""

    num_cpus: float = 1.0
    """CPUs that each actor reserves."""
    num_gpus: float = 0.0
    """GPUs that each actor reserves."""
    max_restarts: int = 10
    """How many times an actor that died is restarted; -1 for any number."""
    timeout_sec: float | None = 300.0
    """A pulled item that takes longer has its actor killed and restarted; None to wait for ever."""
    start_timeout_sec: float = 60.0
    """How long the actors may take to start."""
    restart_timeout_sec: float = 60.0
    """How long one may take to come back, on another node where its own is gone; then it is dropped."""
    env_vars: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the actors' processes."""

    def __post_init__(self) -> None:
        for name in ("num_cpus", "num_gpus"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must be at least 0, not {getattr(self, name)}")
        for name in ("timeout_sec", "start_timeout_sec", "restart_timeout_sec"):
            value = getattr(self, name)
            if not (value is None and name == "timeout_sec") and not (value is not None and value > 0):
                raise UserError(f"{name} must be positive, not {value}")
        if self.max_restarts < -1:
            raise UserError(f"max_restarts must be -1 (any number) or more, not {self.max_restarts}")


@dataclass(frozen=True)
class LostReply:
    """The answer of an actor that died, or whose node left."""

    reason: str


class Ref(ABC, Generic[T]):
    """A value that stays where it is until it is asked for.

    As an argument of an actor's method it travels by reference: the method receives the value, and the driver never
    touches it. Inside of a list or a dictionary it stays a ``Ref``.
    """

    @abstractmethod
    def get(self, timeout_sec: float | None = None) -> T:
        """Returns the value; not to be written to.

        Raises:
            LostItemError: It went with the process or the node that held it.
            FlowError: It did not come within ``timeout_sec``.
        """


class Engine(ABC):
    """Actors, their calls and the answers. ``actor`` is whatever ``spawn`` returned."""

    @abstractmethod
    def spawn(
        self, cls: Callable[..., Any], index: int, args: tuple[Any, ...], kwargs: dict[str, Any], options: ActorOptions
    ) -> Any:
        """Begins to start an actor."""

    @abstractmethod
    def ask_hello(self, actor: Any) -> Token:
        """Asks an actor who it is; where it is being restarted, the answer comes once it is back."""

    @abstractmethod
    def pack(self, stream: Stream) -> Any:
        """Returns a stream as ``install`` takes it.

        Raises:
            UserError: A stage cannot be sent.
        """

    @abstractmethod
    def install(self, actor: Any, stream_id: str, packed: Any) -> None:
        """Teaches an actor a stream."""

    @abstractmethod
    def uninstall(self, actor: Any, stream_id: str) -> None:
        """Has an actor forget a stream."""

    @abstractmethod
    def puller(self, actor: Any) -> Callable[..., Token]:
        """Returns what asks an actor for the next item of a stream; without an argument, of the same as the last time.

        (An argument costs Ray as much as all that this library adds to a call.)
        """

    @abstractmethod
    def puller_by_reference(self, actor: Any) -> Callable[..., tuple[Token, Ref[Any]]]:
        """The same, where the token stands for the ``Signal`` or None alone, and the item stays behind the ``Ref``."""

    @abstractmethod
    def call(self, actor: Any, call_id: int, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Token:
        """Calls a method of the actor's object."""

    @abstractmethod
    def wait(self, tokens: Sequence[Token], timeout_sec: float | None) -> list[Token]:
        """Returns all that have an answer, once at least one has or the time is up."""

    @abstractmethod
    def fetch(self, tokens: Sequence[Token]) -> list[Any]:
        """Returns the answers: a value, a ``Signal``, or a ``LostReply``."""

    @abstractmethod
    def kill(self, actor: Any, *, restart: bool) -> None:
        """Ends an actor's process at once."""
