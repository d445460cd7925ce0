"""`safe-rl train METHOD`, `safe-rl pretrain` and their flags."""

from __future__ import annotations

from dataclasses import MISSING, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from safe_rl.cli.console import progress_bar, show
from safe_rl.cli.parsing import parse
from safe_rl.config import RunConfig
from safe_rl.errors import UserError
from safe_rl.methods import METHODS, config_from_dict, get_method
from safe_rl.presets import PresetName, preset_config
from safe_rl.runs import CONFIG, read_config


def main(argv: list[str]) -> int:
    """Trains a method.

    Args:
        argv: The method's name and its flags.
    """
    if not argv or argv[0] in ("-h", "--help"):
        show("usage: safe-rl train METHOD [OPTIONS]\n\nmethods (safe-rl train METHOD --help for their options):")
        show("\n".join(f"  {name:<16} {method.help}" for name, method in METHODS.items()))
        return 0
    if argv[0].startswith("-"):
        saved = _run_to_resume(argv)
        if saved is None:
            raise UserError(f"name a method before the options: {', '.join(METHODS)}")
        argv = [str(saved["method"]), *argv]
    from safe_rl.training import train

    method = argv[0]
    arguments = parse_arguments(method, RunConfig, argv[1:], prog=f"safe-rl train {method}")
    with progress_bar("pretraining", "steps") as pretrain_progress, progress_bar("training", "episodes") as progress:
        agent = train(method, arguments.run, arguments.agent, progress=progress, pretrain_progress=pretrain_progress)
    show(f"{method}: {agent.num_observed} environment steps, run folder {arguments.run.output}")
    return 0


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
    """Parses the flags of a run and of a method, on top of the preset for its environment.

    With --resume the settings of the run that goes on take the place of both, unless --preset is given.
    """
    run: Any = MISSING
    agent = preset_config(method, _flag(argv, "--env") or "", _flag(argv, "--preset") or "tuned")
    saved = _run_to_resume(argv)
    if saved is not None and saved["method"] == method:
        run = field(default_factory=lambda: config_from_dict(run_type, {**saved, "overwrite": False, "resume": True}))
        if _flag(argv, "--preset") is None:
            agent = config_from_dict(get_method(method).config, saved)
    here = tyro.conf.arg(name="")  # no prefix: the fields stand among the command's own flags
    preset_help = "Settings to start from: the best known for the environment, the paper's, or the bare defaults."
    arguments = make_dataclass(
        "Arguments",
        [
            ("run", Annotated[run_type, here], run),
            ("agent", Annotated[type(agent), here], field(default_factory=lambda: agent)),
            ("preset", Annotated[PresetName, tyro.conf.arg(help=preset_help)], "tuned"),
        ],
    )
    arguments.__doc__ = get_method(method).help
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
