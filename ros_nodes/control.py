"""The shield's control loop without ROS: what arrives, what is due, what is sent; `shield_node` carries messages."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ros_nodes.mapping import MappingSpec, SourceSpec
from ros_nodes.readers import SourceError, read_message
from safe_rl.errors import UserError
from safe_rl.shield import Mode, Shield, ShieldDecision
from safe_rl.shield.observation import ObservationLayout

FloatArray = npt.NDArray[np.float32]

_log = logging.getLogger(__name__)

ZERO_COMMAND = 1e-6
"""Largest component of a command that counts as zero, in the action's units."""
CLOCK_JUMP_SEC = 1.0
"""How much further than the steady clock the node's clock may go between two turns; a simulated one runs faster."""
CLOCK_BACK_SEC = 0.01
"""How much it may go back: what keeps a robot's clock right takes small steps."""


@dataclass(frozen=True)
class Now:
    """The two clocks of one moment."""

    monotonic_sec: float
    """For ages by arrival: never jumps."""
    ros_sec: float
    """For header stamps: the node's clock, simulated if ``use_sim_time``."""


@dataclass(frozen=True)
class Arrival:
    """A message and when it came."""

    message: Any
    received_sec: float
    """By the monotonic clock."""
    stamp_sec: float | None
    """Its header's stamp; None where its type has none."""


