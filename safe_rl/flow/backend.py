"""What actors live in: this process, or Ray."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from safe_rl.errors import UserError
from safe_rl.flow.actors import ActorGroup
from safe_rl.flow.engine import ActorOptions, Engine, Ref
from safe_rl.flow.metrics import Metrics

T = TypeVar("T")
W = TypeVar("W")
B = TypeVar("B", bound="Backend")


class Backend(ABC):
    """Makes actors and puts values where they can be referred to. A context manager: leaving it ends the actors.

    ::

        with LocalBackend() as backend:            # or RayBackend()
            workers = backend.actors(Worker, 2, config)
            for batch in workers.iterate(Worker.sample).gather_async():
                ...
    """

    engine: Engine

    def __init__(self) -> None:
        self.context = Metrics()
        """The metrics of every plan that starts from this backend's actors."""
        self._groups: list[ActorGroup[Any]] = []

    def __enter__(self: B) -> B:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def actors(
        self, cls: Callable[..., W], num: int, *args: Any, options: ActorOptions | None = None, **kwargs: Any
    ) -> ActorGroup[W]:
        """Makes actors, each with an object of a plain class, and waits until they are there.

        Args:
            cls: Made as ``cls(*args, index=0, **kwargs)``, with the index from 0 to ``num - 1``.
            num: How many. In this process 0 means one.
            *args: The constructor's arguments; every actor gets copies, also after a restart.
            options: How they are placed and waited for.
            **kwargs: The same by name.

        Raises:
            UserError: The class or an argument cannot be sent, the actors do not start in time, or a machine's versions
                do not fit.
            FlowError: A constructor raised.
        """
        num = self._num_actors(num)
        group = ActorGroup(self.engine, self.context, cls, num, args, kwargs, self._fitting(options, num))
        self._groups.append(group)
        self._check_started(group)
        return group

    def put(self, value: T) -> Ref[T]:
        """Stores a copy of a value once, for any number of actors: weights, for example. Counted as ``flow/puts``.

        Raises:
            UserError: The value cannot be sent.
        """
        self.context.count("flow/puts")
        return self._put(value)

    def close(self) -> None:
        """Ends the actors."""
        for group in self._groups:
            group.close()
        self._groups.clear()

    @abstractmethod
    def _put(self, value: T) -> Ref[T]: ...

    def _num_actors(self, num: int) -> int:
        if num < 0:
            raise UserError(f"the number of actors must be at least 0, not {num}")
        return max(1, num)

    def _fitting(self, options: ActorOptions | None, num: int) -> ActorOptions:
        return options or ActorOptions()

    def _check_started(self, group: ActorGroup[Any]) -> None:
        return
