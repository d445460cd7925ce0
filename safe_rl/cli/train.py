"""`safe-rl train METHOD`, `safe-rl pretrain` and their flags."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from safe_rl.cli.console import progress_bar, show
from safe_rl.cli.parsing import parse
from safe_rl.config import RunConfig
from safe_rl.errors import UserError
from safe_rl.flow import FlowError
from safe_rl.methods import METHODS, config_from_dict, get_method, require_known
from safe_rl.plans.methods import PLAN_METHODS
from safe_rl.presets import PresetName, preset_config
from safe_rl.runs import CONFIG, read_config


def main(argv: list[str]) -> int:
    """Trains a method.

    Args:
        argv: The method's name and its flags.
    """
    if not argv or argv[0] in ("-h", "--help"):
        show("usage: safe-rl train METHOD [OPTIONS]\n\nmethods (safe-rl train METHOD --help for their options):")
        help_of = {name: method.help for name, method in METHODS.items()}
        help_of |= {name: method.help for name, method in PLAN_METHODS.items()}
        show("\n".join(f"  {name:<16} {text}" for name, text in help_of.items()))
        show("\nA method of your own is named package.module:method.")
        return 0
    if argv[0].startswith("-"):
        saved = _run_to_resume(argv)
        if saved is None:
            raise UserError(f"name a method before the options: {', '.join([*METHODS, *PLAN_METHODS])}")
        argv = [str(saved["method"]), *argv]
    if ":" not in argv[0]:  # a method of the user's own
        require_known(argv[0], [*METHODS, *PLAN_METHODS])
    if argv[0] in PLAN_METHODS:
        return _train_plan(argv[0], argv[1:])
    from safe_rl.training import train

    method = argv[0]
    arguments = parse_arguments(method, RunConfig, argv[1:], prog=f"safe-rl train {method}")
    with (
        progress_bar("pretraining", "steps") as pretrain_progress,
        progress_bar("training", "episodes") as progress,
        _saved_on_fault(),
    ):
        agent = train(method, arguments.run, arguments.agent, progress=progress, pretrain_progress=pretrain_progress)
    show(f"{method}: {agent.num_observed} environment steps, run folder {arguments.run.output}")
    return 0


def _train_plan(method: str, argv: list[str]) -> int:
    """Trains a method that is a plan over rollout workers."""
    from safe_rl.plans.train import train_plan

    spec = PLAN_METHODS[method]
    preset = spec.preset(_flag(argv, "--env") or "", _flag(argv, "--preset") or "tuned")
    arguments = _parse_run(argv, f"safe-rl train {method}", method, spec.run_config, preset.settings, spec.help)
    run = arguments.run
    run.envs_per_worker = run.envs_per_worker or preset.num_envs
    run.fragment_length = run.fragment_length or preset.fragment_length
    with (
        progress_bar("pretraining", "steps") as pretrain_progress,
        progress_bar("training", "steps") as progress,
        _saved_on_fault(),
    ):
        runner = train_plan(method, run, arguments.agent, progress=progress, pretrain_progress=pretrain_progress)
    show(
        f"{method}: {runner.learner.num_steps} environment steps, {runner.num_episodes} episodes, the last "
        f"{len(runner.recent)} with a mean return of {runner.return_mean:.4g}; run folder {run.output}"
    )
    return 0


@contextmanager
def _saved_on_fault() -> Iterator[None]:
    """Says of a plan that failed how to go on: what was learned is saved."""
    try:
        yield
    except FlowError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{error}; what was learned is saved, go on with --resume") from error


def pretrain_main(argv: list[str]) -> int:
    """Pretrains the risk critic and the recovery policy of Recovery RL.

    Args:
        argv: The flags.
    """
    from safe_rl.pretraining import PretrainConfig, pretrain_run

    arguments = parse_arguments("recovery-rl", PretrainConfig, argv, prog="safe-rl pretrain")
    with progress_bar("pretraining", "steps") as progress:
        metrics = pretrain_run("recovery-rl", arguments.run, arguments.agent, progress)
    numbers = ", ".join(f"{name} {value:.3g}" for name, value in metrics.items())
    show(f"pretrained networks in {arguments.run.output} ({numbers or 'nothing was left to do'})")
    return 0


def parse_arguments(method: str, run_type: type[Any], argv: list[str], prog: str) -> Any:
    """Parses the flags of a run and of a method, on top of the preset for its environment."""
    recovery = _flag(argv, "--recovery") or _flag(argv, "--recovery.kind")
    settings = preset_config(method, _flag(argv, "--env") or "", _flag(argv, "--preset") or "tuned", recovery=recovery)
    return _parse_run(argv, prog, method, run_type, settings, get_method(method).help)


def _parse_run(argv: list[str], prog: str, method: str, run_type: type[Any], settings: Any, about: str) -> Any:
    """Parses the flags of a run and of a method's settings, which a preset gave.

    With --resume the settings of the run that goes on take the place of both, unless --preset is given.
    """
    run: Any = MISSING
    saved = _run_to_resume(argv)
    if saved is not None and saved["method"] == method:
        run = field(default_factory=lambda: config_from_dict(run_type, {**saved, "overwrite": False, "resume": True}))
        if _flag(argv, "--preset") is None:
            settings = config_from_dict(type(settings), saved)
    here = tyro.conf.arg(name="")  # no prefix: the fields stand among the command's own flags
    preset_help = "Settings to start from: the best known for the environment, the paper's, or the bare defaults."
    arguments = make_dataclass(
        "Arguments",
        [
            ("run", Annotated[run_type, here], run),
            ("agent", Annotated[type(settings), here], field(default_factory=lambda: settings)),
            ("preset", Annotated[PresetName, tyro.conf.arg(help=preset_help)], "tuned"),
        ],
    )
    arguments.__doc__ = about
    return parse(arguments, argv, prog)


def _run_to_resume(argv: list[str]) -> dict[str, Any] | None:
    """The settings of the run in the output folder, where --resume is given and there is one."""
    output = _flag(argv, "--output")
    if "--resume" not in argv or output is None or not (Path(output) / CONFIG).is_file():
        return None
    return read_config(Path(output))


def _flag(argv: list[str], name: str) -> str | None:
    """The value of ``--name VALUE`` or ``--name=VALUE``; the last one counts, as for the parser."""
    value = None
    for index, word in enumerate(argv):
        if word == name and index + 1 < len(argv):
            value = argv[index + 1]
        elif word.startswith(name + "="):
            value = word[len(name) + 1 :]
    return value
