"""A robot as a Gymnasium environment, without ROS: `ros_env` carries its messages.

A step sends an action and lasts a period; then the freshest observation is read, by the shield's rules of what may be
believed. Whatever is wrong stops the robot and ends the episode, with ``info["fault"]`` saying what.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from ros_nodes.assembly import make_assembler
from ros_nodes.attention import Attention
from ros_nodes.bags.steps import Layout
from ros_nodes.operator_console import OperatorConsole
from ros_nodes.pace import Pace
from ros_nodes.rewards import make_reward
from ros_nodes.robot_inputs import Inputs, check_finite
from ros_nodes.robot_link import Call, Guard, RobotLink
from ros_nodes.robot_settings import RobotSettings
from ros_nodes.sources import Now, StaleError
from safe_rl.envs.spaces import space_to_json
from safe_rl.errors import EnvironmentFault

FloatArray = npt.NDArray[np.float32]
_log = logging.getLogger(__name__)

SLICE_SEC = 0.05
"""Longest wait before Ctrl-C is noticed."""
TELL_AFTER_SEC = 2.0
"""Time after which a wait says what it waits for."""
LEARNER_SHARE = 0.5
"""Share of a period above which the learner's time counts as long."""
TELL_AFTER_STEPS = 20
"""Such steps after which a warning is due."""


class _Stopped(Exception):  # noqa: N818 (no error: an emergency stop during a reset)
    pass


