"""The commands train and pretrain as a user types them, and what they say to mistakes."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import pytest
import toys

from safe_rl.checkpoint import list_checkpoints
from safe_rl.cli.main import main

SMALL = [
    "--sac.hidden-sizes", "8", "8", "--batch-size", "16", "--replay-capacity", "500", "--device", "cpu",
    "--preset", "none",
]  # fmt: skip
RISK = [
    "--risk.hidden-sizes", "8", "8", "--risk.pretrain-steps", "5", "--recovery.hidden-sizes", "8", "8",
]  # fmt: skip


def arguments(
    command: str, output: Path, *more: str, data: Path | None = None, env: str = "toys:Corridor"
) -> list[str]:
    """``safe-rl train recovery-rl ...`` and its like, small; what is given last counts."""
    words = command.split()
    risk = RISK if words[-1] != "unconstrained" else []
    dataset = [] if data is None else ["--dataset", str(data)]
    episodes = ["--episodes", "2"] if words[0] == "train" else []
    return [*words, "--env", env, *dataset, "--output", str(output), *episodes, *SMALL, *risk, *map(str, more)]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture
def fails(capsys, tmp_path):
    """Runs a command that must fail as a user's mistake does: code 2, one line on stderr, nothing changed."""

    def run(*argv) -> str:
        before = snapshot(tmp_path)
        capsys.readouterr()
        assert main([str(word) for word in argv]) == 2
        captured = capsys.readouterr()
        lines = [line for line in captured.err.splitlines() if line]
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("safe-rl: error: ")
        assert "Traceback" not in captured.err + captured.out
        assert snapshot(tmp_path) == before
        return lines[0]

    return run


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "episodes.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_pretrain_then_train_both_methods(tmp_path, corridor_data, capsys):
    assert main(arguments("pretrain", tmp_path / "pre", data=corridor_data)) == 0
    assert "pretrained networks in" in capsys.readouterr().out
    shielded = arguments("train recovery-rl", tmp_path / "rrl", "--pretrained", tmp_path / "pre", data=corridor_data)
    assert main(shielded) == 0
    assert main(arguments("train unconstrained", tmp_path / "sac")) == 0
    for name, method in (("rrl", "recovery-rl"), ("sac", "unconstrained")):
        assert len(rows(tmp_path / name)) == 2
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert (config["method"], config["env"], config["sac"]["hidden_sizes"]) == (method, "toys:Corridor", [8, 8])
        assert f"run folder {tmp_path / name}" in capsys.readouterr().out or name == "sac"
        assert list_checkpoints(tmp_path / name / "checkpoints")
    assert not (tmp_path / "rrl" / "pretrained").exists()


def test_train_pretrains_by_itself_and_resumes(tmp_path, corridor_data):
    command = arguments("train recovery-rl", tmp_path / "run", data=corridor_data)
    assert main(command) == 0
    assert (tmp_path / "run" / "pretrained").is_dir()
    first = (tmp_path / "run" / "episodes.csv").read_text()
    assert main([*command, "--resume", "--episodes", "4"]) == 0
    assert (tmp_path / "run" / "episodes.csv").read_text().startswith(first)
    assert len(rows(tmp_path / "run")) == 4


def test_a_run_goes_on_with_its_own_settings_where_none_are_given(tmp_path, corridor_data, fails):
    assert main(arguments("train recovery-rl", tmp_path / "run", data=corridor_data)) == 0
    before = json.loads((tmp_path / "run" / "config.json").read_text())
    assert main(["train", "--output", str(tmp_path / "run"), "--resume", "--episodes", "3"]) == 0
    assert main(["train", "recovery-rl", f"--output={tmp_path / 'run'}", "--resume", "--episodes", "4"]) == 0
    assert len(rows(tmp_path / "run")) == 4
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == before
    for more, words in (
        (["--sac.gamma", "0.5"], "sac.gamma = 0.99, not 0.5"),
        (["--preset", "tuned"], "was started with"),
        (["--env", "toys:Keyed"], "do not belong together"),
    ):
        assert words in fails("train", "--output", tmp_path / "run", "--resume", *more)
    assert "name a method" in fails("train", "--output", tmp_path / "nowhere", "--resume")


