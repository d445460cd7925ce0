"""What runs when, what is tried again and what is left out, with scripted commands in place of real ones."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from safe_rl.checkpoint import save_checkpoint
from safe_rl.compare import execution
from safe_rl.compare.execution import last_line, run_jobs
from safe_rl.compare.jobs import Job

HEADER = "episode,steps,success,violation"


class Scripted:
    """Starts nothing: a job is alive for one look, then leaves its result and the code that the script has for it."""

    def __init__(self, slots: int, script: dict[str, list[int]] | None = None) -> None:
        self.slots, self.script = slots, script or {}
        self.begun: list[str] = []
        self.alive: set[str] = set()
        self.most = 0
        self.interrupted: list[str] = []

    def start(self, words, log: Path) -> Run:
        run = Run(self, Path(words[-1] if words[-1] != "--resume" else words[-2]))
        self.begun.append(run.name + " resumes" * (words[-1] == "--resume"))
        self.alive.add(run.name)
        self.most = max(self.most, len(self.alive))
        return run


class Run:
    def __init__(self, starter: Scripted, folder: Path) -> None:
        self.starter, self.folder, self.looks = starter, folder, 0
        self.name = folder.name

    def poll(self) -> int | None:
        self.looks += 1
        if self.name not in self.starter.alive:
            return 130
        if self.looks < 2 or self.name.startswith("endless"):
            return None
        self.starter.alive.discard(self.name)
        code = next(iter(self.starter.script.get(self.name, [])), 0)
        self.starter.script[self.name] = self.starter.script.get(self.name, [])[1:]
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.json").write_text("{}")
        if code == 0:
            (self.folder / "episodes.csv").write_text(f"{HEADER}\n0,3,1,0\n")
        return code

    def interrupt(self) -> None:
        self.starter.interrupted.append(self.name)
        self.starter.alive.discard(self.name)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(execution, "POLL_SEC", 0.0)


@pytest.fixture
def job(tmp_path):
    def job(name: str, *needs: str) -> Job:
        folder = tmp_path / name
        return Job(name, ("train", "m", "--output", str(folder)), folder, needs, episodes=1)

    return job


def states(ended) -> dict[str, str]:
    return {progress.job.name: progress.state for progress in ended}


def test_a_job_waits_for_what_it_needs_and_no_more_run_than_there_is_room_for(job):
    starter = Scripted(2)
    jobs = [job("data"), job("pretraining", "data"), job("a", "pretraining"), job("b", "pretraining"), job("free")]
    ended = run_jobs(jobs, starter, lambda jobs: None)
    assert set(states(ended).values()) == {"done"}
    assert starter.begun == ["data", "free", "pretraining", "a", "b"]
    assert starter.most == 2


def test_what_is_there_is_not_made_again(job, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "episodes.csv").write_text(f"{HEADER}\n0,3,1,0\n")
    starter = Scripted(1)
    # The pretraining is gone, but the run that read it is finished.
    run_jobs([job("pretraining"), job("a", "pretraining"), job("b")], starter, lambda jobs: None)
    assert starter.begun == ["b"]


def test_a_killed_run_is_resumed_once(job):
    starter = Scripted(1, {"a": [-9]})
    assert states(run_jobs([job("a"), job("b", "a")], starter, lambda jobs: None)) == {"a": "done", "b": "done"}
    assert starter.begun == ["a", "a resumes", "b"]


def test_one_that_dies_twice_is_named_and_the_others_go_on(job):
    starter = Scripted(1, {"a": [-9, -9]})
    ended = run_jobs([job("a"), job("b", "a"), job("c", "b"), job("d")], starter, lambda jobs: None)
    assert states(ended) == {"a": "failed", "b": "left out", "c": "left out", "d": "done"}
    assert "it ended with signal 9; see" in ended[0].error
    assert starter.begun == ["a", "a resumes", "d"]


def test_what_a_command_says_is_wrong_is_not_asked_again(job, tmp_path):
    (tmp_path / "a.log").write_text("starts\nsafe-rl: error: no such luck\n")
    starter = Scripted(1, {"a": [2]})
    (progress,) = run_jobs([job("a")], starter, lambda jobs: None)
    assert (progress.state, progress.error) == ("failed", "no such luck")
    assert starter.begun == ["a"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_passed_on_and_waited_for(job, number):
    starter = Scripted(2)

    def watch(jobs) -> None:
        if len(starter.alive) == 2:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        run_jobs([job("endless 1"), job("endless 2"), job("later")], starter, watch)
    assert starter.interrupted == ["endless 1", "endless 2"]
    assert "later" not in starter.begun


def test_an_error_of_its_own_leaves_nobody_behind(job):
    starter = Scripted(1)

    def watch(jobs) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_jobs([job("endless")], starter, watch)
    assert starter.interrupted == ["endless"]


def test_a_run_is_done_with_its_last_episode_and_the_checkpoint_behind_it(job, tmp_path):
    one = job("a")
    assert not one.is_done()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "episodes.csv").write_text(f"{HEADER}\n0,3,1,0\n")
    assert one.is_done()  # somebody has made room and deleted the checkpoints
    save_checkpoint(tmp_path / "a" / "checkpoints", 2, {"x": 1})
    assert not one.is_done()  # killed between the episode and the last checkpoint
    save_checkpoint(tmp_path / "a" / "checkpoints", 3, {"x": 1})
    assert one.is_done()
    (tmp_path / "a" / "episodes.csv").write_text(f"{HEADER}\n0,3")
    assert not one.is_done()


def test_the_last_line_of_a_log(tmp_path):
    log = tmp_path / "log"
    assert last_line(log) == ""
    log.write_text("first\n  last \n\n")
    assert last_line(log) == "last"
    log.write_text("long " * 10_000 + "\nend")
    assert last_line(log) == "end"
