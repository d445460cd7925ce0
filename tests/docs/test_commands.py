"""What the pages tell to type exists, and the ways they show are gone, shortened."""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import re
import shlex
from pathlib import Path

import pytest

from safe_rl.cli.main import COMMANDS, main
from safe_rl.methods import METHODS
from safe_rl.plans.methods import PLAN_METHODS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
FLAG = re.compile(r"--[a-z][a-z0-9-]*(?:\.[a-z][a-z0-9-]*)*")
OTHER_PROGRAMS = {"--no-deps", "--without-extras", "--ros-args", "--params-file"}
"""Flags of pip, pytest and ROS that the text names."""
SHELL = ("", "bash", "sh")


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of the code blocks of a page."""
    return re.findall(r"^ *```([a-z]*)[^\n]*\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.M | re.S)


def commands(text: str) -> list[list[str]]:
    """The commands of a shell block, without the variables set before them."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        if re.match(r"\s*([A-Z_]+=\S+ )*(safe-rl|python3?|make)\b", line):
            words = shlex.split(line.strip(), comments=True)
            while re.match(r"[A-Z_]+=", words[0]):
                words.pop(0)
            found.append(words)
    return found


def shown() -> list[tuple[str, list[str]]]:
    """Page and words of every command in the documentation."""
    return [
        (str(page.relative_to(ROOT)), words)
        for page in PAGES
        for language, text in blocks(page)
        if language in SHELL
        for words in commands(text)
    ]


def of(program: str) -> list[tuple[str, list[str]]]:
    return [(page, words) for page, words in shown() if words[0] == program]


