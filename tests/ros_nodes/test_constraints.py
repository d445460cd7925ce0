"""Labels of violations from sensors, without ROS: limits, regions, holds, and what is not known."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ros_nodes.constraints import ConstraintMonitor, Status, distance_outside, verdict
from ros_nodes.sources import Arrival, Now
from safe_rl.errors import UserError

BUMPER = {"topic": "bumper", "type": "std_msgs/msg/Bool", "fields": ["data"]}
FRONT = {"topic": "scan", "type": "sensor_msgs/msg/LaserScan", "fields": ["ranges"], "min": 0.2}
TILT = {
    "topic": "imu",
    "type": "sensor_msgs/msg/Imu",
    "fields": ["roll(orientation)", "pitch(orientation)"],
    "min": -0.5,
    "max": 0.5,
}
YARD = {
    "topic": "odom",
    "type": "nav_msgs/msg/Odometry",
    "fields": ["pose.pose.position.x", "pose.pose.position.y"],
    "polygon": [0.0, 0.0, 4.0, 0.0, 4.0, 2.0, 0.0, 2.0],
}


def make(**sections: dict[str, Any]) -> ConstraintMonitor:
    return ConstraintMonitor.from_dict({"constraints": list(sections), **sections, "rate_hz": 20.0})


class Feed:
    """One constraint, and messages for it."""

    def __init__(self, section: dict[str, Any], **changes: Any) -> None:
        self.monitor = make(one={**section, **changes})
        self.constraint = self.monitor.constraints["one"]

    def send(self, at: float, frame_id: str = "", stamp: float | None = None, **fields: Any) -> None:
        message = SimpleNamespace(header=SimpleNamespace(frame_id=frame_id), **fields)
        self.constraint.receive(Arrival(message, at, stamp))

    def state(self, at: float) -> tuple[Status, str]:
        state = self.constraint.state(Now(at, at))
        return state.status, state.reason

    def values(self, at: float) -> tuple[float, float]:
        state = self.constraint.state(Now(at, at))
        return state.value, state.limit


def pose(x: float, y: float) -> Any:
    return SimpleNamespace(pose=SimpleNamespace(position=SimpleNamespace(x=x, y=y)))


def turned(roll: float = 0.0, pitch: float = 0.0) -> Any:
    """A quaternion of a rotation about x or about y."""
    angle = roll or pitch
    axis = (math.sin(roll / 2), 0.0) if roll else (0.0, math.sin(pitch / 2))
    return SimpleNamespace(x=axis[0], y=axis[1], z=0.0, w=math.cos(angle / 2))


def test_a_bumper_needs_no_limit() -> None:
    feed = Feed(BUMPER)
    feed.send(0.0, data=False)
    assert feed.state(0.1) == (Status.SAFE, "")
    feed.send(0.1, data=True)
    assert feed.state(0.2) == (Status.VIOLATED, "above_max")
    assert feed.values(0.2) == (1.0, 0.0)


def test_an_effort_above_its_limit() -> None:
    feed = Feed({"topic": "j", "type": "sensor_msgs/msg/JointState", "fields": ["effort[elbow]"], "min": -5, "max": 5})
    for effort, expected in ((4.9, Status.SAFE), (5.0, Status.SAFE), (5.1, Status.VIOLATED), (-5.1, Status.VIOLATED)):
        feed.send(0.0, name=["wrist", "elbow"], effort=[99.0, effort])
        assert feed.state(0.0)[0] is expected
    assert feed.values(0.0) == (-5.1, -5.0)
    feed.send(0.0, name=["wrist"], effort=[0.0])
    assert feed.state(0.0) == (Status.UNKNOWN, "one_unreadable")


def test_the_nearest_of_a_scan() -> None:
    feed = Feed(FRONT)
    feed.send(0.0, ranges=[math.inf, 0.9, 0.25])
    assert feed.state(0.0) == (Status.SAFE, "")
    assert feed.values(0.0) == (0.25, 0.2)
    feed.send(0.0, ranges=[math.inf, 0.9, 0.15])
    assert feed.state(0.0) == (Status.VIOLATED, "below_min")
    assert feed.values(0.0) == (0.15, 0.2)
    feed.send(0.0, ranges=[1.0, -math.inf])  # too near to be measured
    assert feed.state(0.0)[0] is Status.VIOLATED
    feed.send(0.0, ranges=[math.inf, math.inf])
    assert feed.state(0.0)[0] is Status.SAFE


@pytest.mark.parametrize(
    ("ranges", "changes", "expected"),
    [
        ([math.nan, 1.0, 1.0, 1.0], {}, Status.UNKNOWN),
        ([math.nan, 1.0, 1.0, 1.0], {"max_invalid_share": 0.25}, Status.SAFE),
        ([math.nan, math.nan, 1.0, 1.0], {"max_invalid_share": 0.25}, Status.UNKNOWN),
        ([math.nan, math.nan, 0.1, 1.0], {"max_invalid_share": 0.25}, Status.VIOLATED),  # what is seen is enough
        ([math.nan, math.nan], {"max_invalid_share": 0.9}, Status.UNKNOWN),
        ([], {}, Status.UNKNOWN),
        ([0.0, 1.0, 1.0, 1.0], {}, Status.VIOLATED),
        ([0.0, 1.0, 1.0, 1.0], {"ignore_below": 0.05, "max_invalid_share": 0.5}, Status.SAFE),
    ],
)
def test_what_is_no_measurement_is_never_safe(ranges: list[float], changes: dict, expected: Status) -> None:
    feed = Feed(FRONT, **changes)
    feed.send(0.0, ranges=ranges)
    status, reason = feed.state(0.0)
    assert status is expected
    assert expected is not Status.UNKNOWN or reason == "one_no_measurement"


def test_tilt_either_way() -> None:
    feed = Feed(TILT)
    for angles, expected in (
        ({"roll": 0.4}, Status.SAFE),
        ({"roll": 0.6}, Status.VIOLATED),
        ({"roll": -0.6}, Status.VIOLATED),
        ({"pitch": 0.4}, Status.SAFE),
        ({"pitch": 0.6}, Status.VIOLATED),
        ({"pitch": -0.6}, Status.VIOLATED),
    ):
        feed.send(0.0, orientation=turned(**angles))
        assert feed.state(0.0)[0] is expected, angles
    assert feed.values(0.0) == pytest.approx((-0.6, -0.5))


def test_a_region_to_stay_in() -> None:
    feed = Feed(YARD)
    for point, expected, distance in (
        ((1.0, 0.5), Status.SAFE, -0.5),
        ((4.0, 1.0), Status.SAFE, 0.0),
        ((4.5, 1.0), Status.VIOLATED, 0.5),
        ((7.0, 6.0), Status.VIOLATED, 5.0),  # 3, 4, 5 from the corner
        ((1.0, -0.25), Status.VIOLATED, 0.25),
    ):
        feed.send(0.0, pose=pose(*point))
        assert feed.state(0.0)[0] is expected, point
        assert feed.values(0.0) == pytest.approx((distance, 0.0))
    for lost in ((math.nan, 1.0), (1.0, math.inf)):
        feed.send(0.0, pose=pose(*lost))
        assert feed.state(0.0) == (Status.UNKNOWN, "one_no_measurement")


def test_a_region_to_stay_out_of() -> None:
    feed = Feed(YARD, keep_out=True)
    for point, expected in (((1.0, 0.5), Status.VIOLATED), ((4.0, 1.0), Status.VIOLATED), ((4.5, 1.0), Status.SAFE)):
        feed.send(0.0, pose=pose(*point))
        assert feed.state(0.0)[0] is expected, point


def test_distance_of_a_region_with_a_notch() -> None:
    corners = np.array([(0, 0), (3, 0), (3, 3), (2, 3), (2, 1), (1, 1), (1, 3), (0, 3)], dtype=float)  # a U
    assert distance_outside(np.array([1.5, 2.0]), corners) == pytest.approx(0.5)  # within the notch
    assert distance_outside(np.array([0.5, 2.0]), corners) == pytest.approx(-0.5)
    assert distance_outside(np.array([1.5, 0.5]), corners) == pytest.approx(-0.5)


@given(st.floats(-5, 5), st.floats(-5, 5))
def test_distance_of_a_square_is_the_closed_form(x: float, y: float) -> None:
    square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=float)
    dx, dy = abs(x) - 1, abs(y) - 1
    expected = math.hypot(max(dx, 0), max(dy, 0)) if max(dx, dy) > 0 else max(dx, dy)
    assert distance_outside(np.array([x, y]), square) == pytest.approx(expected, abs=1e-12)


def test_silence_is_unknown_not_safe() -> None:
    feed = Feed(BUMPER)
    assert feed.state(0.0) == (Status.UNKNOWN, "one_never_seen")
    feed.send(1.0, data=False)
    assert feed.state(1.5)[0] is Status.SAFE
    assert feed.state(1.51) == (Status.UNKNOWN, "one_silent")


def test_stamps_are_checked() -> None:
    feed = Feed(FRONT)
    feed.send(10.0, stamp=9.0, ranges=[1.0])
    assert feed.state(10.0) == (Status.UNKNOWN, "one_stamp_too_old")
    feed.send(10.0, stamp=10.5, ranges=[1.0])
    assert feed.state(10.0) == (Status.UNKNOWN, "one_stamp_in_the_future")


def test_the_frame_is_checked() -> None:
    feed = Feed(FRONT, frame_id="base_scan")
    feed.send(0.0, frame_id="camera", ranges=[1.0])
    assert feed.state(0.0) == (Status.UNKNOWN, "one_wrong_frame")
    feed.send(0.0, frame_id="base_scan", ranges=[1.0])
    assert feed.state(0.0) == (Status.SAFE, "")


def test_a_short_contact_between_two_reports_is_reported_once() -> None:
    feed = Feed(BUMPER)
    feed.send(0.00, data=True)
    feed.send(0.01, data=False)
    assert feed.state(0.05)[0] is Status.VIOLATED
    assert feed.state(0.10)[0] is Status.SAFE


def test_a_violation_is_held_even_into_silence() -> None:
    feed = Feed(BUMPER, hold_sec=1.0)
    feed.send(0.0, data=True)
    feed.send(0.1, data=False)
    assert [feed.state(at)[0] for at in (0.1, 0.5, 0.99, 1.0)] == [Status.VIOLATED] * 3 + [Status.UNKNOWN]


def test_one_violated_constraint_decides_then_one_unknown() -> None:
    monitor = make(bumper=BUMPER, front=FRONT)
    now = Now(0.0, 0.0)

    def send(name: str, **fields: Any) -> None:
        monitor.constraints[name].receive(Arrival(SimpleNamespace(**fields), 0.0, None))

    assert verdict(monitor.states(now)) is Status.UNKNOWN
    send("bumper", data=False)
    assert verdict(monitor.states(now)) is Status.UNKNOWN
    send("bumper", data=True)
    assert verdict(monitor.states(now)) is Status.VIOLATED
    send("bumper", data=False)
    send("front", ranges=[1.0])
    assert verdict(monitor.states(now)) is Status.SAFE
    assert [state.name for state in monitor.states(now)] == ["bumper", "front"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "constraints is None: it must be a list of names"),
        ({"constraints": []}, "must be a list of names"),
        ({"constraints": ["front"]}, "constraint front is not declared"),
        ({"constraints": ["front"], "front": FRONT, "tlit": TILT}, "tlit is not among constraints"),
        ({"constraints": ["front"], "front": 3}, "constraint front is no section"),
        (
            {"constraints": ["front"], "front": {**FRONT, "mim": 1.0}},
            "constraint front has no 'mim'; did you mean min?",
        ),
        ({"constraints": ["front"], "front": {**FRONT, "min": "low"}}, "constraint front.min is 'low': .* a number"),
        ({"constraints": ["front"], "front": {**FRONT, "max": 0.1}}, "front.min is 0.2: it must be at most max"),
        ({"constraints": ["front"], "front": {**FRONT, "min": math.nan}}, "front: limits and hold_sec must be numbers"),
        ({"constraints": ["front"], "front": {**FRONT, "hold_sec": -1.0}}, "front.hold_sec is -1.0"),
        ({"constraints": ["front"], "front": {**FRONT, "timeout_sec": 0.0}}, "constraint front.timeout_sec is 0.0"),
        ({"constraints": ["front"], "front": {**FRONT, "max_invalid_share": 1.0}}, "max_invalid_share is 1.0"),
        ({"constraints": ["front"], "front": {**FRONT, "type": "LaserScan"}}, "constraint front.type is LaserScan"),
        ({"constraints": ["front"], "front": {**FRONT, "fields": ["ranges["]}}, "is no path"),
        ({"constraints": ["front"], "front": {**FRONT, "keep_out": True}}, "keep_out needs a polygon"),
        ({"constraints": ["front"], "front": {**FRONT, "keep_out": 1}}, "keep_out is 1: it must be true or false"),
        ({"constraints": ["yard"], "yard": {**YARD, "polygon": [0.0, 0.0, 1.0, 1.0]}}, "x and y of 3 corners"),
        ({"constraints": ["yard"], "yard": {**YARD, "max": 1.0}}, "either polygon or min and max"),
        ({"constraints": ["yard"], "yard": {**YARD, "fields": ["pose.pose.position.x"]}}, "needs two, x and y"),
        (
            {"constraints": ["eye"], "eye": {"topic": "c", "type": "sensor_msgs/msg/Image"}},
            "no violation can be read from a picture",
        ),
    ],
)
def test_bad_declarations_are_named_in_one_line(content: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ConstraintMonitor.from_dict(content)