class StaleError(Exception):
    """A source that cannot be used now; ``reason`` is machine-readable."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Source:
    """The last messages of one topic, and whether they may still be believed."""

    def __init__(self, name: str, spec: SourceSpec) -> None:
        self.name = name
        self.spec = spec
        self._last: deque[Arrival] = deque(maxlen=spec.stack)
        self._went_back = False
        self._stamp_changed_sec = math.inf

    def receive(self, arrival: Arrival) -> None:
        """Takes a message."""
        step = math.inf
        if self._last and arrival.stamp_sec is not None and self._last[-1].stamp_sec is not None:
            step = arrival.stamp_sec - self._last[-1].stamp_sec
        self._went_back = step < 0
        if step != 0:
            self._stamp_changed_sec = arrival.received_sec
        self._last.append(arrival)

    def forget(self) -> None:
        """Drops all messages: what comes next must be fresh."""
        self._last.clear()

    @property
    def has_spoken(self) -> bool:
        """Whether there is any message."""
        return bool(self._last)

    def age_sec(self, now: Now) -> float:
        """Time since the last arrival; infinite where there was none."""
        return now.monotonic_sec - self._last[-1].received_sec if self._last else math.inf

    def require_fresh(self, now: Now) -> None:
        """Checks the last message by both clocks.

        A repeated stamp is no news: it counts as silence, not as a fault, since simulated clocks tick slower than some
        sensors. A stamp that goes back is a fault until one goes forward.

        Raises:
            StaleError: It never came, came too long ago, or its stamp stands still, is too old, in the future, or
                before its predecessor's.
        """
        if not self._last:
            raise StaleError(f"{self.name}_never_seen")
        if self.age_sec(now) > self.spec.timeout_sec:
            raise StaleError(f"{self.name}_silent")
        stamp = self._last[-1].stamp_sec
        if stamp is None:
            return
        too_old = now.ros_sec - stamp > self.spec.timeout_sec
        frozen = self._last[-1].received_sec > self._stamp_changed_sec
        if frozen and (too_old or now.monotonic_sec - self._stamp_changed_sec > self.spec.timeout_sec):
            raise StaleError(f"{self.name}_stamp_frozen")
        if too_old:
            raise StaleError(f"{self.name}_stamp_too_old")
        if self._went_back:
            raise StaleError(f"{self.name}_stamp_went_back")
        if stamp - now.ros_sec > self.spec.max_future_sec:
            raise StaleError(f"{self.name}_stamp_in_the_future")

    def read(self) -> npt.NDArray[Any]:
        """The numbers (n,) or the picture (height, width, channels) of the last ``stack`` messages.

        Raises:
            StaleError: There are fewer than ``stack`` messages, or one cannot be read.
        """
        if len(self._last) < self.spec.stack:
            raise StaleError(f"{self.name}_too_few_messages")
        try:
            values = [read_message(arrival.message, self.spec) for arrival in self._last]
        except SourceError as error:
            raise StaleError(f"{self.name}_{error.reason}") from error
        return values[0] if len(values) == 1 else np.concatenate(values, axis=-1)


@dataclass
class Command:
    """What one turn of the loop sends, and why."""

    action: FloatArray
    """(act_dim,) finite, within the limits."""
    mode: Mode
    reason: str
    """See ``safe_rl.shield.decision.Reason``; beside those ``<source>_silent`` and its like, ``commander_...`` and
    ``emergency_stop``."""
    proposed: FloatArray
    """(act_dim,) NaN where it is unknown."""
    risk: float = math.nan
    distribution_score: float = math.nan
    solve_time_sec: float = 0.0
    ages_sec: dict[str, float] = field(default_factory=dict)
    """Time since the last message of each source, and of the commander in filter mode."""
    silent: bool = False
    """Whether nothing is to be sent: STOP means to hold the last command, and there is none yet."""


class ControlLoop:
    """Decides at each turn of a timer from what has arrived until then.

    Silence, stale or future stamps, unreadable messages and an emergency stop end in STOP before the shield is asked;
    the shield's own checks follow. It never raises.
    """

    def __init__(
        self, shield: Shield, mapping: MappingSpec, mode: Literal["policy", "filter"], commander: Source | None = None
    ) -> None:
        """Puts it together.

        Args:
            shield: Decides.
            mapping: Where observations come from.
            mode: ``policy``: the bundle proposes; ``filter``: another stack does, by ``commander``.
            commander: The other stack's commands; needed in filter mode.

        Raises:
            UserError: The mapping cannot fill the bundle's spaces.
        """
        if mode == "filter" and commander is None:
            raise UserError("filter mode needs the topic that commands come in by")
        self.shield = shield
        self.mode = mode
        self.sources = {name: Source(name, spec) for name, spec in mapping.sources.items()}
        self.commander = commander if mode == "filter" else None
        self.emergency_stop = False
        self._assemble = _assembler(mapping, shield.bundle.spec.observation_space)
        self._holds = shield.bundle.spec.stop.kind == "hold"
        self._has_command = False
        self._last_now: Now | None = None

    def trip(self) -> None:
        """Emergency stop: STOP until it is reset."""
        self.emergency_stop = True

    def reset(self, now: Now) -> str:
        """Ends an emergency stop.

        Returns:
            Empty, or why not: in filter mode the other stack must command zero first, lest the robot jump off.
        """
        if self.emergency_stop and self.commander is not None:
            try:
                self.commander.require_fresh(now)
                command = self.commander.read()
            except StaleError as error:
                return f"command zero first: {error.reason}"
            if not (np.abs(command) <= ZERO_COMMAND).all():
                return "command zero first"
        self.emergency_stop = False
        if not self._holds:  # an arm that was held goes on from there, at its limited rate
            self.shield.reset()
        return ""

    def forget(self) -> None:
        """Begins anew: no message counts, no last action."""
        for source in self._all_sources().values():
            source.forget()
        self.shield.reset()
        self._has_command = False
        self._last_now = None

    def stop(self, reason: str) -> Command:
        """The stop command, without deciding."""
        decision = self.shield.stop()
        silent = self._holds and not self._has_command
        return Command(decision.action, decision.mode, reason, decision.task_action, silent=silent)

    def step(self, now: Now, fault: str = "") -> Command:
        """One turn.

        Args:
            now: The time.
            fault: A reason to stop that shows outside of the messages; empty where there is none.
        """
        ages = {name: source.age_sec(now) for name, source in self._all_sources().items()}
        try:
            decision = self._decide(now, fault)
        except StaleError as error:
            return replace(self.stop(error.reason), ages_sec=ages)
        except Exception:
            _log.exception("the control loop stops: reading the messages raised")
            return replace(self.stop("exception"), ages_sec=ages)
        self._has_command |= decision.mode is not Mode.STOP
        return Command(
            action=decision.action,
            mode=decision.mode,
            reason=decision.reason.value,
            proposed=decision.task_action,
            risk=decision.risk,
            distribution_score=decision.distribution_score,
            solve_time_sec=decision.solve_time_sec,
            ages_sec=ages,
            silent=self._holds and not self._has_command,
        )

    def _decide(self, now: Now, fault: str) -> ShieldDecision:
        self._require_steady_clock(now)
        if self.emergency_stop or fault:
            raise StaleError("emergency_stop" if self.emergency_stop else fault)
        for source in self._all_sources().values():
            source.require_fresh(now)
        obs = self._assemble({name: source.read() for name, source in self.sources.items()})
        if self.commander is None:
            return self.shield.decide(obs)
        return self.shield.filter(obs, self.commander.read())

    def _require_steady_clock(self, now: Now) -> None:
        """Messages from before and after a jump of the clock that stamps are read by do not go together.

        Raises:
            StaleError: It jumped since the last turn; all sources must speak anew.
        """
        last, self._last_now = self._last_now, now
        if last is None:
            return
        passed = now.ros_sec - last.ros_sec
        if passed < -CLOCK_BACK_SEC or passed - (now.monotonic_sec - last.monotonic_sec) > CLOCK_JUMP_SEC:
            for source in self._all_sources().values():
                source.forget()
            raise StaleError("clock_jumped")

    def _all_sources(self) -> dict[str, Source]:
        return self.sources if self.commander is None else {**self.sources, self.commander.name: self.commander}


Assemble = Callable[[Mapping[str, npt.NDArray[Any]]], Any]


def _assembler(mapping: MappingSpec, space: dict[str, Any]) -> Assemble:
    """Returns what puts the sources' arrays together as the observation space wants them.

    Raises:
        UserError: Entries are missing or unknown.
    """
    ObservationLayout(space)  # a space that the shield knows
    if space["type"] == "Box":
        named = [name for name, spec in mapping.sources.items() if spec.entry]
        if named:
            raise UserError(
                f"mapping: observation.{named[0]}.entry is given, but the bundle's observation is one array"
            )
        shape = tuple(space["shape"])
        return lambda parts: _joined(list(parts.values()), shape)
    wanted = _leaves(space, "")
    by_entry: dict[str, list[str]] = {}
    for name, spec in mapping.sources.items():
        if spec.entry not in wanted:
            raise UserError(
                f"mapping: observation.{name}.entry is {spec.entry!r}: the bundle's entries are {', '.join(wanted)}"
            )
        by_entry.setdefault(spec.entry, []).append(name)
    missing = [entry for entry in wanted if entry not in by_entry]
    if missing:
        raise UserError(f"mapping: no source fills the bundle's entry {missing[0]}: give one entry: {missing[0]}")

    def assemble(parts: Mapping[str, npt.NDArray[Any]]) -> Any:
        obs: dict[str, Any] = {}
        for entry, names in by_entry.items():
            place = obs
            *path, last = entry.split("/")
            for key in path:
                place = place.setdefault(key, {})
            place[last] = _joined([parts[name] for name in names], wanted[entry])
        return obs

    return assemble


def _joined(parts: list[npt.NDArray[Any]], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The parts one after the other, in the space's shape where their size fits it: the shield says if it does not."""
    joined = parts[0] if len(parts) == 1 else np.concatenate([part.reshape(-1) for part in parts])
    return joined.reshape(shape) if joined.size == math.prod(shape) else joined


def _leaves(space: dict[str, Any], path: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a Dict space's entries by path, such as robot/pose."""
    if space["type"] != "Dict":
        return {path: tuple(space["shape"])}
    leaves: dict[str, tuple[int, ...]] = {}
    for key, entry in sorted(space["spaces"].items()):
        leaves |= _leaves(entry, f"{path}/{key}" if path else key)
    return leaves
