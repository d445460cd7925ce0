"""What is evaluated or watched: a run's agent, or a bundle's shield, with an environment that fits it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safe_rl.data.dataset import require_compatible
from safe_rl.envs.factory import CostEnv, make_env
from safe_rl.envs.spaces import space_from_json
from safe_rl.evaluation import Actor
from safe_rl.runs import load_run
from safe_rl.shield.agent import ShieldAgent
from safe_rl.shield.bundle import SPEC
from safe_rl.shield.shield import Shield


@dataclass
class Subject:
    """Who acts, and where."""

    actor: Actor
    env: CostEnv
    eps_risk: float | None = None
    """The switch's threshold, where it has one."""
    between_episodes: Callable[[], None] = lambda: None
    """To be called between two episodes."""


def is_bundle(path: Path) -> bool:
    """Whether a folder is a policy bundle (else it should be a run)."""
    return (path / SPEC).exists()


def open_subject(
    path: Path,
    *,
    env: str | None = None,
    cost_key: str | None = None,
    device: str = "cpu",
    engine: Literal["auto", "onnx", "torch"] = "auto",
    render_mode: str | None = None,
) -> Subject:
    """Opens a run folder or a policy bundle.

    Args:
        path: The folder.
        env: The environment (default: the one it was trained in).
        cost_key: Entry of info that is the constraint (default: the training's).
        device: Where an agent computes; a bundle decides on the CPU.
        engine: What evaluates a bundle.
        render_mode: Of the environment.

    Raises:
        UserError: It is no run or bundle, is damaged, or does not fit the environment.
    """
    if is_bundle(path):
        return _open_bundle(path, env, cost_key, engine, render_mode)
    return _open_run(path, env, cost_key, device, render_mode)


def _open_run(path: Path, env: str | None, cost_key: str | None, device: str, render_mode: str | None) -> Subject:
    run = load_run(path)
    agent, own = run.make_agent(device), run.make_env()
    own.close()
    made = make_env(env or run.env_id, cost_key=cost_key or run.cost_key, render_mode=render_mode)
    require_compatible(
        f"run {path}",
        (own.observation_space, own.action_space),
        f"environment {made.name}",
        (made.observation_space, made.action_space),
    )
    return Subject(agent, made, threshold_of(agent))


def _open_bundle(
    path: Path, env: str | None, cost_key: str | None, engine: Literal["auto", "onnx", "torch"], render_mode: str | None
) -> Subject:
    shield = Shield.load(path, engine=engine)
    spec = shield.bundle.spec
    made = make_env(
        env or spec.env, cost_key=cost_key or spec.provenance.get("cost_key", "cost"), render_mode=render_mode
    )
    require_compatible(
        f"bundle {path}",
        (space_from_json(spec.observation_space), space_from_json(spec.action_space)),
        f"environment {made.name}",
        (made.observation_space, made.action_space),
    )
    return Subject(ShieldAgent(shield), made, spec.switch.eps_risk, shield.reset)


def threshold_of(agent: Actor) -> float | None:
    """The threshold of an agent's switch, where it has one."""
    switch = getattr(agent, "switch", None)
    return None if switch is None else float(switch.eps_risk)
