"""Fits risk critic and recovery policy to offline data, before any task learning."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safe_rl.algorithms.recovery_rl import RecoveryRLAgent
from safe_rl.algorithms.risk_aware import RiskAwareAgent
from safe_rl.algorithms.sac import Metrics, SACAgent
from safe_rl.checkpoint import has_state, load_state, save_state
from safe_rl.config import AgentConfig, validate_session
from safe_rl.data.dataset import OfflineDataset
from safe_rl.envs.factory import CostEnv, make_env
from safe_rl.errors import UserError
from safe_rl.methods import make_agent
from safe_rl.planner_config import PLANNING_KINDS
from safe_rl.runner import Interrupt, Progress
from safe_rl.runs import misfit_named, prepare_run_folder

PRETRAINED = "pretrained"
"""Folder of the pretrained networks within a run folder."""
PARTIAL = "pretraining"
"""Folder of an unfinished pretraining within a run folder."""
SAVE_EVERY = 2_500
"""Gradient steps between saves of an unfinished pretraining."""


@dataclass
class PretrainConfig:
    """Where a pretraining happens and what it reads."""

    env: str
    """Environment: a registered id or package.module:factory."""
    dataset: Path
    """Offline dataset."""
    output: Path
    """Folder of the run."""
    seed: int = 0
    """Seed of everything random."""
    cost_key: str = "cost"
    """Entry of info that is the constraint."""
    resume: bool = False
    """Go on with the pretraining in the output folder; the command line takes from it what is not given."""
    overwrite: bool = False
    """Replace the run in the output folder."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    threads: int = 1
    """CPU threads; networks this small gain nothing from more."""

    def __post_init__(self) -> None:
        """Validates the values."""
        validate_session(self.seed, self.threads, resume=self.resume, overwrite=self.overwrite)


def pretrain_run(
    method: str, config: PretrainConfig, agent_config: AgentConfig, progress: Progress | None = None
) -> dict[str, float]:
    """`safe-rl pretrain` as a function: writes a run folder that ``train`` takes as ``pretrained``.

    Returns:
        The metrics of the last gradient step.

    Raises:
        UserError: Something is missing, damaged or does not fit; nothing was changed.
        KeyboardInterrupt: Ctrl-C; the state was saved, and ``resume`` goes on.
    """
    torch.set_num_threads(config.threads)
    env = make_env(config.env, cost_key=config.cost_key)
    agent = require_risk_aware(
        make_agent(
            method, agent_config, env.observation_space, env.action_space, seed=config.seed, device=config.device
        ),
        method,
    )
    dataset = open_dataset(config.dataset, env, config.cost_key)
    env.close()
    images = agent.image_shape is not None
    settings = {"method": method, **dataclasses.asdict(config), **agent.config.settings(images=images)}
    prepare_run_folder(config.output, settings, resume=config.resume, overwrite=config.overwrite)
    agent.add_offline(dataset.transitions())
    dataset.release()
    metrics = pretrain_safety(agent, config.output, progress)
    return {name: float(value) for name, value in metrics.items()}


def open_dataset(path: Path, env: CostEnv, cost_key: str, *, learns_risk: bool = True) -> OfflineDataset:
    """Opens a dataset that a risk critic for ``env`` can learn from, or a task policy alone.

    Raises:
        UserError: It is missing, damaged, made for other spaces, or unfit to learn risk from.
    """
    dataset = OfflineDataset.open(path, cost_key=cost_key)
    dataset.check_compatible(env)
    if learns_risk:
        dataset.validate_for_training()
    return dataset


