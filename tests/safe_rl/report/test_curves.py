"""Reading of run folders, and the numbers behind the curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from safe_rl.errors import UserError
from safe_rl.report.curves import find_runs, mean_and_standard_error, read_run, rolling_mean


def test_mean_and_standard_error_by_hand() -> None:
    mean, error = mean_and_standard_error([[1.0, 4.0], [3.0, 4.0], [8.0, 4.0]])
    # deviations -3, -1, 4: variance 26 / 2 = 13, error sqrt(13 / 3)
    np.testing.assert_allclose(mean, [4.0, 4.0])
    np.testing.assert_allclose(error, [np.sqrt(13.0 / 3.0), 0.0])


def test_one_seed_has_no_standard_error() -> None:
    mean, error = mean_and_standard_error([[2.0, 3.0]])
    assert mean.tolist() == [2.0, 3.0]
    assert np.isnan(error).all()


def test_rolling_mean_by_hand() -> None:
    assert rolling_mean(np.array([1.0, 3.0, 8.0, 4.0]), 2).tolist() == [1.0, 2.0, 5.5, 6.0]


@given(arrays.arrays(np.float64, st.integers(1, 30), elements=st.floats(-1e3, 1e3)), st.integers(1, 40))
def test_rolling_mean_is_the_mean_of_the_window(values: np.ndarray, window: int) -> None:
    expected = [values[max(0, end - window) : end].mean() for end in range(1, len(values) + 1)]
    np.testing.assert_allclose(rolling_mean(values, window), expected, atol=1e-6)


def test_reads_a_run(make_run, tmp_path: Path) -> None:
    record = read_run(make_run(tmp_path / "run", seed=7, outcomes="svts", planned=9))
    episodes = record.episodes
    assert (record.run.seed, record.planned_episodes, record.notes) == (7, 9, [])
    assert episodes.steps.tolist() == [10.0, 5.0, 20.0, 10.0]
    assert episodes.success.tolist() == [1.0, 0.0, 0.0, 1.0]
    assert episodes.violation.tolist() == [0.0, 1.0, 0.0, 0.0]
    assert episodes.ratio().tolist() == [2.0, 1.0, 1.0, 1.5]  # 2/1, 2/2, 2/2, 3/2
    assert episodes.recovery_share().tolist() == [0.2, 0.4, 0.1, 0.2]
    assert list(record.metrics) == ["sac/critic_loss"]  # a null is no number
    steps, values = record.metrics["sac/critic_loss"]
    assert steps.tolist() == [10.0, 20.0, 30.0]
    np.testing.assert_allclose(values, [0.1, 0.05, 1.0 / 30.0])


def test_finds_runs_in_folders_once(make_run, tmp_path: Path) -> None:
    first = make_run(tmp_path / "runs/nav/a")
    second = make_run(tmp_path / "runs/nav/deep/b")
    (tmp_path / "runs/pretrained").mkdir()
    (tmp_path / "runs/pretrained/config.json").write_text("{}")  # no run of train: it has no episodes
    assert find_runs([tmp_path / "runs", first]) == [first, second]


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere", "does not exist"), ("empty", "not a run"), ("file.txt", "not a run")],
)
def test_refuses_what_is_no_run(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("hello")
    with pytest.raises(UserError, match=message) as caught:
        find_runs([tmp_path / name])
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("episodes.csv", "1,5,-15.0", "1,five,-15.0", "episodes.csv, line 3 is damaged"),
        ("episodes.csv", "1,5,-15.0", "1,5,-15.0,8", "line 3 is damaged: 9 values for 8 columns"),
        ("episodes.csv", "1,5,-15.0", "1,5,nan", "line 3 is damaged: return is nan"),
        ("episodes.csv", "0,10,-30.0,0,1,0", "0,10,-30.0,0,2,0", "line 2 is damaged: success is 2"),
        ("episodes.csv", ",violation,", ",breach,", "line 1: column 'violation' is missing"),
        ("metrics.jsonl", '"step": 20', '"step": ', "metrics.jsonl, line 2 is damaged"),
        ("metrics.jsonl", '"step": 20', '"stop": 20', "metrics.jsonl, line 2 is damaged"),
        ("config.json", '"method"', "method", "config.json is damaged"),
        ("versions.json", '{"command"', '["command"', "versions.json is damaged"),
    ],
)
def test_names_the_damaged_line(make_run, tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    run = make_run(tmp_path / "run", outcomes="svt")
    text = (run / file).read_text()
    assert old in text
    (run / file).write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=message) as caught:
        read_run(run)
    assert "\n" not in str(caught.value)


def test_a_line_cut_by_an_interruption_is_left_out_and_noted(make_run, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", outcomes="svt")
    with (run / "episodes.csv").open("a") as file:
        file.write("3,10,-3")
    record = read_run(run)
    assert len(record.episodes) == 3
    assert "cut off" in record.notes[0]
