"""The program ``safe-rl``: finds the command, parses its config, runs it, and turns errors into one line."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from safe_rl import __version__
from safe_rl.errors import UserError

PROG = "safe-rl"


@dataclass(frozen=True)
class Command:
    """Where a command is found; it is imported only when it is called."""

    help: str
    """One line for ``safe-rl --help``."""
    module: str
    function: str
    """Takes the config, or the raw arguments where there is no config; returns the exit code (None counts as 0)."""
    config: str | None = None
    """The config's class in the same module; None where the function parses its arguments itself."""


COMMANDS = {
    "collect": Command("Collect offline data.", "safe_rl.cli.collect", "main"),
    "inspect": Command("Print and plot what a dataset holds.", "safe_rl.cli.inspect", "run_inspect", "InspectConfig"),
    "pretrain": Command("Pretrain the risk critic and the recovery policy.", "safe_rl.cli.train", "pretrain_main"),
    "train": Command("Train a method: safe-rl train METHOD --env ...", "safe_rl.cli.train", "main"),
    "evaluate": Command("Count what a policy achieves.", "safe_rl.cli.evaluate", "run_evaluate", "EvaluateConfig"),
    "view": Command("Watch a policy in a window or as a video.", "safe_rl.cli.view", "run_view", "ViewConfig"),
    "bench": Command("Measure how long a bundle takes to decide.", "safe_rl.cli.bench", "run_bench", "BenchConfig"),
    "calibrate": Command(
        "Choose a bundle's threshold by held-out data.", "safe_rl.cli.calibrate", "run_calibrate", "CalibrateConfig"
    ),
    "export": Command("Write a policy bundle for a robot.", "safe_rl.cli.export", "run_export", "ExportConfig"),
    "compare": Command("Compare methods over several seeds.", "safe_rl.cli.compare", "main"),
    "report": Command("Show runs: plots, risk map, video.", "safe_rl.cli.report", "run_report", "ReportConfig"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Arguments without the program's name; those of the process where None.

    Returns:
        The exit code: what the command returns, 2 for a mistake that the user can mend, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.WARNING, format=f"{PROG}: %(levelname)s: %(message)s")
    logging.addLevelName(logging.WARNING, "warning")
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print(f"{PROG}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `safe-rl inspect ... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _fail(f"the disk is full: no room for {error.filename or 'the output'}; free some space, try again")
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM) and error.filename:
            return _fail(f"no permission to use {error.filename}; choose another folder")
        if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST) and error.filename:
            return _fail(f"cannot write {error.filename} ({error.strerror}); choose another path")
        raise


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        print(f"{PROG} {__version__}")
        return 0
    from safe_rl.cli.parsing import UsageError, nearest, parse

    name, rest = arguments[0], arguments[1:]
    command = COMMANDS.get(name)
    if command is None:
        kind = "option" if name.startswith("-") else "command"
        raise UsageError(f"unknown {kind} {name!r}{nearest(name, list(COMMANDS))}; see {PROG} --help")
    module = importlib.import_module(command.module)
    run = getattr(module, command.function)
    if command.config is None:
        return run(rest) or 0
    return run(parse(getattr(module, command.config), rest, prog=f"{PROG} {name}")) or 0


def _fail(message: str) -> int:
    if os.environ.get("SAFE_RL_TRACEBACK"):
        logging.getLogger(__name__).exception("where it happened:")
    print(f"{PROG}: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {PROG} COMMAND [options]",
            "",
            "Safe reinforcement learning with learned recovery zones (arXiv 2010.15920).",
            "",
            "commands:",
            *rows,
            "",
            f"{PROG} COMMAND --help explains a command; {PROG} --version prints the version.",
            "SAFE_RL_TRACEBACK=1 shows where in the code an error came from.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
