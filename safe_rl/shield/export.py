"""`safe-rl export` as a function: turns a training run into a policy bundle."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from safe_rl.algorithms.recovery_rl import RecoveryRLAgent
from safe_rl.checkpoint import list_checkpoints
from safe_rl.data.dataset import OfflineDataset
from safe_rl.envs.spaces import space_to_json
from safe_rl.errors import UserError
from safe_rl.methods import METHODS, get_method
from safe_rl.normalization import ActionScaler
from safe_rl.runs import VERSIONS, Run, is_plan, load_run
from safe_rl.shield.agreement import TOLERANCE, largest_difference
from safe_rl.shield.bundle import WEIGHTS, PolicyBundle, arrays_to_bytes, may_write, write_bundle
from safe_rl.shield.graph import DecisionGraph
from safe_rl.shield.spec import BundleSpec, LimitSpec, SpecError, StopSpec, SwitchSpec
from safe_rl.shield.torch_engine import TorchEngine
from safe_rl.shield.weights import agent_arrays
from safe_rl.storage import MANIFEST, read_json, sha256


@dataclass
class ExportOptions:
    """What a bundle is given beside what the run knows."""

    onnx: bool = False
    """Add ONNX graphs, so that the robot needs no PyTorch."""
    overwrite: bool = False
    """Replace the bundle in the output folder."""
    eps_risk: float | None = None
    """Risk above which the recovery policy takes over (default: the training's)."""
    release_risk: float | None = None
    """Once it has taken over, give back at this risk or less; below eps_risk it prevents chattering (default: at
    eps_risk)."""
    min_recovery_sec: float = 0.0
    """Least time that the recovery policy acts once it has taken over."""
    max_rate: tuple[float, ...] | None = None
    """Largest change of each component of the action, in its units a second (default: no limit)."""
    control_period_sec: float | None = None
    """Time between two decisions; needed with max_rate."""
    stop: Literal["zero", "hold", "action"] = "zero"
    """What STOP means: the zero command (for velocities), the last command again (for positions), or stop_action."""
    stop_action: tuple[float, ...] | None = None
    """The action of a STOP of kind action."""
    deadline_sec: float | None = None
    """A decision that took longer leads to STOP (default: no deadline)."""


def export_run(run: Path | str, output: Path | str, options: ExportOptions | None = None) -> PolicyBundle:
    """Writes the newest checkpoint of a run as a bundle.

    Args:
        run: The run's folder.
        output: The bundle's folder.
        options: What else the bundle is given.

    Raises:
        UserError: The run is missing, damaged or has no risk critic, the output may not be written, an option cannot
            be, or packages for ONNX are missing.
    """
    options, output = options or ExportOptions(), Path(output)
    if options.onnx:
        _require_onnx()
    may_write(output, overwrite=options.overwrite)
    opened = load_run(run)
    if is_plan(opened.config):
        raise UserError(
            f"{opened.path} was trained by {opened.method}, whose policy a bundle cannot hold yet: train recovery-rl"
        )
    if not issubclass(get_method(opened.method).agent, RecoveryRLAgent):
        able = [name for name, method in METHODS.items() if issubclass(method.agent, RecoveryRLAgent)]
        raise UserError(
            f"{opened.path} was trained by {opened.method}, which has no risk critic to shield with: "
            f"train {' or '.join(able)}"
        )
    checkpoints = list_checkpoints(opened.path / "checkpoints")
    agent: Any = opened.make_agent()
    if list_checkpoints(opened.path / "checkpoints") != checkpoints:
        raise UserError(f"{opened.path} is being trained and has just written a checkpoint: export it again")
    spec = _describe(opened, agent, options, checkpoints[-1])
    arrays = agent_arrays(agent)
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError(f"the newest checkpoint of {opened.path} holds NaN or infinity in {name}: train again")
    files = {WEIGHTS: arrays_to_bytes(arrays)}
    if options.onnx:
        from safe_rl.shield.onnx_graphs import make_graphs

        files |= make_graphs(DecisionGraph(spec, arrays, str(opened.path)), spec, files[WEIGHTS])
    with tempfile.TemporaryDirectory() as scratch:  # what is kept has been opened and compared
        _try_out(write_bundle(Path(scratch) / "bundle", spec, files))
    return write_bundle(output, spec, files)


def _require_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise UserError(f"--onnx needs {', '.join(missing)}, which {verb} not installed: pip install 'safe_rl[onnx]'")


def _describe(run: Run, agent: RecoveryRLAgent, options: ExportOptions, checkpoint: Path) -> BundleSpec:
    recovery = agent.config.recovery.kind
    if not isinstance(agent.scaler, ActionScaler) or recovery == "least-risky":
        raise UserError(
            f"{run.path} chooses among discrete actions, which a bundle cannot hold: train in an environment whose "
            "actions are a Box"
        )
    if recovery == "model-based" or recovery == "latent-model":  # spelt out so that mypy narrows it
        raise UserError(
            f"{run.path} recovers by planning ({recovery}), which a bundle cannot hold: "
            "train with --recovery.kind model-free or q-sampling"
        )
    if agent.config.risk.quantile != 1:
        raise UserError(
            f"{run.path} reads its ensemble by the quantile {agent.config.risk.quantile}, a bundle by the largest: "
            "train with --risk.quantile 1"
        )
    env = run.make_env()
    observation_space, action_space = env.observation_space, env.action_space
    env.close()
    risk = agent.config.risk
    eps_risk = risk.eps_risk if options.eps_risk is None else options.eps_risk
    low, high = (tuple(map(float, bounds)) for bounds in (agent.scaler.low, agent.scaler.high))
    try:
        return BundleSpec(
            method=run.method,
            env=run.env_id,
            observation_space=space_to_json(observation_space),
            action_space=space_to_json(action_space),
            recovery=recovery,
            gamma_risk=risk.gamma_risk,
            switch=SwitchSpec(eps_risk, risk.recovery_must_help, options.release_risk, options.min_recovery_sec),
            limits=LimitSpec(low, high, options.max_rate, options.control_period_sec),
            stop=StopSpec(options.stop, options.stop_action),
            deadline_sec=options.deadline_sec,
            provenance=_provenance(run, checkpoint),
        )
    except SpecError as error:
        raise UserError(_with_flags(str(error))) from error


def _with_flags(message: str) -> str:
    """Calls a bundle's entries by the options that they came from."""
    for entry in ("switch.eps_risk", "switch.release_risk", "switch.min_recovery_sec", "limits.max_rate",
                  "limits.control_period_sec", "stop.action", "deadline_sec"):  # fmt: skip
        name = entry.replace("stop.action", "stop_action").rpartition(".")[2]
        message = message.replace(entry, f"--{name.replace('_', '-')}")
    return message


def _provenance(run: Run, checkpoint: Path) -> dict[str, Any]:
    progress = read_json(checkpoint / "state.json")["state"]["runner"]
    return {
        "run": run.path.resolve().name,
        "method": run.method,
        "env": run.env_id,
        "cost_key": run.cost_key,
        "seed": run.seed,
        "episodes": progress["rollout"]["num_finished"],
        "environment_steps": progress["num_steps"],
        "checkpoint": checkpoint.name,
        "checkpoint_manifest_sha256": sha256(checkpoint / MANIFEST),
        "dataset_sha256": _dataset_sha256(run),
        "config": run.config,
        "versions": read_json(run.path / VERSIONS),
        "exported": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _dataset_sha256(run: Run) -> str | None:
    """The hash of what the risk critic learned from; None where it is no longer there."""
    try:
        return OfflineDataset.open(run.config["dataset"], cost_key=run.cost_key).sha256
    except UserError:
        return None


def _try_out(bundle: PolicyBundle) -> None:
    """Opens a bundle with every engine that it is for, and compares their decisions."""
    engine = TorchEngine(bundle)
    if not bundle.has_graphs:
        return
    from safe_rl.shield.onnx_engine import OnnxEngine

    difference = largest_difference(engine, OnnxEngine(bundle), bundle.spec)
    if not difference <= TOLERANCE:
        raise UserError(
            f"the ONNX graphs decide otherwise than PyTorch (they differ by {difference:.1e}, at most {TOLERANCE:.0e} "
            "is allowed): export without --onnx, or another checkpoint"
        )
