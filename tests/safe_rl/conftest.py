from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `toys:Corridor`, as a user's own module would be found

import toys


@pytest.fixture(autouse=True)
def _no_hooks_left():
    yield
    toys.Corridor.on_step = None


@pytest.fixture(scope="session")
def corridor_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small offline dataset of the corridor; not to be written to."""
    return toys.collect_corridor(tmp_path_factory.mktemp("data") / "corridor")