def test_a_run_that_was_begun_by_overwriting_goes_on(tmp_path):
    command = arguments("train unconstrained", tmp_path / "run")
    assert main(command) == 0
    assert main([*command, "--overwrite"]) == 0
    assert main(["train", "--output", str(tmp_path / "run"), "--resume", "--episodes", "3"]) == 0
    assert len(rows(tmp_path / "run")) == 3


def test_a_pretraining_is_no_training(tmp_path, corridor_data, fails):
    assert main(arguments("pretrain", tmp_path / "pre", data=corridor_data)) == 0
    assert main(["pretrain", "--output", str(tmp_path / "pre"), "--resume"]) == 0
    assert main(arguments("train unconstrained", tmp_path / "run")) == 0
    said = fails("train", "--output", tmp_path / "pre", "--resume")
    assert "holds a pretraining, not a training: name it with --pretrained" in said
    said = fails(*arguments("pretrain", tmp_path / "run", "--resume", data=corridor_data))
    assert "holds a training, not a pretraining" in said


def test_overwriting_spares_what_the_new_run_reads(tmp_path, corridor_data, fails):
    run = tmp_path / "run"
    assert main(arguments("pretrain", run, data=corridor_data)) == 0
    toys.collect_corridor(run / "data", 100)
    said = fails(*arguments("train recovery-rl", run, "--pretrained", run, "--overwrite", data=corridor_data))
    assert f"--overwrite would delete --pretrained {run}: choose another --output" in said
    said = fails(*arguments("train recovery-rl", run, "--overwrite", data=run / "data"))
    assert f"--overwrite would delete --dataset {run / 'data'}" in said


def test_the_cost_key_and_dict_observations_of_a_users_environment(tmp_path):
    data = toys.collect_corridor(tmp_path / "data", 300, env="toys:Keyed", cost_key="hazard")
    command = arguments(
        "train recovery-rl", tmp_path / "run", "--cost-key", "hazard", "--episodes", 8, data=data, env="toys:Keyed"
    )
    assert main(command) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["cost_key"] == "hazard"
    unshielded = arguments(
        "train unconstrained", tmp_path / "bare", "--cost-key", "hazard", "--episodes", 12, env="toys:Keyed"
    )
    assert main(unshielded) == 0
    assert sum(int(row["violation"]) for row in rows(tmp_path / "bare")) > 0
    assert main(arguments("train unconstrained", tmp_path / "deaf", "--episodes", 12, env="toys:Keyed")) == 0
    assert sum(int(row["violation"]) for row in rows(tmp_path / "deaf")) == 0


