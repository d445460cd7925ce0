"""What is taken from messages: numbers and pixels worked by hand, and the reason of each refusal."""

from __future__ import annotations

import array
import sys
from types import SimpleNamespace as Message
from typing import Any

import numpy as np
import pytest

from ros_nodes.mapping import ActionSpec, SourceSpec
from ros_nodes.readers import SourceError, read_action, read_message, require_opencv, stack_readings
from safe_rl.errors import UserError

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


def source(**values: Any) -> SourceSpec:
    return SourceSpec(**{"topic": "t", "type": "sensor_msgs/msg/LaserScan", **values})


def reason(message: Any, spec: SourceSpec | ActionSpec) -> str:
    read: Any = read_message if isinstance(spec, SourceSpec) else read_action
    with pytest.raises(SourceError) as caught:
        read(message, spec)
    return caught.value.reason


class TestNumbers:
    def test_fields_follow_each_other(self) -> None:
        numbers = read_message(Message(a=1.0, b=[2.0, 3.0]), source(fields=("b", "a")))
        assert numbers.dtype == np.float32
        assert numbers.tolist() == [2, 3, 1]

    def test_clipped_first_then_scaled(self) -> None:
        message = Message(ranges=[np.inf, 1.0, -np.inf, np.nan])
        numbers = read_message(message, source(fields=("ranges",), clip=(0.0, 4.0), scale=0.5, offset=-1.0))
        np.testing.assert_array_equal(numbers, [1.0, -0.5, -1.0, np.nan])

    def test_missing_field(self) -> None:
        assert reason(Message(a=1.0), source(fields=("b",))) == "field_missing"

    @pytest.mark.parametrize(("wanted", "sent"), [("map", "map"), ("map", "/map"), ("", "anything")])
    def test_frames_that_pass(self, wanted: str, sent: str) -> None:
        message = Message(header=Message(frame_id=sent), a=1.0)
        assert read_message(message, source(fields=("a",), frame_id=wanted)).tolist() == [1]

    @pytest.mark.parametrize("message", [Message(header=Message(frame_id="odom"), a=1.0), Message(a=1.0)])
    def test_frames_that_do_not(self, message: Any) -> None:
        assert reason(message, source(fields=("a",), frame_id="map")) == "wrong_frame"


def image(encoding: str, pixels: Any, padding: int = 0) -> Message:
    rows = np.asarray(pixels, dtype=np.uint8)
    height, width = rows.shape[:2]
    flat = np.pad(rows.reshape(height, -1), ((0, 0), (0, padding)), constant_values=99)
    # As rclpy has it; rosbags' arrays of NumPy come in the tests of recordings.
    data = array.array("B", flat.tobytes())
    return Message(encoding=encoding, height=height, width=width, step=flat.shape[1], data=data)


RED_BLUE = [[[255, 0, 0], [0, 0, 255]]]
"""One row: a red pixel, a blue one."""


