"""The built site, and a browser to look at it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "safe_rl" / "report"))

from headless_chromium import browser  # noqa: F401 (a fixture)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """A strict build; the site is in the folder that its last argument names."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(ROOT / "mkdocs.yml")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        [*command, "--site-dir", str(site)], cwd=site, env=environment, capture_output=True, text=True, timeout=240
    )


@pytest.fixture(scope="session")
def site(built: subprocess.CompletedProcess[str]) -> Path:
    """The folder of the built site."""
    assert built.returncode == 0, built.stderr
    return Path(built.args[-1])
