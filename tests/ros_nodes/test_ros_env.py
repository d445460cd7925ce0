"""A robot as an environment over DDS: the simulated robot is a process of its own, and so is the training."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")

import rclpy
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import Bool, Float32MultiArray, Float64MultiArray
from std_srvs.srv import Empty, Trigger

from ros_nodes.robot_settings import RobotSettings
from ros_nodes.ros_env import RosEnv
from ros_nodes.train_on_robot import TASK, Request, TaskKeeper, learn
from safe_rl.checkpoint import load_newest
from safe_rl.envs.factory import make_env
from safe_rl.errors import EnvironmentFault, UserError

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("ros")]

HERE = Path(__file__).parent
PATIENCE_SEC = 20.0
RATE_HZ = 20.0
FLAG = {"type": "std_msgs/msg/Bool", "fields": ["data"], "timeout_sec": 1.0}
SMALL = (
    "--preset none --sac.hidden-sizes 8 8 --batch-size 16 --replay-capacity 500 --device cpu --log-every 10 "
    "--checkpoint-every 1 --risk.hidden-sizes 8 8 --risk.pretrain-steps 10 --recovery.hidden-sizes 8 8 --start-steps 20"
)


def parameters(namespace: str = "", **changes: Any) -> dict[str, Any]:
    """A parameter file's content; with a namespace the names are absolute."""
    base = f"/{namespace}/" if namespace else ""
    own = {
        "max_episode_steps": 20,
        "patience_sec": 10.0,
        "watchdog_periods": 10,
        "reset": {"kind": "service", "service": f"{base}sim_robot/reset"},
        **changes.pop("robot_env", {}),
    }
    return {
        "rate_hz": RATE_HZ,
        "observation": {
            "sources": ["obs"],
            "obs": {
                "topic": f"{base}observation",
                "type": "std_msgs/msg/Float32MultiArray",
                "fields": ["data"],
                "timeout_sec": 1.0,
            },
        },
        "action": {
            "topic": f"{base}command", "type": "std_msgs/msg/Float64MultiArray", "low": [-1.0, -1.0], "high": [1.0, 1.0]
        },
        "cost": {"topic": f"{base}violation", **FLAG},
        "success": {"topic": f"{base}success", **FLAG},
        "reward": {"goal": [0.4], "tolerance": 0.01},
        "robot_env": own,
        **changes,
    }  # fmt: skip


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": content}}), encoding="utf-8")
    return path