def test_help_names_the_methods_and_their_options(capsys):
    assert main(["train"]) == 0
    assert "recovery-rl" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["train", "recovery-rl", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert {"--env", "--risk.eps-risk", "--recovery.kind", "--stop-at-success-rate", "--preset"} <= set(
        text.replace(",", " ").split()
    )


@pytest.mark.parametrize("preset", ["tuned", "paper", "none"])
def test_presets_are_chosen_by_name_and_flags_go_over_them(tmp_path, preset):
    command = arguments(
        "train unconstrained", tmp_path / "run", "--preset", preset, "--sac.alpha", 0.125, "--episodes", 1
    )
    assert main(command) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["sac"]["alpha"] == 0.125
    if preset == "paper":
        assert config["normalize_obs"] == "none"


# --------------------------------------------------------------------------------------------------- mistakes


def test_an_unknown_method_gets_a_suggestion(fails, tmp_path, corridor_data):
    said = fails(*arguments("train recovery_rl", tmp_path / "run", data=corridor_data))
    assert "no method 'recovery_rl'" in said
    assert "did you mean 'recovery-rl'" in said


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--epsiodes", "3"], ["--epsiodes", "--episodes"]),
        (["--risk.eps_rsk", "0.1"], ["--risk.eps-rsk; did you mean --risk.eps-risk?"]),
        (["--episodes", "many"], ["--episodes", "many"]),
        (["--episodes", "0"], ["--episodes is 0", "at least 1"]),
        (["--seed", "-1"], ["--seed is -1"]),
        (["--batch-size", "0"], ["--batch-size is 0"]),
        (["--risk.eps-risk", "2"], ["--risk.eps-risk is 2.0", "between 0 and 1"]),
        (["--recovery.kind", "prayer"], ["prayer"]),
        (["--preset", "best"], ["--preset is best", "tuned, paper, none"]),
        (["--device", "tpu"], ["--device is tpu"]),
        (["--resume", "--overwrite"], ["--overwrite"]),
        (["--task-pretrain-steps", "5"], ["--task-pretrain-steps is 5", "--demonstrations"]),
        (["--pretrained", "nowhere"], ["nowhere", "safe-rl pretrain"]),
        (["--threads", "0"], ["--threads is 0"]),
        (["--eval-every", "1", "--eval-episodes", "0"], ["--eval-episodes is 0"]),
    ],
)
def test_an_option_that_is_wrong_is_named(fails, tmp_path, corridor_data, more, words):
    said = fails(*arguments("train recovery-rl", tmp_path / "run", *more, data=corridor_data))
    for word in words:
        assert word in said


@pytest.mark.parametrize("command", ["train recovery-rl", "train unconstrained", "pretrain"])
@pytest.mark.parametrize(
    ("env", "word"), [("toys:Corridr", "toys"), ("nothing_there:Env", "nothing_there"), ("Corridr-v0", "Corridr-v0")]
)
def test_an_unknown_environment(fails, tmp_path, corridor_data, command, env, word):
    data = None if command.endswith("unconstrained") else corridor_data
    assert word in fails(*arguments(command, tmp_path / "run", data=data, env=env))


def test_what_must_be_given(fails, tmp_path, corridor_data):
    assert "--env" in fails("train", "recovery-rl", "--output", tmp_path / "run")
    assert "--output" in fails("train", "recovery-rl", "--env", "toys:Corridor")
    assert "--dataset" in fails(*arguments("train recovery-rl", tmp_path / "run"))
    assert "--dataset" in fails("pretrain", "--env", "toys:Corridor", "--output", tmp_path / "run")
    assert "name a method before the options" in fails("train", "--env", "toys:Corridor")


