"""The pages that show plans, run as they stand, and the table of the plans' lines."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.plan_lines import BEGIN, END, LIMIT, PAGE, Plan, find_plans, plans_of, table
from safe_rl.plans.methods import PLAN_METHODS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pages' Python blocks under their titles."""
    folder = tmp_path_factory.mktemp("own_plan")
    page = (ROOT / "docs/how-to/own_plan.md").read_text(encoding="utf-8") + PAGE.read_text(encoding="utf-8")
    for name, code in re.findall(r'^```python title="(\w+\.py)"\n(.*?)^```', page, re.M | re.S):
        (folder / name).write_text(code)
    return folder


def run(folder: Path, name: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, name], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_learner_of_ones_own_learns(programs: Path) -> None:
    """A random policy's return is about 22."""
    found = re.search(r"last 100 episodes: (\d+)", run(programs, "reinforce.py"))
    assert found and int(found[1]) > 150
    assert (programs / "runs/reinforce/episodes.csv").stat().st_size > 1000


def test_the_worker_of_ones_own_learns(programs: Path) -> None:
    means = [int(word) for word in run(programs, "cross_entropy.py").rpartition(":")[2].split()]
    assert len(means) == 10
    assert means[0] < 100 < 250 < means[-1]


def test_the_adaptation_of_the_page_learns(programs: Path) -> None:
    rows = [[float(word) for word in line.split()[1::2]] for line in run(programs, "adapt.py").splitlines()]
    assert len(rows) == 4
    before, after = rows[-1]
    assert after > before + 8


def test_the_team_of_the_page_learns(programs: Path) -> None:
    found = re.findall(r"(\w+): (-[\d.]+) at first, (-[\d.]+) in the end", run(programs, "team.py"))
    assert [agent for agent, _, _ in found] == ["leader", "follower"]
    assert all(float(first) < -3 and float(last) > -2.5 for _, first, last in found)


PLANS = find_plans()


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_no_plan_is_longer_than_it_may_be(plan: Plan) -> None:
    assert 0 < plan.lines <= LIMIT


def test_all_plans_of_the_command_line_are_counted() -> None:
    counted = {plan.name for plan in PLANS}
    assert {spec.plan.__name__ for spec in PLAN_METHODS.values()} <= counted


def test_the_page_has_the_table() -> None:
    shown = PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0].strip()
    assert shown == table(PLANS), "python -m benchmarks.plan_lines --write"


def test_lines_are_counted_as_the_page_says() -> None:
    source = '''"""Toy (arXiv 1). Its loss is in ``safe_rl.algorithms.toy``."""
def helper() -> int:
    return 1

def toy(parts) -> LocalIterator[Update]:
    """One
    two."""
    first = 1

    # a comment
    return (
        first  # counted
    )
'''
    assert plans_of(source, "toy.py") == [Plan("toy", 4, "toy.py", "Toy (arXiv 1)", ("toy",))]
