from __future__ import annotations

import errno
import importlib
import subprocess
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest

import safe_rl
from safe_rl.cli import main as program
from safe_rl.errors import UserError

SAFE_RL = [sys.executable, "-m", "safe_rl.cli.main"]


@dataclass
class EchoConfig:
    word: str
    """What to say."""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    """Adds the command ``echo``; a test gives it a behaviour."""

    def install(run, config: str | None = "EchoConfig"):
        module = ModuleType("echo_command")
        module.EchoConfig = EchoConfig
        module.run_echo = run
        monkeypatch.setitem(sys.modules, "echo_command", module)
        monkeypatch.setitem(program.COMMANDS, "echo", program.Command("Says it.", "echo_command", "run_echo", config))

    return install


def _raise(error: BaseException):
    def run(config: object) -> None:
        raise error

    return run


def test_without_arguments_it_lists_the_commands(capsys):
    assert program.main([]) == 0
    out = capsys.readouterr().out
    for name, command in program.COMMANDS.items():
        assert f"  {name} " in out
        assert command.help in out


@pytest.mark.parametrize("name", list(program.COMMANDS))
def test_every_listed_command_is_there_and_explains_its_options(name, capsys):
    command = program.COMMANDS[name]
    module = importlib.import_module(command.module)
    assert callable(getattr(module, command.function))
    arguments = [name, "recovery-rl", "--help"] if name == "train" else [name, "--help"]
    with pytest.raises(SystemExit) as stop:
        program.main(arguments)
    assert stop.value.code == 0
    assert f"usage: safe-rl {' '.join(arguments[:-1])}" in capsys.readouterr().out


def test_version(capsys):
    assert program.main(["--version"]) == 0
    assert capsys.readouterr().out == f"safe-rl {safe_rl.__version__}\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean train?; see safe-rl --help"),
        (["xyzzy"], "unknown command 'xyzzy'; see safe-rl --help"),
        (["--verison"], "unknown option '--verison'; see safe-rl --help"),
        (["echo"], "missing --word STR; see safe-rl echo --help"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(argv, message, command, capsys):
    command(lambda config: 0)
    assert program.main(argv) == 2
    assert capsys.readouterr() == ("", f"safe-rl: error: {message}\n")


def test_a_command_gets_its_config_and_gives_the_exit_code(command):
    seen = []
    command(lambda config: seen.append(config) or 7)
    assert program.main(["echo", "--word", "hello"]) == 7
    assert seen == [EchoConfig("hello")]


def test_a_command_without_a_config_gets_the_raw_arguments(command):
    seen = []
    command(seen.append, config=None)
    assert program.main(["echo", "a", "--b"]) == 0
    assert seen == [["a", "--b"]]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no dataset\nat x: collect one"), 2, "safe-rl: error: no dataset at x: collect one"),
        (KeyboardInterrupt(), 130, "safe-rl: interrupted"),
        (OSError(errno.ENOSPC, "No space left", "runs/a"), 2, "safe-rl: error: the disk is full: no room for runs/a"),
        (
            PermissionError(errno.EACCES, "Permission denied", "runs/a"),
            2,
            "safe-rl: error: no permission to use runs/a",
        ),
    ],
)
def test_what_a_user_can_mend_ends_without_a_traceback(error, code, line, command, capsys):
    command(_raise(error))
    assert program.main(["echo", "--word", "x"]) == code
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_an_error_of_the_program_itself_keeps_its_traceback(command):
    command(_raise(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        program.main(["echo", "--word", "x"])


def test_a_traceback_can_be_asked_for(command, monkeypatch, caplog):
    monkeypatch.setenv("SAFE_RL_TRACEBACK", "1")
    command(_raise(UserError("no dataset")))
    assert program.main(["echo", "--word", "x"]) == 2
    assert any(record.exc_info for record in caplog.records)


def test_help_and_version_load_no_heavy_package():
    code = (
        "import sys; from safe_rl.cli.main import main; main(['--help']); import safe_rl; safe_rl.__version__;"
        "heavy = {'torch', 'numpy', 'gymnasium', 'tyro', 'rich', 'matplotlib'} & sys.modules.keys();"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_stops_early_is_no_error():
    pipeline = 'set -o pipefail; "$@" | head -n 0'
    command = ["bash", "-c", pipeline, "bash", *SAFE_RL, "evaluate", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_public_names_are_those_of_their_modules():
    assert safe_rl.UserError is UserError
    assert set(safe_rl.__all__) <= set(dir(safe_rl))
    assert all(getattr(safe_rl, name) is not None for name in safe_rl.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = safe_rl.no_such_name