@functools.cache
def help_flags(*command: str) -> frozenset[str]:
    """The flags that a command's help shows."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*command, "--help"])
    flags = frozenset(FLAG.findall(out.getvalue()))
    assert "--help" in flags, command
    return flags


def every_command() -> list[tuple[str, ...]]:
    plain = [(name,) for name in COMMANDS if name != "train"]
    return [*plain, ("collect", "--from-bag"), *(("train", method) for method in [*METHODS, *PLAN_METHODS])]


def test_every_command_and_flag_of_safe_rl_exists() -> None:
    wrong = []
    assert len(of("safe-rl")) > 50
    for page, words in of("safe-rl"):
        command, flags = tuple(words[1:2]), {flag for word in words for flag in FLAG.findall(word)[:1]}
        if command == ("train",) and ":" not in words[2]:
            known = words[2] in METHODS or words[2] in PLAN_METHODS
            command = ("train", words[2] if known else "recovery-rl")
        if "--from-bag" in words:
            command = ("collect", "--from-bag")
        if command and command[0].startswith("-"):
            continue
        if command == ("train",) and ":" in words[2]:  # a method of the page's own: its test runs it
            continue
        if command not in every_command():
            wrong.append((page, shlex.join(words)))
            continue
        handed_on = help_flags("train", "recovery-rl") if command == ("compare",) else frozenset()
        if unknown := flags - help_flags(*command) - handed_on:
            wrong.append((page, shlex.join(words), sorted(unknown)))
    assert wrong == []


def test_every_flag_in_the_text_exists() -> None:
    known = set(OTHER_PROGRAMS).union(*(help_flags(*command) for command in every_command()))
    wrong = []
    for page in PAGES:
        if "results" in page.parts:  # they name the flags of benchmarks, too
            continue
        text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for code in re.findall(r"`([^`\n]+)`", text):
            if code.startswith(("--", "safe-rl")):
                wrong += [(page.name, flag) for flag in FLAG.findall(code) if flag not in known]
    assert wrong == []


def test_every_script_module_and_target_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    wrong = []
    for page, words in of("python") + of("python3"):
        if words[1:2] == ["-m"]:
            if words[2].split(".")[0] not in ("benchmarks", "ros_nodes", "sim", "safe_rl"):
                continue
            file = ROOT / (words[2].replace(".", "/") + ".py")
        elif words[1:] and words[1].endswith(".py"):
            file = ROOT / words[1]
        else:
            continue
        if not file.is_file():
            wrong.append((page, shlex.join(words)))
        elif "benchmarks" in file.parts or "examples" in file.parts:
            source = file.read_text() + (ROOT / "examples/example.py").read_text() * ("examples" in file.parts)
            flags = [flag for word in words for flag in FLAG.findall(word)[:1]]
            fields = [flag for flag in flags if flag not in source and f" {flag[2:].replace('-', '_')}: " not in source]
            wrong += [(page, shlex.join(words), flag) for flag in fields]
    for page, words in of("make"):
        asked = [word for word in words[1:] if "=" not in word]
        wrong += [(page, shlex.join(words)) for word in asked if word not in targets]
    assert wrong == []


def test_python_blocks_compile() -> None:
    found = [(page, text) for page in PAGES for language, text in blocks(page) if language == "python"]
    assert len(found) > 8
    for page, text in found:
        ast.parse(text, filename=str(page))


def test_the_results_of_a_method_are_those_of_the_results_page() -> None:
    results = (DOCS / "results/safety_and_task.md").read_text(encoding="utf-8")
    page = (DOCS / "methods/unconstrained.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (Navigation [12]|Maze) (\|.* \|)$", page, re.M)
    assert len(rows) == 3
    for domain, cells in rows:
        assert f"| {domain} | unconstrained {cells}" in results


@pytest.fixture
def type_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Types commands of a page, shortened, in an empty folder that modules are found in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    shorter = {"--transitions": "1000", "--episodes": "2"}

    def type_in(page: str) -> str:
        capsys.readouterr()
        for language, text in blocks(DOCS / page):
            for words in commands(text) if language in SHELL else []:
                if words[0] != "safe-rl":
                    continue
                words = [shorter.get(before, word) for before, word in zip(["", *words], words, strict=False)]
                if words[1] == "pretrain" or words[1:3] == ["train", "recovery-rl"]:
                    words += ["--risk.pretrain-steps", "30"]
                if words[1:3] == ["train", "recovery-rl"]:
                    words += ["--task-pretrain-steps", "30"]
                assert main(words[1:]) == 0, (words, capsys.readouterr().err)
        return capsys.readouterr().out

    return type_in


@pytest.mark.slow
def test_the_tutorial(type_in, tmp_path: Path) -> None:
    out = type_in("tutorial.md")
    assert "data/nav1: 1,000 transitions" in out
    assert (tmp_path / "runs/nav1/report.html").stat().st_size > 50_000


@pytest.mark.slow
def test_the_environment_of_ones_own(type_in, tmp_path: Path) -> None:
    code = next(text for language, text in blocks(DOCS / "how-to/environment.md") if language == "python")
    (tmp_path / "my_robot.py").write_text(code)
    out = type_in("how-to/environment.md")
    assert "my_robot:make" in out
    assert len((tmp_path / "runs/cart/episodes.csv").read_text().splitlines()) == 3


@pytest.mark.slow
def test_the_python_of_the_data_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    collect = ["collect", "--env", "safe_rl/Navigation1-v0", "--transitions", "500", "--output", "data/nav1"]
    assert main(collect) == 0
    capsys.readouterr()
    for language, text in blocks(DOCS / "how-to/data.md"):
        if language == "python":
            exec(compile(text, "data.md", "exec"), {})  # noqa: S102 (our own page)
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("500 ")
    assert out[-1].startswith("200 6000 ")
    assert main(["inspect", "data/logs"]) == 0


@pytest.mark.slow
def test_the_python_of_the_python_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The first block is the README's, which has a test of its own; the second wants its run."""
    monkeypatch.chdir(tmp_path)
    python = [text for language, text in blocks(DOCS / "how-to/python.md") if language == "python"]
    readme = [text for language, text in blocks(ROOT / "README.md") if language == "python"]
    assert python[0] in readme
    quick = ["--risk.pretrain-steps", "20", "--task-pretrain-steps", "0", "--episodes", "1"]
    nav1 = ["--env", "safe_rl/Navigation1-v0"]
    assert main(["collect", *nav1, "--transitions", "500", "--output", "runs/api/data"]) == 0
    assert main(["train", "recovery-rl", *nav1, "--dataset", "runs/api/data", "--output", "runs/api/rrl", *quick]) == 0
    for text in python[1:]:
        exec(compile(text, "python.md", "exec"), {})  # noqa: S102 (our own page)
    assert re.search(r"\['(TASK|RECOVERY)', '(TASK|RECOVERY)'\]", capsys.readouterr().out)
