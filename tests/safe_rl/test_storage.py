from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from safe_rl import storage
from safe_rl.errors import UserError
from safe_rl.storage import MANIFEST, staged_folder, verify_manifest


def write(folder: Path, text: str) -> None:
    with staged_folder(folder) as staging:
        (staging / "sub").mkdir()
        (staging / "a.txt").write_text(text)
        (staging / "sub" / "b.txt").write_text(text * 2)


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_written_whole_and_replaced_whole(tmp_path):
    for text in ("one", "two"):
        write(tmp_path / "thing", text)
        verify_manifest(tmp_path / "thing")
        assert (tmp_path / "thing" / "a.txt").read_text() == text
        assert entries(tmp_path) == ["thing"]
    manifest = json.loads((tmp_path / "thing" / MANIFEST).read_text())
    assert set(manifest["files"]) == {"a.txt", "sub/b.txt"}


def test_nothing_is_seen_before_the_end(tmp_path):
    with staged_folder(tmp_path / "thing") as staging:
        (staging / "a.txt").write_text("x")
        assert not (tmp_path / "thing").exists()
    assert (tmp_path / "thing" / "a.txt").exists()


@pytest.mark.parametrize("former", [True, False], ids=["replacing", "new"])
def test_an_error_while_writing_leaves_things_as_they_were(tmp_path, former):
    if former:
        write(tmp_path / "thing", "old")
    with pytest.raises(RuntimeError, match="halfway"), staged_folder(tmp_path / "thing") as staging:
        (staging / "a.txt").write_text("new")
        raise RuntimeError("halfway")
    assert entries(tmp_path) == (["thing"] if former else [])
    if former:
        verify_manifest(tmp_path / "thing")


def test_a_full_disk_is_told_in_one_line(tmp_path):
    write(tmp_path / "thing", "old")
    with pytest.raises(UserError, match="No space left on device; the former version is kept") as caught:  # noqa: SIM117
        with staged_folder(tmp_path / "thing"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "\n" not in str(caught.value)
    assert (tmp_path / "thing" / "a.txt").read_text() == "old"
    assert entries(tmp_path) == ["thing"]


def test_a_full_disk_at_the_last_rename_brings_the_former_folder_back(tmp_path, monkeypatch):
    write(tmp_path / "thing", "old")

    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage.os, "replace", full)
    with pytest.raises(UserError, match="former version is kept"):
        write(tmp_path / "thing", "new")
    verify_manifest(tmp_path / "thing")
    assert (tmp_path / "thing" / "a.txt").read_text() == "old"


@pytest.mark.parametrize("name", ["a.txt", "sub/b.txt", MANIFEST])
@pytest.mark.parametrize("position", [0, 2, -1])
def test_a_flipped_byte_in_any_file_names_that_file(tmp_path, name, position):
    write(tmp_path / "thing", "text")
    path = tmp_path / "thing" / name
    content = bytearray(path.read_bytes())
    content[position] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        verify_manifest(tmp_path / "thing")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_byte_of_the_manifest_counts(tmp_path):
    write(tmp_path / "thing", "text")
    path = tmp_path / "thing" / MANIFEST
    original = path.read_bytes()
    meaningful = [i for i, byte in enumerate(original) if not chr(byte).isspace()]
    for index in meaningful:
        damaged = bytearray(original)
        damaged[index] ^= 0x01
        path.write_bytes(damaged)
        with pytest.raises(UserError):
            verify_manifest(tmp_path / "thing")


@pytest.mark.parametrize("name", ["a.txt", "sub/b.txt", MANIFEST])
def test_a_missing_file_is_named(tmp_path, name):
    write(tmp_path / "thing", "text")
    (tmp_path / "thing" / name).unlink()
    with pytest.raises(UserError) as caught:
        verify_manifest(tmp_path / "thing")
    assert name in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"files": 3, "sha256": "x"}', '"\udcff"'])
def test_a_manifest_of_another_kind_is_damaged(tmp_path, content):
    write(tmp_path / "thing", "text")
    (tmp_path / "thing" / MANIFEST).write_text(content, errors="surrogateescape")
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        verify_manifest(tmp_path / "thing")


def test_a_folder_is_replaced_by_a_path_that_leads_through_it(tmp_path):
    write(tmp_path / "thing", "old")
    write(tmp_path / "thing" / ".." / "thing", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]
    verify_manifest(tmp_path / "thing")


@pytest.mark.parametrize("name", [".", "..", "/", "../thing"])
def test_a_folder_without_a_name_or_around_the_process_is_not_replaced(tmp_path, monkeypatch, name):
    write(tmp_path / "thing", "old")
    monkeypatch.chdir(tmp_path / "thing")
    with pytest.raises(UserError, match="go one folder up and name it"), staged_folder(Path(name)):
        pass
    verify_manifest(tmp_path / "thing")
