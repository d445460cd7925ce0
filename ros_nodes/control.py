"""The shield's control loop without ROS: what arrives, what is due, what is sent; `shield_node` carries messages."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ros_nodes.assembly import make_assembler
from ros_nodes.mapping import MappingSpec
from ros_nodes.sources import Now, Source, StaleError
from safe_rl.errors import UserError
from safe_rl.shield import Mode, Shield, ShieldDecision

FloatArray = npt.NDArray[np.float32]

_log = logging.getLogger(__name__)

ZERO_COMMAND = 1e-6
"""Largest component of a command that counts as zero, in the action's units."""
CLOCK_JUMP_SEC = 1.0
"""How much further than the steady clock the node's clock may go between two turns; a simulated one runs faster."""
CLOCK_BACK_SEC = 0.01
"""How much it may go back: what keeps a robot's clock right takes small steps."""


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
    """Decides at each turn from what has arrived until then.

    Turns come from a timer, so that silence is noticed, and from arrivals: ``is_due`` says when what arrived is worth
    a decision of its own. A robot that acts in step with its sensors then gets the answer to what they last said, not
    to what they said up to a period before.

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
        self._assemble = make_assembler(mapping, shield.bundle.spec.observation_space)
        self._holds = shield.bundle.spec.stop.kind == "hold"
        self._has_command = False
        self._last_now: Now | None = None
        self._last_decision_sec = -math.inf

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

    @property
    def is_due(self) -> bool:
        """Whether since the last turn a command came, or something from every sensor.

        In filter mode too a new observation is decided on at once, with the command that is there: safety must not wait
        for a commander that is late.
        """
        if self.commander is not None and self.commander.is_news:
            return True
        return all(source.is_news for source in self.sources.values())

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
        for source in self._all_sources().values():
            source.is_news = False
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
        elapsed_sec = now.monotonic_sec - self._last_decision_sec
        self._last_decision_sec = now.monotonic_sec
        if self.commander is None:
            return self.shield.decide(obs, elapsed_sec=elapsed_sec)
        return self.shield.filter(obs, self.commander.read(), elapsed_sec=elapsed_sec)

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