def pretrain_safety(agent: RiskAwareAgent, run: Path, progress: Progress | None = None) -> Metrics:
    """Fits risk critic and recovery policy to the agent's offline transitions and saves them in the folder ``run``.

    Before them an encoder of images learns to describe those, where the settings say so. A pretraining that was cut
    goes on from its last saved step; one that was finished is loaded, and what follows is as random as it would have
    been.

    Returns:
        The metrics of the last gradient steps.
    """
    if has_state(run / PRETRAINED):
        load_pretrained(agent, run)
        random = load_state(run / PRETRAINED)["random"]
        agent.restore_generator(random["generator"])
        agent.replay.random_state = random["replay"]
        return {}
    partial = run / PARTIAL
    encoder_end = agent.num_encoder_steps
    risk_end = encoder_end + agent.config.risk.pretrain_steps
    done, total = 0, risk_end + agent.num_recovery_steps
    if has_state(partial):
        state = load_state(partial)
        with misfit_named(run, "this version of safe_rl"):
            agent.load_state_dict(state["agent"])
            done = state["done"]
    metrics: Metrics = {}
    steps = itertools.chain(
        agent.pretrain_encoder(max(encoder_end - done, 0)),
        agent.pretrain(max(risk_end - max(done, encoder_end), 0)),
        agent.pretrain_recovery(total - max(done, risk_end)),
    )
    with Interrupt() as interrupt:
        for step_metrics in steps:
            metrics = metrics | step_metrics
            done += 1
            if interrupt.requested or done % SAVE_EVERY == 0:
                save_state(partial, {"agent": agent.state_dict(), "done": done})
            interrupt.raise_if_requested()
            if progress is not None:
                part = "dynamics model" if risk_end <= done and risk_end < total else "risk critic and recovery policy"
                progress(done, total, "encoder" if done < encoder_end else part)
    random = {"generator": agent.generator.get_state(), "replay": agent.replay.random_state}
    save_state(run / PRETRAINED, {"safety": agent.safety_state_dict(), "settings": _settings(agent), "random": random})
    shutil.rmtree(partial, ignore_errors=True)
    return metrics


def load_pretrained(agent: RiskAwareAgent, run: Path) -> None:
    """Loads the networks that a run has pretrained; raises as ``read_pretrained``."""
    agent.load_safety_state_dict(read_pretrained(agent, run))


def read_pretrained(agent: RiskAwareAgent, run: Path) -> dict[str, Any]:
    """Reads the networks that a run has pretrained, and checks that they fit the agent.

    Raises:
        UserError: The run has none, they are damaged, or were trained with other spaces or settings.
    """
    folder = run / PRETRAINED
    if not has_state(folder):
        raise UserError(f"{run} holds no pretrained networks: make them with safe-rl pretrain --output {run}")
    state = load_state(folder)
    for name, value in _settings(agent).items():
        saved = state["settings"].get(name)
        if saved != value:
            raise UserError(
                f"{run} was pretrained with {name} = {saved}, not {value}: pretrain again or set it to {saved}"
            )
    safety: dict[str, Any] = state["safety"]
    return safety


def _settings(agent: RiskAwareAgent) -> dict[str, Any]:
    """What must be the same for pretrained networks to fit and to mean the same."""
    risk = agent.config.risk
    settings = {
        "obs_dim": agent.obs_dim,
        "act_dim": agent.act_dim,
        "risk.gamma_risk": risk.gamma_risk,
        "risk.num_critics": risk.num_critics,
        "risk.hidden_sizes": list(risk.hidden_sizes),
        "normalize_obs": agent.config.normalize_obs,
    }
    if isinstance(agent, RecoveryRLAgent):
        recovery = agent.config.recovery
        settings["recovery.kind"] = recovery.kind
        if recovery.kind != "least-risky":
            settings["recovery.hidden_sizes"] = list(recovery.hidden_sizes)
        if recovery.kind in PLANNING_KINDS:
            planner = agent.config.planner
            settings |= {"planner.horizon": planner.horizon, "planner.hidden_sizes": list(planner.hidden_sizes)}
        if recovery.kind == "model-based":
            settings["planner.ensemble_size"] = agent.config.planner.ensemble_size
    if agent.image_shape is None:
        return settings
    encoder = agent.config.encoder
    return settings | {
        "the image's shape": list(agent.image_shape),
        "encoder.sharing": encoder.sharing,
        "encoder.channels": list(encoder.channels),
        "encoder.feature_dim": encoder.feature_dim,
    }


def require_risk_aware(agent: SACAgent, method: str) -> RiskAwareAgent:
    """Narrows the type of an agent.

    Raises:
        UserError: The method knows no risk.
    """
    if not isinstance(agent, RiskAwareAgent):
        raise UserError(f"method {method!r} has no risk critic to pretrain")
    return agent
