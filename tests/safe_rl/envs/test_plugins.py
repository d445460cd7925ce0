from __future__ import annotations

import importlib.metadata
import logging
import subprocess
import sys

import gymnasium as gym
import pytest

from safe_rl.envs import plugins


def test_a_fresh_process_finds_the_simulations_without_importing_them():
    code = "from safe_rl.envs.factory import make_env; print(make_env('safe_rl/Navigation1-v0').spec.id)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "safe_rl/Navigation1-v0\n", done.stderr


def _register_hallway():
    gym.register("Hallway-v0", entry_point="nowhere:Hallway")


def _register_nothing():
    raise RuntimeError("no licence")


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch):
    """Lets a test say which plugins are installed, and forgets what they registered."""
    before = dict(gym.registry)

    def offer(*named: tuple[str, str]) -> None:
        points = [importlib.metadata.EntryPoint(name, f"{__name__}:{value}", "gymnasium.envs") for name, value in named]
        monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == "gymnasium.envs" else [])
        plugins.register_plugins.cache_clear()

    yield offer
    gym.registry.clear()
    gym.registry.update(before)
    plugins.register_plugins.cache_clear()


def test_a_plugin_registers_in_the_namespace_of_its_name(offered):
    offered(("acme", "_register_hallway"))
    plugins.register_plugins()
    assert "acme/Hallway-v0" in gym.registry
    assert "Hallway-v0" not in gym.registry


def test_a_root_plugin_registers_without_a_namespace(offered):
    offered(("__root__", "_register_hallway"))
    plugins.register_plugins()
    assert "Hallway-v0" in gym.registry


def test_a_broken_plugin_is_named_and_the_others_still_load(offered, caplog):
    offered(("broken", "_register_nothing"), ("acme", "_register_hallway"))
    with caplog.at_level(logging.WARNING):
        plugins.register_plugins()
    assert "acme/Hallway-v0" in gym.registry
    assert "_register_nothing" in caplog.text
    assert "no licence" in caplog.text


def test_a_broken_plugin_leaves_its_namespace_to_nobody(offered):
    offered(("broken", "_register_nothing"), ("__root__", "_register_hallway"))
    plugins.register_plugins()
    gym.register("Cellar-v0", entry_point="nowhere:Cellar")
    assert "Hallway-v0" in gym.registry
    assert "Cellar-v0" in gym.registry
    assert not any(name.startswith("broken/") for name in gym.registry)
