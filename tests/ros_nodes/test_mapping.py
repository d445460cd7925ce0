"""Mappings: what is read, and what each mistake is told as."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from ros_nodes.mapping import MappingSpec
from safe_rl.errors import UserError

MAPPING: dict[str, Any] = {
    "observation": {
        "sources": ["scan", "odom"],
        "scan": {"topic": "scan", "type": "sensor_msgs/msg/LaserScan", "fields": ["ranges[0:4]"], "clip": [0, 3.5]},
        "odom": {"topic": "/odom", "type": "nav_msgs/msg/Odometry", "fields": "twist.twist.linear.x", "scale": 2},
    },
    "action": {
        "topic": "cmd_vel",
        "type": "geometry_msgs/msg/Twist",
        "fields": ["linear.x", "angular.z"],
        "low": [-1, -2],
        "high": [1, 2],
    },
    "cost": {"topic": "violation", "type": "std_msgs/msg/Bool", "fields": ["data"]},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    content = copy.deepcopy(MAPPING)
    *owners, last = path.split(".")
    place = content
    for owner in owners:
        place = place[owner]
    place[last] = value
    return content


def test_everything_is_read() -> None:
    mapping = MappingSpec.from_dict(MAPPING)
    assert list(mapping.sources) == ["scan", "odom"]
    assert mapping.sources["scan"].clip == (0.0, 3.5)
    assert mapping.sources["odom"].fields == ("twist.twist.linear.x",)
    assert mapping.sources["odom"].scale == 2.0
    assert (mapping.action.low, mapping.action.high) == ((-1.0, -2.0), (1.0, 2.0))
    assert mapping.cost is not None
    assert mapping.cost.topic == "violation"


def test_sources_come_in_the_order_of_the_list() -> None:
    assert list(MappingSpec.from_dict(changed("observation.sources", ["odom", "scan"])).sources) == ["odom", "scan"]


def test_parameter_file_of_a_node(tmp_path: Path) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": {"rate_hz": 20.0, **MAPPING}}}))
    assert MappingSpec.load(path) == MappingSpec.from_dict(MAPPING)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("observation", None, "no section observation"),
        ("observation.sources", [], "observation.sources is"),
        ("observation.sources", ["scan"], "observation.odom is not among"),
        ("observation.scan.field", ["x"], "has no 'field'; did you mean fields"),
        ("observation.scan.topic", "", "observation.scan.topic"),
        ("observation.scan.type", "LaserScan", "observation.scan.type is LaserScan"),
        ("observation.scan.fields", [], "observation.scan.fields"),
        ("observation.scan.fields", ["a..b"], "no path"),
        ("observation.scan.clip", [2, 1], "observation.scan.clip"),
        ("observation.scan.scale", float("nan"), "observation.scan.scale"),
        ("observation.scan.scale", "two", "observation.scan.scale is 'two': it must be a number"),
        ("observation.scan.stack", 0, "observation.scan.stack"),
        ("observation.scan.stack", True, "observation.scan.stack"),
        ("observation.scan.timeout_sec", 0, "observation.scan.timeout_sec"),
        ("action.type", "nav_msgs/msg/Odometry", "action.type"),
        ("action.fields", ["linear.w"], "action.fields is linear.w"),
        ("action.low", [-1], "action.low .* 2 finite numbers"),
        ("action.low", [-1, float("-inf")], "action.low .* 2 finite numbers"),
        ("action.high", [], "action.high .* together with low"),
        ("action.high", [-1, 2], "action.high .* above low"),
        ("cost.fields", [], "cost.fields"),
    ],
)
def test_mistakes_name_the_entry(path: str, value: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        MappingSpec.from_dict(changed(path, value))


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "no mapping at"), (": :", "is no YAML"), ("a: 1", "holds no mapping"), ("\xff", "holds no mapping")],
)
def test_files_that_hold_none(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "mapping.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=says) as caught:
        MappingSpec.load(path)
    assert "\n" not in str(caught.value)
