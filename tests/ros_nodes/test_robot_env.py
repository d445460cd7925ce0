"""A robot as an environment, without ROS: a rail robot made by hand, in a time that the test lets go by."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

pytest.importorskip("yaml", reason="the extra `ros` brings it")

from ros_nodes.operator_console import OperatorConsole
from ros_nodes.pace import Pace
from ros_nodes.robot_env import RobotEnv
from ros_nodes.robot_inputs import Inputs, Label, reading_shape
from ros_nodes.robot_settings import RobotSettings
from ros_nodes.sources import Arrival, Now, Source, StaleError
from ros_nodes.watchdog import Watchdog
from safe_rl.envs.factory import CostEnv
from safe_rl.errors import EnvironmentFault, UserError

ROOT = Path(__file__).parents[2]
STAMP_OFFSET = 1e9
"""The ROS clock is far from the monotonic one."""
SENSOR_SEC = 0.01
WALL, GOAL = 1.0, -1.0
POSE = {"topic": "pose", "type": "test_msgs/msg/Pose", "fields": ["x", "v"], "timeout_sec": 0.25}
FLAG = {"type": "std_msgs/msg/Bool", "fields": ["data"], "timeout_sec": 0.25}
PARAMETERS: dict[str, Any] = {
    "observation": {"sources": ["pose"], "pose": POSE},
    "action": {"topic": "cmd", "type": "std_msgs/msg/Float64MultiArray", "low": [-1.0], "high": [1.0]},
    "cost": {"topic": "violation", **FLAG},
    "success": {"topic": "success", **FLAG},
    "reward": {"topic": "reward", "type": "std_msgs/msg/Float32", "fields": ["data"], "timeout_sec": 0.25},
    "rate_hz": 10.0,
    "robot_env": {"max_episode_steps": 50, "patience_sec": 3.0, "reset": {"kind": "service", "service": "reset"}},
}


def changed(**changes: Any) -> dict[str, Any]:
    """PARAMETERS with other sections; of robot_env only the given entries are others."""
    own = {**PARAMETERS["robot_env"], **changes.pop("robot_env", {})}
    return {**PARAMETERS, **changes, "robot_env": own}


class Rail:
    """The way to a robot that moves by its last command's speed; messages every 10 ms of a time of its own."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.time = 100.0
        self.x = 0.0
        self.speed = 0.0
        self.sent: list[tuple[float, float]] = []
        self.events: list[tuple[float, Callable[[], None]]] = []
        self.silent: set[str] = set()
        self.stamp: Callable[[], float | None] = lambda: STAMP_OFFSET + self.time
        self.frame = ""
        self.seen_x: Any = None
        """What the sensor says in place of where the robot is."""
        self.shared = False
        self.closed = 0
        self.reset_answers: list[str | None] = []
        self.num_resets = 0
        self.back_to = 0.0
        self.label: dict[str, float] = {}
        self._next_tick = self.time

    # what RobotEnv asks for

    def now(self) -> Now:
        return Now(self.time, STAMP_OFFSET + self.time)

    def poll(self) -> None:
        self._advance(self.time)

    def wait(self, seconds: float) -> None:
        self._advance(self.time + max(0.0, min(seconds, SENSOR_SEC)))

    def send(self, action: np.ndarray) -> None:
        self.speed = float(action[0])
        self.sent.append((self.time, self.speed))

    def is_shared(self) -> bool:
        return self.shared

    def call_reset(self) -> Any:
        self.num_resets += 1
        answers = self.reset_answers or [None, ""]

        def answer() -> str | None:
            given = answers[0] if len(answers) == 1 else answers.pop(0)
            if given == "":
                self.x, self.speed = self.back_to, 0.0
            return given

        return SimpleNamespace(waits_for="service /reset", answer=answer)

    def hint(self, reason: str) -> str:
        return " (a hint)" if reason.startswith("pose") else ""

    def close(self) -> None:
        self.closed += 1

    # what the test asks for

    def sleep(self, seconds: float) -> None:
        """Time goes by while nobody listens."""
        self.time += seconds

    def at(self, seconds: float, event: Callable[[], None]) -> None:
        """Something happens so much later."""
        self.events.append((self.time + seconds, event))

    def _advance(self, until: float) -> None:
        while self._next_tick <= until + 1e-9:
            self.time = max(self.time, self._next_tick)
            for due, event in [e for e in self.events if e[0] <= self._next_tick]:
                self.events.remove((due, event))
                event()
            self.x += self.speed * SENSOR_SEC
            self.speak()
            self._next_tick += SENSOR_SEC
        self.time = max(self.time, until)

    def speak(self) -> None:
        labels = {
            "cost": float(self.x >= WALL),
            "success": float(self.x <= GOAL),
            "reward": -abs(self.x - GOAL),
            "emergency_stop": 0.0,
        }
        for label in self.inputs.labels():
            if label.name not in self.silent:
                data = self.label.get(label.name, labels[label.name])
                label.receive(Arrival(SimpleNamespace(data=data), self.time, None))
        if "pose" not in self.silent:
            header = SimpleNamespace(frame_id=self.frame)
            message = SimpleNamespace(x=self.x if self.seen_x is None else self.seen_x, v=self.speed, header=header)
            self.inputs.sources["pose"].receive(Arrival(message, self.time, self.stamp()))


