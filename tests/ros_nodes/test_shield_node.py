"""The shield as a process over DDS, and what can go wrong on a robot: each fault ends in a stop and a reason.

How soon is counted in commands, not in milliseconds: the machine that runs the tests may be busy.
"""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the extra `ros` brings it")

from geometry_msgs.msg import TwistStamped
from lifecycle_msgs.msg import Transition
from rcl_interfaces.srv import DescribeParameters
from robot_bundles import Known, change
from robots import LATCHED, MAPPING, RATE_HZ, TIMEOUT_SEC, DiagnosticStatus, Robot, write_parameters

from ros_nodes.launch_description import SHIELD
from ros_nodes.parameters import ShieldParameters

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("ros")]

ZERO = (0.0, 0.0)
SLACK = 4
"""Commands more than the two control periods that a fault may take on an idle machine."""
COMMANDER = Path(__file__).parent / "commander.py"


@pytest.fixture(scope="module")
def known(bundle: Path) -> Known:
    return Known(bundle)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parameters")


@pytest.fixture(scope="module")
def policy_robot(ros: None, bundle: Path, folder: Path) -> Iterator[Robot]:
    robot = Robot("/policy", write_parameters(folder, bundle))
    yield robot
    robot.close()


@pytest.fixture(scope="module")
def filter_robot(ros: None, bundle: Path, folder: Path) -> Iterator[Robot]:
    robot = Robot("/filtering", write_parameters(folder, bundle), mode="filter")
    yield robot
    robot.close()


@pytest.fixture
def robot(policy_robot: Robot, known: Known) -> Robot:
    """In policy mode; nothing is wrong, the task policy drives."""
    make_sound(policy_robot, known.task_obs)
    policy_robot.wait_command(known.task.action)
    return policy_robot


@pytest.fixture
def filtering(filter_robot: Robot, known: Known) -> Robot:
    """In filter mode; nothing is wrong, this process commands."""
    filter_robot.command = known.command
    make_sound(filter_robot, known.passed_obs)
    filter_robot.wait_command(known.command)
    return filter_robot


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Robot]]:
    """Starts robots of the test's own."""
    started: list[Robot] = []

    def make(namespace: str, params_file: Path, **options: Any) -> Robot:
        started.append(Robot(namespace, params_file, **options))
        return started[-1]

    yield make
    for one in started:
        one.close()


def make_sound(robot: Robot, obs: np.ndarray) -> None:
    robot.obs, robot.speaking, robot.stamp = obs, True, robot.present
    robot.ranges = lambda: [float(robot.obs[2])]
    robot.wait_state("TASK", "")


def assert_close(command: tuple[float, float], expected: np.ndarray) -> None:
    np.testing.assert_allclose(command, expected, atol=1e-5)


def assert_stops_at_once(robot: Robot, reason: str, *, mode: str = "STOP") -> None:
    """From the message that the robot now sends, the stop command comes within two periods, and then nothing else."""
    before = len(robot.commands)
    spoken_sec = robot.node.get_clock().now().nanoseconds * 1e-9
    robot.speak()
    robot.wait_state(mode, reason)
    robot.wait(lambda: ZERO in robot.commands[before:], "the stop command")  # states and commands travel apart
    robot.wait_commands(2)
    commands = robot.commands[before:]
    first = commands.index(ZERO)
    assert robot.command_stamps_sec[before + first] - spoken_sec < (2 + SLACK) / RATE_HZ
    assert set(commands[first:]) == {ZERO}


def assert_stops_after_time_out(robot: Robot, reason: str, source: str) -> None:
    """By the shield's own account of the age at which it stopped."""
    values = robot.wait_state("STOP", reason)
    age = float(values[f"age_sec.{source}"])
    assert TIMEOUT_SEC < age < TIMEOUT_SEC + (2 + SLACK) / RATE_HZ
    assert set(robot.wait_commands(3)) == {ZERO}


# ------------------------------------------------------------ sensors at fault


