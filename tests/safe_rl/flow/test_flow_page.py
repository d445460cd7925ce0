"""The page about the dataflow library says what is so."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from safe_rl.flow import ActorOptions

PAGE = (Path(__file__).parents[3] / "docs/flow.md").read_text(encoding="utf-8")


def test_its_examples_run() -> None:
    first, second = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(first, "flow.md", "exec"), {})  # noqa: S102 (our own page)
        exec(compile(second, "flow.md", "exec"), {})  # noqa: S102
    error, sums = out.getvalue().splitlines()
    assert float(error) < 0.2
    assert sums == "[3, 7, 11]"


def test_its_defaults_are_those_of_the_options() -> None:
    for name in ("timeout_sec", "max_restarts", "restart_timeout_sec", "start_timeout_sec"):
        (value,) = re.findall(rf"`{name}` (?:times )?\(default (\d+)\)", PAGE)
        assert getattr(ActorOptions(), name) == float(value), name
