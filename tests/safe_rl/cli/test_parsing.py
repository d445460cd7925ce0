from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import tyro

from safe_rl.cli.parsing import UsageError, nearest, parse
from safe_rl.errors import UserError


@dataclass
class Risk:
    gamma_risk: float = 0.5
    """How far ahead."""
    sizes: tuple[int, ...] = (2, 3)
    """Widths."""

    def __post_init__(self) -> None:
        if self.gamma_risk > 1:
            raise UserError(f"--risk.gamma-risk is {self.gamma_risk}: it must be at most 1")


@dataclass
class Config:
    """Does something."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    env: str
    """An explanation that is much longer than a terminal is wide, so that the box it stands in has to wrap it."""
    mode: Literal["fast", "slow"] = "fast"
    """How."""
    episodes: int = 3
    """How many."""
    resume: bool = False
    """Go on."""
    risk: Risk = field(default_factory=Risk)
    """Risk."""


def parsed(*argv: str) -> Config:
    return parse(Config, argv, "safe-rl do")


def test_fields_are_options_sections_are_dotted_and_positionals_are_arguments():
    config = parsed("here", "--env", "E-v0", "--resume", "--risk.gamma-risk", "0.8", "--risk.sizes", "4", "5")
    assert config == Config(Path("here"), "E-v0", resume=True, risk=Risk(0.8, (4, 5)))


def test_a_switch_has_an_off_spelling():
    assert parse(Config, ["r", "--env", "E", "--no-resume"], "x", Config(Path(), "", resume=True)).resume is False


def test_the_default_takes_the_place_of_the_config_s_own():
    default = Config(Path("there"), "D-v0", episodes=7)
    assert parse(Config, ["there", "--env", "E-v0"], "safe-rl do", default) == Config(Path("there"), "E-v0", episodes=7)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("", "missing PATH, --env STR"),
        ("r", "missing --env STR"),
        ("r --env", "--env needs a value"),
        ("r --env E --episodes", "--episodes needs a value"),
        ("r --ev E", "unknown option --ev; did you mean --env?"),
        ("r --env E --episods=4", "unknown option --episods; did you mean --episodes?"),
        ("r --env E --risk.gama-risk 1", "unknown option --risk.gama-risk; did you mean --risk.gamma-risk?"),
        ("r --env E --xyzzy", "unknown option --xyzzy"),
        ("r s --env E", "unexpected argument s"),
        ("r --env E --resume yes", "unexpected argument yes"),
        ("r --env E --episodes three", "--episodes: invalid literal for int() with base 10: 'three'"),
        ("r --env E --risk.gamma-risk much", "--risk.gamma-risk: could not convert string to float: 'much'"),
        ("r --env E --mode brisk", "invalid choice 'brisk' for argument '--mode'. Expected one of ('fast', 'slow')"),
    ],
)
@pytest.mark.parametrize("boxes", [True, False], ids=["boxes", "ascii"])
def test_a_mistake_becomes_one_line_that_names_it(argv, message, boxes, monkeypatch, capsys):
    monkeypatch.setattr("tyro._fmtlib._should_use_utf8_drawing_chars", lambda: boxes)
    with pytest.raises(UsageError) as caught:
        parsed(*argv.split())
    assert str(caught.value) == f"{message}; see safe-rl do --help"
    assert capsys.readouterr() == ("", "")


def test_a_long_complaint_is_read_out_of_its_box_whole():
    path = "/".join(["folder"] * 30)
    with pytest.raises(UsageError) as caught:
        parsed("r", "--env", "E", "--risk.sizes", "1", path)
    message = str(caught.value)
    assert "\n" not in message
    assert "─" not in message
    assert message.startswith("--risk.sizes: ")
    assert message.endswith("; see safe-rl do --help")


def test_a_value_that_the_config_rejects_is_reported_as_the_config_says():
    with pytest.raises(UserError, match=r"^--risk.gamma-risk is 2.0: it must be at most 1$"):
        parsed("r", "--env", "E", "--risk.gamma-risk", "2")


def test_help_goes_to_stdout_and_ends_with_success(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        parsed("--help")
    assert stop.value.code == 0
    out, err = capsys.readouterr()
    assert "--risk.gamma-risk" in out
    assert "How far ahead." in out
    assert err == ""


def test_nearest_is_silent_where_nothing_is_near():
    assert nearest("trian", ["train", "report"]) == "; did you mean train?"
    assert nearest("xyzzy", ["train", "report"]) == ""