def start(module: str, namespace: str, *more: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(map(str, [HERE.parents[1], HERE, HERE.parent / "safe_rl", os.environ.get("PYTHONPATH", "")]))
    line = [sys.executable, "-m", f"ros_nodes.{module}", "--ros-args", "-r", f"__ns:=/{namespace}", *more]
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def end(process: subprocess.Popen[str], number: int = signal.SIGINT) -> str:
    if process.poll() is None:
        process.send_signal(number)
    return process.communicate(timeout=PATIENCE_SEC)[0]


def sim(namespace: str, tmp: Path, **changes: Any) -> subprocess.Popen[str]:
    given = {
        "env": "floor_env:Floor", "rate_hz": RATE_HZ, "auto_reset": False, "time_limit": False, "settle_sec": 0.0,
        "command_timeout_sec": 60.0,  # nobody but the environment under test stops it
    }  # fmt: skip
    path = write(tmp / f"{namespace}.yaml", {**given, **changes})
    return start("sim_robot_node", namespace, "--params-file", str(path))


class Helper:
    """A node in a thread of its own: services, other publishers, an ear on the commands."""

    def __init__(self, namespace: str) -> None:
        self.node = rclpy.create_node("helper", namespace=namespace)
        self.commands: list[tuple[float, list[float]]] = []
        self.node.create_subscription(Float64MultiArray, "command", self._on_command, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._ended = False
        self._thread.start()

    def _spin(self) -> None:
        while not self._ended:
            self._executor.spin_once(timeout_sec=0.02)

    def _on_command(self, message: Float64MultiArray) -> None:
        self.commands.append((time.monotonic(), list(message.data)))

    def later(self, seconds: float, call: Callable[[], Any]) -> None:
        threading.Timer(seconds, call).start()

    def trigger(self, name: str) -> None:
        client = self.node.create_client(Trigger, name)
        assert client.wait_for_service(PATIENCE_SEC)
        client.call_async(Trigger.Request())

    def close(self) -> None:
        self._ended = True
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()


def wait(condition: Callable[[], Any], what: str, patience_sec: float = PATIENCE_SEC) -> None:
    deadline = time.monotonic() + patience_sec
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def floor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The namespace of a simulated robot on a floor."""
    process = sim("floor", tmp_path_factory.mktemp("floor"))
    yield "floor"
    end(process)


@pytest.fixture
def helper(floor: str) -> Iterator[Helper]:
    made = Helper(floor)
    yield made
    made.close()


@pytest.fixture
def make(floor: str) -> Iterator[Callable[..., RosEnv]]:
    envs: list[RosEnv] = []

    def make_one(**changes: Any) -> RosEnv:
        envs.append(RosEnv(RobotSettings.from_dict(parameters(floor, **changes))))
        return envs[-1]

    yield make_one
    for env in envs:
        env.close()


def test_steps_at_a_rate_and_what_they_do(make: Callable[..., RosEnv], helper: Helper) -> None:
    env = make()
    assert env.observation_space == gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)  # told by the first message
    obs, _ = env.reset()
    assert obs == pytest.approx([0.0, 0.0, 0.5])
    ends, seen = [], []
    for _ in range(20):
        obs, reward, terminated, truncated, info = env.step(np.float32([1.0, -0.5]))
        ends.append(time.monotonic())
        seen.append(obs)
        assert (terminated, info["cost"], info["success"]) == (False, 0.0, False)
    assert truncated
    assert np.median(np.diff(ends)) == pytest.approx(1 / RATE_HZ, rel=0.1)
    assert obs[0] == pytest.approx(0.2, abs=0.025)  # 20 steps of 0.01, the clocks are not in step
    assert obs[1] == pytest.approx(-obs[0] / 2, abs=1e-6)
    assert reward == pytest.approx(-(0.4 - obs[0]), abs=1e-6)
    wait(lambda: len(helper.commands) >= 21, "21 commands")
    assert [data for _, data in helper.commands] == [[1.0, -0.5]] * 20 + [[0.0, 0.0]]
    assert env.reset()[0] == pytest.approx([0.0, 0.0, 0.5])


def test_in_step_with_the_robot_each_action_acts_once(make: Callable[..., RosEnv]) -> None:
    env = make(robot_env={"pace": "sensors"})
    obs, _ = env.reset()
    rng = np.random.default_rng(0)
    fits = []
    for _ in range(20):
        action = rng.uniform(-1, 1, 2).astype(np.float32)
        after = env.step(action)[0]
        fits.append(np.abs(after[:2] - obs[:2] - 0.01 * action).max() < 1e-5)
        obs = after
    assert np.mean(fits) >= 0.6  # a busy machine is late at times; a step behind, none would fit


def test_a_violation_of_the_robot_ends_the_episode(make: Callable[..., RosEnv]) -> None:
    env = make(robot_env={"max_episode_steps": 100}, reward={"goal": [9.0], "tolerance": 0.01})
    env.reset()
    results = []
    while not results or not (results[-1][2] or results[-1][3]):
        results.append(env.step(np.float32([1.0, 0.0])))
    assert results[-1][2:4] == (True, False)
    assert results[-1][4]["cost"] == 1.0
    assert sum(info["cost"] for *_, info in results) == 1.0
    assert results[-1][0][0] == pytest.approx(0.51, abs=0.001)
    obs, _ = env.reset()
    assert obs[0] == 0.0


def test_the_watchdog_stops_the_robot_while_the_learner_sleeps(make: Callable[..., RosEnv], helper: Helper) -> None:
    env = make(robot_env={"watchdog_periods": 4})
    env.reset()
    env.step(np.float32([1.0, 0.0]))
    stepped = time.monotonic()
    wait(lambda: any(data == [0.0, 0.0] for _, data in helper.commands), "a stop")
    stopped = next(at for at, data in helper.commands if data == [0.0, 0.0])
    assert 0.1 < stopped - stepped < 1.0
    *_, truncated, info = env.step(np.float32([1.0, 0.0]))
    assert (truncated, info["fault"]) == (True, "learner_late")
    assert [data for _, data in helper.commands].count([1.0, 0.0]) == 1


def test_emergency_stop_by_service_and_by_topic(make: Callable[..., RosEnv], helper: Helper) -> None:
    env = make()
    env.reset()
    helper.later(0.1, lambda: helper.trigger("/robot_env/trip"))
    info: dict[str, Any] = {}
    for _ in range(20):
        *_, truncated, info = env.step(np.float32([0.1, 0.0]))
        if "fault" in info:
            break
    assert (truncated, info["fault"]) == (True, "emergency_stop")
    wait(lambda: helper.commands[-1][1] == [0.0, 0.0], "a stop")
    helper.later(0.5, lambda: helper.trigger("/robot_env/release"))
    began = time.monotonic()
    env.reset()
    assert time.monotonic() - began > 0.4
    env.close()

    button = {"topic": "/floor/e_stop", "type": "std_msgs/msg/Bool", "fields": ["data"], "timeout_sec": 1.0}
    publisher = helper.node.create_publisher(Bool, "e_stop", 1)
    state = Bool(data=False)
    helper.node.create_timer(0.02, lambda: publisher.publish(state))
    env = make(robot_env={"emergency_stop": button})
    env.reset()
    state.data = True
    for _ in range(20):
        *_, truncated, info = env.step(np.float32([0.1, 0.0]))
        if "fault" in info:
            break
    assert (truncated, info["fault"]) == (True, "emergency_stop")


def test_the_operator_starts_an_episode_by_service(make: Callable[..., RosEnv], helper: Helper) -> None:
    env = make(robot_env={"reset": {"kind": "operator"}})
    helper.later(0.5, lambda: helper.trigger("/robot_env/start_episode"))
    began = time.monotonic()
    env.reset()
    assert time.monotonic() - began > 0.4


def test_reset_services_that_are_missing_refuse_or_are_empty(make: Callable[..., RosEnv], helper: Helper) -> None:
    def refuse(request: Any, response: Any) -> Any:
        response.success, response.message = False, "the battery is low"
        return response

    called: list[int] = []
    helper.node.create_service(Trigger, "refuses", refuse)
    helper.node.create_service(Empty, "empty", lambda request, response: called.append(1) or response)
    for reset, message in (
        ({"service": "/floor/nowhere", "timeout_sec": 0.5}, "no answer of service /floor/nowhere"),
        ({"service": "/floor/refuses"}, "service /floor/refuses refused: the battery is low"),
    ):
        env = make(robot_env={"reset": {"kind": "service", **reset}})
        with pytest.raises(EnvironmentFault, match=message):
            env.reset()
        env.close()
    make(
        robot_env={"reset": {"kind": "service", "service": "/floor/empty", "service_type": "std_srvs/srv/Empty"}}
    ).reset()
    assert called == [1]


def test_somebody_else_commands(make: Callable[..., RosEnv], helper: Helper) -> None:
    env = make()
    env.reset()
    other = helper.node.create_publisher(Float64MultiArray, "command", 1)
    wait(lambda: env._link.is_shared(), "discovery of the other publisher")  # type: ignore[attr-defined]
    *_, truncated, info = env.step(np.float32([0.1, 0.0]))
    assert (truncated, info["fault"]) == (True, "other_publisher")
    helper.node.destroy_publisher(other)


def test_a_dry_run_publishes_nothing_and_calls_nothing(make: Callable[..., RosEnv], helper: Helper) -> None:
    env = make(robot_env={"dry_run": True})
    where, _ = env.reset()
    assert helper.node.count_publishers("/floor/command") == 0
    for _ in range(5):
        obs, *_, info = env.step(np.float32([1.0, 1.0]))
        assert "fault" not in info
    env.close()
    np.testing.assert_array_equal(obs, where)
    assert helper.commands == []


def test_what_the_mapping_gets_wrong_is_one_line(make: Callable[..., RosEnv]) -> None:
    source = parameters("floor")["observation"]["obs"]

    def observation(**changes: Any) -> dict[str, Any]:
        return {"sources": ["obs"], "obs": {**source, **changes}}

    with pytest.raises(UserError, match=r"observation\.obs\.fields: value: Float32MultiArray has no value"):
        make(observation=observation(fields=["value"]))
    with pytest.raises(UserError, match="nobodys_msgs is not installed"):
        make(observation=observation(type="nobodys_msgs/msg/Thing"))
    with pytest.raises(UserError, match="which did not come: /floor/elsewhere has no publisher"):
        make(observation=observation(topic="/floor/elsewhere"), robot_env={"patience_sec": 0.5})
    env = make(
        observation=observation(type="nav_msgs/msg/Odometry", fields=["pose.pose.position.x"]),
        robot_env={"patience_sec": 3.0},
    )
    message = r"obs_never_seen: /floor/observation carries std_msgs/msg/Float32MultiArray, wanted is nav_msgs/msg/Odom"
    with pytest.raises(EnvironmentFault, match=message):
        env.reset()


def test_one_robot_one_environment_by_its_file(floor: str, tmp_path: Path) -> None:
    path = write(tmp_path / "my_robot.yaml", parameters(floor))
    name = f"ros_nodes.ros_env:{path}"
    env = make_env(name)
    with pytest.raises(EnvironmentFault, match="one robot, one environment: another one drives /floor/command already"):
        make_env(name)
    env.reset()
    assert env.step(np.float32([0.0, 0.0]))[4]["cost"] == 0.0
    env.close()
    dry = make_env(f"{name}?dry_run=true")
    assert dry.unwrapped.settings.env.dry_run  # type: ignore[attr-defined]
    dry.close()
    with pytest.raises(UserError, match=r"no mapping at nowhere\.yaml"):
        make_env("ros_nodes.ros_env:nowhere.yaml")
    with pytest.raises(UserError, match="has no factory 'nothing'"):
        make_env("ros_nodes.ros_env:nothing")


def test_a_robot_that_dies_and_comes_back(tmp_path: Path) -> None:
    process = sim("mortal", tmp_path)
    env = RosEnv(RobotSettings.from_dict(parameters("mortal", robot_env={"max_episode_steps": 10**6})))
    try:
        env.reset()
        env.step(np.float32([0.1, 0.0]))
        process.kill()
        info: dict[str, Any] = {}
        for _ in range(60):
            *_, truncated, info = env.step(np.float32([0.1, 0.0]))
            if truncated:
                break
        assert truncated
        assert info["fault"] in ("obs_silent", "cost_silent", "success_silent")
        end(process)
        process = sim("mortal", tmp_path)  # back while the reset waits
        env.reset()
        assert "fault" not in env.step(np.float32([0.1, 0.0]))[4]
    finally:
        env.close()
        end(process)


def test_nan_from_a_sensor(helper: Helper) -> None:
    content = parameters("floor", robot_env={"reset": {"kind": "none"}})
    content["observation"]["obs"]["topic"] = "/floor/other"
    message = Float32MultiArray(data=[1.0, 2.0])
    publisher = helper.node.create_publisher(Float32MultiArray, "other", 1)
    helper.node.create_timer(0.02, lambda: publisher.publish(message))
    env = RosEnv(RobotSettings.from_dict(content))
    try:
        env.reset()
        env.step(np.float32([0.0, 0.0]))
        message.data = [1.0, float("nan")]
        results = [env.step(np.float32([0.0, 0.0])) for _ in range(1)]
        while not results[-1][3]:
            results.append(env.step(np.float32([0.0, 0.0])))
        assert results[-1][4]["fault"] == "observation_not_finite"
        assert np.isfinite(results[-1][0]).all()
    finally:
        env.close()


# ------------------------------------------------------------------- training


def episodes(run: Path) -> list[dict[str, str]]:
    if not (run / "episodes.csv").is_file():
        return []
    with (run / "episodes.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_training_on_a_robot_is_interrupted_and_goes_on(tmp_path: Path) -> None:
    import toys

    data = toys.collect_corridor(tmp_path / "data")
    robot = sim("corridor", tmp_path, env="toys:Corridor")
    content = parameters(
        reward={"goal": [1.0], "tolerance": 0.05}, success=None, robot_env={"pace": "sensors"},
        action={"topic": "command", "type": "std_msgs/msg/Float64MultiArray", "low": [-0.15] * 2, "high": [0.15] * 2},
    )  # fmt: skip
    file, run = write(tmp_path / "robot.yaml", content), tmp_path / "run"
    given = {"params_file": str(file), "dataset": str(data), "output": str(run), "flags": SMALL}

    def training(number: int) -> subprocess.Popen[str]:
        words = {**given, "episodes": number}
        return start(
            "train_on_robot", "corridor", *(w for k, v in words.items() for w in ("-p", f"{k}:={json.dumps(v)}"))
        )

    ear = Helper("corridor")
    process = training(1000)
    try:
        # Whoever has just appeared is heard only after a while.
        wait(lambda: (len(episodes(run)) >= 2 and ear.commands) or process.poll() is not None, "two episodes", 60.0)
        output = end(process)
        assert process.returncode == 130, output
        assert "interrupted" in output
        assert ear.commands[-1][1] == [0.0, 0.0]
        before = episodes(run)
        first = load_newest(run / "checkpoints")
        assert first["runner"]["num_steps"] > 0

        total = len(before) + 2
        process = training(total)
        output = process.communicate(timeout=60.0)[0]
        assert process.returncode == 0, output
        after = episodes(run)
        assert after[: len(before)] == before
        assert [int(row["episode"]) for row in after] == list(range(total))
        assert ear.commands[-1][1] == [0.0, 0.0]
        state = load_newest(run / "checkpoints")
        assert state["agent"]["counters"]["num_observed"] == state["runner"]["num_steps"]
        assert state["runner"]["num_steps"] > first["runner"]["num_steps"]
        assert (
            len(state["agent"]["replay"]["online"]) == state["runner"]["num_steps"]
        )  # nothing of the first day is lost
    finally:
        end(process, signal.SIGKILL)
        ear.close()
        end(robot)

    content["observation"]["obs"]["scale"] = 2.0
    write(file, content)
    with pytest.raises(
        UserError, match=r"was learned with observation\.obs\.scale = 1\.0, the parameter file now says 2"
    ):
        learn(Request.from_parameters(given))


def test_requests_that_cannot_be(tmp_path: Path) -> None:
    file = write(tmp_path / "robot.yaml", parameters("nobody"))
    given = {"params_file": str(file), "output": str(tmp_path / "run"), "seed": 3}
    for changes, message in (
        ({"output": ""}, "parameter output is missing"),
        ({"dry_run": "perhaps"}, "dry_run is perhaps"),
        ({"flags": "--eval-every 5"}, "--eval-every is 5: there is one robot"),
        ({"flags": "--num-envs 2"}, "--num-envs is 2: there is one robot"),
        ({"flags": "--no-such-flag 2"}, "no-such-flag"),
        ({"episodes": "many"}, "episodes"),
    ):
        with pytest.raises(UserError, match=message):
            learn(Request.from_parameters({**given, **changes}))
    assert not (tmp_path / "run").exists()


def test_a_request_as_settings(tmp_path: Path) -> None:
    file = write(tmp_path / "robot.yaml", parameters("nobody"))
    given = {
        "params_file": str(file),
        "output": "run",
        "seed": 3,
        "settings_of": "safe_rl/Maze-v0",
        "env": "other nodes'",
    }
    run, agent = Request.from_parameters(given).arguments()
    assert (run.env, run.output, run.seed, run.resume) == (f"ros_nodes.ros_env:{file}", Path("run"), 3, False)
    assert agent.sac.reward_scale == 10.0  # the maze's
    dry, _ = Request.from_parameters({**given, "dry_run": True}).arguments()
    assert (dry.env, dry.output, dry.overwrite) == (f"ros_nodes.ros_env:{file}?dry_run=true", Path("run_dry_run"), True)


def test_the_task_is_kept_once_there_is_a_run(tmp_path: Path) -> None:
    keeper = TaskKeeper(tmp_path, RobotSettings.from_dict(parameters("nobody")))
    keeper.keep()
    assert not (tmp_path / TASK).exists()
    (tmp_path / "config.json").write_text("{}")
    keeper.keep()
    keeper.check()
    slower = RobotSettings.from_dict(parameters("nobody", rate_hz=5.0))
    with pytest.raises(UserError, match=r"rate_hz = 20\.0, the parameter file now says 5\.0"):
        TaskKeeper(tmp_path, slower).check()
