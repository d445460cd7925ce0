"""The settings of `safe-rl compare`; field names are its flags, field docstrings its help."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from safe_rl.compare.studies import STUDIES, Variant, chosen_variants
from safe_rl.errors import UserError
from safe_rl.presets import PresetName
from safe_rl.validation import require

TRANSITIONS = {"safe_rl/Maze-v0": 10_000}
"""Offline transitions where the paper takes other than ``USUAL_TRANSITIONS``."""
USUAL_TRANSITIONS = 20_000
MOST_SEEDS = 10_000
"""More are a slip of the keyboard."""
_SEED = r"\d{1,18}"


@dataclass
class CompareConfig:
    """Compares methods on one environment: the same offline data and pretraining for all, several seeds.

    Flags of every training may follow after --; a method without such a setting does without.
    """

    env: str
    """Environment: a registered id or package.module:factory."""
    output: Path
    """Folder of the comparison; what it holds already is kept and gone on with."""
    methods: tuple[str, ...] = ()
    """Methods to compare (default: all)."""
    study: Literal["methods", "presets", "recovery", "planner", "ablations", "sensitivity", "critics", "tuning"] = (
        "methods"
    )
    """What to compare: the methods, the presets, who rescues, sizes of the planner's search, the paper's ablations,
    eps_risk and gamma_risk, risk critics beyond the paper, or what the tuned preset is made of."""
    variants: tuple[str, ...] = ()
    """More rows, each written as 'label=method --flag value ...'."""
    seeds: str = "1:5"
    """Seeds: 1:5 for 1 to 5, or 1,4,7."""
    episodes: int = 300
    """Training episodes of each run."""
    transitions: int | None = None
    """Offline transitions a seed (default: the paper's number for the domain, 20000 where it has none)."""
    demonstrations: int = 0
    """Further ones from the noisy expert."""
    preset: PresetName = "tuned"
    """Settings to start from."""
    flags: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    """Flags that every training gets; on the command line they follow ``--``."""
    cost_key: str = "cost"
    """Entry of info that is the constraint."""
    device: str = "cpu"
    """cpu, cuda, or auto."""
    jobs: str = "auto"
    """Runs side by side: a number, auto for one a core, or ray for as many as a Ray cluster has CPUs."""
    address: str | None = None
    """Ray cluster to join, with --jobs ray: auto, or host:port (default: start one on this machine)."""
    table: bool = False
    """Run nothing, print the table of the runs that are finished."""

    def __post_init__(self) -> None:
        """Validates the values."""
        require(self.episodes >= 1, "", "episodes", self.episodes, "at least 1")
        require(self.transitions is None or self.transitions >= 1, "", "transitions", self.transitions, "at least 1")
        require(self.demonstrations >= 0, "", "demonstrations", self.demonstrations, "at least 0")
        number = self.jobs.isdecimal() and int(self.jobs) >= 1
        require(number or self.jobs in ("auto", "ray"), "", "jobs", self.jobs, "at least 1, auto or ray")
        require(self.address is None or self.jobs == "ray", "", "address", self.address, "left out without --jobs ray")
        require(self.study in STUDIES, "", "study", self.study, f"one of {', '.join(STUDIES)}")
        self.all_seeds()
        self.chosen()

    def chosen(self) -> tuple[Variant, ...]:
        """The variants to compare."""
        return chosen_variants(self.study, self.methods, self.variants)

    def all_seeds(self) -> list[int]:
        """The seeds in ascending order.

        Raises:
            UserError: They cannot be read.
        """
        if found := re.fullmatch(rf"({_SEED}):({_SEED})", self.seeds):
            first, last = int(found[1]), int(found[2])
            require(first <= last, "", "seeds", self.seeds, f"a range that goes up, such as {last}:{first}")
            require(last - first < MOST_SEEDS, "", "seeds", self.seeds, f"at most {MOST_SEEDS} seeds")
            return list(range(first, last + 1))
        if not re.fullmatch(rf"{_SEED}(,{_SEED})*", self.seeds):
            raise UserError(f"--seeds is {self.seeds}: write 1:5 for the seeds 1 to 5, or 1,4,7, each below 10^18")
        seeds = [int(word) for word in self.seeds.split(",")]
        require(len(set(seeds)) == len(seeds), "", "seeds", self.seeds, "free of repetitions")
        return sorted(seeds)

    def num_transitions(self, variant: Variant) -> int:
        """Offline transitions that a variant gets."""
        base = self.env.partition("?")[0]
        return round(variant.data_share * (self.transitions or TRANSITIONS.get(base, USUAL_TRANSITIONS)))

    def num_jobs(self) -> int:
        """Runs side by side on this machine."""
        if self.jobs.isdecimal():
            return int(self.jobs)
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
