"""`safe-rl collect` as a function: drives an environment and records what happens."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from safe_rl.data.behaviours import SCRIPTED, Behaviour, checked_act, make_behaviour
from safe_rl.data.dataset import OfflineDataset
from safe_rl.data.episodes import Episode, EpisodeRecorder
from safe_rl.data.folders import METADATA_KEY, is_dataset
from safe_rl.data.journal import EpisodeJournal
from safe_rl.data.writer import Mode, OfflineDatasetWriter
from safe_rl.envs.factory import CostEnv, make_env
from safe_rl.errors import EnvironmentFault, UserError
from safe_rl.storage import clear_leftovers

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
"""``progress(done, total, status)`` in transitions; called after each episode."""


@dataclass
class CollectConfig:
    """Collects offline data in an environment, or from recordings of a robot: safe-rl collect --from-bag --help."""

    env: str
    """Environment: a registered id or package.module:factory."""
    output: Path
    """Folder of the dataset."""
    transitions: int = 20_000
    """Environment steps to collect; the last episode is cut to meet the number."""
    policy: str = "auto"
    """Who acts: boundary (short episodes near the constraint boundary, where the environment offers them), random,
    expert, noisy-expert, or the folder of a run, whose policy then acts. auto is boundary where offered, or random."""
    noise: float | None = None
    """Standard deviation of the noise on the actions of an expert or a run, as a share of the action range; with
    Discrete actions the probability of a random one (default: 0.1 for noisy-expert, else none)."""
    seed: int = 0
    """Seed; equal seeds give equal data."""
    cost_key: str = "cost"
    """Entry of info that is the constraint: above zero counts as a violation."""
    max_episode_steps: int = 1000
    """Longest episode, for environments that have no limit of their own."""
    append: bool = False
    """Add to the dataset in the output folder."""
    resume: bool = False
    """Go on with a collection that was interrupted."""
    overwrite: bool = False
    """Replace the dataset in the output folder."""

    def __post_init__(self) -> None:
        """Validates the values."""
        self.output = Path(self.output)
        for name, least in (("transitions", 1), ("max_episode_steps", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}: it must be at least {least}")
        if self.noise is not None and not 0 <= self.noise <= 1:
            raise UserError(f"--noise is {self.noise}: it must be between 0 and 1")
        if not self.policy:
            raise UserError(f"--policy is empty: it must be one of {', '.join(SCRIPTED)} or the folder of a run")
        if self.overwrite and (self.append or self.resume):
            raise UserError("--overwrite is given with --append or --resume: choose one")

    def description(self) -> dict[str, Any]:
        """What decides the data, as JSON values."""
        names = ("env", "transitions", "policy", "noise", "seed", "cost_key", "max_episode_steps")
        return {name: getattr(self, name) for name in names}


def collect(config: CollectConfig, progress: Progress | None = None) -> OfflineDataset:
    """Collects a dataset.

    Every episode is seeded by the seed and its own number, so an interrupted collection that is resumed gives the same
    data as one that was not. What ends because the behaviour or the number of transitions says so, is truncated.

    Args:
        config: What to collect, and where.
        progress: Told how many transitions there are.

    Raises:
        UserError: Something is missing or in the way, or the disk is full.
        EnvironmentFault: The environment or the policy failed; the episodes before are kept, and ``resume`` goes on.
        KeyboardInterrupt: Ctrl-C; likewise.
    """
    env = make_env(config.env, cost_key=config.cost_key)
    try:
        behaviour = make_behaviour(config.policy, config.noise, env)
        clear_leftovers(config.output.parent, config.output.name)
        if config.resume and not EpisodeJournal.exists(config.output) and is_dataset(config.output):
            return _already_complete(config)
        writer = _open_writer(config, env)
        try:
            _run(config, env, behaviour, writer, progress)
            return writer.commit()
        except KeyboardInterrupt:
            writer.flush()
            raise
        except EnvironmentFault as error:
            writer.flush()
            raise EnvironmentFault(
                f"{error}; the {writer.num_transitions} transitions of the episodes before are kept: "
                "go on with --resume"
            ) from error
        finally:
            writer.close()
    finally:
        env.close()


def _already_complete(config: CollectConfig) -> OfflineDataset:
    """A collection that was killed after its last step has nothing left to do."""
    dataset = OfflineDataset.open(config.output)
    collections = dataset.metadata.get(METADATA_KEY, {}).get("collections", [])
    if not collections or collections[-1] != config.description():
        raise UserError(
            f"{config.output} is a complete dataset, with nothing to resume: "
            "add to it with --append, or replace it with --overwrite"
        )
    logger.warning("%s is complete already", config.output)
    return dataset


def _open_writer(config: CollectConfig, env: CostEnv) -> OfflineDatasetWriter:
    if config.resume and EpisodeJournal.exists(config.output):
        writer = OfflineDatasetWriter.resume(config.output, env.observation_space, env.action_space)
        try:
            _require_same(config, writer)
        except UserError:
            writer.close()
            raise
        return writer
    mode: Mode = "overwrite" if config.overwrite else "append" if config.append else "create"
    return OfflineDatasetWriter.begin(
        config.output,
        env.observation_space,
        env.action_space,
        env_id=config.env,
        env_spec=env.unwrapped.spec,
        mode=mode,
        description=config.description(),
    )


def _require_same(config: CollectConfig, writer: OfflineDatasetWriter) -> None:
    for name, saved in writer.journal.header["description"].items():
        if getattr(config, name) != saved:
            raise UserError(
                f"the interrupted collection in {writer.journal.folder} has {name} = {saved}, not "
                f"{getattr(config, name)}: resume with the same settings, or start anew with --overwrite"
            )


def _run(
    config: CollectConfig, env: CostEnv, behaviour: Behaviour, writer: OfflineDatasetWriter, progress: Progress | None
) -> None:
    recorder = EpisodeRecorder(env.observation_space, env.action_space)
    num_violations = 0
    while (left := config.transitions - writer.num_transitions) > 0:
        number = writer.first_episode + writer.num_episodes
        limit = min(left, config.max_episode_steps)
        episode = record_episode(env, behaviour, recorder, np.random.SeedSequence([config.seed, number]), limit)
        writer.add(episode)
        num_violations += int(episode.cost.sum())
        if progress is not None:
            progress(writer.num_transitions, config.transitions, f"{num_violations} violations")


def record_episode(
    env: CostEnv, behaviour: Behaviour, recorder: EpisodeRecorder, seeds: np.random.SeedSequence, max_steps: int
) -> Episode:
    """Records one episode.

    Args:
        env: The environment.
        behaviour: Who acts.
        recorder: What records.
        seeds: Everything random in the episode comes from it.
        max_steps: The episode is truncated after that many steps.
    """
    env_seed = int(seeds.generate_state(1)[0]) >> 1
    start = behaviour(np.random.default_rng(seeds.spawn(1)[0]))
    limit = max_steps if start.max_steps is None else min(max_steps, start.max_steps)
    obs, _ = env.reset(seed=env_seed, options=start.options)
    recorder.reset(obs)
    ended = False
    while not ended:
        action, task_action = checked_act(start.act, obs, env)
        obs, reward, terminated, truncated, info = env.step(action)
        truncated = truncated or (not terminated and len(recorder) + 1 >= limit)
        recorder.step(action, task_action, obs, reward, info["cost"], info["success"], terminated, truncated)
        ended = terminated or truncated
    return recorder.episode(seed=env_seed)
