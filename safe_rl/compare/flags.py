"""The flags of `safe-rl train` that a comparison hands on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from safe_rl.compare.config import CompareConfig
from safe_rl.compare.studies import Variant
from safe_rl.config import RunConfig
from safe_rl.errors import UserError
from safe_rl.methods import get_method
from safe_rl.runs import flat_settings

OURS = frozenset(
    {
        *("env", "output", "seed", "cost_key", "dataset", "pretrained", "episodes", "resume", "overwrite", "threads"),
        *("device", "workers", "address", "stop_at_success_rate"),
    }
)
"""Settings of a run that the comparison chooses: its runs can then be compared, shared and gone on with."""
SHORT = {"recovery": "recovery.kind", "planner_budget": "planner.budget_ms"}
"""Settings that have a second, shorter flag."""


def check_flags(config: CompareConfig) -> None:
    """Raises ``UserError`` where a flag is the comparison's to choose, or no method has one of the common flags."""
    named = _named(config.flags, "after --")
    if any(name == "preset" for name, _ in named):
        raise UserError("--preset stands after --: put it before, among the flags of the comparison")
    known = [_settings(variant.method) for variant in config.chosen()]
    if any("risk.pretrain_steps" in names for names in known):
        known.append(_settings("recovery-rl"))  # what is pretrained for those that know risk
    for name, words in named:
        if not any(name in names for names in known):
            raise UserError(f"after --: none of the methods has {words[0]}; see safe-rl train METHOD --help")
    for variant in config.chosen():
        _named(variant.flags, variant.label)


def flags_of(config: CompareConfig, variant: Variant) -> tuple[str, ...]:
    """The flags of a variant's trainings: the common ones that its method has, then its own but the preset."""
    known = _settings(variant.method)
    common = [words for name, words in _named(config.flags, "after --") if name in known]
    own = [words for name, words in _named(variant.flags, variant.label) if name != "preset"]
    return tuple(word for words in [*common, *own] for word in words)


def preset_of(config: CompareConfig, variant: Variant) -> str:
    """The preset that a variant starts from: its own, or the comparison's."""
    own = [words for name, words in _named(variant.flags, variant.label) if name == "preset"]
    return own[-1][-1].rpartition("=")[2] if own else config.preset


def settings_named(flags: Iterable[str], where: str = "") -> list[tuple[str, tuple[str, ...]]]:
    """Groups words into flags: the name of the setting, dotted, and the words that set it."""
    groups: list[list[str]] = []
    for word in flags:
        if word.startswith("--"):
            groups.append([word])
        elif groups:
            groups[-1].append(word)
        else:
            raise UserError(f"{where}: {word!r} is no flag, which begins with --")
    named = []
    for group in groups:
        *sections, last = group[0][2:].partition("=")[0].replace("-", "_").split(".")
        name = ".".join([*sections, last.removeprefix("no_")])
        named.append((SHORT.get(name, name), tuple(group)))
    return named


def _named(flags: Sequence[str], where: str) -> list[tuple[str, tuple[str, ...]]]:
    named = settings_named(flags, where)
    for name, words in named:
        if name == "help":
            raise UserError(f"{where}: {words[0]} runs nothing; see safe-rl train METHOD --help")
        if name in OURS:
            raise UserError(f"{where}: {words[0]} is the same for all runs of a comparison; leave it out here")
    return named


def _settings(method: str) -> set[str]:
    """Names of the settings that a run of the method has."""
    run = {field.name for field in dataclasses.fields(RunConfig)}
    return run | flat_settings(dataclasses.asdict(get_method(method).config())).keys()
