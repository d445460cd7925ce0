"""Launch files, their examples, and the description that launch files and plain processes share."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("yaml", reason="the extra `ros` brings it")

from ros_nodes.launch_description import DESCRIPTIONS, SHIELD, SIM_ROBOT, describe
from ros_nodes.mapping import MappingSpec
from safe_rl.errors import UserError

ROOT = Path(__file__).parents[2]
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.py"))


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_launch_files_parse(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    compile(tree, str(path), "exec")
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert "generate_launch_description" in functions
    assert ast.get_docstring(tree)


@pytest.mark.parametrize("path", sorted((ROOT / "launch/config").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_hold_a_mapping(path: Path):
    mapping = MappingSpec.load(path)
    assert mapping.sources
    assert mapping.action.fields


def test_every_described_node_is_an_executable_for_colcon():
    scripts = dict(re.findall(r'"(\w+) = (ros_nodes\.\w+):main"', (ROOT / "setup.py").read_text(encoding="utf-8")))
    for description in DESCRIPTIONS.values():
        assert scripts[description.executable] == f"ros_nodes.{description.executable}"
    for module in scripts.values():
        assert (ROOT / (module.replace(".", "/") + ".py")).exists()


@pytest.fixture
def params_file(tmp_path: Path) -> str:
    path = tmp_path / "robot.yaml"
    path.write_text("/**: {ros__parameters: {bundle: nowhere}}", encoding="utf-8")
    return str(path)


def test_a_command_line(params_file: str):
    values = SHIELD.values(
        {"params_file": params_file, "namespace": "robot1", "bundle": "bundles/a b", "mode": "filter"}
    )
    line = SHIELD.command_line(values, ["cmd_vel:=dry_run"])
    assert line[1:] == [
        "-m", "ros_nodes.shield_node", "--ros-args", "-r", "__node:=shield", "-r", "__ns:=/robot1",
        "-r", "cmd_vel:=dry_run", "--params-file", params_file, "-p", 'bundle:="bundles/a b"', "-p", 'mode:="filter"',
        "-p", "autostart:=true", "--log-level", "info",
    ]  # fmt: skip


def test_what_is_not_given_is_left_to_the_parameter_file(params_file: str):
    assert SHIELD.overrides(SHIELD.values({"params_file": params_file})) == {"autostart": True}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"speed": "3"}, "no argument 'speed': known are params_file"),
        ({"mode": "polite"}, "argument mode is 'polite'"),
        ({"params_file": "nowhere.yaml"}, "no parameter file at nowhere.yaml"),
    ],
)
def test_arguments_that_cannot_be(given: dict[str, str], message: str):
    with pytest.raises(UserError, match=message):
        SHIELD.values(given)


def test_a_shield_beside_the_simulated_robot_where_there_is_a_bundle(params_file: str):
    given = {"params_file": params_file, "env": "Pendulum-v1", "namespace": "r", "auto_reset": "true"}
    ((robot, values),) = SIM_ROBOT.group(given)
    assert robot is SIM_ROBOT
    assert robot.overrides(values) == {"env": "Pendulum-v1", "auto_reset": True}
    _, (shield, values) = SIM_ROBOT.group({**given, "bundle": "bundles/b", "mode": "filter"})
    assert shield is SHIELD
    assert shield.overrides(values) == {"bundle": "bundles/b", "mode": "filter", "autostart": True}
    assert values["params_file"] == params_file
    assert values["namespace"] == "r"


def test_a_node_that_died_is_started_again_but_not_for_ever():
    assert SHIELD.restarts(-9, 0)
    assert SHIELD.restarts(1, SHIELD.max_restarts - 1)
    assert not SHIELD.restarts(1, SHIELD.max_restarts)
    assert not SHIELD.restarts(0, 0), "it was asked to end"
    assert not SHIELD.restarts(2, 0), "it would be refused again"


def test_arguments_are_described():
    lines = describe(SHIELD).splitlines()
    assert len(lines) == len(SHIELD.arguments)
    assert all(re.fullmatch(r"  \w+ +\S.{10,}", line) for line in lines)


LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
source = PythonLaunchDescriptionSource(sys.argv[1])
arguments = [tuple(argument.split(":=")) for argument in sys.argv[2:]]
service = LaunchService()
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)]))
sys.exit(service.run())
"""


@pytest.fixture
def launched(tmp_path: Path):
    """What makes processes of launch files; the executables are as colcon would place them."""
    pytest.importorskip("launch_ros", reason="it comes with a ROS installation")
    prefix = tmp_path / "prefix"
    index = prefix / "share/ament_index/resource_index/packages"
    folder = prefix / "lib/safe_rl"
    for path in (index, folder):
        path.mkdir(parents=True)
    (index / "safe_rl").touch()
    for name in {description.executable for description in DESCRIPTIONS.values()}:
        script = folder / name
        script.write_text(f"#!{sys.executable}\nimport sys\nfrom ros_nodes.{name} import main\nsys.exit(main())\n")
        script.chmod(0o755)
    paths = [str(prefix), *filter(None, [os.environ.get("AMENT_PREFIX_PATH"), sys.prefix])]
    environment = {
        **os.environ,
        "AMENT_PREFIX_PATH": os.pathsep.join(paths),
        "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)])),
        "ROS_LOG_DIR": str(tmp_path / "log"),
    }

    def start(path: Path, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(path), *arguments],
            env=environment,
            cwd=tmp_path,  # not the project's root, where `import launch` would find our folder
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    return start


@pytest.mark.ros
def test_launch_starts_the_shield_and_ctrl_c_ends_it_with_zero(launched, bundle: Path, tmp_path: Path):
    from robots import write_parameters

    process = launched(
        ROOT / "launch/shield.launch.py", f"params_file:={write_parameters(tmp_path, bundle)}", "namespace:=launched"
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "STOP: odom_never_seen" in line:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C does
    assert process.wait(30) == 0, "".join(lines)
    assert any("STOP: node_ended" in line for line in lines)


@pytest.mark.ros
def test_launch_says_what_is_refused(launched, params_file: str):
    process = launched(ROOT / "launch/shield.launch.py", f"params_file:={params_file}")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "no parameter observation.sources" in output
    assert "restart" not in output