def test_a_sound_robot_is_driven_by_the_bundle(robot: Robot, known: Known):
    for command in robot.wait_commands(3):
        assert_close(command, known.task.action)
    values = robot.values
    assert float(values["risk"]) == pytest.approx(known.task.risk, abs=1e-4)
    assert [float(number) for number in values["executed"].split()] == pytest.approx(known.task.action, abs=1e-4)
    assert float(values["age_sec.odom"]) < TIMEOUT_SEC
    assert float(values["solve_time_ms"]) > 0
    assert robot.states[-1].name == "/policy/shield"


def test_a_sensor_stops(robot: Robot):
    robot.speaking = False
    assert_stops_after_time_out(robot, "odom_silent", "odom")


def test_a_sensor_freezes(robot: Robot):
    stamp = robot.present()
    robot.stamp = lambda: stamp
    values = robot.wait_state("STOP", "odom_stamp_frozen")
    assert float(values["age_sec.odom"]) < TIMEOUT_SEC  # messages keep coming
    assert set(robot.wait_commands(3)) == {ZERO}


@pytest.mark.parametrize(
    ("ahead_sec", "reason"),
    [(-60.0, "odom_stamp_too_old"), (60.0, "odom_stamp_in_the_future")],
)
def test_a_sensor_lives_at_another_time(robot: Robot, ahead_sec: float, reason: str):
    robot.stamp = lambda: robot.present(ahead_sec)
    assert_stops_at_once(robot, reason)


def test_a_sensor_goes_back_a_little(robot: Robot):
    """Each stamp is recent enough, but before its predecessor's."""
    stamps = iter(np.linspace(-0.1, -0.5, 1000))
    robot.stamp = lambda: robot.present(-0.1)
    robot.wait_commands(2)
    start_sec = robot.node.get_clock().now().nanoseconds * 1e-9

    def backwards() -> Any:
        passed = robot.node.get_clock().now().nanoseconds * 1e-9 - start_sec
        return robot.present(-passed + float(next(stamps)) - 0.02)

    robot.stamp = backwards
    assert_stops_at_once(robot, "odom_stamp_went_back")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_sensor_sends_no_numbers(robot: Robot, known: Known, value: float):
    robot.obs = np.array([known.task_obs[0], value, known.task_obs[2]])
    assert_stops_at_once(robot, "observation_not_finite")


@pytest.mark.parametrize("ranges", [[], [1.0, 2.0]])
def test_a_sensor_sends_a_wrong_size(robot: Robot, ranges: list[float]):
    robot.ranges = lambda: ranges
    assert_stops_at_once(robot, "observation_wrong_shape")


# ---------------------------------------------------------------- the switch


def test_recovery_acts_in_risky_states_and_an_emergency_stop_ends_it(robot: Robot, known: Known):
    robot.obs = known.recovery_obs
    values = robot.wait_state("RECOVERY", "risk")
    assert float(values["risk"]) == pytest.approx(known.recovery.risk, abs=1e-4)
    robot.wait_command(known.recovery.action)
    assert robot.trigger("trip").success
    assert set(robot.wait_commands(3)[1:]) == {ZERO}
    assert robot.values["reason"] == "emergency_stop"
    robot.obs = known.task_obs
    assert set(robot.wait_commands(3)) == {ZERO}, "an emergency stop holds"
    assert robot.trigger("reset").success
    robot.wait_state("TASK", "")


def test_the_threshold_can_be_tightened_while_it_runs(robot: Robot, known: Known):
    assert robot.set_parameter("eps_risk", 0.01).successful
    robot.wait_state("RECOVERY", "risk")
    assert robot.set_parameter("eps_risk", -1.0).successful
    robot.wait_state("TASK", "")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("eps_risk", 0.6, "looser than the bundle's"),
        ("eps_risk", math.nan, ""),
        ("eps_risk", 2.0, ""),
        ("eps_risk", "much", ""),
        ("rate_hz", 1e9, ""),
        ("rate_hz", "fast", ""),
    ],
)
def test_parameters_that_are_refused(robot: Robot, name: str, value: Any, reason: str):
    result = robot.set_parameter(name, value)
    assert not result.successful
    assert reason in result.reason
    assert result.reason
    robot.wait_state("TASK", "")