class LazyGuard:
    """The watchdog in the robot's time: it says that it has barked when it is looked at."""

    def __init__(self, limit_sec: float, bark: Callable[[], None], clock: Callable[[], float]) -> None:
        self.limit_sec, self.bark, self.clock = limit_sec, bark, clock
        self.due = math.inf
        self.closed = False

    def feed(self) -> bool:
        late = self.clock() > self.due
        if late:
            self.bark()
        self.due = self.clock() + self.limit_sec
        return not late

    def rest(self) -> None:
        self.due = math.inf

    def close(self) -> None:
        self.closed = True


class Console:
    """An operator who presses Enter after having been asked some times."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.asked: list[str] = []

    def ask(self, line: str) -> None:
        self.asked.append(line)

    def pressed(self) -> bool:
        self.looks -= 1
        return self.looks == 0


def make(console: Any = None, **changes: Any) -> tuple[RobotEnv, Rail]:
    settings = RobotSettings.from_dict(changed(**changes))
    inputs = Inputs(settings)
    rail = Rail(inputs)
    env = RobotEnv(
        settings, inputs, rail, {"pose": (2,)}, lambda limit, bark: LazyGuard(limit, bark, lambda: rail.time), console
    )
    return env, rail


def started(**changes: Any) -> tuple[RobotEnv, Rail]:
    env, rail = make(**changes)
    env.reset(seed=1)
    return env, rail


# ------------------------------------------------------------------- one step


def test_a_step_sends_waits_and_reads_the_freshest() -> None:
    env, rail = started()
    began = rail.time
    obs, reward, terminated, truncated, info = env.step(np.float32([0.5]))
    assert rail.sent == [(began, 0.5)]
    assert rail.time == pytest.approx(began + 0.1)
    assert obs == pytest.approx([0.05, 0.5], abs=0.006)  # ten ticks of 10 ms at 0.5; one may be under way
    assert reward == pytest.approx(-1.05, abs=0.006)
    assert (terminated, truncated) == (False, False)
    assert info == {"cost": 0.0, "success": False, "step_overrun_sec": pytest.approx(0.0, abs=1e-6)}
    assert obs.dtype == np.float32


def test_commands_beyond_the_limits_are_clipped_and_nan_is_a_fault_that_stops() -> None:
    env, rail = started()
    env.step(np.float32([7.0]))
    assert rail.speed == 1.0
    with pytest.raises(EnvironmentFault, match="1 finite numbers"):
        env.step(np.float32([np.nan]))
    assert rail.speed == 0.0
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.float32([0.0]))


def test_the_learners_time_counts_into_the_period() -> None:
    env, rail = started()
    ends = []
    for learner_sec in (0.0, 0.04, 0.07, 0.0):
        rail.sleep(learner_sec)
        env.step(np.float32([0.0]))
        ends.append(rail.time)
    assert np.diff(ends) == pytest.approx([0.1, 0.1, 0.1], abs=1e-6)


def test_an_overrun_is_told_and_the_action_still_has_a_period_to_act() -> None:
    env, rail = started()
    env.step(np.float32([0.0]))
    rail.sleep(0.13)
    _, _, _, _, info = env.step(np.float32([0.0]))
    assert info["step_overrun_sec"] == pytest.approx(0.13, abs=1e-6)  # 0.13 late to begin, then a whole period
    _, _, _, _, info = env.step(np.float32([0.0]))
    assert info["step_overrun_sec"] == pytest.approx(0.0, abs=1e-6)


def test_pace_of_sensors() -> None:
    pace = Pace(0.1, by_clock=False)
    pace.begin_step(5.0)
    assert pace.left_sec(5.0, has_news=True) == pytest.approx(0.075)
    assert pace.left_sec(5.08, has_news=True) < 0
    assert pace.left_sec(5.08, has_news=False) == pytest.approx(0.12)
    assert pace.end_step(5.08) == 0.0
    pace.begin_step(5.12)
    assert pace.left_sec(5.12, has_news=True) == pytest.approx(0.035)  # three quarters after 5.08
    assert pace.left_sec(5.12, has_news=False) == pytest.approx(0.16)  # two periods after it
    assert pace.end_step(5.2) == pytest.approx(0.02)
    pace.begin_step(5.5)
    assert pace.left_sec(5.5, has_news=False) == pytest.approx(0.1)


def test_a_step_by_sensors_ends_with_their_message_after_the_command() -> None:
    env, rail = started(robot_env={"pace": "sensors"})
    rail.silent = {"pose"}
    env.step(np.float32([0.5]))
    began = rail.time
    rail.at(0.09, lambda: rail.silent.clear())
    obs, *_ = env.step(np.float32([0.5]))
    assert rail.time - began == pytest.approx(0.1, abs=0.011)
    assert obs[0] == pytest.approx(rail.x)


def test_what_was_sent_before_the_command_ends_no_step_by_sensors() -> None:
    env, rail = started(robot_env={"pace": "sensors"})
    env.step(np.float32([0.0]))
    rail.sleep(0.09)  # messages wait; the newest is from before the command
    at = rail.time
    env.step(np.float32([1.0]))
    assert rail.time > at
    assert rail.x > 0


# ---------------------------------------------------------------- the episode


def test_a_violation_ends_the_episode_and_stops_at_once() -> None:
    env, rail = started()
    rail.x = 0.93
    obs, _, terminated, truncated, info = env.step(np.float32([1.0]))
    assert (terminated, truncated, info["cost"]) == (True, False, 1.0)
    hit = next(at for at, speed in rail.sent if speed == 0.0)
    assert rail.sent[0][0] + 0.06 < hit < rail.sent[0][0] + 0.09  # not only at the period's end
    assert obs[0] >= WALL


def test_a_touch_between_two_messages_of_a_step_counts() -> None:
    env, rail = started()
    rail.at(0.03, lambda: rail.label.update(cost=1.0))
    rail.at(0.05, rail.label.clear)
    _, _, terminated, _, info = env.step(np.float32([0.1]))
    assert (terminated, info["cost"]) == (True, 1.0)
    env.reset()
    _, _, terminated, _, info = env.step(np.float32([0.1]))
    assert (terminated, info["cost"]) == (False, 0.0)


def test_a_touch_while_the_learner_learns_counts_and_no_further_command_is_sent() -> None:
    env, rail = started()
    env.step(np.float32([0.5]))
    rail.x = WALL
    rail.sleep(0.05)
    _, _, terminated, _, info = env.step(np.float32([0.7]))
    assert (terminated, info["cost"]) == (True, 1.0)
    assert 0.7 not in [speed for _, speed in rail.sent]
    assert rail.speed == 0.0


def test_success_ends_the_episode_unless_it_violates() -> None:
    env, rail = started()
    rail.x = -0.95
    _, _, terminated, _, info = env.step(np.float32([-1.0]))
    assert (terminated, info["success"], rail.speed) == (True, True, 0.0)
    env.reset()
    rail.label = {"cost": 1.0, "success": 1.0}
    _, _, terminated, _, info = env.step(np.float32([0.0]))
    assert (terminated, info["success"], info["cost"]) == (True, False, 1.0)


def test_the_step_limit_truncates() -> None:
    env, rail = started(robot_env={"max_episode_steps": 3})
    flags = [env.step(np.float32([0.1]))[2:4] for _ in range(3)]
    assert flags == [(False, False), (False, False), (False, True)]
    assert rail.speed == 0.0


# --------------------------------------------------------------------- reward


def test_reward_by_goal() -> None:
    env, rail = started(reward={"goal": [0.3], "tolerance": 0.04})
    _, reward, terminated, _, info = env.step(np.float32([0.5]))
    assert (reward, terminated) == (pytest.approx(-(0.3 - rail.x), abs=0.006), False)
    rail.x = 0.29
    _, _, terminated, _, info = env.step(np.float32([0.0]))
    assert (terminated, info["success"]) == (True, True)
    with pytest.raises(UserError, match="the observation has 2 numbers"):
        make(reward={"goal": [0.3], "indices": [2], "tolerance": 0.1})


def test_reward_by_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("my_rewards")
    module.simple = lambda obs, action, next_obs, info: float(next_obs[0] - obs[0]) + info["cost"]  # type: ignore[attr-defined]
    module.ending = lambda obs, action, next_obs, info: (2.0, bool(next_obs[0] > 0.1), action[0] > 0.8)  # type: ignore[attr-defined]
    module.broken = lambda *_: 1 / 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_rewards", module)
    env, rail = started(reward={"function": "my_rewards:simple"})
    assert env.step(np.float32([0.5]))[1] == pytest.approx(0.05, abs=0.006)
    env, rail = started(reward={"function": "my_rewards:ending"})
    _, reward, terminated, _, info = env.step(np.float32([0.5]))
    assert (reward, terminated, info["success"]) == (2.0, False, False)
    rail.x = 0.2
    assert env.step(np.float32([0.5]))[2] is True
    env.reset()
    assert env.step(np.float32([0.9]))[4]["success"] is True
    env, rail = started(reward={"function": "my_rewards:broken"})
    with pytest.raises(ZeroDivisionError):
        env.step(np.float32([0.5]))
    assert rail.speed == 0.0  # whatever goes wrong
    for text, message in (("my_rewards:nothing", "no function nothing"), ("nowhere_at_all:x", "cannot import")):
        with pytest.raises(UserError, match=message):
            make(reward={"function": text})


# --------------------------------------------------------------------- faults

STOP_SOURCE = {"emergency_stop": {"topic": "e_stop", **FLAG}}


def _backwards(rail: Rail) -> None:
    rail.stamp = lambda: STAMP_OFFSET + 100.0 - rail.time / 1000


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (lambda rail: rail.silent.add("pose"), "pose_silent"),
        (lambda rail: rail.silent.add("cost"), "cost_silent"),
        (lambda rail: rail.silent.add("success"), "success_silent"),
        (lambda rail: rail.silent.add("reward"), "reward_silent"),
        (lambda rail: rail.silent.add("emergency_stop"), "emergency_stop_silent"),
        (lambda rail: setattr(rail, "stamp", lambda: STAMP_OFFSET + 100.0), "pose_stamp_frozen"),
        (lambda rail: setattr(rail, "stamp", lambda: STAMP_OFFSET + rail.time + 9.0), "pose_stamp_in_the_future"),
        (lambda rail: setattr(rail, "stamp", lambda: STAMP_OFFSET + rail.time - 9.0), "pose_stamp_too_old"),
        (_backwards, "pose_stamp_too_old"),
        (lambda rail: setattr(rail, "seen_x", math.nan), "observation_not_finite"),
        (lambda rail: rail.label.update(cost=math.nan), "cost_not_finite"),
        (lambda rail: rail.label.update(reward=math.inf), "reward_not_finite"),
        (lambda rail: setattr(rail, "seen_x", np.zeros(3)), "observation_wrong_shape"),
        (lambda rail: setattr(rail, "frame", "elsewhere"), "pose_wrong_frame"),
        (lambda rail: setattr(rail, "shared", True), "other_publisher"),
    ],
)
def test_every_fault_stops_the_robot_and_truncates(harm: Callable[[Rail], None], fault: str) -> None:
    where = {"observation": {"sources": ["pose"], "pose": {**POSE, "frame_id": "map"}}} if "frame" in fault else {}
    env, rail = make(robot_env=STOP_SOURCE, **where)
    rail.frame = "map" if where else ""
    env.reset()
    last, *_ = env.step(np.float32([0.2]))
    harm(rail)
    for _ in range(5):
        obs, reward, terminated, truncated, info = env.step(np.float32([0.2]))
        if truncated:
            break
        last = obs
    assert (terminated, truncated, info.get("fault")) == (False, True, fault)
    assert (info["cost"], info["success"]) == (0.0, False)
    assert rail.speed == 0.0
    assert np.array_equal(obs, last)  # what could last be believed
    assert math.isfinite(reward)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.float32([0.0]))


def test_a_learner_that_is_late_finds_the_robot_stopped_and_its_action_is_not_sent() -> None:
    env, rail = started()
    env.step(np.float32([0.5]))
    rail.sleep(0.31)  # three periods
    _, _, _, truncated, info = env.step(np.float32([0.9]))
    assert (truncated, info["fault"]) == (True, "learner_late")
    assert [speed for _, speed in rail.sent] == [0.5, 0.0, 0.0]
    env.reset()
    rail.sleep(60.0)  # it stands: time to learn, or to save
    assert "fault" not in env.step(np.float32([0.9]))[4]


def test_a_violation_counts_even_where_the_sensors_fail() -> None:
    env, rail = started()
    rail.label["cost"] = 1.0
    rail.seen_x = math.nan
    _, _, terminated, truncated, info = env.step(np.float32([0.5]))
    assert (terminated, truncated, info["cost"], info["fault"]) == (True, False, 1.0, "observation_not_finite")


def test_faults_in_a_row_end_the_run_and_a_good_episode_forgives() -> None:
    env, rail = started(robot_env={"max_faults": 2, "max_episode_steps": 1})

    def episode(*, good: bool) -> None:
        env.reset()
        rail.shared = not good
        assert ("fault" in env.step(np.float32([0.1]))[4]) is not good
        rail.shared = False

    for good in (False, True, False, False):
        episode(good=good)
    with pytest.raises(EnvironmentFault, match="2 episodes in a row ended by a fault, the last one by other_publisher"):
        env.reset()
    episode(good=True)


# ------------------------------------------------------------- emergency stop


@pytest.mark.parametrize("violates", [False, True])
def test_an_emergency_stop_by_service_ends_the_step_at_once(violates: bool) -> None:
    env, rail = started(robot_env={"emergency_stop_violates": violates})
    began = rail.time
    rail.at(0.03, lambda: setattr(rail.inputs, "tripped", True))
    _, _, terminated, truncated, info = env.step(np.float32([0.5]))
    assert rail.time < began + 0.06
    assert (terminated, truncated, info["cost"]) == (violates, not violates, float(violates))
    assert info["fault"] == "emergency_stop"
    assert rail.speed == 0.0
    with pytest.raises(EnvironmentFault, match="within 3 s: emergency_stop"):
        env.reset()
    assert rail.num_resets == 1  # that of the first episode
    rail.at(1.0, lambda: setattr(rail.inputs, "tripped", False))
    env.reset()
    assert rail.num_resets == 2


def test_an_emergency_stop_by_topic_is_released_by_topic_and_interrupts_a_reset() -> None:
    env, rail = started(robot_env=STOP_SOURCE)
    rail.label["emergency_stop"] = 1.0
    assert env.step(np.float32([0.5]))[4]["fault"] == "emergency_stop"
    rail.reset_answers = [None] * 200 + [""]
    rail.at(1.0, rail.label.clear)  # released; then pressed during the reset, and released again
    rail.at(1.5, lambda: rail.label.update(emergency_stop=1.0))
    rail.at(2.0, rail.label.clear)
    env.reset()
    assert rail.num_resets == 3  # the first episode's, the one that was broken off, and another one
    assert "fault" not in env.step(np.float32([0.5]))[4]


def test_emergency_stops_neither_count_as_faults_nor_forgive_them() -> None:
    env, rail = make(robot_env={"max_faults": 2})

    def episode(cause: str) -> None:
        env.reset()
        rail.inputs.tripped, rail.shared = cause == "emergency_stop", cause == "other_publisher"
        assert env.step(np.float32([0.5]))[4]["fault"] == cause
        rail.inputs.tripped = rail.shared = False

    for cause in ("emergency_stop", "emergency_stop", "emergency_stop", "other_publisher", "emergency_stop"):
        episode(cause)
    assert rail.num_resets == 5
    episode("other_publisher")
    with pytest.raises(EnvironmentFault, match="2 episodes in a row ended by a fault, the last one by other_publisher"):
        env.reset()
    assert rail.num_resets == 6


# ---------------------------------------------------------------------- reset


def test_a_reset_waits_for_messages_that_come_after_it() -> None:
    env, rail = started()
    env.step(np.float32([0.5]))
    rail.silent = {"pose"}
    rail.at(0.5, rail.silent.clear)
    began = rail.time
    obs, _ = env.reset()
    assert rail.time == pytest.approx(began + 0.5, abs=0.02)
    assert obs[0] == pytest.approx(0.0, abs=0.006)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([None], "could not be reset within 10 s: no answer of service /reset"),
        ([None, "the arm is stuck"], "service /reset refused: the arm is stuck"),
    ],
)
def test_a_reset_service_that_is_missing_or_refuses(answers: list[str | None], message: str) -> None:
    env, rail = make()
    rail.reset_answers = answers
    with pytest.raises(EnvironmentFault, match=message):
        env.reset()
    assert rail.sent == []


def test_silent_sensors_and_a_violation_that_stays_end_the_reset_in_one_line() -> None:
    env, rail = make()
    rail.silent = {"pose"}
    with pytest.raises(EnvironmentFault, match=r"could not be reset within 3 s: pose_never_seen \(a hint\)"):
        env.reset()
    env, rail = make()
    rail.back_to = WALL
    with pytest.raises(EnvironmentFault, match="the robot still violates the constraint"):
        env.reset()


def test_the_operator_is_asked_and_may_take_their_time() -> None:
    console = Console(looks=2000)
    env, rail = make(console, robot_env={"reset": {"kind": "operator"}})
    env.reset()
    assert console.asked == ["Bring the robot to its start, then press Enter or call ~/start_episode."]
    assert rail.time > 115
    assert rail.sent == []
    console.looks = 10**9
    rail.inputs.start_asked = True  # from before: does not count
    rail.at(5.0, lambda: setattr(rail.inputs, "start_asked", True))
    began = rail.time
    env.reset()
    assert rail.time == pytest.approx(began + 5.0, abs=0.1)


MOTION = {"kind": "motion", "motion": [0.5, -0.2, 1.0, 0.1]}


def test_a_motion_brings_the_robot_back() -> None:
    env, rail = make(robot_env={"reset": MOTION})
    rail.x = 0.5
    env.reset()
    assert rail.x == pytest.approx(0.5 - 0.5 * 0.2 + 1.0 * 0.1, abs=0.01)
    assert [speed for _, speed in rail.sent] == pytest.approx([-0.2] * 5 + [0.1] * 10 + [0.0], abs=1e-6)


def test_a_motion_is_broken_off_where_sensors_fall_silent_and_by_an_emergency_stop() -> None:
    env, rail = make(robot_env={"reset": MOTION})
    rail.at(0.3, lambda: rail.silent.add("pose"))
    with pytest.raises(EnvironmentFault, match="way back was broken off: pose_silent"):
        env.reset()
    assert rail.speed == 0.0
    assert rail.time < 101
    env, rail = make(robot_env={"reset": MOTION})
    rail.at(0.3, lambda: setattr(rail.inputs, "tripped", True))
    rail.at(0.6, lambda: rail.sent.append((rail.time, math.nan)))  # a mark
    rail.at(0.7, lambda: setattr(rail.inputs, "tripped", False))
    env.reset()
    speeds = [speed for _, speed in rail.sent]
    mark = next(i for i, speed in enumerate(speeds) if math.isnan(speed))
    assert speeds[mark - 1] == 0.0  # it stood
    assert speeds[mark + 1 :] == pytest.approx([-0.2] * 5 + [0.1] * 10 + [0.0])  # and drove the whole way then


def test_no_reset_at_all() -> None:
    env, rail = started(robot_env={"reset": {"kind": "none"}})
    env.step(np.float32([1.0]))
    where = rail.x
    obs, _ = env.reset()
    assert obs[0] == pytest.approx(where, abs=0.02)
    assert rail.num_resets == 0


def test_ctrl_c_during_a_reset_becomes_a_fault_once_somebody_else_takes_note() -> None:
    noted = []
    former = signal.signal(signal.SIGINT, lambda *_: noted.append(1))
    try:
        env, rail = make(Console(looks=10**9), robot_env={"reset": {"kind": "operator"}})
        rail.at(1.0, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(EnvironmentFault, match="interrupted while the robot was reset"):
            env.reset()
        assert noted == [1]
        env, rail = started()
        rail.at(0.05, lambda: signal.raise_signal(signal.SIGINT))
        _, _, terminated, truncated, _ = env.step(np.float32([0.5]))
        assert rail.speed == 0.0  # the runner saves now; the robot stands meanwhile
        assert not (terminated or truncated)
        assert noted == [1, 1]
        with pytest.raises(EnvironmentFault, match="interrupted"):
            env.reset()
        assert rail.num_resets == 1
    finally:
        signal.signal(signal.SIGINT, former)


# -------------------------------------------------------- dry run, stop, close


@pytest.mark.parametrize("reset", [PARAMETERS["robot_env"]["reset"], MOTION, {"kind": "none"}])
def test_a_dry_run_sends_nothing(reset: dict[str, Any]) -> None:
    env, rail = started(robot_env={"dry_run": True, "reset": reset})
    for _ in range(3):
        env.step(np.float32([0.5]))
    rail.x = WALL
    assert env.step(np.float32([0.5]))[2] is True
    env.reset()  # somebody else drives: a violation is not waited for
    env.close()
    assert rail.sent == []
    assert rail.num_resets == 0


def test_a_robot_that_was_never_commanded_is_left_alone() -> None:
    env, rail = started()
    env.close()
    env.close()
    assert rail.sent == []
    assert rail.closed == 1
    env, rail = started()
    env.step(np.float32([0.5]))
    env.close()
    assert [speed for _, speed in rail.sent] == [0.5, 0.0]


def test_a_robot_that_is_driven_by_position_keeps_its_last_goal() -> None:
    action = {
        "topic": "j",
        "type": "trajectory_msgs/msg/JointTrajectory",
        "fields": ["elbow"],
        "low": [0.5],
        "high": [1.0],
    }
    env, rail = started(action=action)
    env.step(np.float32([0.7]))
    env.reset()
    env.close()
    assert [speed for _, speed in rail.sent] == pytest.approx([0.7])
    env, rail = started(action=action, robot_env={"stop": "zero"})
    env.step(np.float32([0.7]))
    env.close()
    assert [speed for _, speed in rail.sent] == pytest.approx([0.7, 0.0])  # zero, though beyond the limits


# --------------------------------------------------------------------- spaces


def test_gymnasiums_checker() -> None:
    env, _ = make(robot_env={"max_episode_steps": 5})
    check_env(CostEnv(env, name="robot").env, skip_render_check=True)
    assert env.observation_space == gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    assert env.action_space == gym.spaces.Box(-1.0, 1.0, (1,), np.float32)


def test_entries_and_pictures() -> None:
    parameters = changed(
        observation={
            "sources": ["camera", "pose"],
            "camera": {
                "topic": "c",
                "type": "sensor_msgs/msg/Image",
                "entry": "camera",
                "timeout_sec": 0.25,
                "stack": 2,
            },
            "pose": {**POSE, "entry": "arm/pose"},
        }
    )
    settings = RobotSettings.from_dict(parameters)
    inputs = Inputs(settings)
    rail = Rail(inputs)
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    speak = rail.speak

    def speak_with_camera() -> None:
        speak()
        message = SimpleNamespace(
            header=SimpleNamespace(frame_id=""), height=2, width=4, step=12, encoding="rgb8", data=picture.tobytes()
        )
        inputs.sources["camera"].receive(Arrival(message, rail.time, STAMP_OFFSET + rail.time))

    rail.speak = speak_with_camera  # type: ignore[method-assign]
    shapes = {"camera": (2, 4, 3), "pose": (2,)}
    env = RobotEnv(settings, inputs, rail, shapes, lambda *a: LazyGuard(*a, lambda: rail.time))
    assert env.observation_space == gym.spaces.Dict(
        {
            "arm": gym.spaces.Dict({"pose": gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)}),
            "camera": gym.spaces.Box(0, 255, (2, 4, 6), np.uint8),
        }
    )
    obs, _ = env.reset()
    np.testing.assert_array_equal(obs["camera"], np.concatenate([picture, picture], axis=2))
    assert obs["camera"].dtype == np.uint8
    assert env.observation_space.contains(env.step(np.float32([0.0]))[0])


def test_what_the_mapping_tells_of_the_size() -> None:
    template = SimpleNamespace(
        data=[], pose=SimpleNamespace(x=0.0, q=SimpleNamespace(w=1.0)), covariance=[0.0] * 36, name=[]
    )
    template.position = []

    def shape(*fields: str, kind: str = "a_msgs/msg/B", **more: Any) -> Any:
        spec = RobotSettings.from_dict(
            changed(observation={"sources": ["a"], "a": {"topic": "a", "type": kind, "fields": list(fields), **more}})
        ).mapping.sources["a"]
        return reading_shape("a", spec, template)

    assert shape("pose.x", "yaw(pose.q)", "data[0:360:10]", "position[elbow]", "covariance", "data[3]") == (76,)
    assert shape("pose.x", "data") is None
    assert shape("data[2:]") is None
    assert shape("data[-3:-1]") is None
    image = "sensor_msgs/msg/Image"
    assert shape(kind=image, resize=[4, 5], encoding="mono8") == (4, 5, 1)
    assert shape(kind=image, crop=[1, 2, 4, 8]) == (3, 6, 3)
    assert shape(kind=image) is None
    with pytest.raises(UserError, match=r"observation\.a\.fields: pose\.z: SimpleNamespace has no z"):
        shape("pose.z")


# ------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cost": None}, "no section cost"),
        ({"reward": None}, "no section reward"),
        ({"reward": {"goal": [0.0]}}, "reward has no tolerance"),
        ({"reward": {"goal": [0.0], "tolerance": 0.0}}, "reward.tolerance is 0.0: it must be positive"),
        ({"reward": {"goal": [0.0, 1.0], "indices": [0], "tolerance": 1.0}}, "as many as goal has"),
        ({"reward": {"function": "reward"}}, "like package.module:name"),
        ({"success": {**FLAG, "topic": "s", "stack": 2}}, "success.stack is 2: it must be left out"),
        ({"action": {**PARAMETERS["action"], "low": [], "high": []}}, "action.low and action.high are missing"),
        ({"robot_env": {"rate": 5.0}}, "robot_env has no 'rate'; did you mean rate_hz?"),
        ({"robot_env": {"rate_hz": 0.0}}, "robot_env.rate_hz is 0.0"),
        ({"robot_env": {"pace": "fast"}}, "robot_env.pace is fast: it must be clock or sensors"),
        ({"robot_env": {"stop": "brake"}}, "robot_env.stop is brake"),
        ({"robot_env": {"patience_sec": 0}}, "patience_sec is 0.0: it must be positive"),
        ({"robot_env": {"max_faults": 0}}, "max_faults is 0: it must be at least 1"),
        ({"robot_env": {"watchdog_periods": 1}}, "watchdog_periods is 1: it must be at least 2"),
        ({"robot_env": {"reset": {"kind": "magic"}}}, "reset.kind is magic: it must be service or operator"),
        ({"robot_env": {"reset": {"kind": "service"}}}, "reset.service is '': it must be given for kind service"),
        ({"robot_env": {"reset": {"kind": "none", "service": "x"}}}, "only for it"),
        ({"robot_env": {"reset": {"kind": "motion"}}}, r"reset.motion is \[\]: it must be given"),
        (
            {"robot_env": {"reset": {"kind": "motion", "motion": [1.0, 0.1, 2.0]}}},
            "of 3 numbers: it must be a duration",
        ),
        ({"robot_env": {"reset": {"kind": "motion", "motion": [0.0, 0.1]}}}, "the duration positive"),
        ({"robot_env": {"reset": {"timeout_sec": 0}}}, "timeout_sec is 0.0"),
        (
            {"robot_env": {"reset": {"kind": "service", "service": "x", "service_type": "a/srv/B"}}},
            "std_srvs/srv/Empty",
        ),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RobotSettings.from_dict(changed(**changes))


def test_the_rate_is_the_files_unless_the_environment_has_its_own() -> None:
    assert RobotSettings.from_dict(PARAMETERS).env.rate_hz == 10.0
    assert RobotSettings.from_dict(changed(robot_env={"rate_hz": 5})).env.rate_hz == 5.0
    bare = {key: value for key, value in PARAMETERS.items() if key != "rate_hz"}
    assert RobotSettings.from_dict(bare).env.rate_hz == 20.0


def test_the_task_is_what_the_numbers_mean_and_not_where_they_come_from() -> None:
    task = RobotSettings.from_dict(PARAMETERS).task()
    moved = changed(observation={"sources": ["pose"], "pose": {**POSE, "topic": "other", "timeout_sec": 9.0}})
    assert RobotSettings.from_dict(moved).task() == task
    scaled = changed(observation={"sources": ["pose"], "pose": {**POSE, "scale": 2.0}})
    assert RobotSettings.from_dict(scaled).task() != task
    json.dumps(task)


def test_the_example_and_the_documentations_file_are_settings(tmp_path: Path) -> None:
    maze = RobotSettings.load(ROOT / "launch/config/maze_robot.yaml")
    assert (maze.env.pace, maze.env.rate_hz, maze.reset.service) == ("sensors", 20.0, "sim_robot/reset")
    assert RobotSettings.load(ROOT / "launch/config/maze_robot.yaml", dry_run=True).env.dry_run
    page = (ROOT / "docs/how-to/learn_on_robot.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.S)
    path = tmp_path / "my_robot.yaml"
    path.write_text(text, encoding="utf-8")
    own = RobotSettings.load(path)
    assert (own.env.rate_hz, own.reset.kind) == (10.0, "operator")
    path.write_text(text.replace("reset: {kind", "reset: {sort"), encoding="utf-8")
    with pytest.raises(UserError, match=r"my_robot\.yaml: mapping: robot_env\.reset has no 'sort'"):
        RobotSettings.load(path)


def test_the_console_hears_enter(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    with open(reading) as stdin, open(writing, "w") as keys:
        monkeypatch.setattr(sys, "stdin", stdin)
        console = OperatorConsole()
        console.ask("Ready?")
        assert capsys.readouterr().err == "Ready?\n"
        assert not console.pressed()
        keys.write("\n")
        keys.flush()
        assert console.pressed()
        assert not console.pressed()
        keys.close()
        assert not console.pressed()  # the end of the input is no Enter
        assert not console.pressed()
    assert not console.pressed()  # nor is a closed one


# ------------------------------------------------------------- labels, watchdog


def test_a_label_keeps_its_peak_and_its_last_word() -> None:
    label = Label("cost", RobotSettings.from_dict(PARAMETERS).cost)

    def says(value: float) -> None:
        label.receive(Arrival(SimpleNamespace(data=value), 1.0, None))

    assert not label.was_set
    says(1.0)
    says(0.0)
    assert label.was_set
    label.clear()
    assert not label.was_set
    says(1.0)
    label.clear()
    assert label.was_set  # it still says so
    says(0.0)
    label.clear()
    says(math.nan)
    assert not label.was_set  # nobody knows: `value` says that
    with pytest.raises(StaleError, match="cost_not_finite"):
        label.value(Now(1.0, 1.0))
    label.forget()
    assert not label.was_set
    assert isinstance(label, Source)


def test_the_watchdog_barks_once_when_it_is_not_fed() -> None:
    barks: list[str] = []
    barked = threading.Event()

    def bark() -> None:
        barks.append(threading.current_thread().name)
        barked.set()

    dog = Watchdog(0.05, bark)
    try:
        assert dog.feed()
        dog.rest()
        assert not barked.wait(0.12)
        assert dog.feed()
        assert barked.wait(5.0)
        assert not barks.clear()
        time.sleep(0.12)
        assert barks == []  # once
        assert not dog.feed()  # it says so
        assert dog.feed()
    finally:
        dog.close()
    assert all(thread.name != "watchdog" for thread in threading.enumerate())
