from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from safe_rl import storage
from safe_rl.checkpoint import list_checkpoints, load_newest, load_state, save_checkpoint, save_state
from safe_rl.errors import UserError

STATE = {"agent": {"weights": torch.arange(6.0).view(2, 3), "count": 3}, "rng": np.arange(4), "name": "corridor"}


def equal(a, b) -> bool:
    if isinstance(a, np.ndarray):
        a = torch.from_numpy(np.array(a))
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and a.equal(b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


names = st.text(st.sampled_from("ab._/0 ä"), max_size=4)
scalars = st.none() | st.booleans() | st.integers(-(2**130), 2**130) | st.floats(allow_nan=False) | st.text(max_size=5)
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
arrays = st.sampled_from(["f4", "f8", "i8", "i4", "u1", "?"]).flatmap(
    lambda kind: hnp.arrays(kind, shapes, elements={"allow_nan": False} if kind[0] == "f" else None)
)
tensors = arrays.map(lambda a: torch.from_numpy(a.copy()))
states = st.recursive(
    scalars | arrays | tensors | st.lists(scalars, max_size=3), lambda inner: st.dictionaries(names, inner, max_size=4)
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=st.dictionaries(names, states, max_size=4))
def test_nested_state_comes_back(tmp_path, state):
    save_state(tmp_path / "s", state)
    assert equal(state, load_state(tmp_path / "s"))


def test_names_that_look_alike_are_kept_apart(tmp_path):
    state = {"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}, "": {"a.b": torch.full((1,), 2.0)}}
    save_state(tmp_path / "s", state)
    assert equal(state, load_state(tmp_path / "s"))


def test_views_and_shared_tensors_come_back_whole(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    state = {"all": base, "column": base[:, 1], "transposed": base.T, "again": base}
    save_state(tmp_path / "s", state)
    assert equal({k: v.contiguous() for k, v in state.items()}, load_state(tmp_path / "s"))


def test_the_state_of_random_generators_comes_back(tmp_path):
    numpy, torch_generator = np.random.default_rng(3), torch.Generator().manual_seed(3)
    save_state(tmp_path / "s", {"numpy": numpy.bit_generator.state, "torch": torch_generator.get_state()})
    loaded = load_state(tmp_path / "s")
    other, other_torch = np.random.default_rng(9), torch.Generator()
    other.bit_generator.state = loaded["numpy"]
    other_torch.set_state(loaded["torch"])
    assert other.integers(0, 2**60, 5).tolist() == numpy.integers(0, 2**60, 5).tolist()
    assert torch.equal(torch.rand(5, generator=other_torch), torch.rand(5, generator=torch_generator))


def test_there_is_no_pickle_in_it(tmp_path):
    save_state(tmp_path / "s", STATE)
    files = sorted(path for path in (tmp_path / "s").rglob("*") if path.is_file())
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    for path in files:
        assert b"\x80\x04\x95" not in path.read_bytes()  # how a pickle begins
        if path.suffix == ".json":
            json.loads(path.read_text())


FILES = ["tensors.safetensors", "state.json", "manifest.json"]


def test_these_are_all_the_files(tmp_path):
    save_state(tmp_path / "s", STATE)
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == sorted(FILES)


@pytest.mark.parametrize("damage", ["flip first", "flip middle", "flip last", "truncate", "empty", "remove"])
@pytest.mark.parametrize("name", FILES)
def test_damage_to_any_file_names_it(tmp_path, name, damage):
    save_state(tmp_path / "s", STATE)
    path = tmp_path / "s" / name
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        if damage.startswith("flip"):
            content[{"first": 0, "middle": len(content) // 2, "last": -1}[damage.split()[1]]] ^= 0x10
        path.write_bytes(content[: {"truncate": -1, "empty": 0}.get(damage, len(content))])
    with pytest.raises(UserError) as caught:
        load_state(tmp_path / "s")
    assert name in str(caught.value)
    assert str(tmp_path / "s") in str(caught.value)
    assert "\n" not in str(caught.value)


def damage(folder: Path, name: str = "tensors.safetensors") -> Path:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_newest_checkpoint_tells_of_the_one_before_it_and_its_cure_works(tmp_path, name):
    for step in (5, 40):
        save_checkpoint(tmp_path / "run", step, {**STATE, "step": step})
    victim = damage(tmp_path / "run" / "step_000000040", name)
    with pytest.raises(UserError) as caught:
        load_newest(tmp_path / "run")
    message = str(caught.value)
    assert str(victim) in message
    assert "\n" not in message
    assert message.endswith(
        "; the checkpoint before it, step_000000005, is whole: "
        f"to use that, move step_000000040 out of {tmp_path / 'run'}"
    )
    (tmp_path / "run" / "step_000000040").rename(tmp_path / "step_000000040")
    assert equal({**STATE, "step": 5}, load_newest(tmp_path / "run"))


@pytest.mark.parametrize("former", ["none", "damaged", "of a newer format"])
def test_a_former_checkpoint_is_named_only_where_it_can_be_read(tmp_path, former):
    for step in (40,) if former == "none" else (5, 40):
        save_checkpoint(tmp_path, step, STATE)
    if former == "damaged":
        damage(tmp_path / "step_000000005")
    elif former == "of a newer format":
        newer_format(tmp_path / "step_000000005")
    victim = damage(tmp_path / "step_000000040")
    with pytest.raises(UserError) as caught:
        load_newest(tmp_path)
    assert str(victim) in str(caught.value)
    assert "before it" not in str(caught.value)


def test_a_newest_checkpoint_of_a_newer_format_is_not_to_be_moved_away(tmp_path):
    for step in (5, 40):
        save_checkpoint(tmp_path, step, STATE)
    newer_format(tmp_path / "step_000000040")
    with pytest.raises(UserError, match=r"newer format 2: update safe_rl$"):
        load_newest(tmp_path)


def newer_format(folder: Path) -> None:
    path = folder / "state.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    storage.write_manifest(folder)


def test_a_newer_format_asks_for_an_update(tmp_path):
    save_state(tmp_path / "s", STATE)
    newer_format(tmp_path / "s")
    with pytest.raises(UserError, match="newer format 2: update safe_rl"):
        load_state(tmp_path / "s")


def test_no_checkpoint_there(tmp_path):
    with pytest.raises(UserError, match="no checkpoint at"):
        load_state(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no checkpoint in"):
        load_newest(tmp_path)


def test_the_newest_two_are_kept_and_the_newest_is_loaded(tmp_path):
    for step in (5, 40, 300, 1_000_000):
        save_checkpoint(tmp_path, step, {"step": step})
        assert load_newest(tmp_path) == {"step": step}
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_000000300", "step_001000000"]


def test_saving_a_step_again_replaces_it(tmp_path):
    for value in (1, 2):
        save_checkpoint(tmp_path, 7, {"value": value})
    assert load_newest(tmp_path) == {"value": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000007"]


def test_other_folders_are_no_checkpoints(tmp_path):
    save_checkpoint(tmp_path, 7, {"value": 7})
    (tmp_path / ".step_000000008.staging-123").mkdir()
    (tmp_path / "step_000000009.bak").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_000000007"]


# ------------------------------------------------------------------------------------------ killed while saving


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the program's own clearing up happens afterwards."""


@pytest.mark.parametrize("instant", range(4))
@pytest.mark.parametrize("pid", ["another process", "the same process number"])
def test_a_kill_at_any_instant_of_replacing_the_only_copy_loses_nothing(tmp_path, monkeypatch, instant, pid):
    """The folders are copied as they stand at each instant; that is what the next process would find."""
    found = tmp_path / "found"
    save_checkpoint(tmp_path / "run", 7, {"value": 1})
    calls = []

    def watched(function):
        def call(*args, **kwargs):
            if len(calls) == instant:
                shutil.copytree(tmp_path / "run", found)
            calls.append(function)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(Path, "rename", watched(Path.rename))
    monkeypatch.setattr(storage.os, "replace", watched(storage.os.replace))
    monkeypatch.setattr(storage.shutil, "rmtree", watched(shutil.rmtree))
    save_checkpoint(tmp_path / "run", 7, {"value": 2})
    monkeypatch.undo()
    if not found.exists():
        pytest.skip(f"saving takes {len(calls)} such instants")
    if pid == "another process":
        for path in found.glob(".*"):
            path.rename(path.with_name(path.name.rpartition("-")[0] + "-999999999"))
    assert load_newest(found)["value"] in (1, 2)
    save_checkpoint(found, 7, {"value": 3})
    assert load_newest(found) == {"value": 3}
    assert [path.name for path in found.iterdir()] == ["step_000000007"]  # no leftover takes room for ever


def test_what_a_killed_process_left_of_other_steps_is_cleared(tmp_path):
    (tmp_path / ".step_000000005.staging-999999999").mkdir(parents=True)
    save_checkpoint(tmp_path, 7, {"value": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000007"]


def test_the_folder_of_a_living_process_is_left_alone(tmp_path):
    others = tmp_path / ".step_000000005.staging-1"
    others.mkdir(parents=True)
    save_checkpoint(tmp_path, 7, {"value": 1})
    assert others.exists()