class TestImages:
    @pytest.mark.parametrize("padding", [0, 3])
    def test_rows_may_be_padded(self, padding: int) -> None:
        got = read_message(image("rgb8", RED_BLUE, padding), source(type=IMAGE))
        assert got.dtype == np.uint8
        assert got.tolist() == RED_BLUE

    @pytest.mark.parametrize(
        ("encoding", "pixels", "wanted", "expected"),
        [
            ("bgr8", RED_BLUE, "rgb8", [[[0, 0, 255], [255, 0, 0]]]),
            ("rgb8", RED_BLUE, "bgr8", [[[0, 0, 255], [255, 0, 0]]]),
            ("bgra8", [[[1, 2, 3, 9]]], "rgb8", [[[3, 2, 1]]]),
            ("rgba8", [[[1, 2, 3, 9]]], "rgb8", [[[1, 2, 3]]]),
            ("rgb8", RED_BLUE, "mono8", [[[76], [29]]]),  # 0.299 * 255 and 0.114 * 255
            ("mono8", [[[7]]], "rgb8", [[[7, 7, 7]]]),
            ("8UC1", [[[7]]], "mono8", [[[7]]]),
        ],
    )
    def test_encodings(self, encoding: str, pixels: Any, wanted: str, expected: Any) -> None:
        assert read_message(image(encoding, pixels), source(type=IMAGE, encoding=wanted)).tolist() == expected

    def test_crop_is_top_left_bottom_right(self) -> None:
        pixels = np.arange(12).reshape(3, 4, 1)
        got = read_message(image("mono8", pixels), source(type=IMAGE, encoding="mono8", crop=(1, 2, 3, 4)))
        assert got[..., 0].tolist() == [[6, 7], [10, 11]]

    def test_shrinking_takes_means(self) -> None:
        pytest.importorskip("cv2")
        pixels = np.array([[0, 2, 10, 10], [4, 6, 10, 10]])[..., None]
        got = read_message(image("mono8", pixels), source(type=IMAGE, encoding="mono8", resize=(1, 2)))
        assert got.tolist() == [[[3], [10]]]

    @pytest.mark.parametrize("encoding", ["16UC1", "32FC1", "bayer_rggb8", ""])
    def test_encodings_that_are_refused(self, encoding: str) -> None:
        assert reason(image(encoding, RED_BLUE), source(type=IMAGE)) == "wrong_encoding"

    def test_data_that_is_too_short(self) -> None:
        message = image("rgb8", RED_BLUE)
        message.data = message.data[:-1]
        assert reason(message, source(type=IMAGE)) == "wrong_size"

    def test_step_shorter_than_a_row(self) -> None:
        message = image("mono8", np.zeros((3, 2, 1)))
        message.width, message.step = 3, 2
        assert reason(message, source(type=IMAGE)) == "wrong_size"

    def test_crop_outside(self) -> None:
        assert reason(image("rgb8", RED_BLUE), source(type=IMAGE, crop=(0, 0, 2, 2))) == "crop_outside"

    def test_stack_puts_the_oldest_first(self) -> None:
        assert stack_readings([np.array([1, 2]), np.array([3, 4])]).tolist() == [1, 2, 3, 4]
        old, new = np.zeros((1, 1, 1)), np.ones((1, 1, 1))
        assert stack_readings([old, new]).tolist() == [[[0, 1]]]


class TestCompressedImages:
    def test_png_comes_back_exactly(self) -> None:
        cv2 = pytest.importorskip("cv2")
        bgr = np.array(RED_BLUE, dtype=np.uint8)[..., ::-1]
        data = array.array("B", cv2.imencode(".png", bgr)[1].tobytes())
        message = Message(format="rgb8; png compressed bgr8", data=data)
        assert read_message(message, source(type=COMPRESSED)).tolist() == RED_BLUE

    @pytest.mark.parametrize("data", [b"", b"no picture"])
    def test_damaged(self, data: bytes) -> None:
        pytest.importorskip("cv2")
        message = Message(format="jpeg", data=array.array("B", data))
        assert reason(message, source(type=COMPRESSED)) == "image_damaged"

    def test_depth_is_refused(self) -> None:
        message = Message(format="16UC1; compressedDepth png", data=array.array("B", b"x"))
        assert reason(message, source(type=COMPRESSED)) == "wrong_encoding"

    def test_without_opencv_one_line_says_what_brings_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "cv2", None)
        with pytest.raises(UserError, match=r"observation.camera: .* pip install opencv-python-headless"):
            require_opencv(source(type=COMPRESSED), "observation.camera")
        require_opencv(source(type=IMAGE), "observation.camera")  # a picture as it is needs none


class TestActions:
    def test_twist(self) -> None:
        spec = ActionSpec("c", "geometry_msgs/msg/Twist", ("angular.z", "linear.x"))
        message = Message(linear=Message(x=0.5), angular=Message(z=-1.0))
        assert read_action(message, spec).tolist() == [-1.0, 0.5]

    def test_joints_in_the_mappings_order(self) -> None:
        spec = ActionSpec("c", "trajectory_msgs/msg/JointTrajectory", ("lift", "elbow"))
        message = Message(joint_names=["elbow", "wrist", "lift"], points=[Message(positions=[1.0, 2.0, 3.0])])
        assert read_action(message, spec).tolist() == [3.0, 1.0]
        message.joint_names = ["elbow", "wrist", "hand"]
        assert reason(message, spec) == "field_missing"
        message.joint_names = ["elbow", "lift"]
        assert reason(message, spec) == "wrong_size"
        message.points = []
        assert reason(message, spec) == "field_missing"

    def test_array(self) -> None:
        message = Message(data=array.array("d", [1.0, 2.0]))
        assert read_action(message, ActionSpec("c", "std_msgs/msg/Float64MultiArray")).tolist() == [1.0, 2.0]
