"""Two agents in one environment, one trained by PPO, the other by DQN, as a plan (as in arXiv 2011.12719).

Their losses are in ``safe_rl.algorithms.ppo`` and ``safe_rl.algorithms.dqn``.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

import torch

from safe_rl.algorithms.dqn import DQNConfig, DQNLearner
from safe_rl.algorithms.fragment import Fragment
from safe_rl.algorithms.on_policy_learner import Floats
from safe_rl.algorithms.ppo import PPOConfig, PPOLearner
from safe_rl.envs.leader_follower import MultiAgentEnv
from safe_rl.flow import Backend, LocalIterator, concurrently
from safe_rl.flow.multi_agent_worker import MultiAgentWorker, require_agents
from safe_rl.flow.operators import BroadcastWeights, StoreToBuffer, TrainOneStep, Update, WorkerWeights, replay
from safe_rl.plans.parts import Parts

UPDATES_A_TURN = 10_000
"""Of DQN, at most; fewer where fewer are due."""


class Team:
    """Two learners, as far as their weights go to the same workers.

    Args:
        ppo_agent: Name of the agent that PPO trains.
        ppo: Its learner.
        dqn_agent: Name of the one that DQN trains.
        dqn: Its learner.
    """

    def __init__(self, ppo_agent: str, ppo: PPOLearner, dqn_agent: str, dqn: DQNLearner) -> None:
        self.ppo_agent, self.ppo, self.dqn_agent, self.dqn = ppo_agent, ppo, dqn_agent, dqn

    @property
    def version(self) -> int:
        """Gradient steps of both."""
        return self.ppo.version + self.dqn.version

    def weights(self) -> dict[str, Floats]:
        """Both agents' weights, by name."""
        return {self.ppo_agent: self.ppo.weights(), self.dqn_agent: self.dqn.weights()}


def of_agent(agent: str) -> Callable[[list[dict[str, Fragment]]], list[Fragment]]:
    """One agent's fragments of a round."""
    return lambda fragments: [fragment[agent] for fragment in fragments]


def named(agent: str) -> Callable[[Update], Update]:
    """Tells in the metrics' names whose they are, and adds the mean return of the agent's episodes that ended."""

    def rename(update: Update) -> Update:
        metrics = dict(update.metrics)
        if update.episodes:
            metrics["rollout/return_mean"] = fmean(episode.return_ for episode in update.episodes)
        return Update(update.episodes, {f"{agent}/{name}": value for name, value in metrics.items()})

    return rename


def multi_agent(parts: Parts[Team]) -> LocalIterator[Update]:
    """The rollouts are split; each agent's part goes its own way, and the updates come out as one stream."""
    team = parts.learner
    rounds = parts.workers.iterate(MultiAgentWorker.sample).batch_across_shards()  # type: ignore[arg-type]
    for_ppo, for_dqn = rounds.duplicate(2)
    train_ppo = (
        for_ppo.for_each(of_agent(team.ppo_agent))
        .for_each(TrainOneStep(team.ppo.learn))
        .for_each(named(team.ppo_agent))
        .for_each(BroadcastWeights(parts.weights))
    )
    store = (
        for_dqn.combine(of_agent(team.dqn_agent))
        .for_each(StoreToBuffer[Fragment](team.dqn))
        .for_each(named(team.dqn_agent))
    )
    train_dqn = replay(team.dqn).for_each(TrainOneStep(team.dqn.learn)).for_each(named(team.dqn_agent))
    turns = [1, len(parts.workers), UPDATES_A_TURN]
    return concurrently(train_ppo, store, train_dqn, mode="round_robin", weights=turns)


def train_team(
    make_env: Callable[[], MultiAgentEnv],
    ppo: tuple[str, PPOConfig],
    dqn: tuple[str, DQNConfig],
    backend: Backend,
    *,
    steps: int,
    num_workers: int = 1,
    envs_per_worker: int = 8,
    fragment_length: int = 32,
    seed: int = 0,
    threads: int = 1,
    progress: Callable[[Update], None] | None = None,
) -> Team:
    """Trains both agents for a number of environment steps.

    ``safe-rl train`` takes Gymnasium's environments, which have one agent; hence a function.

    Args:
        make_env: Makes an environment of two agents.
        ppo: Name of the agent that PPO trains, and its settings.
        dqn: The same of DQN.
        backend: Where the workers run.
        steps: Environment steps.
        num_workers: How many workers.
        envs_per_worker: Environments of each.
        fragment_length: Steps of each environment in a fragment.
        seed: Of everything random.
        threads: CPU threads of the learner.
        progress: Told of every update.

    Raises:
        UserError: The agents are not the environment's, or DQN's actions are not discrete.
        FlowError: A stage failed.
    """
    torch.set_num_threads(threads)
    probe = make_env()
    configs: dict[str, PPOConfig | DQNConfig] = {ppo[0]: ppo[1], dqn[0]: dqn[1]}
    require_agents(configs, probe)
    learners = (
        PPOLearner(probe.observation_space(ppo[0]), probe.action_space(ppo[0]), ppo[1], seed=seed),
        DQNLearner(probe.observation_space(dqn[0]), probe.action_space(dqn[0]), dqn[1], seed=seed),
    )
    team = Team(ppo[0], learners[0], dqn[0], learners[1])
    sizes: dict[str, int] = {"num_envs": envs_per_worker, "fragment_length": fragment_length, "seed": seed}
    workers = backend.actors(MultiAgentWorker, num_workers, make_env, configs, **sizes)  # type: ignore[arg-type]
    weights = WorkerWeights(backend, workers, team)  # type: ignore[arg-type]
    weights.send_all()
    for update in multi_agent(Parts(backend, workers, team, weights)):  # type: ignore[arg-type]
        if progress is not None:
            progress(update)
        if team.ppo.num_steps >= steps:
            break
    return team
