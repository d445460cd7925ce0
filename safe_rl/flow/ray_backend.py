"""Actors of Ray. The only file that imports Ray, and the one owner of its start and its end."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from safe_rl.errors import UserError
from safe_rl.flow.actors import ActorGroup
from safe_rl.flow.backend import Backend
from safe_rl.flow.cluster import module_path_for_workers, require_cluster
from safe_rl.flow.engine import ActorOptions, Engine, LostReply, Ref, Token
from safe_rl.flow.errors import FlowError, LostItemError
from safe_rl.flow.host import Host, Method, Signal, Stream, library_versions
from safe_rl.flow.placement import check_versions, fitting_cpus

T = TypeVar("T")
logger = logging.getLogger(__name__)

AT_ONCE_SEC = 100e-6
"""An answer that takes no longer was there before it was waited for."""
MANY = 8
"""With fewer requests under way, looking for all that have an answer costs more than it brings."""
LOOK_AT_ALL = 0.125
"""Share of the waits that take all answers: of several, Ray gives any one, and may pass over another for ever."""


def import_ray() -> ModuleType:
    """Returns Ray.

    Raises:
        UserError: It is not installed.
    """
    try:
        import ray
        import ray.cloudpickle
        import ray.exceptions
    except ImportError as error:
        raise UserError("Ray is not installed: pip install 'safe_rl[ray]', or use --workers 0") from error
    return ray


class RayHost(Host):
    """A ``Host`` in a process of its own. The class and the streams come as cloudpickle wrote them."""

    def __init__(self, cls: bytes, index: int, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        try:
            made_from = import_ray().cloudpickle.loads(cls)
        except Exception as error:
            cure = UserError(
                f"the workers' class cannot be loaded on {socket.gethostname()} ({error}): install its module there"
            )
            self._failed = self._raised("load", cure)
        else:
            self.make(made_from, index, args, kwargs)

    def install(self, stream_id: str, stream: Any) -> None:
        """Learns the stages of a stream; where that fails, the next pull says so."""
        try:
            super().install(stream_id, import_ray().cloudpickle.loads(stream))
        except Exception as error:
            self._unread = self._raised(f"install({stream_id})", error)

    def _portable(self, error: Exception) -> BaseException:
        pickle = import_ray().cloudpickle
        try:
            copy: BaseException = pickle.loads(pickle.dumps(error))
        except Exception:
            return RuntimeError(f"{type(error).__name__}: {error}")
        return copy


class _RayRef(Ref[T]):
    """A value in Ray's object store."""

    def __init__(self, ref: Any) -> None:
        self.ref = ref

    def get(self, timeout_sec: float | None = None) -> T:
        ray = import_ray()
        try:
            value: T = ray.get(self.ref, timeout=timeout_sec)
        except ray.exceptions.GetTimeoutError as error:
            raise FlowError(f"a value did not come within {timeout_sec:g} s") from error
        except ray.exceptions.RayTaskError as error:
            raise FlowError(f"an item could not be stored: {error.cause}") from error
        except ray.exceptions.RayError as error:
            raise LostItemError(f"a value was lost: {_first_line(error)}") from error
        return value


