"""Parameters of nodes, from dataclasses: name, type and default are the field's, its docstring is the description."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node

from safe_rl.errors import UserError

Parameters = TypeVar("Parameters")


def bounded(default: float, low: float, high: float) -> Any:
    """A float field with its range."""
    return field(default=default, metadata={"range": (low, high)})


@dataclass
class ShieldParameters:
    """Parameters of ``shield_node`` beside the mapping (see ``ros_nodes.mapping``)."""

    bundle: str = ""
    """Folder of the policy bundle."""
    mode: Literal["policy", "filter"] = "policy"
    """policy: the bundle's task policy drives. filter: another stack's commands are passed, replaced or stopped."""
    engine: Literal["auto", "onnx", "torch"] = "auto"
    """What evaluates the networks."""
    rate_hz: float = bounded(20.0, 0.1, 1000.0)
    """Decisions a second, whatever arrives, in Hz."""
    decide_on_arrival: bool = True
    """Decide at once when a command came, or something from every source."""
    state_rate_hz: float = bounded(5.0, 0.1, 1000.0)
    """State messages a second beside those on a change, in Hz."""
    command_topic: str = ""
    """Where commands come in by in filter mode (default: the action's topic with _in behind it)."""
    command_timeout_sec: float = bounded(0.5, 0.001, 60.0)
    """Age of a command, by arrival and by stamp, above which the other stack counts as silent, in s."""
    command_max_future_sec: float = bounded(0.1, 0.0, 60.0)
    """How far ahead of the clock a command's stamp may lie, in s."""
    eps_risk: float = bounded(-1.0, -1.0, 1.0)
    """Threshold of the switch, can be changed while it runs; below zero: the bundle's."""
    allow_looser_threshold: bool = False
    """Whether eps_risk may exceed the bundle's, which voids its calibration."""
    allow_other_publishers: bool = False
    """Whether others may publish to the action's topic; otherwise the shield stops while they do."""
    black_box: str = ""
    """Folder that the last decisions are written to on STOP; empty: none are."""
    marker_frame: str = ""
    """Frame that a marker of the risk is drawn in; empty: none is."""
    autostart: bool = False
    """Configure and activate at once, without a lifecycle manager."""


def declare(node: Node, kind: type[Any]) -> None:
    """Declares a dataclass's fields as parameters, with description and range.

    Raises:
        UserError: A value given by file or command line is of another type or out of range.
    """
    texts = _docstrings(kind)
    hints = typing.get_type_hints(kind)
    for entry in dataclasses.fields(kind):
        descriptor = ParameterDescriptor(description=texts.get(entry.name, ""))
        if "range" in entry.metadata:
            low, high = entry.metadata["range"]
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
        if typing.get_origin(hints[entry.name]) is Literal:
            descriptor.additional_constraints = " or ".join(typing.get_args(hints[entry.name]))
        try:
            # Those with overrides were declared before, without a descriptor.
            value = entry.default
            if node.has_parameter(entry.name):
                value = node.get_parameter(entry.name).value
                node.undeclare_parameter(entry.name)
            if isinstance(entry.default, float) and type(value) is int:
                value = float(value)
            node.declare_parameter(entry.name, value, descriptor, ignore_override=True)
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise UserError(f"parameter {entry.name}: {error}") from error
        if type(node.get_parameter(entry.name).value) is not type(entry.default):
            raise UserError(f"parameter {entry.name} is {value!r}: it must be of type {type(entry.default).__name__}")


def read(node: Node, kind: type[Parameters]) -> Parameters:
    """The parameters' present values.

    Raises:
        UserError: One is not among its choices.
    """
    hints = typing.get_type_hints(kind)
    values = {}
    for entry in dataclasses.fields(typing.cast(Any, kind)):
        value = node.get_parameter(entry.name).value
        choices = typing.get_args(hints[entry.name]) if typing.get_origin(hints[entry.name]) is Literal else ()
        if choices and value not in choices:
            raise UserError(f"parameter {entry.name} is {value!r}: it must be {' or '.join(choices)}")
        values[entry.name] = value
    return kind(**values)


def nested(node: Node) -> dict[str, Any]:
    """All parameters, names with dots as nested dictionaries: a mapping's form."""
    tree: dict[str, Any] = {}
    for name, parameter in node.get_parameters_by_prefix("").items():
        *path, last = name.split(".")
        place = tree
        for key in path:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise UserError(f"parameter {name}: {key} is a value and a section")
        value = parameter.value
        place[last] = list(value) if hasattr(value, "tolist") or isinstance(value, tuple) else value
    return tree


def _docstrings(kind: type[Any]) -> dict[str, str]:
    """The strings below the fields of a dataclass, in one line each."""
    body = typing.cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]).body
    texts = {}
    for before, after in itertools.pairwise(body):
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            texts[ast.unparse(before.target)] = " ".join(str(after.value.value).split())
    return texts