def test_parameters_describe_themselves(robot: Robot):
    request = DescribeParameters.Request(names=["rate_hz", "mode", "eps_risk"])
    rate, mode, eps_risk = robot.call(DescribeParameters, "shield/describe_parameters", request).descriptors
    assert rate.description.endswith("in Hz.")
    assert (rate.floating_point_range[0].from_value, rate.floating_point_range[0].to_value) == (0.1, 1000.0)
    assert mode.additional_constraints == "policy or filter"
    assert "Threshold of the switch" in eps_risk.description


def test_every_parameter_stands_in_the_documentation():
    page = (Path(__file__).parents[2] / "docs/how-to/robot.md").read_text(encoding="utf-8")
    for field in dataclasses.fields(ShieldParameters):
        assert f"| `{field.name}` |" in page, field.name


def test_somebody_else_on_the_command_topic(robot: Robot):
    """Another shield, or a planner that was not redirected: neither may drive the robot past the other."""
    other = robot.node.create_publisher(TwistStamped, "cmd_vel", 1)
    robot.wait_state("STOP", "other_publisher")
    assert set(robot.wait_commands(3)) == {ZERO}
    robot.node.destroy_publisher(other)
    robot.wait_state("TASK", "")


# ------------------------------------------------------------------ lifecycle


def test_invalid_lifecycle_requests_do_no_harm(robot: Robot):
    for transition in (Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_CONFIGURE, 99):
        assert not robot.change_state(transition)
    robot.wait_state("TASK", "")
    assert robot.process.poll() is None


def test_deactivating_during_recovery(robot: Robot, known: Known):
    """Ends with a stop command and silence; who joins late still learns of it."""
    robot.obs = known.recovery_obs
    robot.wait_state("RECOVERY", "risk")
    assert robot.change_state(Transition.TRANSITION_DEACTIVATE)
    robot.listen(0.3)
    assert robot.commands[-1] == ZERO
    number = len(robot.commands)
    late: list[DiagnosticStatus] = []
    subscription = robot.node.create_subscription(DiagnosticStatus, "shield/state", late.append, LATCHED)
    robot.wait(lambda: late, "the latched state")
    assert late[0].message == "STOP deactivated"
    robot.node.destroy_subscription(subscription)
    assert len(robot.commands) == number
    assert robot.change_state(Transition.TRANSITION_ACTIVATE)
    robot.wait_state("RECOVERY", "risk")


def test_configuring_again(robot: Robot):
    for transition in (
        Transition.TRANSITION_DEACTIVATE,
        Transition.TRANSITION_CLEANUP,
        Transition.TRANSITION_CONFIGURE,
        Transition.TRANSITION_ACTIVATE,
    ):
        assert robot.change_state(transition)
    robot.wait_state("TASK", "")


# ---------------------------------------------------------------- filter mode


def test_commands_pass_are_clipped_or_replaced(filtering: Robot, known: Known):
    filtering.obs = known.replaced_obs
    values = filtering.wait_state("RECOVERY", "risk")
    filtering.wait_command(known.replaced.action)
    assert [float(number) for number in values["proposed"].split()] == pytest.approx(known.command)
    filtering.obs, filtering.command = known.clipped_obs, np.array([30.0, -30.0])
    filtering.wait(lambda: filtering.commands[-1] == (1.0, -1.0), "the clipped command")


@pytest.mark.parametrize("decides", [True, False])
def test_commands_are_decided_on_as_they_arrive(
    start: Callable[..., Robot], folder: Path, bundle: Path, known: Known, decides: bool
):
    """The timer alone would take two seconds for each."""
    slow = write_parameters(folder, bundle, mode="filter", rate_hz=0.5, decide_on_arrival=decides)
    robot = start("/arrivals" if decides else "/no_arrivals", slow)
    robot.command = known.command
    make_sound(robot, known.passed_obs)
    began = time.monotonic()
    robot.wait_commands(4)
    assert (time.monotonic() - began < 5) == decides


def test_the_commander_sends_no_numbers(filtering: Robot):
    filtering.command = np.array([math.nan, 0.0])
    assert_stops_at_once(filtering, "proposal_not_finite")


