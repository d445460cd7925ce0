"""How many lines has each plan? The table of ``docs/methods/plans.md``.

    python -m benchmarks.plan_lines            # print it
    python -m benchmarks.plan_lines --write    # put it into the page

A plan is a function of ``safe_rl/plans`` that returns a ``LocalIterator``. Its lines are those of the body: without the
signature, the docstring, blank lines and comments.
"""

from __future__ import annotations

import argparse
import ast
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "methods" / "plans.md"
LIMIT = 25
BEGIN, END = "<!-- lines: begin -->", "<!-- lines: end -->"


@dataclass(frozen=True)
class Plan:
    """One plan."""

    name: str
    lines: int
    file: str
    what: str
    """First sentence of its module."""
    losses: tuple[str, ...]
    """Files of the losses that the module names."""


def find_plans(folder: Path = ROOT / "safe_rl" / "plans") -> list[Plan]:
    """The plans in the Python files of a folder, the shortest first."""
    found = [plan for path in sorted(folder.glob("*.py")) for plan in plans_of(path.read_text("utf-8"), path.name)]
    return sorted(found, key=lambda plan: (plan.lines, plan.name))


def plans_of(source: str, file: str) -> list[Plan]:
    """The plans in one file's text."""
    module = ast.parse(source)
    about = ast.get_docstring(module) or ""
    losses = tuple(dict.fromkeys(re.findall(r"safe_rl\.algorithms\.(\w+)", about)))
    what = re.split(r"[.;](?:\s|$)", about, maxsplit=1)[0].replace("\n", " ")
    return [
        Plan(node.name, body_lines(node, source), file, what, losses)
        for node in module.body
        if isinstance(node, ast.FunctionDef)
        and node.returns is not None
        and ast.unparse(node.returns).startswith("LocalIterator")
    ]


def body_lines(function: ast.FunctionDef, source: str) -> int:
    """The lines of a function's body that are neither docstring nor blank nor comment."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body:
        return 0
    text = source.splitlines()[body[0].lineno - 1 : body[-1].end_lineno]
    return sum(1 for line in text if line.strip() and not line.strip().startswith("#"))


def table(plans: list[Plan]) -> str:
    """The plans as Markdown."""
    rows = [
        "| plan | lines | what | in `safe_rl/plans/` | its loss, in `safe_rl/algorithms/` |",
        "|---|---|---|---|---|",
    ]
    for plan in plans:
        losses = ", ".join(f"`{loss}.py`" for loss in plan.losses) or "-"
        rows.append(f"| `{plan.name}` | {plan.lines} | {plan.what} | `{plan.file}` | {losses} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into the page")
    args = parser.parse_args()
    text = table(find_plans())
    print(text)
    if args.write:
        before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", "utf-8")


if __name__ == "__main__":
    main()
