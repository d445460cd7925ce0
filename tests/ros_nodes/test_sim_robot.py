"""The simulated robot without ROS: its time, its commands, its lossy links, and mappings run backwards."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from ros_nodes.mapping import MappingSpec
from ros_nodes.observation_messages import ObservationMessages
from ros_nodes.readers import read_message
from ros_nodes.sim_robot import Link, SimRobot, default_mapping
from safe_rl.envs.factory import CostEnv, make_env
from safe_rl.errors import EnvironmentFault, UserError


class Rail(gym.Env):
    """Moves by the action; a wall at 1, the goal at -1. Starts at 0, later episodes at the number of resets / 100."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = gym.spaces.Box(-0.5, 0.5, (1,), np.float32)
        self.num_resets = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.x = np.float32([self.num_resets / 100])
        self.num_resets += 1
        return self.x, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        if not np.isfinite(action).all():
            raise ValueError("broken")
        self.x = self.x + action
        wall, goal = bool(self.x[0] >= 1), bool(self.x[0] <= -1)
        return self.x, 0.0, wall or goal, False, {"cost": float(wall), "success": goal}


def make(**changes: Any) -> SimRobot:
    settings = {"rate_hz": 10.0, "command_timeout_sec": 0.3, "pause_sec": 0.2, "settle_sec": 0.0} | changes
    return SimRobot(CostEnv(Rail()), **settings)


def test_goes_on_with_the_last_command_until_it_is_too_old() -> None:
    robot = make()
    robot.command(np.array([0.1]))
    places = [float(robot.tick().obs[0]) for _ in range(5)]
    assert places == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.3])  # 0.3 s are three periods
    robot.command(np.array([-0.1]))
    assert float(robot.tick().obs[0]) == pytest.approx(0.2)


def test_a_command_is_clipped_and_one_that_cannot_be_is_dropped() -> None:
    robot = make()
    assert robot.command(np.array([7.0]))
    assert float(robot.tick().obs[0]) == pytest.approx(0.5)
    for bad in ([np.nan], [np.inf], [0.1, 0.1], []):
        assert not robot.command(np.array(bad))
    assert float(robot.tick().obs[0]) == pytest.approx(1.0)  # the good one counts on


def test_stands_at_the_end_with_its_label_then_starts_anew_and_forgets_the_command() -> None:
    robot = make(settle_sec=0.1)
    robot.command(np.array([0.5]))
    moments = [robot.tick() for _ in range(8)]
    assert [m.phase for m in moments] == [
        "starting", "moving", "ended", "ended", "ended", "starting", "starting", "moving",
    ]  # fmt: skip
    assert [m.violation for m in moments] == [False, False, True, True, True, False, False, False]
    assert not any(m.success for m in moments)
    assert [m.episode for m in moments] == [1, 1, 1, 1, 1, 2, 2, 2]
    assert [float(m.obs[0]) for m in moments[2:]] == pytest.approx([1.0, 1.0, 1.0, 0.01, 0.01, 0.01])


def test_success_is_told_apart_from_violation() -> None:
    robot = make()
    robot.command(np.array([-0.5]))
    moments = [robot.tick(), robot.tick()]
    assert [(m.success, m.violation) for m in moments] == [(False, False), (True, False)]


def test_without_automatic_reset_it_stands_until_it_is_asked() -> None:
    robot = make(auto_reset=False)
    robot.command(np.array([0.5]))
    assert {robot.tick().phase for _ in range(20)} == {"moving", "ended"}
    assert robot.moment.violation
    assert robot.reset().episode == 2
    assert not robot.moment.violation
    assert robot.tick().phase == "moving"


def test_a_robot_without_a_time_limit_goes_on() -> None:
    def ends(**changes: Any) -> bool:
        robot = SimRobot(CostEnv(gym.wrappers.TimeLimit(Rail(), 3)), settle_sec=0.0, **changes)
        return "ended" in {robot.tick().phase for _ in range(9)}

    assert ends()
    assert not ends(time_limit=False)
    robot = make(time_limit=False)
    robot.command(np.array([0.5]))
    assert [robot.tick().phase for _ in range(2)] == ["moving", "ended"]  # at the wall it ends all the same


def test_time_counts_periods() -> None:
    robot = make()
    assert robot.time_sec == pytest.approx(0.1)
    robot.tick()
    assert robot.time_sec == pytest.approx(0.2)


