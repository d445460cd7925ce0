from __future__ import annotations

from pathlib import Path

import pytest

from safe_rl.cli.main import main
from safe_rl.data.dataset import OfflineDataset


@pytest.fixture(autouse=True)
def tiny_env_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "data"))


def arguments(output: Path, *more: str, env: str = "tiny_env:BoundaryEnv") -> list[str]:
    return ["collect", "--env", env, "--transitions", "150", "--output", str(output), "--seed", "4", *more]


def test_collects_and_says_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(tmp_path / "d")) == 0
    dataset = OfflineDataset.open(tmp_path / "d")
    printed = capsys.readouterr()
    assert f"150 transitions in {dataset.num_episodes} episodes" in printed.out
    assert f"{dataset.num_violations / 150:.1%} violate" in printed.out
    assert "150/150 transitions" in printed.err


def test_a_dataset_in_the_way_is_an_error_of_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(tmp_path / "d")) == 0
    before = OfflineDataset.open(tmp_path / "d").sha256
    capsys.readouterr()
    assert main(arguments(tmp_path / "d")) == 2
    error = capsys.readouterr().err
    assert error.startswith("safe-rl: error: ")
    assert "--append" in error
    assert error.count("\n") == 1
    assert OfflineDataset.open(tmp_path / "d").sha256 == before
    assert main(arguments(tmp_path / "d", "--append")) == 0
    assert OfflineDataset.open(tmp_path / "d").num_transitions == 300
    assert main(arguments(tmp_path / "d", "--overwrite")) == 0
    assert OfflineDataset.open(tmp_path / "d").sha256 == before


@pytest.mark.parametrize(
    ("flag", "how"), [(None, "with --resume"), ("--overwrite", "with --resume in place of --overwrite")]
)
def test_ctrl_c_tells_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flag: str | None, how: str
) -> None:
    monkeypatch.setenv("TINY_ENV_FAULT", "interrupt")
    command = arguments(tmp_path / "d", env="tiny_env:FaultyEnv")
    assert main([*command, flag] if flag else command) == 130
    error = capsys.readouterr().err
    assert "of 150 transitions are kept" in error
    assert f"repeat the command {how} to go on" in error
    monkeypatch.setenv("TINY_ENV_FAULT", "none")
    assert main([*command, "--resume"]) == 0
    assert OfflineDataset.open(tmp_path / "d").num_transitions == 150


def test_a_faulty_environment_is_an_error_of_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_ENV_FAULT", "nan")
    assert main(arguments(tmp_path / "d", env="tiny_env:FaultyEnv")) == 2
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert last_line.startswith(
        "safe-rl: error: environment tiny_env:FaultyEnv returned an observation that is not finite"
    )
    assert last_line.endswith("go on with --resume")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--transitions", "0"], "--transitions is 0"),
        (["--polcy", "random"], "--polcy"),
        (["--env", "NoSuch-v0"], "NoSuch-v0"),
        (["--policy", "psychic"], "--policy psychic is neither"),
    ],
)
def test_mistakes_exit_with_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main(arguments(tmp_path / "d", *more)) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