@pytest.mark.parametrize("command", ["train recovery-rl", "pretrain"])
def test_a_dataset_that_does_not_do(fails, tmp_path, corridor_data, command):
    import shutil

    assert "no dataset at" in fails(*arguments(command, tmp_path / "run", data=tmp_path / "nowhere"))
    shutil.copytree(corridor_data, tmp_path / "damaged")
    victim = max((p for p in (tmp_path / "damaged").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    assert victim.name in fails(*arguments(command, tmp_path / "run", data=tmp_path / "damaged"))
    assert "do not belong together" in fails(*arguments(command, tmp_path / "run", data=corridor_data, env="toys:Wide"))


def test_a_dataset_without_violations(fails, tmp_path):
    toys.Tame = lambda: toys.Script(length=5)
    try:
        data = toys.collect_corridor(tmp_path / "tame", 60, env="toys:Tame")
        assert "no violation" in fails(*arguments("train recovery-rl", tmp_path / "run", data=data, env="toys:Tame"))
    finally:
        del toys.Tame


def test_an_output_that_is_taken(fails, tmp_path, corridor_data):
    command = arguments("train unconstrained", tmp_path / "run", "--episodes", 1)
    assert main(command) == 0
    said = fails(*command)
    assert "--resume" in said
    assert "--overwrite" in said
    assert "seed = 0, not 5" in fails(*command, "--resume", "--seed", 5)
    assert "holds no run to resume" in fails(*arguments("train unconstrained", tmp_path / "new", "--resume"))
    assert main([*command, "--overwrite", "--seed", "5"]) == 0


def test_a_damaged_checkpoint_is_not_resumed_from(fails, tmp_path):
    command = arguments("train unconstrained", tmp_path / "run", "--checkpoint-every", 1)
    assert main(command) == 0
    former, newest = list_checkpoints(tmp_path / "run" / "checkpoints")
    victim = newest / "tensors.safetensors"
    content = bytearray(victim.read_bytes())
    content[-5] ^= 1
    victim.write_bytes(content)
    line = fails(*command, "--resume", "--episodes", 3)
    assert str(victim) in line
    assert f"{former.name}, is whole: to use that, move {newest.name} out of {newest.parent}" in line
    before = rows(tmp_path / "run")
    newest.rename(tmp_path / newest.name)
    assert main([*command, "--resume", "--episodes", "3"]) == 0
    after = rows(tmp_path / "run")
    assert [row["episode"] for row in after] == ["0", "1", "2"]  # the second one is repeated
    assert after[0] == before[0]
    assert {name: value for name, value in after[1].items() if name != "wall_time_sec"} == {
        name: value for name, value in before[1].items() if name != "wall_time_sec"
    }


def test_a_damaged_pretraining_is_not_used(fails, tmp_path, corridor_data):
    assert main(arguments("pretrain", tmp_path / "pre", data=corridor_data)) == 0
    victim = tmp_path / "pre" / "pretrained" / "state.json"
    victim.write_text(victim.read_text().replace("0.8", "0.9"))
    command = arguments("train recovery-rl", tmp_path / "run", "--pretrained", tmp_path / "pre", data=corridor_data)
    assert str(victim) in fails(*command)


def test_a_pretraining_of_another_environment_is_told_in_one_line(tmp_path, corridor_data, capsys, monkeypatch):
    assert main(arguments("pretrain", tmp_path / "pre", data=corridor_data)) == 0
    monkeypatch.setattr(logging.root, "handlers", [])  # none yet, as in a process of its own

    def warnings(output: str, env: str) -> list[str]:
        capsys.readouterr()
        more = ["--pretrained", tmp_path / "pre"]
        assert main(arguments("train recovery-rl", tmp_path / output, *more, data=corridor_data, env=env)) == 0
        return [line for line in capsys.readouterr().err.splitlines() if "warning" in line]

    assert warnings("same", "toys:Corridor") == []
    of_data, line = warnings("other", "toys:OtherCorridor")
    assert f"dataset {corridor_data} was collected in" in of_data
    assert line == (
        f"safe-rl: warning: {tmp_path / 'pre'} was pretrained in toys:Corridor, not in toys:OtherCorridor: "
        "what it takes for risky is what was there"
    )


@pytest.mark.parametrize(
    ("fault", "words"), [(RuntimeError("out of\npetrol"), "out of petrol"), (float("nan"), "not finite")]
)
def test_an_environment_that_fails_in_the_middle_saves_and_goes_on(tmp_path, capsys, monkeypatch, fault, words):
    real = toys.Corridor.step
    last = toys.Corridor.total_steps + 12

    def step(self, action):
        obs, *rest = real(self, action)
        if toys.Corridor.total_steps == last:
            if isinstance(fault, Exception):
                raise fault
            obs[0] = fault
        return obs, *rest

    monkeypatch.setattr(toys.Corridor, "step", step)
    command = arguments("train unconstrained", tmp_path / "run", "--episodes", 3)
    assert main(command) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(error) == 1
    assert words in error[0]
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step_000000011"]
    monkeypatch.setattr(toys.Corridor, "step", real)
    assert main([*command, "--resume"]) == 0
    assert [int(row["episode"]) for row in rows(tmp_path / "run")] == [0, 1, 2]


def test_ctrl_c_exits_with_130_and_the_run_goes_on(tmp_path, capsys):
    import os
    import signal

    toys.Corridor.on_step = toys.faults_at(9, lambda: os.kill(os.getpid(), signal.SIGINT))
    command = arguments("train unconstrained", tmp_path / "run")
    assert main(command) == 130
    assert "interrupted" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert len(rows(tmp_path / "run")) == 2
