from __future__ import annotations

import math
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from safe_rl.cli.main import main
from safe_rl.errors import UserError
from safe_rl.shield.black_box import BlackBox, read_black_box
from safe_rl.shield.decision import Reason, ShieldDecision
from safe_rl.switch import Mode


def decision(number: int, mode: Mode = Mode.TASK, reason: Reason = Reason.NONE) -> ShieldDecision:
    action = np.float32([number, -number])
    return ShieldDecision(action, action + 1, number / 100, mode, reason, math.nan, 1e-4 * number)


def fill(box: BlackBox, count: int) -> None:
    for number in range(count - 1):
        box.record(10.0 + number, np.float32([number] * 3), decision(number))
    stop = decision(count - 1, Mode.STOP, Reason.OBSERVATION_NOT_FINITE)
    box.record(10.0 + count - 1, np.float32([np.nan, 0, 0]), stop)


@pytest.mark.parametrize(("count", "kept"), [(1, 1), (5, 5), (8, 8), (21, 8)])
def test_the_last_decisions_come_back(tmp_path, count, kept):
    box = BlackBox(tmp_path / "box", 3, 2, capacity=8, source="bundles/nav1")
    fill(box, count)
    box.dump()
    box.close()
    (path,) = (tmp_path / "box").iterdir()
    recording = read_black_box(path)
    numbers = np.arange(count - kept, count)
    np.testing.assert_array_equal(recording.time_sec, 10.0 + numbers)
    np.testing.assert_allclose(recording.solve_time_sec, 1e-4 * numbers)
    np.testing.assert_array_equal(recording.action, np.stack([numbers, -numbers], axis=1))
    np.testing.assert_array_equal(recording.task_action, np.stack([numbers + 1, 1 - numbers], axis=1))
    np.testing.assert_allclose(recording.risk, numbers / 100)
    assert recording.mode.tolist() == [Mode.TASK] * (kept - 1) + [Mode.STOP]
    assert recording.reason == ("",) * (kept - 1) + ("observation_not_finite",)
    assert np.isnan(recording.obs[-1, 0])
    assert recording.source == "bundles/nav1"
    assert "observation_not_finite" in path.name


def test_stopping_all_the_time_does_not_fill_the_disk(tmp_path):
    box = BlackBox(tmp_path, 3, 2, min_interval_sec=3600)
    for _ in range(5):
        fill(box, 3)
        box.dump()
    box.close()
    assert len(list(tmp_path.iterdir())) == 1
    assert box.num_lost == 4


def test_evidence_is_never_deleted(tmp_path, caplog):
    for _ in range(4):
        box = BlackBox(tmp_path, 3, 2, max_files=3)
        fill(box, 3)
        box.dump()
        box.close()
    assert len(list(tmp_path.iterdir())) == 3
    assert box.num_lost == 1
    assert "move them away" in caplog.text


@pytest.fixture
def full_disk(tmp_path):
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_the_dump_alone(full_disk, caplog):
    box = BlackBox(full_disk, 3000, 2)
    for number in range(20):
        box.record(number, np.zeros(3000, np.float32), decision(number))
    box.dump()
    box.close()
    assert box.num_lost == 1
    assert list(full_disk.iterdir()) == []
    assert "could not write" in caplog.text


def test_two_shields_that_stop_at_once_keep_both_records(tmp_path):
    boxes = [BlackBox(tmp_path, 3, 2, source=name) for name in ("left", "right")]
    writer = threading.Barrier(2)
    for box in boxes:  # both count the files before either writes
        box.folder = Waiting(tmp_path, writer)
        fill(box, 3)
        box.dump()
    for box in boxes:
        box.close()
    assert {read_black_box(path).source for path in tmp_path.iterdir()} == {"left", "right"}


class Waiting:
    """A folder whose files are counted by all before any goes on."""

    def __init__(self, folder: Path, barrier: threading.Barrier) -> None:
        self._folder, self._barrier = folder, barrier

    def glob(self, pattern: str) -> list[Path]:
        found = list(self._folder.glob(pattern))
        self._barrier.wait()
        return found

    def __truediv__(self, name: str) -> Path:
        return self._folder / name


def test_whatever_keeps_one_dump_from_disk_the_next_is_written(tmp_path, monkeypatch):
    box = BlackBox(tmp_path, 3, 2, min_interval_sec=0)
    fill(box, 3)
    write = BlackBox._write

    def fails_once(self, arrays):
        monkeypatch.setattr(BlackBox, "_write", write)
        raise MemoryError

    monkeypatch.setattr(BlackBox, "_write", fails_once)
    box.dump()
    box.dump()
    box.close()
    assert box.num_lost == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_inspect_shows_what_happened(tmp_path, capsys):
    box = BlackBox(tmp_path, 3, 2, source="bundles/nav1")
    fill(box, 30)
    box.dump()
    box.close()
    (path,) = tmp_path.iterdir()
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    for text in ("bundles/nav1", "observation_not_finite", "30 in 29.000 s", "1 STOP", "nan 0 0", "the last 20 of 30"):
        assert text in out


def rewrite(path: Path, **changes: np.ndarray) -> None:
    with safe_open(path, framework="numpy") as file:
        metadata, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(arrays | changes, path, metadata)


def damaged(path: Path, how: str) -> None:
    if how == "short":
        return rewrite(path, obs=np.zeros((1, 3), np.float32))
    if how == "none":
        return rewrite(path, numbers=np.zeros((0, 6)))
    if how == "mode":
        return rewrite(path, numbers=np.full((3, 6), 7.0))
    if how == "reason":
        return rewrite(path, numbers=np.array([[0, 0, 0, 0, 0, np.inf]] * 3))
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = bytearray()
    elif how == "header":
        content[0] ^= 0xFF
    elif how == "newer":
        content = content.replace(b'format_version\\": 1', b'format_version\\": 9')
    elif how == "other":
        content = content.replace(b"safe_rl black box", b"something different")[: len(content)]
    elif how == "list":  # of the same length: the description is no object
        start = content.index(b'"description":"') + len(b'"description":"')
        end = content.index(b'}"', start) + 1
        content[start:end] = b"[]".ljust(end - start)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "how", ["cut", "empty", "header", "newer", "other", "missing", "short", "none", "mode", "reason", "list"]
)
def test_a_damaged_file_is_one_line(tmp_path, capsys, how):
    box = BlackBox(tmp_path, 3, 2)
    fill(box, 3)
    box.dump()
    box.close()
    (path,) = tmp_path.iterdir()
    path.unlink() if how == "missing" else damaged(path, how)
    with pytest.raises(UserError):
        read_black_box(path)
    assert main(["inspect", str(path)]) == 2
    error = capsys.readouterr().err
    assert str(path) in error
    assert error.count("\n") == 1