def test_the_commander_dies_or_hangs(filtering: Robot, known: Known):
    filtering.command = None
    filtering.wait_state("STOP", "commander_silent")
    command = [sys.executable, str(COMMANDER), filtering.namespace, *map(str, known.command)]
    process = subprocess.Popen(command)
    try:
        filtering.wait_state("TASK", "")
        filtering.wait_command(known.command)
        process.send_signal(signal.SIGSTOP)
        assert_stops_after_time_out(filtering, "commander_silent", "commander")
        process.send_signal(signal.SIGCONT)
        filtering.wait_state("TASK", "")
        process.kill()
        assert_stops_after_time_out(filtering, "commander_silent", "commander")
    finally:
        process.kill()
        process.wait()


def test_reset_needs_a_zero_command_first(filtering: Robot):
    assert filtering.trigger("trip").success
    filtering.wait_state("STOP", "emergency_stop")
    answer = filtering.trigger("reset")
    assert (answer.success, answer.message) == (False, "command zero first")
    filtering.command = np.zeros(2)
    filtering.listen(0.3)
    assert filtering.trigger("reset").success
    filtering.wait(lambda: filtering.values["mode"] != "STOP", "the end of the emergency stop")


def test_a_dry_run_behind_the_planner(start: Callable[..., Robot], folder: Path, bundle: Path, known: Known):
    """The planner drives; what the shield would have done goes where nobody obeys."""
    robot = start(
        "/dry_run",
        write_parameters(folder, bundle),
        mode="filter",
        command_topic="cmd_vel",
        output_topic="cmd_vel_shielded",
    )
    robot.obs = known.passed_obs
    planner = robot.node.create_publisher(TwistStamped, "cmd_vel", 1)
    would: list[TwistStamped] = []
    robot.node.create_subscription(TwistStamped, "cmd_vel_shielded", would.append, 10)

    def plan() -> None:
        message = TwistStamped()
        message.header.stamp = robot.present()
        message.twist.linear.x, message.twist.angular.z = map(float, known.command)
        planner.publish(message)

    robot.node.create_timer(0.05, plan)
    robot.wait_state("TASK", "")
    before = len(would)
    robot.wait(lambda: len(would) >= before + 3)
    assert_close((would[-1].twist.linear.x, would[-1].twist.angular.z), known.command)
    for command in robot.commands:
        assert_close(command, known.command)


# ------------------------------------------------------- the end of the process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_last_command_stops_the_robot(
    start: Callable[..., Robot], folder: Path, bundle: Path, known: Known, number
):
    robot = start("/ending", write_parameters(folder, bundle))
    make_sound(robot, known.task_obs)
    code, output = robot.end(number)
    robot.listen(0.3)
    assert code == 0, output
    assert "Traceback" not in output
    assert robot.commands[-1] == ZERO
    assert robot.states[-1].message == "STOP node_ended"


def test_a_killed_shield_falls_silent_and_comes_back(
    start: Callable[..., Robot], folder: Path, bundle: Path, known: Known
):
    """Nothing reaches the robot meanwhile: the base must stop by its own time-out."""
    robot = start("/respawned", write_parameters(folder, bundle), starter=True)
    make_sound(robot, known.task_obs)
    threads = Path(f"/proc/{robot.process.pid}/task").glob("*/children")  # each keeps a node
    children = [child for thread in threads for child in thread.read_text().split()]
    robot.speaking = False  # lest it drives as soon as it is back
    os.kill(int(children[0]), signal.SIGKILL)
    robot.wait(lambda: "restart 1 of 5" in robot.output, "the restart")
    robot.wait_state("STOP", "odom_never_seen")
    robot.wait_commands(2)
    gaps = np.diff(robot.command_stamps_sec)
    before = int(gaps.argmax())
    assert gaps[before] > SHIELD.restart_delay_sec, gaps
    assert_close(robot.commands[before], known.task.action)  # the last that the robot heard was no stop
    assert set(robot.commands[before + 1 :]) == {ZERO}
    make_sound(robot, known.task_obs)
    code, output = robot.end()
    robot.listen(0.3)
    assert code == 0, output
    assert robot.commands[-1] == ZERO


def test_the_policy_overruns(start: Callable[..., Robot], folder: Path, tmp_path: Path, bundle: Path):
    robot = start("/overrun", write_parameters(folder, change(bundle, tmp_path / "slow", deadline_sec=1e-9)))
    robot.wait_state("STOP", "overrun")
    assert set(robot.wait_commands(3)) == {ZERO}


