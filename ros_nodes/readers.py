"""What a mapping takes from a message: numbers, a picture, a command. Knows neither rclpy nor ``rosbags``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ros_nodes.fields import FieldError, FieldPath
from ros_nodes.mapping import ActionSpec, SourceSpec
from safe_rl.errors import UserError

Array = npt.NDArray[Any]

_CHANNELS = {"rgb8": 3, "bgr8": 3, "8UC3": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "8UC1": 1}
_TO_RGB = {"rgb8": [0, 1, 2], "rgba8": [0, 1, 2], "bgr8": [2, 1, 0], "bgra8": [2, 1, 0], "8UC3": [2, 1, 0]}
"""OpenCV's nameless pictures of three channels are blue, green, red."""
_GREY = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in brightness (ITU-R BT.601), as OpenCV has them."""
_JOINTS = "trajectory_msgs/msg/JointTrajectory"
_ARRAY = "std_msgs/msg/Float64MultiArray"


class SourceError(Exception):
    """A message that cannot be used.

    Attributes:
        reason: Machine-readable: ``field_missing``, ``wrong_frame``, ``wrong_encoding``, ``wrong_size``,
            ``image_damaged`` or ``crop_outside``.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def read_message(message: Any, spec: SourceSpec) -> Array:
    """Returns what a source takes from one of its messages.

    Args:
        message: A message of ``spec.type``.
        spec: What to take.

    Returns:
        (n,) float32 numbers, clipped, then scaled; NaN stays NaN. Of a picture (height, width, channels) uint8.

    Raises:
        SourceError: It is of another frame or encoding, lacks a field, or is damaged.
        UserError: A picture has to be scaled or decoded, and OpenCV is not installed.
    """
    if spec.frame_id:
        frame = str(getattr(getattr(message, "header", None), "frame_id", "")).lstrip("/")
        if frame != spec.frame_id.lstrip("/"):
            raise SourceError("wrong_frame", f"frame {frame or 'none'} in place of {spec.frame_id}")
    return _read_image(message, spec) if spec.is_image else _read_numbers(message, spec)


def stack_readings(readings: Sequence[Array]) -> Array:
    """Puts the readings of consecutive messages together, the oldest first: pictures by their channels."""
    return readings[0] if len(readings) == 1 else np.concatenate(readings, axis=-1)


def read_action(message: Any, spec: ActionSpec) -> Array:
    """Returns the action (act_dim,) float32 that a command carries, joints in the mapping's order.

    Raises:
        SourceError: The command lacks a field, a joint or its only point.
    """
    try:
        if spec.type == _ARRAY:
            values = _path("data").read(message)
        elif spec.type == _JOINTS:
            positions = _path("points[0].positions").read(message)
            names = [str(name) for name in message.joint_names]
            if len(positions) != len(names):
                raise SourceError("wrong_size", f"{len(positions)} positions of {len(names)} joints")
            missing = [joint for joint in spec.fields if joint not in names]
            if missing:
                raise SourceError("field_missing", f"no joint {missing[0]} among {', '.join(names) or 'none'}")
            values = np.array([positions[names.index(joint)] for joint in spec.fields])
        else:
            values = np.concatenate([_path(field).read(message) for field in spec.fields])
    except FieldError as error:
        raise SourceError("field_missing", str(error)) from error
    return _float32(values)


def require_opencv(spec: SourceSpec, where: str) -> None:
    """Checks that what a source needs is installed, before anything moves.

    Raises:
        UserError: It reads pictures by OpenCV, which is not installed.
    """
    if spec.type.endswith("/CompressedImage") or (spec.is_image and spec.resize):
        try:
            _opencv()
        except UserError as error:
            raise UserError(f"mapping: {where}: {error}") from error


def _read_numbers(message: Any, spec: SourceSpec) -> Array:
    try:
        values = np.concatenate([_path(field).read(message) for field in spec.fields])
    except FieldError as error:
        raise SourceError("field_missing", str(error)) from error
    if spec.clip:
        values = np.clip(values, spec.clip[0], spec.clip[1])
    return _float32(values * spec.scale + spec.offset)


def _float32(values: npt.NDArray[np.float64]) -> Array:
    with np.errstate(over="ignore"):  # what overflows float32 is found as infinity
        return values.astype(np.float32)


def _read_image(message: Any, spec: SourceSpec) -> Array:
    image = _decoded(message) if spec.type.endswith("/CompressedImage") else _raw(message)
    if spec.crop:
        top, left, bottom, right = spec.crop
        if not (0 <= top < bottom <= image.shape[0] and 0 <= left < right <= image.shape[1]):
            raise SourceError("crop_outside", f"crop {list(spec.crop)} of {image.shape[0]} x {image.shape[1]} pixels")
        image = image[top:bottom, left:right]
    image = _colours(image, spec.encoding)
    if spec.resize and image.shape[:2] != spec.resize:
        cv2 = _opencv()
        height, width = spec.resize
        shrinks = height * width < image.shape[0] * image.shape[1]
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        image = image.reshape(height, width, -1)  # OpenCV drops a single channel
    return np.ascontiguousarray(image)


def _raw(message: Any) -> Array:
    """The picture of an Image as (height, width, 3) red, green, blue, or (height, width, 1) grey."""
    channels = _CHANNELS.get(message.encoding)
    if channels is None:
        raise SourceError("wrong_encoding", f"{message.encoding!r}: known are {', '.join(_CHANNELS)}")
    height, width, step = int(message.height), int(message.width), int(message.step)
    data = np.frombuffer(message.data, dtype=np.uint8)
    if not height or not width or step < width * channels or data.size != height * step:
        raise SourceError("wrong_size", f"{data.size} bytes for {height} x {width} pixels of {channels}, step {step}")
    pixels = data.reshape(height, step)[:, : width * channels].reshape(height, width, channels)
    return pixels if channels == 1 else pixels[..., _TO_RGB[message.encoding]]


def _decoded(message: Any) -> Array:
    """The picture of a CompressedImage as (height, width, 3) red, green, blue."""
    if re.search(r"16UC1|32FC1|compressedDepth", message.format):
        raise SourceError("wrong_encoding", f"{message.format!r} holds depth")
    cv2 = _opencv()
    data = np.frombuffer(message.data, dtype=np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise SourceError("image_damaged", f"{data.size} bytes of {message.format!r} are no picture")
    return np.asarray(image)[..., ::-1]


def _colours(image: Array, encoding: str) -> Array:
    """Red, green, blue or grey as ``encoding``."""
    if encoding == "mono8":
        return image if image.shape[2] == 1 else np.rint(image @ _GREY).astype(np.uint8)[..., None]
    coloured = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    return coloured[..., ::-1] if encoding == "bgr8" else coloured


@lru_cache(maxsize=1024)
def _path(text: str) -> FieldPath:
    return FieldPath.parse(text)


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            "pictures are decoded and scaled by OpenCV, which is not installed: pip install opencv-python-headless, "
            "or apt-get install python3-opencv on a robot"
        ) from error
    return cv2
