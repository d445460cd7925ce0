from __future__ import annotations

from pathlib import Path

import pytest

from safe_rl.cli.main import main
from safe_rl.data.collect import CollectConfig, collect


@pytest.fixture(autouse=True)
def tiny_env_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "data"))


def test_prints_and_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = collect(CollectConfig(env="tiny_env:SafeEnv", output=tmp_path / "d", transitions=100))
    assert main(["inspect", str(dataset.path)]) == 0
    printed = capsys.readouterr().out
    for part in ("tiny_env:SafeEnv", "Box(-inf, inf, (2,), float32)", "obs[1]", "action[0]", dataset.sha256):
        assert part in printed
    assert "warning: 100 transitions are few" in printed
    assert "warning: nothing violates the constraint" in printed
    assert (tmp_path / "d" / "inspect.png").read_bytes().startswith(b"\x89PNG")
    assert main(["inspect", str(dataset.path), "--plot", str(tmp_path / "other.pdf")]) == 0
    assert (tmp_path / "other.pdf").read_bytes().startswith(b"%PDF")


def test_the_picture_does_not_count_as_damage(tmp_path: Path) -> None:
    collect(CollectConfig(env="tiny_env:LineEnv", output=tmp_path / "d", transitions=100))
    for _ in range(2):
        assert main(["inspect", str(tmp_path / "d")]) == 0


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "nowhere")]) == 2
    assert "no dataset at" in capsys.readouterr().err
    collect(CollectConfig(env="tiny_env:LineEnv", output=tmp_path / "d", transitions=100))
    path = tmp_path / "d" / "data" / "main_data.hdf5"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(bytes(content))
    assert main(["inspect", str(tmp_path / "d")]) == 2
    error = capsys.readouterr().err
    assert "main_data.hdf5 is damaged" in error
    assert error.count("\n") == 1
