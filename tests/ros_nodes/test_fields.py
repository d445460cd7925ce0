"""Paths into messages, with numbers worked by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace as Message

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ros_nodes.fields import FieldError, FieldPath
from safe_rl.errors import UserError


def read(text: str, message: object) -> list[float]:
    return FieldPath.parse(text).read(message).tolist()


JOINTS = Message(name=["lift", "elbow"], position=[0.1, 0.2])
TWIST = Message(twist=Message(linear=Message(x=3.0, y=4.0, z=0.0)))
SCAN = Message(ranges=np.arange(8, dtype=np.float32))


@pytest.mark.parametrize(
    ("text", "message", "numbers"),
    [
        ("twist.linear.x", TWIST, [3.0]),
        ("norm(twist.linear)", TWIST, [5.0]),
        ("ranges", SCAN, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("ranges[0:8:3]", SCAN, [0, 3, 6]),
        ("ranges[-1]", SCAN, [7]),
        ("position[elbow]", JOINTS, [0.2]),
        ("points[0].positions", Message(points=[Message(positions=[1.0, 2.0])]), [1.0, 2.0]),
        ("data", Message(data=True), [1.0]),
    ],
)
def test_numbers(text: str, message: object, numbers: list[float]) -> None:
    assert read(text, message) == numbers


@given(st.floats(-1.5, 1.5), st.floats(-1.5, 1.5), st.floats(-3.1, 3.1))
def test_angles_of_a_quaternion_come_back(roll: float, pitch: float, yaw: float) -> None:
    cr, sr, cp, sp, cy, sy = (f(angle / 2) for angle in (roll, pitch, yaw) for f in (math.cos, math.sin))
    quaternion = Message(
        w=cr * cp * cy + sr * sp * sy,
        x=sr * cp * cy - cr * sp * sy,
        y=cr * sp * cy + sr * cp * sy,
        z=cr * cp * sy - sr * sp * cy,
    )
    pose = Message(orientation=quaternion)
    angles = [read(f"{name}(orientation)", pose)[0] for name in ("roll", "pitch", "yaw")]
    np.testing.assert_allclose(angles, [roll, pitch, yaw], atol=1e-6)


def test_angles_of_nan_are_nan() -> None:
    pose = Message(orientation=Message(x=math.nan, y=0.0, z=0.0, w=1.0))
    assert all(math.isnan(read(f"{name}(orientation)", pose)[0]) for name in ("roll", "pitch", "yaw"))


@pytest.mark.parametrize("text", ["", "1x", "a..b", "speed(twist)", "yaw(a", "a)", "a[0:x]", "a[1:2:3:4]", "a b"])
def test_what_is_no_path(text: str) -> None:
    with pytest.raises(UserError, match=r"field .* (is no path|unknown function|no range)"):
        FieldPath.parse(text)


@pytest.mark.parametrize(
    ("text", "message", "says"),
    [
        ("twist.angular.x", TWIST, "no field angular"),
        ("ranges[9]", SCAN, "8 values has no 9"),
        ("position[wrist]", JOINTS, "no joint wrist among lift, elbow"),
        ("twist.linear", TWIST, "is no number"),
        ("yaw(twist.linear)", TWIST, "is no number"),
    ],
)
def test_paths_that_lead_nowhere(text: str, message: object, says: str) -> None:
    with pytest.raises(FieldError, match=says):
        read(text, message)