class RobotEnv(gym.Env[Any, Any]):
    """See the module. Observations are those that a dataset of recordings by the same mapping has."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)
    repeats_itself = False

    def __init__(
        self,
        settings: RobotSettings,
        inputs: Inputs,
        link: RobotLink,
        shapes: Mapping[str, tuple[int, ...]],
        make_guard: Callable[[float, Callable[[], None]], Guard],
        console: OperatorConsole | None = None,
    ) -> None:
        """Puts it together; sends nothing and waits for nothing.

        Args:
            settings: Topics, reward, reset and the rest.
            inputs: What the link fills.
            link: The way to the robot.
            shapes: Of one reading of each source.
            make_guard: Makes what stops the robot when ``step`` is not called in time; takes the time in s, and what
                stops it.
            console: Where the operator is asked.

        Raises:
            UserError: The settings do not go together.
        """
        self.settings, self._inputs, self._link = settings, inputs, link
        self.observation_space = Layout(settings.mapping.sources, dict(shapes)).space
        action = settings.mapping.action
        self._low, self._high = np.array(action.low, np.float32), np.array(action.high, np.float32)
        self.action_space = gym.spaces.Box(self._low, self._high, dtype=np.float32)
        self._assemble = make_assembler(settings.mapping, space_to_json(self.observation_space))
        self._phases = settings.reset.phases(len(action.low))
        self._reward = make_reward(settings, inputs, self.observation_space)
        self._pace = Pace(settings.env.period_sec, by_clock=settings.env.pace == "clock")
        self._console = console or OperatorConsole()
        self._running = self._has_commanded = self._closed = self._interrupted = False
        self._num_faults = self._num_slow_steps = 0
        self._last_fault = ""
        self._obs: Any = None
        self._guard = make_guard(settings.env.watchdog_periods * settings.env.period_sec, self._stop)

    # -------------------------------------------------------------------- step

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Sends an action (act_dim,), waits for the period's end, and reads what came of it.

        Returns:
            Observation, reward, terminated (a violation, or success), truncated (the step limit, or a fault) and info
            with ``cost``, ``success``, ``step_overrun_sec`` (how much later than planned the step ended) and, where
            something was wrong, ``fault``. A fault repeats the last observation and reward that could be believed.

        Raises:
            gymnasium.error.ResetNeeded: The episode is over.
            EnvironmentFault: The action is not finite.
        """
        if not self._running:
            raise gym.error.ResetNeeded("the episode is over: call reset() first")
        try:
            return self._step(action)
        except BaseException:
            self._stop()
            self._end("")
            raise

    def _step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        command = self._checked(action)
        self._link.poll()
        began_sec = self._link.now().monotonic_sec
        self._warn_of_slow_learner(began_sec)
        in_time = self._guard.feed()
        self._pace.begin_step(began_sec)
        self._num_steps += 1
        with Attention() as attention:
            fault = self._hindrance() if in_time else "learner_late"
            if not fault and not self._inputs.cost.was_set:
                for source in self._inputs.sources.values():
                    source.is_news = False
                self._send(command)
                self._wait_for_the_end(attention)
                fault = self._hindrance()
        self._interrupted |= attention.requested
        obs = self._obs
        if not fault:
            try:
                obs = self._read()
            except StaleError as error:
                fault = error.reason
        overrun_sec = self._pace.end_step(self._link.now().monotonic_sec)
        obs, reward, terminated, truncated, info = self._judge(obs, command, fault)
        info["step_overrun_sec"] = overrun_sec
        if terminated or truncated:
            self._stop()
            self._end(fault)
        else:
            self._guard.feed()
        return obs, reward, terminated, truncated, info

    def _checked(self, action: Any) -> FloatArray:
        command = np.asarray(action, np.float32)
        if command.shape != self._low.shape or not np.isfinite(command).all():
            raise EnvironmentFault(f"action {command.tolist()}: it must be {len(self._low)} finite numbers")
        clipped: FloatArray = np.clip(command, self._low, self._high)
        return clipped

    def _wait_for_the_end(self, attention: Attention) -> None:
        """Waits for the step's end; at a violation, an emergency stop or Ctrl-C the robot stops at once."""
        has_stopped = False
        while not self._inputs.emergency(now := self._link.now()):
            if not has_stopped and (self._inputs.cost.was_set or attention.requested):
                self._stop()
                has_stopped = True
            has_news = all(source.is_news for source in self._inputs.sources.values())
            left_sec = self._pace.left_sec(now.monotonic_sec, has_news=has_news)
            if left_sec <= 0:
                break
            self._link.wait(min(left_sec, SLICE_SEC))
        self._link.poll()  # labels that came with the observation

    def _hindrance(self) -> str:
        """Why the robot must not be driven, beside what the sensors say; empty where nothing is wrong."""
        reason = self._inputs.emergency(self._link.now())
        if not reason and not self.settings.env.allow_other_publishers and self._link.is_shared():
            return "other_publisher"
        return reason

    def _read(self) -> Any:
        """The freshest observation.

        Raises:
            StaleError: Something cannot be believed, labels included.
        """
        self._inputs.require_fresh(self._link.now())
        obs = self._assemble({name: source.read() for name, source in self._inputs.sources.items()})
        check_finite(obs)
        if not self.observation_space.contains(obs):
            raise StaleError("observation_wrong_shape")
        return obs

    def _judge(self, obs: Any, command: FloatArray, fault: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """What the step is worth, and whether it was the last one."""
        inputs, env = self._inputs, self.settings.env
        violation = inputs.cost.was_set or (fault == "emergency_stop" and env.emergency_stop_violates)
        success = inputs.success is not None and inputs.success.was_set
        for label in inputs.labels():
            label.clear()
        info: dict[str, Any] = {"cost": float(violation), "success": False}
        ends = False
        if fault:
            info["fault"] = fault
            _log.warning("the episode ends: %s%s", fault, self._link.hint(fault))
        else:
            self._last_reward, ends, done = self._reward(self._obs, command, obs, info)
            info["success"] = success = (success or done) and not violation
        self._obs = obs
        terminated = bool(violation or (success and not fault) or ends)
        truncated = not terminated and (bool(fault) or self._num_steps >= env.max_episode_steps)
        return obs, self._last_reward, terminated, truncated, info

    def _warn_of_slow_learner(self, now_sec: float) -> None:
        self._num_slow_steps += self._pace.learner_share(now_sec) > LEARNER_SHARE
        if self._num_slow_steps == TELL_AFTER_STEPS:
            self._num_slow_steps += 1
            _log.warning(
                "the learner takes more than half of the period of %.0f ms: actions act late; lower rate_hz",
                1e3 * self.settings.env.period_sec,
            )

    def _end(self, fault: str) -> None:
        self._running = False
        self._guard.rest()
        if fault == "emergency_stop":  # a person's will
            return
        self._num_faults = self._num_faults + 1 if fault else 0
        self._last_fault = fault

    # ------------------------------------------------------------------- reset

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Stops the robot, brings it back as the settings say, and waits for sensors that can be believed.

        The seed is noted and changes nothing: a robot begins where it is.

        Raises:
            EnvironmentFault: The robot could not be brought back, its sensors are silent, it violates the constraint
                still, an emergency stop is not released, too many episodes ended by faults, or Ctrl-C was pressed.
        """
        super().reset(seed=seed)
        if self._running:
            self._stop()
            self._end("")
        self._require_few_faults()
        with Attention() as self._attention:
            while True:
                try:
                    self._wait_until(self._released, self.settings.env.patience_sec, heed_stop=False)
                    self._bring_back()
                    self._link.poll()
                    self._inputs.forget()
                    self._wait_until(self._ready, self.settings.env.patience_sec)
                    break
                except _Stopped:
                    continue
        for label in self._inputs.labels():
            label.clear()
        self._num_steps, self._last_reward = 0, 0.0
        self._pace.begin_episode()
        self._running = True
        return self._obs, {}

    def _require_few_faults(self) -> None:
        if self._num_faults >= self.settings.env.max_faults:
            count, self._num_faults = self._num_faults, 0
            raise EnvironmentFault(f"{count} episodes in a row ended by a fault, the last one by {self._last_fault}")

    def _bring_back(self) -> None:
        reset = self.settings.reset
        if reset.kind == "operator":
            self._inputs.start_asked = False
            self._console.ask("Bring the robot to its start, then press Enter or call ~/start_episode.")
            self._wait_until(self._asked, None)
        elif self.settings.env.dry_run:
            return
        elif reset.kind == "service":
            # A robot that has died may seem to be there for a while; its sensors are the better sign of life.
            self._wait_until(self._heard, self.settings.env.patience_sec)
            call = self._link.call_reset()
            self._wait_until(lambda: self._answered(call), reset.timeout_sec)
        elif reset.kind == "motion":
            self._wait_until(self._observed, self.settings.env.patience_sec)
            self._drive()

    def _drive(self) -> None:
        """The motion that brings the robot back; it ends at once where sensors fall silent."""
        period_sec = self.settings.env.period_sec
        try:
            for duration_sec, action in self._phases:
                next_sec = self._link.now().monotonic_sec
                end_sec = next_sec + duration_sec
                while (now := self._link.now()).monotonic_sec < end_sec:
                    self._require_safe_way(now)
                    if now.monotonic_sec >= next_sec:
                        self._guard.feed()
                        self._send(np.clip(np.array(action, np.float32), self._low, self._high))
                        next_sec += period_sec
                    self._link.wait(min(next_sec, end_sec) - now.monotonic_sec)
        finally:
            self._guard.rest()
            self._stop()

    def _require_safe_way(self, now: Now) -> None:
        """Looks for what breaks the way back off.

        Raises:
            EnvironmentFault: Something cannot be believed, somebody else drives, or Ctrl-C was pressed.
            _Stopped: An emergency stop.
        """
        self._heed(now)
        try:
            self._inputs.require_fresh(now)
            if fault := self._hindrance():
                raise StaleError(fault)
        except StaleError as error:
            hint = self._link.hint(error.reason)
            raise EnvironmentFault(f"the robot's way back was broken off: {error.reason}{hint}") from error

    def _released(self) -> str:
        if self._inputs.emergency_stop is not None:
            self._inputs.emergency_stop.clear()
        return self._inputs.emergency(self._link.now())

    def _asked(self) -> str:
        return "" if self._inputs.start_asked or self._console.pressed() else "the operator"

    def _answered(self, call: Call) -> str:
        answer = call.answer()
        if answer:
            raise EnvironmentFault(f"{call.waits_for} refused: {answer}")
        return f"no answer of {call.waits_for}" if answer is None else ""

    def _heard(self) -> str:
        now = self._link.now()
        try:
            for source in self._inputs.sources.values():
                source.require_fresh(now)
        except StaleError as error:
            return error.reason
        return ""

    def _observed(self) -> str:
        try:
            self._obs = self._read()
        except StaleError as error:
            return error.reason
        return ""

    def _ready(self) -> str:
        """As ``_observed``, and no violation: it would end every episode with its first step."""
        reason = self._observed()
        self._inputs.cost.clear()
        if not reason and self._inputs.cost.was_set and not self.settings.env.dry_run:
            return "the robot still violates the constraint"
        return reason

    def _wait_until(self, missing: Callable[[], str], timeout_sec: float | None, *, heed_stop: bool = True) -> None:
        """Waits until ``missing`` returns nothing.

        Raises:
            EnvironmentFault: That takes longer than ``timeout_sec``, or Ctrl-C was pressed.
            _Stopped: An emergency stop, where it is heeded.
        """
        began_sec, has_told = self._link.now().monotonic_sec, timeout_sec is None
        while True:
            self._link.poll()
            now = self._link.now()
            self._heed(now, stop=heed_stop)
            reason = missing()
            if not reason:
                return
            waited_sec = now.monotonic_sec - began_sec
            if timeout_sec is not None and waited_sec >= timeout_sec:
                raise EnvironmentFault(
                    f"the robot could not be reset within {timeout_sec:g} s: {reason}{self._link.hint(reason)}"
                )
            if waited_sec >= TELL_AFTER_SEC and not has_told:
                has_told = True
                _log.warning("the robot's reset waits: %s%s", reason, self._link.hint(reason))
            self._link.wait(SLICE_SEC)

    def _heed(self, now: Now, *, stop: bool = True) -> None:
        if self._interrupted or self._attention.requested:
            self._interrupted = False
            raise EnvironmentFault("interrupted while the robot was reset")
        if stop and self._inputs.emergency(now):
            raise _Stopped

    # ---------------------------------------------------------------- commands

    def _send(self, command: FloatArray) -> None:
        if not self.settings.env.dry_run:
            self._has_commanded = True
            self._link.send(command)

    def _stop(self) -> None:
        """Sends the stop command, from whatever thread; a robot that was never commanded is left alone."""
        if self._has_commanded and not self.settings.holds:
            self._link.send(np.zeros_like(self._low))  # also where zero is beyond the limits

    def close(self) -> None:
        """Stops the robot and gives everything back."""
        if self._closed:
            return
        self._closed = True
        self._running = False
        self._guard.close()
        self._stop()
        self._link.close()
