"""The control loop without ROS: messages made by hand, two clocks that the test sets."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("yaml", reason="the extra `ros` brings it")

from ros_nodes.control import Command, ControlLoop
from ros_nodes.mapping import MappingSpec, SourceSpec
from ros_nodes.sources import Arrival, Now, Source
from safe_rl.errors import UserError
from safe_rl.shield.bundle import PolicyBundle
from safe_rl.shield.engine import Evaluation
from safe_rl.shield.shield import Shield
from safe_rl.shield.spec import BundleSpec, LimitSpec, StopSpec, SwitchSpec
from safe_rl.switch import Mode

TASK_ACTION, RECOVERY_ACTION = np.float32([0.5, -0.25]), np.float32([-1.0, 1.0])
STAMP_OFFSET = 1e9
"""The ROS clock is far from the monotonic one."""
PERIOD = 0.1
ACTION = {"topic": "cmd_vel", "type": "geometry_msgs/msg/Twist", "fields": ["linear.x", "linear.y"]}
POSE = {"topic": "pose", "type": "test_msgs/msg/Pose", "fields": ["x", "y"], "timeout_sec": 0.25}
SCAN = {"topic": "scan", "type": "test_msgs/msg/Scan", "fields": ["ranges"], "timeout_sec": 0.25}


def box(*shape: int) -> dict[str, Any]:
    return {"type": "Box", "low": "-inf", "high": "inf", "shape": list(shape), "dtype": "float32"}


class ScriptedEngine:
    """Answers what the test wrote into it, and keeps what it was asked."""

    name = "scripted"

    def __init__(self) -> None:
        self.risk = 0.0
        self.obs: list[np.ndarray] = []

    def decide(self, obs: np.ndarray, eps_risk: float) -> Evaluation:
        return self.filter(obs, TASK_ACTION[None], eps_risk)

    def filter(self, obs: np.ndarray, proposal: np.ndarray, eps_risk: float) -> Evaluation:
        self.obs.append(obs[0].copy())
        risk = np.float32([self.risk])
        return Evaluation(
            proposal=proposal.copy(),
            recovery_action=RECOVERY_ACTION[None],
            risk=risk,
            hands_over=~(risk <= eps_risk),
            features=np.zeros((1, 2), np.float32),
        )


class Robot:
    """A control loop, its clocks and what reaches it."""

    def __init__(self, mapping: dict[str, Any], space: dict[str, Any], mode: Any = "policy", **changes: Any) -> None:
        spec = BundleSpec(
            method="recovery-rl",
            env="test/Env-v0",
            observation_space=space,
            action_space=box(2),
            recovery="model-free",
            gamma_risk=0.8,
            switch=SwitchSpec(eps_risk=0.3),
            **{"limits": LimitSpec(low=(-1.0, -1.0), high=(1.0, 1.0)), **changes},
        )
        self.engine = ScriptedEngine()
        shield = Shield(PolicyBundle(Path("unused"), spec), self.engine)
        self.engine.obs.clear()  # the shield warmed up
        commander = Source(
            "commander",
            SourceSpec("cmd_vel_in", "test_msgs/msg/Twist", ("x", "y"), timeout_sec=0.25),
        )
        self.loop = ControlLoop(shield, MappingSpec.from_dict({**mapping, "action": ACTION}), mode, commander)
        self.sources = {**self.loop.sources, "commander": commander}
        self.sec = 100.0
        self.clock_jump_sec = 0.0

    @property
    def now(self) -> Now:
        return Now(self.sec, self.sec + STAMP_OFFSET + self.clock_jump_sec)

    def hear(self, source: str, *, stamp: float | None = None, ahead: float = 0.0, **fields: Any) -> None:
        """A message arrives, stamped with the present unless told otherwise."""
        stamp = self.now.ros_sec + ahead if stamp is None else stamp
        self.sources[source].receive(Arrival(SimpleNamespace(**fields), self.sec, stamp))

    def step(self, fault: str = "") -> Command:
        command = self.loop.step(self.now, fault)
        self.sec += PERIOD
        return command


@pytest.fixture
def robot() -> Robot:
    """One stamped source, two numbers."""
    return Robot({"observation": {"sources": ["pose"], "pose": POSE}}, box(2))


def assert_stop(command: Command, reason: str) -> None:
    assert (command.mode, command.reason) == (Mode.STOP, reason)
    np.testing.assert_array_equal(command.action, [0.0, 0.0])


def assert_task(command: Command) -> None:
    assert (command.mode, command.reason) == (Mode.TASK, "")
    np.testing.assert_array_equal(command.action, TASK_ACTION)


# ------------------------------------------------------------- what is believed


def test_a_fresh_message_is_decided_on(robot: Robot):
    robot.hear("pose", x=1.0, y=-2.0)
    command = robot.step()
    assert_task(command)
    np.testing.assert_array_equal(robot.engine.obs, [[1.0, -2.0]])
    assert command.ages_sec == {"pose": 0.0}
    assert command.risk == 0.0


def test_high_risk_hands_over(robot: Robot):
    robot.engine.risk = 0.31
    robot.hear("pose", x=1.0, y=-2.0)
    command = robot.step()
    assert (command.mode, command.reason) == (Mode.RECOVERY, "risk")
    np.testing.assert_array_equal(command.action, RECOVERY_ACTION)
    np.testing.assert_array_equal(command.proposed, TASK_ACTION)


def test_nothing_was_ever_seen(robot: Robot):
    command = robot.step()
    assert_stop(command, "pose_never_seen")
    assert command.ages_sec == {"pose": math.inf}
    assert not robot.engine.obs


def test_silence_stops_after_the_time_out_and_ends_with_the_next_message(robot: Robot):
    robot.hear("pose", x=0.0, y=0.0)
    assert_task(robot.step())  # age 0
    assert_task(robot.step())  # 0.1
    assert_task(robot.step())  # 0.2
    assert_stop(robot.step(), "pose_silent")  # 0.3 > 0.25
    robot.hear("pose", x=0.0, y=0.0)
    assert_task(robot.step())


@pytest.mark.parametrize(
    ("ahead", "reason"),
    [(-0.26, "pose_stamp_too_old"), (-0.24, ""), (0.09, ""), (0.11, "pose_stamp_in_the_future")],
)
def test_stamps_by_the_ros_clock(robot: Robot, ahead: float, reason: str):
    robot.hear("pose", ahead=ahead, x=0.0, y=0.0)
    assert robot.step().reason == reason


def test_messages_without_stamps_are_judged_by_arrival_alone(robot: Robot):
    source = robot.sources["pose"]
    source.receive(Arrival(SimpleNamespace(x=0.0, y=0.0), robot.sec, None))
    assert_task(robot.step())
    robot.sec += 0.25
    assert_stop(robot.step(), "pose_silent")


def test_a_stamp_that_stands_still_is_silence(robot: Robot):
    """Also where the node's clock stands still with it, as a paused simulation's: the steady clock runs on."""
    for paused in (False, True):
        robot.sec += 10  # a new message: the stamp goes forward
        stamp = robot.now.ros_sec
        reasons = []
        for _ in range(5):
            robot.hear("pose", stamp=stamp, x=0.0, y=0.0)
            reasons.append(robot.step().reason)
            robot.clock_jump_sec -= PERIOD * paused
        assert reasons == ["", "", "", "pose_stamp_frozen", "pose_stamp_frozen"], paused
        robot.hear("pose", x=0.0, y=0.0)
        assert_task(robot.step()) if not paused else None


def test_a_stamp_repeated_now_and_then_is_no_fault(robot: Robot):
    stamp = 0.0
    for turn in range(10):
        stamp = robot.now.ros_sec if turn % 2 == 0 else stamp
        robot.hear("pose", stamp=stamp, x=0.0, y=0.0)
        assert_task(robot.step())


def test_a_stamp_that_goes_back_stops_until_one_goes_forward(robot: Robot):
    robot.hear("pose", x=0.0, y=0.0)
    assert_task(robot.step())
    robot.hear("pose", ahead=-0.2, x=0.0, y=0.0)  # in itself recent enough
    assert_stop(robot.step(), "pose_stamp_went_back")
    robot.hear("pose", x=0.0, y=0.0)
    assert_task(robot.step())


def test_far_into_the_past(robot: Robot):
    robot.hear("pose", x=0.0, y=0.0)
    assert_task(robot.step())
    robot.hear("pose", ahead=-60.0, x=0.0, y=0.0)
    assert_stop(robot.step(), "pose_stamp_too_old")


@pytest.mark.parametrize("jump_sec", [-60.0, -0.2, 1.1, 60.0])
def test_the_nodes_clock_jumps(robot: Robot, jump_sec: float):
    """Even where all sources have jumped with it: what was heard before does not go with what comes after."""
    robot.hear("pose", x=0.0, y=0.0)
    assert_task(robot.step())
    robot.clock_jump_sec += jump_sec
    robot.hear("pose", x=0.0, y=0.0)
    assert_stop(robot.step(), "clock_jumped")
    assert_stop(robot.step(), "pose_never_seen")
    robot.hear("pose", x=0.0, y=0.0)
    assert_task(robot.step())


def test_a_simulated_clock_that_runs_fast_or_stands_still_does_not_jump(robot: Robot):
    for factor in (0.0, 0.5, 5.0):
        robot.loop.forget()
        for _ in range(5):
            robot.hear("pose", x=0.0, y=0.0)
            assert_task(robot.step()) if factor else robot.step()
            robot.clock_jump_sec += PERIOD * (factor - 1)


def test_what_cannot_be_read(robot: Robot):
    robot.hear("pose", x=1.0)
    command = robot.step()
    assert command.mode is Mode.STOP
    assert command.reason.startswith("pose_"), command.reason
    robot.hear("pose", x="left", y=0.0)
    command = robot.step()
    assert command.mode is Mode.STOP
    assert command.reason.startswith("pose_"), command.reason


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_what_is_no_finite_number(robot: Robot, value: float):
    robot.hear("pose", x=0.0, y=value)
    assert_stop(robot.step(), "observation_not_finite")


def test_a_wrong_size():
    robot = Robot({"observation": {"sources": ["scan"], "scan": SCAN}}, box(3))
    robot.hear("scan", ranges=[1.0, 2.0, 3.0])
    assert_task(robot.step())
    robot.hear("scan", ranges=[1.0, 2.0])
    assert_stop(robot.step(), "observation_wrong_shape")


def test_an_exception_stops(robot: Robot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    def broken(parts: Any) -> Any:
        raise RuntimeError("a bug")

    robot.hear("pose", x=0.0, y=0.0)
    monkeypatch.setattr(robot.loop, "_assemble", broken)
    assert_stop(robot.step(), "exception")
    assert "a bug" in caplog.text
    monkeypatch.undo()
    assert_task(robot.step())


def test_a_fault_that_the_node_sees(robot: Robot):
    robot.hear("pose", x=0.0, y=0.0)
    assert_stop(robot.step("other_publisher"), "other_publisher")
    assert_task(robot.step())


def test_where_stop_means_hold_nothing_is_sent_before_there_is_something_to_hold():
    """A position of zero would move the arm."""
    robot = Robot(
        {"observation": {"sources": ["pose"], "pose": POSE}},
        box(2),
        stop=StopSpec("hold"),
        limits=LimitSpec((-1.0, -1.0), (1.0, 1.0), max_rate=(0.1, 0.1), control_period_sec=PERIOD),
    )
    assert robot.step().silent
    assert robot.loop.stop("deactivated").silent
    robot.hear("pose", x=0.0, y=math.nan)
    assert robot.step().silent  # the shield's own STOP
    robot.hear("pose", x=0.0, y=0.0)
    command = robot.step()
    assert_task(command)  # not at a limited rate from zero
    assert not command.silent
    for trip in (robot.loop.trip, lambda: robot.hear("pose", x=0.0, y=math.nan), lambda: None):
        trip()
        command = robot.step()
        assert (command.mode, command.silent) == (Mode.STOP, False)
        np.testing.assert_array_equal(command.action, TASK_ACTION)
        robot.loop.reset(robot.now)
    robot.loop.forget()  # it may have been moved since
    assert robot.step().silent


def test_what_was_heard_before_activation_does_not_count(robot: Robot):
    robot.hear("pose", x=0.0, y=0.0)
    robot.loop.forget()
    assert_stop(robot.step(), "pose_never_seen")


# -------------------------------------------------------------------- assembly


def test_sources_stand_in_the_order_of_the_list():
    robot = Robot({"observation": {"sources": ["scan", "pose"], "pose": POSE, "scan": SCAN}}, box(4))
    robot.hear("pose", x=1.0, y=2.0)
    assert_stop(robot.step(), "scan_never_seen")
    robot.hear("scan", ranges=[7.0, 8.0])
    assert_task(robot.step())
    np.testing.assert_array_equal(robot.engine.obs, [[7.0, 8.0, 1.0, 2.0]])


def test_the_last_messages_are_stacked_the_oldest_first():
    robot = Robot({"observation": {"sources": ["pose"], "pose": {**POSE, "stack": 3}}}, box(6))
    for turn in range(4):
        robot.hear("pose", x=turn, y=-turn)
        command = robot.step()
        if turn < 2:
            assert_stop(command, "pose_too_few_messages")
    np.testing.assert_array_equal(robot.engine.obs, [[0, 0, 1, -1, 2, -2], [1, -1, 2, -2, 3, -3]])


def test_a_box_of_more_than_one_axis():
    robot = Robot({"observation": {"sources": ["scan"], "scan": SCAN}}, box(2, 2))
    robot.hear("scan", ranges=[1.0, 2.0, 3.0, 4.0])
    assert_task(robot.step())
    np.testing.assert_array_equal(robot.engine.obs, [[1.0, 2.0, 3.0, 4.0]])


DICT = {
    "type": "Dict",
    "spaces": {"laser": box(2), "robot": {"type": "Dict", "spaces": {"pose": box(2), "twist": box(2)}}},
}


def test_entries_of_a_dict_from_several_sources():
    observation = {
        "sources": ["twist", "scan", "pose"],
        "pose": {**POSE, "entry": "robot/pose"},
        "scan": {**SCAN, "entry": "laser"},
        "twist": {**POSE, "topic": "twist", "entry": "robot/twist"},
    }
    robot = Robot({"observation": observation}, DICT)
    robot.hear("pose", x=1.0, y=2.0)
    robot.hear("twist", x=3.0, y=4.0)
    robot.hear("scan", ranges=[5.0, 6.0])
    assert_task(robot.step())
    np.testing.assert_array_equal(robot.engine.obs, [[5.0, 6.0, 1.0, 2.0, 3.0, 4.0]])  # sorted by key


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"pose": "robot/pose", "scan": "laser"}, "no source fills the bundle's entry robot/twist"),
        ({"pose": "robot/pose", "scan": "lidar"}, "observation.scan.entry is 'lidar'"),
        ({"pose": "robot/pose", "scan": ""}, "observation.scan.entry is ''"),
    ],
)
def test_entries_that_do_not_fill_a_dict(entries: dict[str, str], message: str):
    observation = {
        "sources": ["pose", "scan"],
        "pose": {**POSE, "entry": entries["pose"]},
        "scan": {**SCAN, "entry": entries["scan"]},
    }
    with pytest.raises(UserError, match=message):
        Robot({"observation": observation}, DICT)


def test_an_entry_for_a_box_is_refused():
    with pytest.raises(UserError, match=r"observation\.pose\.entry is given, but"):
        Robot({"observation": {"sources": ["pose"], "pose": {**POSE, "entry": "pose"}}}, box(2))


# ----------------------------------------------------------------- filter mode


def test_a_decision_is_due_when_every_sensor_has_news():
    robot = Robot({"observation": {"sources": ["pose", "scan"], "pose": POSE, "scan": SCAN}}, box(3))
    assert not robot.loop.is_due
    robot.hear("pose", x=0.0, y=0.0)
    assert not robot.loop.is_due
    robot.hear("scan", ranges=[1.0])
    assert robot.loop.is_due
    robot.step()
    assert not robot.loop.is_due


def test_a_decision_is_due_when_a_command_came(filtering: Robot):
    filtering.step()
    assert not filtering.loop.is_due
    filtering.hear("commander", x=0.0, y=0.0)
    assert filtering.loop.is_due
    filtering.step()
    filtering.hear("pose", x=0.0, y=0.0)
    assert filtering.loop.is_due


def test_turns_between_two_periods_share_the_rate_limits():
    limits = LimitSpec(low=(-1.0, -1.0), high=(1.0, 1.0), max_rate=(1.0, 1.0), control_period_sec=PERIOD)
    robot = Robot({"observation": {"sources": ["pose"], "pose": POSE}}, box(2), limits=limits)
    for expected in (0.1, 0.125, 0.15):
        robot.hear("pose", x=0.0, y=0.0)
        assert robot.loop.step(robot.now).action[0] == pytest.approx(expected)
        robot.sec += PERIOD / 4


@pytest.fixture
def filtering() -> Robot:
    """In filter mode, with a fresh observation."""
    robot = Robot({"observation": {"sources": ["pose"], "pose": {**POSE, "timeout_sec": 100.0}}}, box(2), "filter")
    robot.hear("pose", x=0.0, y=0.0)
    return robot


def test_filter_mode_needs_a_commander(robot: Robot):
    mapping = MappingSpec.from_dict({"observation": {"sources": ["pose"], "pose": POSE}, "action": ACTION})
    with pytest.raises(UserError, match="filter mode needs the topic"):
        ControlLoop(robot.loop.shield, mapping, "filter")


def test_a_safe_command_passes(filtering: Robot):
    filtering.hear("commander", x=0.125, y=-0.5)
    command = filtering.step()
    assert command.mode is Mode.TASK
    np.testing.assert_array_equal(command.action, [0.125, -0.5])
    assert command.ages_sec == {"pose": 0.0, "commander": 0.0}


def test_a_risky_command_is_replaced(filtering: Robot):
    filtering.engine.risk = 0.9
    filtering.hear("commander", x=0.125, y=-0.5)
    command = filtering.step()
    assert (command.mode, command.reason) == (Mode.RECOVERY, "risk")
    np.testing.assert_array_equal(command.action, RECOVERY_ACTION)
    np.testing.assert_array_equal(command.proposed, [0.125, -0.5])


def test_a_command_beyond_the_limits_is_clipped(filtering: Robot):
    filtering.hear("commander", x=50.0, y=-50.0)
    np.testing.assert_array_equal(filtering.step().action, [1.0, -1.0])


@pytest.mark.parametrize(
    ("arrival", "reason"),
    [
        (None, "commander_never_seen"),
        ({"x": math.nan, "y": 0.0}, "proposal_not_finite"),
        ({"x": 0.0, "y": math.inf}, "proposal_not_finite"),
        ({"x": [0.0, 1.0], "y": 0.0}, "proposal_wrong_shape"),
        ({"x": 0.0, "y": 0.0, "ahead": 5.0}, "commander_stamp_in_the_future"),
        ({"x": 0.0, "y": 0.0, "ahead": -5.0}, "commander_stamp_too_old"),
    ],
)
def test_commands_that_are_not_passed(filtering: Robot, arrival: dict[str, Any] | None, reason: str):
    if arrival is not None:
        filtering.hear("commander", **arrival)
    assert_stop(filtering.step(), reason)


def test_a_silent_commander(filtering: Robot):
    filtering.hear("commander", x=0.5, y=0.5)
    reasons = [filtering.step().reason for _ in range(4)]
    assert reasons == ["", "", "", "commander_silent"]


def test_policy_mode_does_not_listen_to_commands(robot: Robot):
    robot.hear("pose", x=0.0, y=0.0)
    robot.hear("commander", x=math.nan, y=0.0)
    command = robot.step()
    assert_task(command)
    assert "commander" not in command.ages_sec


# -------------------------------------------------------------- emergency stop


def test_an_emergency_stop_holds_until_it_is_reset(robot: Robot):
    robot.loop.trip()
    for _ in range(3):
        robot.hear("pose", x=0.0, y=0.0)
        assert_stop(robot.step(), "emergency_stop")
    assert robot.loop.reset(robot.now) == ""
    robot.hear("pose", x=0.0, y=0.0)
    assert_task(robot.step())


def test_an_emergency_stop_ends_a_recovery(robot: Robot):
    robot.engine.risk = 1.0
    robot.hear("pose", x=0.0, y=0.0)
    assert robot.step().mode is Mode.RECOVERY
    robot.loop.trip()
    assert_stop(robot.step(), "emergency_stop")


@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        (None, "command zero first: commander_never_seen"),
        ({"x": 0.0, "y": 0.1}, "command zero first"),
        ({"x": math.nan, "y": 0.0}, "command zero first"),
        ({"x": 0.0, "y": 0.0, "ahead": -5.0}, "command zero first: commander_stamp_too_old"),
        ({"x": 0.0, "y": -0.0}, ""),
    ],
)
def test_in_filter_mode_reset_needs_a_zero_command_first(
    filtering: Robot, command: dict[str, Any] | None, refusal: str
):
    filtering.loop.trip()
    if command is not None:
        filtering.hear("commander", **command)
    assert filtering.loop.reset(filtering.now) == refusal
    assert filtering.loop.emergency_stop == bool(refusal)
