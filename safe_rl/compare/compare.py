"""`safe-rl compare` as functions: what is wrong is said before any work starts, and what is there is read."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safe_rl.cli.train import parse_arguments
from safe_rl.compare.config import CompareConfig
from safe_rl.compare.flags import check_flags
from safe_rl.compare.jobs import Job, plan_jobs, run_folder
from safe_rl.compare.studies import LOCK, Variant
from safe_rl.config import RunConfig
from safe_rl.data.dataset import OfflineDataset
from safe_rl.data.folders import METADATA_KEY, is_dataset
from safe_rl.envs.factory import CostEnv, make_env
from safe_rl.errors import UserError
from safe_rl.methods import make_agent, resolve_device
from safe_rl.report.curves import LABEL, read_run
from safe_rl.report.groups import Group, Summary, summarize
from safe_rl.runs import CONFIG, first_difference, other_version, read_config
from safe_rl.training import require_one_planner


def prepare(config: CompareConfig) -> list[Job]:
    """Checks a comparison and plans it.

    Returns:
        Its jobs, each behind those that it needs.

    Raises:
        UserError: A method cannot serve the environment, a flag is unknown, or a finished run has other settings.
    """
    check_flags(config)
    if config.jobs != "ray":  # the machines of a cluster may have what this one has not
        resolve_device(config.device)
    jobs = plan_jobs(config)
    env = make_env(config.env, cost_key=config.cost_key)
    try:
        for variant in config.chosen():
            for seed in config.all_seeds():
                folder = run_folder(config, variant, seed)
                job = next(job for job in jobs if job.folder == folder)
                _check(job, variant, env)
    finally:
        env.close()
    for job in jobs:
        if job.command[0] == "collect" and is_dataset(job.folder):
            _check_data(config, job.folder)
    return jobs


def _check_data(config: CompareConfig, folder: Path) -> None:
    """Raises ``UserError`` where the data of a comparison are not of its environment."""
    collected = OfflineDataset.open(folder).metadata.get(METADATA_KEY, {}).get("collections", [])
    for name, wanted in (("env", config.env), ("cost_key", config.cost_key)):
        found = collected[0].get(name) if collected else None
        if found != wanted:
            raise UserError(f"{folder} holds data with {name} = {found}, not {wanted}: choose another --output")


def _check(job: Job, variant: Variant, env: CostEnv) -> None:
    """Raises ``UserError`` where a training would say no, or would not be the one whose folder is there."""
    arguments = parse_arguments(
        variant.method, RunConfig, list(job.command[2:]), prog=f"safe-rl train {variant.method}"
    )
    require_one_planner(arguments.run, arguments.agent)
    settings = arguments.agent.for_run(episodes=job.episodes, dataset=True)
    tiny = dataclasses.replace(settings, replay_capacity=1)
    agent = make_agent(variant.method, tiny, env.observation_space, env.action_space, seed=0)
    if not (job.folder / CONFIG).is_file():
        return
    saved = read_config(job.folder)
    resolved = dataclasses.replace(agent.config, replay_capacity=settings.replay_capacity)
    images = agent.image_shape is not None
    wanted = {"method": variant.method, **dataclasses.asdict(arguments.run), **resolved.settings(images=images)}
    wanted = json.loads(json.dumps(wanted, default=str))
    if name := first_difference(saved, wanted):
        version = other_version(saved, wanted, name)
        how = f"by {version}" if version else f"with another {name} than is asked for now"
        raise UserError(f"{job.folder} was run {how}: choose another --output, or delete {job.folder}")
    had, gets = (_kind_of_data(dataset) for dataset in (saved.get("dataset"), arguments.run.dataset))
    if had and had != gets:
        raise UserError(
            f"{job.folder} learned from other offline data ({had} transitions) than is asked for now ({gets}): give "
            f"--transitions and --demonstrations as before, choose another --output, or delete {job.folder}"
        )


def _kind_of_data(dataset: str | Path | None) -> str:
    """How many transitions a dataset of a comparison holds, as its folder says; empty for any other dataset."""
    found = re.search(r"(?:^|/)data/(\d+(?:\+\d+)?)/seed\d+$", f"{dataset}")
    return found[1] if found else ""


def write_labels(config: CompareConfig) -> None:
    """Tells the report what the variants are called."""
    for variant in config.chosen():
        folder = config.output / variant.slug
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LABEL).write_text(json.dumps({"label": variant.label}))


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Keeps a second comparison out of the folder.

    Yields:
        The file descriptor that is the lock: a process that inherits it keeps others out as well, also when this one
        was killed and the process has yet to save.

    Raises:
        UserError: One is at it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("w")
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"another comparison, or what it has started, is at work in {folder}: wait for it, or choose another"
            ) from error
        yield file.fileno()


def read_groups(config: CompareConfig) -> list[tuple[Group, Summary]]:
    """The variants that have finished runs, in the order of the study, and what came of as many episodes of them."""
    found = []
    for variant in config.chosen():
        folders = [run_folder(config, variant, seed) for seed in config.all_seeds()]
        runs = [read_run(folder) for folder in folders if (folder / "episodes.csv").is_file()]
        runs = [
            dataclasses.replace(run, episodes=run.episodes.first(config.episodes))  # some may have gone further
            for run in runs
            if len(run.episodes) >= config.episodes
        ]
        if runs:
            group = Group(variant.label, variant.method, runs)
            found.append((group, summarize(group)))
    return found
