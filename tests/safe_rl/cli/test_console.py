from __future__ import annotations

import io
import itertools

import pytest
from rich.console import Console

from safe_rl.cli import console as module


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """A clock that a test moves by hand."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then_with_rate_and_time_left(clock, capsys):
    with module.progress_bar("training", "episodes") as update:
        update(0, 1000, "")
        for done in range(1, 41):  # 40 in 20 seconds: 2 a second
            clock[0] += 0.5
            update(done, 1000, "fine")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["training: 0/1,000 episodes", "training: 30/1,000 episodes, 2 episodes/s, 485 s left  fine"]


def test_the_last_one_is_always_shown_and_shown_once(clock, capsys):
    with module.progress_bar("collecting", "steps") as update:
        update(0, 500, "")
        clock[0] += 1
        for _ in range(3):
            update(500, 500, "[done]")
    assert capsys.readouterr().err.splitlines()[1:] == ["collecting: 500/500 steps, 500 steps/s  [done]"]


def test_a_resumed_run_is_not_credited_with_what_was_done_before(clock, capsys):
    with module.progress_bar("training", "episodes") as update:
        update(900, 1000, "")
        clock[0] += 20
        update(940, 1000, "")
    assert "2 episodes/s, 30 s left" in capsys.readouterr().err


def test_work_that_never_starts_shows_nothing(capsys):
    with module.progress_bar("pretraining", "steps"):
        pass
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_and_its_cursor_back(monkeypatch, clock):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr(module, "Console", lambda **kwargs: terminal)
    with pytest.raises(KeyboardInterrupt), module.progress_bar("training", "episodes") as update:
        for done in itertools.count():
            clock[0] += 1
            update(done, 50, "7 violations")
            if done == 10:
                raise KeyboardInterrupt
    text = screen.getvalue()
    assert "10/50" in text
    assert "1 episodes/s" in text
    assert "7 violations" in text
    assert text.rstrip().endswith("\x1b[?25h")


def test_results_in_a_file_have_no_colours_and_keep_their_brackets(capsys):
    module.show("a [bold]word[/bold] " + "x" * 200)
    assert capsys.readouterr().out == "a [bold]word[/bold] " + "x" * 200 + "\n"