def test_seed_decides_all_episodes() -> None:
    def starts(seed: int) -> list[float]:
        robot = SimRobot(make_env("safe_rl/Navigation1-v0"), seed=seed)
        return [float(robot.reset().obs[0]) for _ in range(3)]

    assert starts(1) == starts(1)
    assert starts(1) != starts(2)
    assert len(set(starts(1))) == 3


def test_position_where_there_is_a_plane() -> None:
    robot = SimRobot(make_env("safe_rl/Navigation1-v0"), seed=1)
    assert robot.position() == pytest.approx(tuple(robot.moment.obs))
    assert make().position() is None


def test_discrete_actions_and_faulty_environments_are_told_in_one_line() -> None:
    with pytest.raises(UserError, match="Box actions only"):
        SimRobot(make_env("CartPole-v1"))
    robot = make()
    robot.env.env.step = lambda action: (np.float32([np.nan]), 0.0, False, False, {})  # type: ignore[method-assign]
    with pytest.raises(EnvironmentFault, match="not finite"):
        robot.tick()


# ------------------------------------------------------------------- links


def link(seed: int = 3, **changes: float) -> Link[int]:
    settings = {"delay_sec": 0.0, "jitter_sec": 0.0, "drop_rate": 0.0, "drop_sec": 0.0} | changes
    return Link(**settings, rng=np.random.default_rng(seed))


def test_a_plain_link_delivers_at_once() -> None:
    plain = link()
    assert plain.is_plain
    plain.put(1, 0.0)
    assert plain.take(0.0) == [1]
    assert plain.take(1.0) == []


def test_delay_and_order_under_jitter() -> None:
    slow = link(delay_sec=0.1, jitter_sec=0.2)
    for number in range(100):
        slow.put(number, number * 0.01)
    assert slow.take(0.0999) == []
    arrived: list[int] = []
    first_seen = {}
    for tick in range(1, 2000):
        for number in slow.take(tick * 0.001):
            arrived.append(number)
            first_seen[number] = tick * 0.001 - number * 0.01
    assert arrived == list(range(100))
    assert min(first_seen.values()) >= 0.1
    assert max(first_seen.values()) <= 0.3 + 0.002
    assert max(first_seen.values()) - min(first_seen.values()) > 0.1


def test_drop_outs_are_seeded_and_last() -> None:
    period_sec = 1 / 128  # sums of it are exact

    def received(num_periods: int, seed: int = 3) -> list[int]:
        lossy = link(seed, drop_rate=0.05, drop_sec=num_periods * period_sec)
        for number in range(5000):
            lossy.put(number, number * period_sec)
        return lossy.take(1e9)

    for num_periods in (0, 10):
        assert received(num_periods) == received(num_periods) != received(num_periods, seed=4)
    # Alone each is lost with 0.05, by four standard errors; otherwise the silences of 10 follow 19 messages on average.
    assert 1 - len(received(0)) / 5000 == pytest.approx(0.05, abs=0.0124)
    assert 1 - len(received(10)) / 5000 == pytest.approx(10 / 29, abs=0.06)
    lost = np.diff([-1, *received(10)]) - 1
    assert set(lost % 10) == {0}  # whole drop-outs, at times one right after another
    assert 10 in lost


# ------------------------------------------------------ mappings run backwards


def make_message(kind: str) -> Any:
    """Messages as far as these tests need them."""
    vector = lambda: SimpleNamespace(x=0.0, y=0.0, z=0.0)  # noqa: E731
    quaternion = SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0)
    header = SimpleNamespace(frame_id="", stamp=None)
    return {
        "std_msgs/msg/Float32MultiArray": lambda: SimpleNamespace(data=[]),
        "sensor_msgs/msg/LaserScan": lambda: SimpleNamespace(header=header, ranges=[]),
        "sensor_msgs/msg/JointState": lambda: SimpleNamespace(header=header, name=[], position=[], velocity=[]),
        "sensor_msgs/msg/Image": lambda: SimpleNamespace(header=header, encoding="", data=b""),
        "nav_msgs/msg/Odometry": lambda: SimpleNamespace(
            header=header,
            pose=SimpleNamespace(pose=SimpleNamespace(position=vector(), orientation=quaternion)),
            twist=SimpleNamespace(twist=SimpleNamespace(linear=vector(), angular=vector())),
        ),
    }[kind]()


ACTION = {"topic": "cmd", "type": "std_msgs/msg/Float64MultiArray"}


def mapping_of(**sources: dict[str, Any]) -> MappingSpec:
    return MappingSpec.from_dict({"observation": {"sources": list(sources), **sources}, "action": ACTION})


def box(size: int) -> gym.spaces.Box:
    return gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)


