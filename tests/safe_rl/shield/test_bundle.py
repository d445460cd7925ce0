"""A bundle's file: round trips, and everything that can be wrong with a folder somebody hands over."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from safe_rl import storage
from safe_rl.cli.main import main
from safe_rl.errors import UserError
from safe_rl.shield import spec as spec_module
from safe_rl.shield.bundle import PolicyBundle, arrays_to_bytes, may_write, update_bundle, write_bundle
from safe_rl.shield.spec import BundleSpec, DistributionSpec, LimitSpec, StopSpec, SwitchSpec
from safe_rl.storage import write_manifest

SPEC = BundleSpec(
    method="recovery-rl",
    env="safe_rl/Navigation1-v0",
    observation_space={"type": "Box", "low": "-inf", "high": "inf", "shape": [2], "dtype": "float32"},
    action_space={"type": "Box", "low": -1.0, "high": 1.0, "shape": [2], "dtype": "float32"},
    recovery="model-free",
    gamma_risk=0.8,
    switch=SwitchSpec(eps_risk=0.3, release_risk=0.2, min_recovery_sec=0.5),
    limits=LimitSpec((-1.0, -1.0), (1.0, 1.0), max_rate=(2.0, 3.0), control_period_sec=0.05),
    stop=StopSpec("action", (0.0, 0.5)),
    deadline_sec=0.02,
    distribution=DistributionSpec(threshold=3.0, stop=True),
    calibration={"miss_rate": 0.05, "pictures": ["a.png"]},
    provenance={"seed": 1},
)
ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float64([0.5])}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    write_bundle(path, SPEC, {"weights.safetensors": arrays_to_bytes(ARRAYS), "decide.onnx": b"graph" * 100})
    return path


def test_what_is_written_is_read(path):
    bundle = PolicyBundle.load(path)
    assert bundle.spec == SPEC
    arrays = bundle.read_arrays("weights.safetensors")
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
    assert not bundle.has_graphs  # one of two
    assert json.loads((path / "bundle.json").read_text())["switch"]["eps_risk"] == 0.3


def test_an_update_keeps_the_other_files(path):
    changed = dataclasses.replace(SPEC, switch=SwitchSpec(eps_risk=0.1))
    bundle = update_bundle(PolicyBundle.load(path), changed, {"filter.onnx": b"x"})
    assert PolicyBundle.load(path).spec == changed
    assert bundle.has_graphs
    assert bundle.read_bytes("decide.onnx") == b"graph" * 100


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


FILES = ("bundle.json", "weights.safetensors", "decide.onnx", "manifest.json")


WAYS = ("cut", "flipped", "missing", "empty", "swapped", "folder")


@pytest.mark.parametrize(
    ("name", "how"), [*itertools.product(FILES, WAYS), *((name, "link") for name in FILES if name != "manifest.json")]
)
def test_a_damaged_file_is_named_in_one_line(path, tmp_path, capsys, name, how):
    file = path / name
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-7])
    elif how == "flipped":
        flip(file, len(file.read_bytes()) // 2)
    elif how == "missing":
        file.unlink()
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "swapped":
        other = dataclasses.replace(SPEC, env="safe_rl/Navigation2-v0")
        other_arrays = {"a": ARRAYS["a"] + 1}
        write_bundle(
            tmp_path / "other", other, {"weights.safetensors": arrays_to_bytes(other_arrays), "decide.onnx": b"y"}
        )
        shutil.copy(tmp_path / "other" / name, file)
    elif how == "link":
        outside = tmp_path / "outside"
        shutil.move(file, outside)
        file.symlink_to(outside)
    elif how == "folder":
        file.unlink()
        file.mkdir()
    for command in (["bench", str(path)], ["evaluate", str(path)]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert str(path) in error
        assert error.count("\n") == 1


def test_every_single_bit_counts(path):
    rng = np.random.default_rng(0)
    for name in FILES:
        original = (path / name).read_bytes()
        for place in rng.integers(0, len(original), 20):
            flip(path / name, int(place))
            if name == "manifest.json" and json_equal(original, (path / name).read_bytes()):
                continue  # a blank for a blank
            with pytest.raises(UserError):
                PolicyBundle.load(path)
            (path / name).write_bytes(original)


def json_equal(first: bytes, second: bytes) -> bool:
    try:
        return json.loads(first) == json.loads(second)
    except ValueError:
        return False


def rewrite(path: Path, content: str) -> None:
    """Replaces ``bundle.json`` and makes the hashes fit: what somebody with an editor and bad luck would do."""
    (path / "bundle.json").write_text(content)
    write_manifest(path)


def changed(**entries) -> str:
    return json.dumps(SPEC.to_json() | entries)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is damaged"),
        ("[" * 100_000 + "]" * 100_000, "is damaged"),
        ('{"a":' * 50_000 + "1" + "}" * 50_000, "is damaged"),
        ('{"a":' * 100 + "1" + "}" * 100, "is damaged"),
        ("[]", "no format_version"),
        (changed(format_version=2), "newer format 2"),
        (changed(format_version="1"), "no format_version"),
        (changed(format_version=0), "format 0 is unknown"),
        (changed(surprise=1), "unknown entry 'surprise'"),
        (json.dumps({k: v for k, v in SPEC.to_json().items() if k != "switch"}), "has no switch"),
        (changed(switch={"eps_risk": 1.5}), "switch.eps_risk is 1.5: it must be at least 0 and less than 1"),
        (changed(switch={"eps_risk": 0.99999999}), "is 0.99999999: it must be at least 0 and less than 1"),
        (changed(switch={"eps_risk": "0.3"}), "switch.eps_risk is str: it must be of type float"),
        (changed(switch={"eps_risk": True}), "switch.eps_risk is bool"),
        (changed(switch={"eps_risk": 0.3, "release_risk": 0.4}), "switch.release_risk is 0.4"),
        (changed(switch=[]), "entry switch must be an object"),
        (changed(limits={"low": [-1.0], "high": [1.0]}), "as long as an action"),
        (changed(limits={"low": [1.0, 1.0], "high": [-1.0, -1.0]}), "limits.low"),
        (changed(limits={"low": [-1e300, 0.0], "high": [1.0, 1.0]}), "finite"),
        (changed(limits={"low": [0.0, 0.0], "high": [1.0, 1.0], "max_rate": [1.0, 1.0]}), "control_period_sec"),
        (changed(recovery="magic"), "recovery is 'magic': it must be 'model-free' or 'q-sampling'"),
        (changed(stop={"kind": "action"}), "stop.action is None"),
        (changed(gamma_risk=float("nan")), "gamma_risk is nan"),
        (changed(deadline_sec=0), "deadline_sec is 0.0: it must be positive"),
        (changed(deadline_sec=10**400), "deadline_sec is inf: it must be finite"),
    ],
)  # fmt: skip
def test_a_description_that_cannot_be_is_one_line(path, capsys, content, message):
    rewrite(path, content)
    assert main(["bench", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "bundle.json" in error
    assert error.count("\n") == 1


def test_a_huge_description_is_not_read(path, capsys, monkeypatch):
    monkeypatch.setattr(storage, "MAX_JSON_BYTES", 1000)
    assert main(["bench", str(path)]) == 2
    assert "more than the 1000 that are read" in capsys.readouterr().err


def test_a_manifest_cannot_lead_out_of_the_folder(path, tmp_path):
    (tmp_path / "outside").write_text("secret")
    for name in ("../outside", str(tmp_path / "outside")):
        files = {name: storage.sha256(tmp_path / "outside")}
        content = {"files": files, "sha256": storage._digest(files)}
        (path / "manifest.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match="lies outside of"):
            PolicyBundle.load(path)


@pytest.mark.parametrize("name", ["\ud800", "nul\0", "long" * 2000, "circle"])
def test_names_that_are_none_are_one_line(path, capsys, name):
    (path / "circle").symlink_to("circle")
    files = {name: "0"}
    (path / "manifest.json").write_text(json.dumps({"files": files, "sha256": storage._digest(files)}))
    assert main(["bench", str(path)]) == 2
    error = capsys.readouterr().err
    assert str(path) in error
    assert error.count("\n") == 1


def test_an_unlisted_description_is_not_the_bundles(path):
    files = {"decide.onnx": storage.sha256(path / "decide.onnx")}
    (path / "manifest.json").write_text(json.dumps({"files": files, "sha256": storage._digest(files)}))
    with pytest.raises(UserError, match=r"does not vouch for bundle\.json"):
        PolicyBundle.load(path)


def test_another_bundle_in_its_place_is_never_mixed_with_it(path, monkeypatch):
    opened = PolicyBundle.load(path)
    other = {"weights.safetensors": arrays_to_bytes({"a": ARRAYS["a"] + 1})}
    write_bundle(path, dataclasses.replace(SPEC, switch=SwitchSpec(eps_risk=0.1)), other)
    with pytest.raises(UserError, match="was changed while the bundle was in use"):
        opened.read_arrays("weights.safetensors")
    with pytest.raises(UserError, match="was changed while the bundle was in use"):
        update_bundle(opened, SPEC, {"decide.onnx": b"of the former one"})
    assert PolicyBundle.load(path).spec.switch.eps_risk == 0.1

    def replaced_after(folder: Path) -> dict[str, str]:
        files = storage.verify_manifest(folder)
        rewrite(folder, changed(deadline_sec=1))
        return files

    monkeypatch.setattr("safe_rl.shield.bundle.verify_manifest", replaced_after)
    with pytest.raises(UserError, match="was changed while it was being read"):
        PolicyBundle.load(path)


def test_an_unlisted_file_is_not_the_bundles(path):
    (path / "filter.onnx").write_bytes(b"smuggled in")
    assert not PolicyBundle.load(path).has_graphs


def test_weights_that_are_no_numbers_are_refused(path):
    update_bundle(PolicyBundle.load(path), SPEC, {"weights.safetensors": arrays_to_bytes({"a": np.float32([np.nan])})})
    with pytest.raises(UserError, match="NaN or infinity in a"):
        PolicyBundle.load(path).read_arrays("weights.safetensors")


def test_an_older_format_is_brought_up_step_by_step(monkeypatch):
    monkeypatch.setattr(spec_module, "FORMAT_VERSION", 3)
    upgrades = {
        1: lambda content: {**content, "switch": {**content["switch"], "eps_risk": 0.25}},
        2: lambda content: {key: value for key, value in content.items() if key != "old"},
    }
    monkeypatch.setattr(spec_module, "UPGRADES", upgrades)
    read = BundleSpec.from_json({**SPEC.to_json(), "format_version": 1, "old": 0})
    assert read.switch.eps_risk == 0.25
    assert read.format_version == 3


def test_where_a_bundle_may_be_written(path, tmp_path):
    may_write(tmp_path / "new", overwrite=False)
    may_write(path, overwrite=True)
    with pytest.raises(UserError, match="already holds a bundle"):
        may_write(path, overwrite=False)
    with pytest.raises(UserError, match="holds other files"):
        may_write(tmp_path, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="holds other files"):
        may_write(tmp_path / "file", overwrite=True)


def test_a_bundle_that_a_killed_process_had_put_aside_comes_back(path):
    path.rename(path.with_name(f".{path.name}.former-{2**22 + 1}"))  # no process has that number
    assert PolicyBundle.load(path).spec == SPEC


@pytest.mark.parametrize("command", [["bench"], ["evaluate"]])
def test_no_bundle_there(tmp_path, capsys, command):
    (tmp_path / "empty").mkdir()
    for name in ("missing", "empty"):
        assert main([*command, str(tmp_path / name)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
