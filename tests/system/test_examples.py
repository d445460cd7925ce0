"""The examples run as they stand in the documentation, shortened."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = ["--episodes", "2", "--transitions", "600", "--pretrain-steps", "20"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["navigation1", "navigation2", "maze", "own_environment", "cliff_walking"])
def test_an_example_goes_the_whole_way(name: str, tmp_path: Path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *SHORT, "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
        cwd=EXAMPLES,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "dataset" / "manifest.json").is_file()
    with (tmp_path / "recovery-rl" / "episodes.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
    assert "<html" in (tmp_path / "report.html").read_text()


def test_every_example_is_tried():
    scripts = {path.stem for path in EXAMPLES.glob("*.py")} - {"example"}
    tried = test_an_example_goes_the_whole_way.pytestmark[0].args[1]
    assert scripts == set(tried)