def test_the_clock_jumps(start: Callable[..., Robot], folder: Path, bundle: Path, known: Known):
    robot = start("/clock_jump", write_parameters(folder, bundle, use_sim_time=True))
    robot.clock_sec = 1000.0
    make_sound(robot, known.task_obs)
    for jump_sec in (-500.0, 500.0):
        robot.clock_sec += jump_sec
        robot.wait_state("STOP", "clock_jumped")
        robot.wait_state("TASK", "")
    robot.clock_runs = False
    robot.wait_state("STOP", "odom_stamp_frozen")
    assert set(robot.wait_commands(3)) == {ZERO}  # the loop does not stand still with the clock


# ------------------------------------------------------------------- bad input


def test_a_topic_of_another_type_is_named(start: Callable[..., Robot], folder: Path, bundle: Path):
    scan = {**MAPPING["observation"]["scan"], "topic": "cmd_vel_in"}
    robot = start("/mixed_up", write_parameters(folder, bundle, observation={**MAPPING["observation"], "scan": scan}))
    robot.wait_state("STOP", "scan_never_seen")
    expected = "/mixed_up/cmd_vel_in carries geometry_msgs/msg/TwistStamped: sensor_msgs/msg/LaserScan is wanted"
    robot.wait(lambda: expected in robot.output, expected)


def test_a_parameter_file_for_another_node(tmp_path: Path):
    path = tmp_path / "robot.yaml"
    path.write_text("planner: {ros__parameters: {autostart: true}}", encoding="utf-8")
    code, lines = run_to_the_end(SHIELD.command_line(SHIELD.values({"params_file": str(path), "namespace": "r2"})))
    assert code == 2
    assert lines[0].endswith("does the parameter file name /r2/shield, or any node by /**?")


@pytest.mark.parametrize("arguments", [["params_file:=nowhere.yaml"], ["mode:=polite"], ["speed:=3"], ["filter"]])
def test_arguments_that_are_refused(arguments: list[str]):
    code, lines = run_to_the_end([sys.executable, "-m", "ros_nodes.start", "shield", *arguments])
    assert code == 2
    assert len(lines) == 1, lines


def run_to_the_end(command: list[str]) -> tuple[int, list[str]]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, [line for line in done.stderr.splitlines() if ": error: " in line]


def damaged(bundle: Path, folder: Path) -> Path:
    copy = folder / "damaged"
    copy.mkdir()
    for file in bundle.iterdir():
        content = file.read_bytes()
        (copy / file.name).write_bytes(content[:-100] if file.name == "weights.safetensors" else content)
    return copy


def one_source(**changes: Any) -> dict[str, Any]:
    return {"observation": {"sources": ["odom"], "odom": {**MAPPING["observation"]["odom"], **changes}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bundle": "/nowhere"}, "/nowhere"),
        ({"bundle": damaged}, "weights.safetensors"),
        ({"rate_hz": 1e6}, "rate_hz"),
        ({"rate_hz": "fast"}, "rate_hz"),
        ({"mode": "polite"}, "mode is 'polite'"),
        (one_source(type="nav_msgs/msg/Odometer"), "nav_msgs has no message Odometer"),
        (one_source(type="zoo_msgs/msg/Lion"), "zoo_msgs is not installed"),
        (one_source(entry="pose"), "observation.odom.entry"),
        ({"action": {**MAPPING["action"], "fields": ["twist.linear.x"]}}, "the bundle's action has 2"),
        ({"observation": {"sources": ["odom"]}}, "it has no section odom"),
        ({"observation": {"sources": ["odom"], "odom": {"topic": "odom"}}}, "observation.odom has no type"),
        ({"eps_risk": 0.9}, "looser than the bundle's"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    folder: Path, tmp_path: Path, bundle: Path, changes: dict[str, Any], message: str
):
    changes = {name: value(bundle, tmp_path) if callable(value) else value for name, value in changes.items()}
    params_file = write_parameters(folder, changes.pop("bundle", bundle), **changes)
    command = [sys.executable, "-m", "ros_nodes.shield_node", "--ros-args", "--params-file", str(params_file)]
    code, lines = run_to_the_end([*command, "-p", "autostart:=true"])
    assert code == 2
    assert len(lines) == 1, lines
    assert message in lines[0]