def test_what_is_written_is_read_back() -> None:
    mapping = mapping_of(
        odom={
            "topic": "odom",
            "type": "nav_msgs/msg/Odometry",
            "fields": ["pose.pose.position.y", "yaw(pose.pose.orientation)", "twist.twist.angular.z"],
        },
        joints={
            "topic": "j",
            "type": "sensor_msgs/msg/JointState",
            "fields": ["position[elbow]", "position[wrist]", "velocity[wrist]"],
            "scale": 2.0,
            "offset": 1.0,
        },
        scan={"topic": "scan", "type": "sensor_msgs/msg/LaserScan", "fields": ["ranges[1:8:3]"]},
        rest={"topic": "rest", "type": "std_msgs/msg/Float32MultiArray", "fields": ["data"]},
    )
    obs = np.float32([0.5, -2.0, 0.25, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])
    messages = ObservationMessages(mapping, box(11), make_message).write(obs)
    back = np.concatenate([read_message(messages[name], spec) for name, spec in mapping.sources.items()])
    np.testing.assert_allclose(back, obs, rtol=1e-6)
    assert messages["odom"].pose.pose.position.y == 0.5
    assert messages["joints"].name == ["elbow", "wrist"]
    assert messages["joints"].position == [1.0, 1.5]  # (3 - 1) / 2, (4 - 1) / 2
    assert np.isnan(messages["joints"].velocity[0])  # nobody said what the elbow's is
    assert messages["rest"].data == [9.0, 10.0]


def test_pictures_and_entries() -> None:
    space = gym.spaces.Dict(
        {"camera": gym.spaces.Box(0, 255, (2, 4, 3), np.uint8), "arm": gym.spaces.Dict({"q": box(2)})}
    )
    mapping = MappingSpec.from_dict(default_mapping(SimpleNamespace(observation_space=space)))  # type: ignore[arg-type]
    assert {spec.topic for spec in mapping.sources.values()} == {"observation/camera", "observation/arm/q"}
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    messages = ObservationMessages(mapping, space, make_message).write(
        {"camera": picture, "arm": {"q": np.float32([1, 2])}}
    )
    image = messages["observation_camera"]
    assert (image.height, image.width, image.step, image.encoding) == (2, 4, 12, "rgb8")
    np.testing.assert_array_equal(read_message(image, mapping.sources["observation_camera"]), picture)
    assert messages["observation_arm_q"].data == [1.0, 2.0]


def test_default_mapping_of_one_array() -> None:
    mapping = MappingSpec.from_dict(default_mapping(make().env))
    assert [(spec.topic, spec.type) for spec in mapping.sources.values()] == [
        ("observation", "std_msgs/msg/Float32MultiArray")
    ]
    assert (mapping.action.topic, mapping.action.type) == ("command", "std_msgs/msg/Float64MultiArray")


ARRAY = {"topic": "a", "type": "std_msgs/msg/Float32MultiArray"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({**ARRAY, "fields": ["data[0:2]"]}, "carry 2 of the 3 numbers"),
        ({**ARRAY, "fields": ["data[0:4]"]}, "carry 4 of the 3 numbers"),
        ({**ARRAY, "fields": ["data[0:]"]}, "give it an end"),
        ({**ARRAY, "fields": ["data[-1]", "data[0:2]"]}, "count from the front"),
        ({**ARRAY, "fields": ["data", "data[0:1]"]}, "only field"),
        ({**ARRAY, "fields": ["data"], "stack": 2}, "stack: a simulated robot cannot undo it"),
        ({**ARRAY, "fields": ["data"], "scale": 0.0}, "scale is 0"),
        ({**ARRAY, "fields": ["data"], "entry": "pose"}, "no source carries"),
        ({**ARRAY, "fields": ["roll(data)"]}, "only yaw can"),
        ({"topic": "c", "type": "sensor_msgs/msg/Image"}, "no rgb8 picture"),
        ({"topic": "c", "type": "sensor_msgs/msg/CompressedImage"}, "sends sensor_msgs/msg/Image"),
    ],
)
def test_what_cannot_be_turned_round_is_refused(source: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ObservationMessages(mapping_of(a=source), box(3), make_message)


def test_a_field_that_is_not_there_is_named() -> None:
    messages = ObservationMessages(mapping_of(a={**ARRAY, "fields": ["position.x"]}), box(1), make_message)
    with pytest.raises(UserError, match=r"position\.x: SimpleNamespace has no such field"):
        messages.write(np.float32([1.0]))
