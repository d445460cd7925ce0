"""Which commands a comparison takes, and which of them wait for which; nothing is run here."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

from safe_rl.algorithms.risk_aware import RiskAwareAgent
from safe_rl.checkpoint import has_state, list_checkpoints
from safe_rl.compare.config import CompareConfig
from safe_rl.compare.flags import flags_of, preset_of, settings_named
from safe_rl.compare.studies import Variant
from safe_rl.config import RiskAwareConfig, RiskCriticConfig
from safe_rl.data.dataset import OfflineDataset
from safe_rl.data.folders import METADATA_KEY, is_dataset
from safe_rl.data.journal import EpisodeJournal
from safe_rl.methods import get_method
from safe_rl.planner_config import NOT_PRETRAINED
from safe_rl.presets import preset_config
from safe_rl.pretraining import PRETRAINED

_PRETRAINING = ("risk.", "recovery.", "planner.", "encoder.", "normalize_obs", "batch_size", "precision")
"""How the names of settings begin that change what a pretraining makes."""
_ONLINE = frozenset({"risk.update_online", "recovery.explore_above", *(f"planner.{name}" for name in NOT_PRETRAINED)})
"""Those of them that make a difference only later."""
RECOVERY_RL = "recovery-rl"
"""The method that ``safe-rl pretrain`` pretrains; it has all that the others share."""
_LONGEST = 100
"""Letters in the name of a pretraining's folder."""


@dataclass(frozen=True)
class Job:
    """A command of ``safe-rl``, what it waits for, and how it is told that it is done."""

    name: str
    """Unique in a comparison, as the progress calls it."""
    command: tuple[str, ...]
    """Its words, without the program's name."""
    folder: Path
    """What it makes, or adds to."""
    needs: tuple[str, ...] = ()
    """Names of the jobs whose results it reads."""
    episodes: int = 0
    """Training episodes, of a training."""

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.folder.with_name(self.folder.name + ".log")

    def episode_rows(self) -> list[dict[str, str]]:
        """The episodes that a training has finished."""
        try:
            with (self.folder / "episodes.csv").open(newline="") as file:
                return [row for row in csv.DictReader(file) if None not in row.values()]  # one may be half written
        except FileNotFoundError:
            return []

    def is_done(self) -> bool:
        """Whether its result is there."""
        if self.command[0] == "train":
            rows = self.episode_rows()
            # The last checkpoint follows the last episode: its name tells whether a kill came between them.
            saved = [int(path.name.rpartition("_")[2]) for path in list_checkpoints(self.folder / "checkpoints")]
            num_steps = sum(int(row["steps"]) for row in rows)
            return len(rows) >= self.episodes and (not saved or saved[-1] >= num_steps)
        if self.command[0] == "pretrain":
            return has_state(self.folder / PRETRAINED)
        if not is_dataset(self.folder):
            return False
        collections = OfflineDataset.open(self.folder).metadata.get(METADATA_KEY, {}).get("collections", [])
        return len(collections) > ("--append" in self.command)

    def words(self) -> tuple[str, ...]:
        """The command to run now: what was cut goes on where it was."""
        collects = self.command[0] == "collect"
        begun = EpisodeJournal.exists(self.folder) if collects else (self.folder / "config.json").is_file()
        return (*self.command, "--resume") if begun else self.command


def plan_jobs(config: CompareConfig) -> list[Job]:
    """The jobs of a comparison, each behind those that it needs; seed by seed, so that whole rows are there early."""
    jobs: dict[str, Job] = {}
    for seed in config.all_seeds():
        for variant in config.chosen():
            for job in _jobs_of(config, variant, seed):
                jobs.setdefault(job.name, job)
    return list(jobs.values())


def run_folder(config: CompareConfig, variant: Variant, seed: int) -> Path:
    """Where the run of a variant with a seed is."""
    return config.output / variant.slug / f"seed{seed}"


def _jobs_of(config: CompareConfig, variant: Variant, seed: int) -> list[Job]:
    """Data, pretraining and training of one run."""
    about = ("--env", config.env, "--cost-key", config.cost_key, "--seed", str(seed))
    jobs = _data_jobs(config, variant, seed, about)
    data = jobs[-1].folder
    preset = ("--preset", preset_of(config, variant))
    train: tuple[str, ...] = ("train", variant.method, *about, "--dataset", str(data), *preset)
    if issubclass(get_method(variant.method).agent, RiskAwareAgent):
        flags = pretraining_flags(config, variant)
        key = _folder_name(data.parent.name, *(preset[1:] if preset[1] != config.preset else ()), *flags)
        folder = config.output / "pretrained" / key / f"seed{seed}"
        words = ("pretrain", *about, "--dataset", str(data), *preset, "--device", config.device, "--threads", "1")
        needs = (jobs[-1].name,)
        jobs.append(Job(f"pretraining {key} seed {seed}", (*words, *flags, "--output", str(folder)), folder, needs))
        train += ("--pretrained", str(folder))
    folder = run_folder(config, variant, seed)
    train += ("--episodes", str(config.episodes), "--device", config.device, "--threads", "1")
    train += (*flags_of(config, variant), "--output", str(folder))
    return [*jobs, Job(f"{variant.label} seed {seed}", train, folder, (jobs[-1].name,), config.episodes)]


def _data_jobs(config: CompareConfig, variant: Variant, seed: int, about: tuple[str, ...]) -> list[Job]:
    transitions = config.num_transitions(variant)
    kind = f"{transitions}" + (f"+{config.demonstrations}" if config.demonstrations else "")
    folder = config.output / "data" / kind / f"seed{seed}"
    into = ("--output", str(folder))
    jobs = [Job(f"data {kind} seed {seed}", ("collect", *about, "--transitions", str(transitions), *into), folder)]
    if config.demonstrations:
        more = ("--transitions", str(config.demonstrations), "--policy", "noisy-expert", "--append")
        needs = (jobs[0].name,)
        jobs.append(Job(f"experts {kind} seed {seed}", ("collect", *about, *more, *into), folder, needs))
    return jobs


def pretraining_flags(config: CompareConfig, variant: Variant) -> tuple[str, ...]:
    """What sets a variant's pretraining apart from that of Recovery RL under the preset; for most of them nothing."""
    common = Variant(variant.label, RECOVERY_RL)  # its recovery policy has them too, whatever the method has
    named = settings_named((*_risk_of_method(config, variant), *flags_of(config, common)))
    own = settings_named(flags_of(dataclasses.replace(config, flags=()), variant))
    taken = [words for name, words in [*named, *own] if name.startswith(_PRETRAINING) and name not in _ONLINE]
    return tuple(word for words in taken for word in words)


def _folder_name(*words: str) -> str:
    name = "_".join(word.removeprefix("--") for word in words).replace("/", "-")
    if len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _risk_of_method(config: CompareConfig, variant: Variant) -> list[str]:
    """The flags that give Recovery RL's pretraining the risk critic that a method's preset asks for."""
    preset = preset_of(config, variant)
    own, usual = (preset_config(name, config.env, preset) for name in (variant.method, RECOVERY_RL))
    if not isinstance(own, RiskAwareConfig) or not isinstance(usual, RiskAwareConfig):
        return []
    words = []
    for field in dataclasses.fields(RiskCriticConfig):
        value = getattr(own.risk, field.name)
        if value != getattr(usual.risk, field.name) and field.name != "update_online":
            words += [
                f"--risk.{field.name.replace('_', '-')}",
                *map(str, value if isinstance(value, tuple) else [value]),
            ]
    return words
