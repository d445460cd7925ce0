"""How nodes are started: once for launch files, once for plain processes, described here so that the two cannot drift.

Neither ROS nor its launch system is needed: `launch/*.launch.py` turn a description into launch actions,
`ros_nodes.start` into a process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safe_rl.errors import UserError

PACKAGE = "safe_rl"
REFUSED = 2
"""Exit code of a node whose configuration cannot work: starting it again would not help."""


BOOLEANS: dict[str, str | bool] = {"true": True, "false": False}


@dataclass(frozen=True)
class Argument:
    """What ``ros2 launch ... name:=value`` takes."""

    name: str
    description: str
    default: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeDescription:
    """A node: what starts it, with which arguments, and what happens when it dies."""

    executable: str
    """In ``lib/safe_rl`` after colcon, and a module of ``ros_nodes``."""
    name: str
    """Name of the node in the graph."""
    arguments: tuple[Argument, ...]
    parameters: tuple[tuple[str, str], ...]
    """Arguments, and the parameters that they become where they are not empty, over what the parameter file says."""
    fixed: tuple[tuple[str, bool], ...] = ()
    """Parameters that are always set."""
    max_restarts: int = 5
    """Times that it is started again after it died."""
    restart_delay_sec: float = 1.0
    companions: tuple[tuple[str, NodeDescription], ...] = ()
    """Nodes that are started beside it, each where an argument is given; they share the arguments that both know."""

    def values(self, given: Mapping[str, str]) -> dict[str, str]:
        """All arguments, given or default.

        Raises:
            UserError: One is unknown, not among its choices, or names a file that is not there.
        """
        known = {argument.name: argument for argument in self.arguments}
        for name, value in given.items():
            if name not in known:
                raise UserError(f"no argument {name!r}: known are {', '.join(known)}")
            if known[name].choices and value not in known[name].choices:
                raise UserError(f"argument {name} is {value!r}: it must be one of {', '.join(known[name].choices)}")
        values = {name: given.get(name, argument.default) for name, argument in known.items()}
        if values["params_file"] and not Path(values["params_file"]).is_file():
            raise UserError(f"no parameter file at {values['params_file']}")
        return values

    def overrides(self, values: Mapping[str, str]) -> dict[str, str | bool]:
        """Parameters that are set beside the parameter file."""
        given = {to: BOOLEANS.get(values[name], values[name]) for name, to in self.parameters if values[name]}
        return {**given, **dict(self.fixed)}

    def group(self, given: Mapping[str, str]) -> list[tuple[NodeDescription, dict[str, str]]]:
        """The node and its companions, each with all its arguments; raises ``UserError`` as ``values``."""
        values = self.values(given)
        nodes = [(self, values)]
        for argument, companion in self.companions:
            if values[argument]:
                known = {other.name for other in companion.arguments}
                nodes.append((companion, companion.values({k: v for k, v in values.items() if k in known and v})))
        return nodes

    def restarts(self, exit_code: int, num_restarts: int) -> bool:
        """Whether a node that ended is started again: not if it was asked to end, or would be refused again."""
        return exit_code not in (0, REFUSED) and num_restarts < self.max_restarts

    def command_line(self, values: Mapping[str, str], remaps: Sequence[str] = ()) -> list[str]:
        """The node as a process of this interpreter, as launch would start it.

        Args:
            values: From ``values``.
            remaps: Such as ``cmd_vel:=cmd_vel_dry_run``.
        """
        line = [sys.executable, "-m", f"ros_nodes.{self.executable}", "--ros-args", "-r", f"__node:={self.name}"]
        for rule in [f"__ns:=/{values['namespace'].strip('/')}"] * bool(values["namespace"]) + list(remaps):
            line += ["-r", rule]
        if values["params_file"]:
            line += ["--params-file", values["params_file"]]
        for name, value in self.overrides(values).items():
            line += ["-p", f"{name}:={json.dumps(value)}"]
        return [*line, "--log-level", values["log_level"]]


NAMESPACE = Argument("namespace", "Namespace of node and topics, for two robots at once; empty: none")
LOG_LEVEL = Argument("log_level", "Least level that is logged", "info", ("debug", "info", "warn", "error", "fatal"))

SHIELD = NodeDescription(
    executable="shield_node",
    name="shield",
    arguments=(
        Argument("params_file", "Parameter file: the mapping of topics, and parameters of the node (needed)"),
        Argument("bundle", "Folder of the policy bundle; empty: as the parameter file says"),
        Argument(
            "mode", "policy: the bundle drives; filter: another stack's commands; empty: as the parameter file says",
            choices=("", "policy", "filter"),
        ),
        Argument("command_topic", "Where commands come in by in filter mode; empty: as the parameter file says"),
        Argument("output_topic", "Where commands go to, for a dry run one that nobody obeys; empty: as the file says"),
        NAMESPACE,
        LOG_LEVEL,
    ),
    parameters=(
        ("bundle", "bundle"),
        ("mode", "mode"),
        ("command_topic", "command_topic"),
        ("output_topic", "action.topic"),
    ),
    fixed=(("autostart", True),),
)  # fmt: skip

SIM_ROBOT = NodeDescription(
    executable="sim_robot_node",
    name="sim_robot",
    arguments=(
        Argument("env", "The environment, a Gymnasium id or package.module:factory; empty: as the parameter file says"),
        Argument("params_file", "Parameter file: the mapping of topics, parameters of the nodes; empty: plain arrays"),
        Argument("auto_reset", "Begin a new episode after one has ended; empty: as the parameter file says",
                 choices=("", "true", "false")),
        Argument("bundle", "Folder of a policy bundle: a shield drives the robot by it; empty: no shield"),
        Argument("mode", "Of that shield: policy or filter", choices=("", "policy", "filter")),
        NAMESPACE,
        LOG_LEVEL,
    ),
    parameters=(("env", "env"), ("auto_reset", "auto_reset")),
    companions=(("bundle", SHIELD),),
)  # fmt: skip

CONSTRAINT_MONITOR = NodeDescription(
    executable="constraint_monitor_node",
    name="constraint_monitor",
    arguments=(Argument("params_file", "Parameter file: the constraints (needed)"), NAMESPACE, LOG_LEVEL),
    parameters=(),
    fixed=(("autostart", True),),
)

RECORDER = NodeDescription(
    executable="recorder_node",
    name="recorder",
    arguments=(
        Argument("params_file", "Parameter file: the mapping of topics, and parameters of the node (needed)"),
        Argument("output", "Folder of the recording, new or empty, such as data/run1 or data/%Y-%m-%d_%H-%M-%S"),
        Argument("extra_topics", "Further topics to record, by spaces, each a name or name:type"),
        NAMESPACE,
        LOG_LEVEL,
    ),
    parameters=(("output", "output"), ("extra_topics", "extra_topics")),
    fixed=(("autostart", True),),
)

TRAIN_ON_ROBOT = NodeDescription(
    executable="train_on_robot",
    name="train_on_robot",
    arguments=(
        Argument("params_file", "Parameter file: mapping, reward and the section robot_env (needed)"),
        Argument("output", "Run folder; one that holds a run is gone on with (needed)"),
        Argument("dataset", "Offline dataset, such as safe-rl collect --from-bag makes (needed to begin)"),
        Argument("pretrained", "Run folder of safe-rl pretrain to start from; empty: pretrain on the dataset first"),
        Argument("method", "A method of safe-rl train", "recovery-rl"),
        Argument("episodes", "Training episodes in all, those of earlier sessions included; empty: 300"),
        Argument("seed", "Seed of everything random but the robot; empty: 0"),
        Argument("preset", "Settings to start from; empty: tuned", choices=("", "tuned", "paper", "none")),
        Argument("settings_of", "Environment whose preset to take, such as the robot's simulation; empty: any robot's"),
        Argument("dry_run", "Send nothing; the run goes to a folder of its own", "false", ("true", "false")),
        Argument("flags", "Further flags of safe-rl train, such as '--risk.eps-risk 0.2'"),
        NAMESPACE,
        LOG_LEVEL,
    ),
    parameters=tuple(
        (name, name)
        for name in (
            "params_file", "output", "dataset", "pretrained", "method", "episodes", "seed", "preset", "settings_of",
            "dry_run", "flags",
        )
    ),
    max_restarts=0,  # a person is to look before a robot moves again
)  # fmt: skip

DESCRIPTIONS = {
    description.name: description for description in (SHIELD, SIM_ROBOT, CONSTRAINT_MONITOR, RECORDER, TRAIN_ON_ROBOT)
}


def describe(description: NodeDescription) -> str:
    """The arguments in words, one a line."""
    width = max(len(argument.name) for argument in description.arguments)
    return "\n".join(
        f"  {argument.name:<{width}}  {argument.description}"
        + (f" (default: {argument.default})" if argument.default else "")
        for argument in description.arguments
    )