class _RayEngine(Engine):
    """Ray's actors, calls and object references."""

    def __init__(self) -> None:
        self._ray = import_ray()
        self._host = self._ray.remote(RayHost)
        self.closed = False
        self._take_all = False
        """Whether more than one answer is likely to be there: the actors are ahead of the driver."""
        self._draw = np.random.default_rng(0).random  # "every eighth" could always meet the same of two streams

    def spawn(
        self, cls: Callable[..., Any], index: int, args: tuple[Any, ...], kwargs: dict[str, Any], options: ActorOptions
    ) -> Any:
        packed = self._dumps(cls, f"class {getattr(cls, '__name__', cls)}")
        settings: dict[str, Any] = {"max_restarts": options.max_restarts, "max_task_retries": 0}
        settings["enable_task_events"] = False  # a record of each call: 10 MiB a minute in Ray's server, for no reader
        settings.update(num_cpus=options.num_cpus, num_gpus=options.num_gpus)
        if options.env_vars:
            settings["runtime_env"] = {"env_vars": dict(options.env_vars)}
        try:
            return self._host.options(**settings).remote(packed, index, *map(_sent, args), **_all_sent(kwargs))
        except Exception:
            for name, value in [*enumerate(args), *kwargs.items()]:
                self._dumps(value, f"argument {name}")
            raise

    def ask_hello(self, actor: Any) -> Token:
        token: Token = actor.hello.options(max_task_retries=-1).remote()
        return token

    def pack(self, stream: Stream) -> bytes:
        for stage in stream.stages:
            self._dumps(stage.function, f"stage {stage.name}")
        return self._dumps(stream, f"stage {stream.name}")

    def install(self, actor: Any, stream_id: str, packed: bytes) -> None:
        actor.install.remote(stream_id, packed)

    def uninstall(self, actor: Any, stream_id: str) -> None:
        if not self.closed:  # a call after the end would start Ray anew
            actor.uninstall.remote(stream_id)

    def puller(self, actor: Any) -> Callable[..., Token]:
        pull: Callable[..., Token] = actor.pull.remote
        return pull

    def puller_by_reference(self, actor: Any) -> Callable[..., tuple[Token, Ref[Any]]]:
        pull = actor.pull_pair.options(num_returns=2)

        def pull_pair(*stream_id: str) -> tuple[Token, Ref[Any]]:
            token, payload = pull.remote(*stream_id)
            return token, _RayRef(payload)

        return pull_pair

    def call(self, actor: Any, call_id: int, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Token:
        token: Token = actor.call.remote(call_id, method, *map(_sent, args), **_all_sent(kwargs))
        return token

    def wait(self, tokens: Sequence[Token], timeout_sec: float | None) -> list[Token]:
        waited = list(tokens)
        ready: list[Token] = []
        if self._take_all or timeout_sec == 0 or self._draw() < LOOK_AT_ALL:
            ready, _ = self._ray.wait(waited, num_returns=len(waited), timeout=0)
            self._take_all = len(ready) > 1
        if not ready and timeout_sec != 0:
            began = time.perf_counter()
            ready, _ = self._ray.wait(waited, num_returns=1, timeout=timeout_sec)
            self._take_all = len(waited) >= MANY and time.perf_counter() - began < AT_ONCE_SEC
        return ready

    def fetch(self, tokens: Sequence[Token]) -> list[Any]:
        try:
            replies: list[Any] = self._ray.get(list(tokens))
        except self._ray.exceptions.RayError:
            return [self._fetch_one(token) for token in tokens]
        return replies

    def kill(self, actor: Any, *, restart: bool) -> None:
        if not self.closed:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.kill(actor, no_restart=not restart)

    def _fetch_one(self, token: Token) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(token)
        except errors.RayTaskError as error:  # the host raises nothing: the answer could not be sent
            return Signal("raised", stage="sending an item", error=error.cause, traceback=str(error))
        except errors.RayError as error:
            return LostReply(_first_line(error))

    def _dumps(self, value: Any, what: str) -> bytes:
        if isinstance(value, Ref):
            return b""
        try:
            packed: bytes = self._ray.cloudpickle.dumps(value)
        except Exception as error:
            raise UserError(
                f"{what} ({type(value).__name__}) cannot be sent to a worker: {_first_line(error)}; "
                "pass what it is made from, and make it on the worker"
            ) from error
        return packed


class RayBackend(Backend):
    """Ray's actors, on this machine or on a cluster. Leaving the context ends what it started.

    Args:
        address: None or ``local`` starts Ray on this machine; ``auto`` joins the cluster that this machine belongs to,
            ``host:port`` one by its address.
        num_cpus: CPUs that a Ray started here believes to have; None for those of the machine.
        object_store_memory_bytes: Size of the object store of a Ray started here; None for Ray's own choice.
        connect_timeout_sec: How long a cluster may take to answer.
        log_to_driver: Whether the output of the actors is shown here.

    Raises:
        UserError: Ray is not installed, nobody answers at the address, or its versions do not fit.
    """

    def __init__(
        self,
        address: str | None = None,
        num_cpus: int | None = None,
        *,
        object_store_memory_bytes: int | None = None,
        connect_timeout_sec: float = 15.0,
        log_to_driver: bool = False,
    ) -> None:
        super().__init__()
        self._ray = import_ray()
        self._owns_ray = not self._ray.is_initialized()
        self._closed = False
        if self._owns_ray:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            settings: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": log_to_driver}
            if address in (None, "local"):
                settings.update(address="local", num_cpus=num_cpus, include_dashboard=False)
                settings["object_store_memory"] = object_store_memory_bytes
            else:
                require_cluster(str(address), connect_timeout_sec)
                settings["address"] = address
            try:
                with module_path_for_workers():
                    self._ray.init(**settings)
            except (RuntimeError, ConnectionError, ValueError) as error:
                raise UserError(f"Ray does not start: {_first_line(error)}") from error
        self.engine: _RayEngine = _RayEngine()

    @property
    def num_cpus(self) -> int:
        """CPUs of all its machines."""
        nodes = (node["Resources"] for node in self._ray.nodes() if node["Alive"])
        return max(1, int(sum(float(resources.get("CPU", 0.0)) for resources in nodes)))

    def close(self) -> None:
        """Ends the actors, and Ray where it was started here. Nothing stays behind."""
        if self._closed:
            return
        self._closed = True
        super().close()
        self.engine.closed = True
        if self._owns_ray:
            self._ray.shutdown()

    def _put(self, value: T) -> Ref[T]:
        try:
            return _RayRef(self._ray.put(value))
        except TypeError:
            self.engine._dumps(value, "value")
            raise

    def _num_actors(self, num: int) -> int:
        if num < 1:
            raise UserError(f"Ray takes at least 1 actor, not {num}: for 0, use LocalBackend")
        return num

    def _fitting(self, options: ActorOptions | None, num: int) -> ActorOptions:
        options = options or ActorOptions()
        free = [float(node["Resources"].get("CPU", 0.0)) for node in self._ray.nodes() if node["Alive"]]
        total = sum(free)
        for group in self._groups:
            for _ in group.handles:
                largest = max(range(len(free)), key=free.__getitem__)
                free[largest] -= group.options.num_cpus
        share = fitting_cpus(free, num, options.num_cpus)
        if share < options.num_cpus:
            logger.warning(
                "%d actors of %g CPUs are more than the %g CPUs of %d nodes have room for: they share them, %g each",
                *(num, options.num_cpus, total, len(free), share),
            )
        return dataclasses.replace(options, num_cpus=share)

    def _check_started(self, group: ActorGroup[Any]) -> None:
        nodes = {handle.hello.node: handle.hello.versions for handle in group.handles}
        for line in check_versions(library_versions(), nodes):
            logger.warning(line)


def _sent(value: Any) -> Any:
    return value.ref if isinstance(value, _RayRef) else value


def _all_sent(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _sent(value) for name, value in values.items()}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
