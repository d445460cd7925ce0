"""The methods of `safe-rl train` that are plans."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from safe_rl.algorithms.a2c import A2CConfig, A2CLearner
from safe_rl.algorithms.dqn import ApexConfig, DQNConfig, DQNLearner
from safe_rl.algorithms.impact import IMPACTConfig, IMPACTLearner
from safe_rl.algorithms.impala import IMPALAConfig, IMPALALearner
from safe_rl.algorithms.on_policy_presets import OnPolicyPreset, on_policy_preset
from safe_rl.algorithms.ppo import PPOConfig, PPOLearner
from safe_rl.algorithms.recovery_impact import RecoveryIMPACTAgent, RecoveryIMPACTConfig
from safe_rl.algorithms.recovery_impact_presets import recovery_impact_preset
from safe_rl.errors import UserError
from safe_rl.flow import LocalIterator
from safe_rl.flow.operators import Update
from safe_rl.flow.q_worker import QWorker
from safe_rl.flow.rollout_worker import RolloutWorker
from safe_rl.flow.switch_worker import SwitchWorker
from safe_rl.methods import config_from_dict
from safe_rl.plans.a2c import a2c
from safe_rl.plans.a3c import GradientWorker, a3c
from safe_rl.plans.apex import apex
from safe_rl.plans.config import OfflinePlanRunConfig, PlanRunConfig
from safe_rl.plans.dqn import dqn
from safe_rl.plans.impact import impact
from safe_rl.plans.impala import impala
from safe_rl.plans.parts import Parts
from safe_rl.plans.ppo import ppo
from safe_rl.plans.recovery_impact import recovery_impact
from safe_rl.presets import settings_of


class PlanPreset(NamedTuple):
    """What a preset says."""

    settings: Any
    """The method's config."""
    num_envs: int
    """Environments of a worker."""
    fragment_length: int


@dataclass(frozen=True)
class PlanMethod:
    """A plan, its learner, and the settings that this takes."""

    preset_name: str
    """The method whose presets it takes."""
    plan: Callable[[Parts[Any]], LocalIterator[Update]]
    learner: type[Any]
    config: type[Any]
    help: str
    worker: Callable[..., RolloutWorker] = RolloutWorker
    run_config: type[PlanRunConfig] = PlanRunConfig
    presets: Callable[[str, str], OnPolicyPreset] | None = None
    """The preset of an environment and a name; None for those of the on-policy methods."""

    def preset(self, env: str, name: str) -> PlanPreset:
        """Settings under a preset.

        Raises:
            UserError: There is no such preset.
        """
        if self.presets is not None:
            found = self.presets(env, name)
            return PlanPreset(settings_of(self.config, found.settings), found.num_envs, found.fragment_length)
        if name not in ("tuned", "none"):
            raise UserError(f"--preset is {name}: choose tuned or none")
        found = OnPolicyPreset() if name == "none" else on_policy_preset(self.preset_name, env)
        settings = config_from_dict(self.config, {**dataclasses.asdict(self.config()), **found.settings})
        return PlanPreset(settings, found.num_envs, found.fragment_length)

    def worker_arguments(self, config: Any, num_workers: int) -> dict[str, Any]:
        """What its workers need beside the environment."""
        if self.worker is QWorker:
            return {"config": config, "num_workers": num_workers}
        return {"hidden_sizes": config.hidden_sizes} if self.worker is RolloutWorker else {"config": config}


def dqn_preset(env: str, name: str) -> OnPolicyPreset:
    """The defaults, which learn CartPole; nobody tuned others.

    Raises:
        UserError: There is no such preset.
    """
    if name not in ("tuned", "none"):
        raise UserError(f"--preset is {name}: choose tuned or none")
    return OnPolicyPreset(num_envs=8, fragment_length=16)


PLAN_METHODS: dict[str, PlanMethod] = {
    "impact": PlanMethod(
        "impact",
        impact,
        IMPACTLearner,
        IMPACTConfig,
        "asynchronous workers, PPO's objective against a slow target (IMPACT)",
    ),
    "ppo": PlanMethod("ppo", ppo, PPOLearner, PPOConfig, "proximal policy optimisation, in rounds"),
    "impala": PlanMethod("impala", impala, IMPALALearner, IMPALAConfig, "asynchronous workers, V-trace"),
    "recovery-impact": PlanMethod(
        "impact",
        recovery_impact,
        RecoveryIMPACTAgent,
        RecoveryIMPACTConfig,
        "IMPACT under a switch on learned risk, with a recovery policy (Recovery RL)",
        worker=SwitchWorker,
        run_config=OfflinePlanRunConfig,
        presets=recovery_impact_preset,
    ),
    "dqn": PlanMethod("dqn", dqn, DQNLearner, DQNConfig, "double DQN", worker=QWorker, presets=dqn_preset),
    "apex": PlanMethod(
        "apex",
        apex,
        DQNLearner,
        ApexConfig,
        "double DQN with prioritised replay in actors, workers of different curiosity (Ape-X)",
        worker=QWorker,
        presets=dqn_preset,
    ),
    "a2c": PlanMethod("a2c", a2c, A2CLearner, A2CConfig, "advantage actor-critic, in rounds"),
    "a3c": PlanMethod(
        "a2c", a3c, A2CLearner, A2CConfig, "advantage actor-critic, asynchronous gradients", worker=GradientWorker
    ),
}
