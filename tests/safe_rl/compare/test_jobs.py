"""What a comparison consists of, by hand, and what it says to mistakes."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import signal
import time
from pathlib import Path
from typing import get_type_hints

import pytest

from safe_rl.cli.main import main
from safe_rl.cli.train import parse_arguments
from safe_rl.compare.compare import prepare, read_groups
from safe_rl.compare.config import CompareConfig
from safe_rl.compare.flags import settings_named
from safe_rl.compare.jobs import Job, plan_jobs
from safe_rl.compare.processes import LocalProcess
from safe_rl.compare.studies import STUDIES, Variant, parse_variant
from safe_rl.compare.table import markdown
from safe_rl.config import RecoveryConfig, RecoveryRLConfig
from safe_rl.errors import UserError
from safe_rl.methods import METHODS
from safe_rl.planner_config import PlannerConfig
from safe_rl.pretraining import PretrainConfig
from safe_rl.report.groups import Group, Quantity, Summary
from safe_rl.runs import CONFIG

OUT = Path("out")
NAVIGATION = "safe_rl/Navigation2-v0"


def plan(*variants: str, env: str = "toys:Corridor", flags: str = "", **settings) -> dict[str, Job]:
    """The jobs by their folders."""
    given = {"seeds": "1", "variants": variants, "transitions": 100, "flags": tuple(shlex.split(flags)), **settings}
    jobs = plan_jobs(CompareConfig(env, OUT, **given))
    return {str(job.folder.relative_to(OUT)): job for job in jobs}


def needs(jobs: dict[str, Job], folder: str) -> list[str]:
    """Folders of the jobs that one needs."""
    by_name = {job.name: name for name, job in jobs.items()}
    return [by_name[name] for name in jobs[folder].needs]


def value(job: Job, flag: str) -> str:
    """The last value of a flag, which counts."""
    return job.command[len(job.command) - job.command[::-1].index(flag)]


def test_two_seeds_of_three_methods_share_data_and_pretraining_of_their_seed():
    jobs = plan(methods=("recovery-rl", "rspo", "reward-penalty"), seeds="3:4")
    assert list(jobs) == [
        "data/100/seed3", "pretrained/100/seed3", "recovery-rl/seed3", "rspo/seed3", "rp/seed3",
        "data/100/seed4", "pretrained/100/seed4", "recovery-rl/seed4", "rspo/seed4", "rp/seed4",
    ]  # fmt: skip
    assert needs(jobs, "data/100/seed4") == []
    assert needs(jobs, "pretrained/100/seed4") == ["data/100/seed4"]
    assert needs(jobs, "recovery-rl/seed4") == needs(jobs, "rspo/seed4") == ["pretrained/100/seed4"]
    assert needs(jobs, "rp/seed4") == ["data/100/seed4"]  # its task learns from them
    assert jobs["recovery-rl/seed4"].command == (
        "train", "recovery-rl", "--env", "toys:Corridor", "--cost-key", "cost", "--seed", "4",
        "--dataset", "out/data/100/seed4", "--preset", "tuned", "--pretrained", "out/pretrained/100/seed4",
        "--episodes", "300", "--device", "cpu", "--threads", "1", "--output", "out/recovery-rl/seed4",
    )  # fmt: skip
    assert "--pretrained" not in jobs["rp/seed3"].command
    assert jobs["rp/seed3"].log == OUT / "rp/seed3.log"


def test_a_pretraining_is_shared_where_it_would_come_out_the_same():
    jobs = plan(
        "base=recovery-rl",
        "task=recovery-rl --sac.gamma 0.5 --no-relabel-actions --risk.no-update-online",
        "gamma=recovery-rl --risk.gamma-risk 0.5",
        "gamma again=lagrangian --risk.gamma-risk 0.5 --multiplier.initial 3",
        "kind=recovery-rl --recovery.kind q-sampling",
        "paper=recovery-rl --preset paper",
        "paper, tighter=recovery-rl --preset paper --risk.eps-risk 0.125",
    )
    shared = {job.name.removesuffix(" seed 1"): needs(jobs, name) for name, job in jobs.items() if job.episodes}
    assert shared == {
        "base": ["pretrained/100/seed1"],
        "task": ["pretrained/100/seed1"],
        "gamma": ["pretrained/100_risk.gamma-risk_0.5/seed1"],
        "gamma again": ["pretrained/100_risk.gamma-risk_0.5/seed1"],
        "kind": ["pretrained/100_recovery.kind_q-sampling/seed1"],
        "paper": ["pretrained/100_paper/seed1"],
        "paper, tighter": ["pretrained/100_paper_risk.eps-risk_0.125/seed1"],
    }
    assert value(jobs["pretrained/100_risk.gamma-risk_0.5/seed1"], "--risk.gamma-risk") == "0.5"
    assert value(jobs["pretrained/100_paper/seed1"], "--preset") == "paper"
    assert jobs["paper/seed1"].command.count("--preset") == 1


def test_a_method_that_asks_for_another_risk_critic_gets_it():
    """In the authors' scripts Object Extraction's LR looks ahead by 0.75, Recovery RL by 0.85."""
    jobs = plan(methods=("recovery-rl", "lagrangian"), env="safe_rl/ObjectExtraction-v0", preset="paper")
    (folder,) = needs(jobs, "lr/seed1")
    assert folder != "pretrained/100/seed1"
    assert value(jobs[folder], "--risk.gamma-risk") == "0.75"


def test_a_share_of_the_data_has_its_own_data_and_pretraining():
    jobs = plan(study="ablations", transitions=1000)
    assert needs(jobs, "a-tenth-of-the-data/seed1") == ["pretrained/100/seed1"]
    assert needs(jobs, "pretrained/100/seed1") == ["data/100/seed1"]
    assert value(jobs["data/500/seed1"], "--transitions") == "500"


def test_demonstrations_are_added_behind_the_other_data():
    jobs = plan_jobs(CompareConfig("toys:Corridor", OUT, ("rspo",), seeds="1", transitions=100, demonstrations=50))
    assert [job.command[0] for job in jobs] == ["collect", "collect", "pretrain", "train"]
    assert "--append" in jobs[1].command
    assert jobs[0].folder == jobs[1].folder == OUT / "data/100+50/seed1"
    assert jobs[1].needs == (jobs[0].name,)
    assert jobs[2].needs == (jobs[1].name,)


def test_demonstrations_are_done_when_they_are_there_too(tmp_path):
    config = CompareConfig(
        NAVIGATION, tmp_path, ("unconstrained",), seeds="1", transitions=40, demonstrations=30, episodes=1
    )
    data, experts, _ = plan_jobs(config)
    assert (data.is_done(), experts.is_done()) == (False, False)
    assert main(list(data.words())) == 0
    assert (data.is_done(), experts.is_done()) == (True, False)
    assert main(list(experts.words())) == 0
    assert (data.is_done(), experts.is_done()) == (True, True)
    with pytest.raises(UserError, match=f"holds data with env = {NAVIGATION}, not safe_rl/Navigation1-v0"):
        prepare(dataclasses.replace(config, env="safe_rl/Navigation1-v0"))


def test_common_flags_go_to_the_methods_that_have_them():
    jobs = plan(
        "a=recovery-rl --batch-size 4", "b=unconstrained", flags="--batch-size 8 --risk.tau 0.25 --log-every 50"
    )
    (pretrained,) = [job for job in jobs.values() if job.command[0] == "pretrain"]
    assert value(jobs["a/seed1"], "--batch-size") == value(pretrained, "--batch-size") == "4"
    assert value(jobs["b/seed1"], "--batch-size") == "8"
    assert value(jobs["a/seed1"], "--risk.tau") == value(pretrained, "--risk.tau") == "0.25"
    assert "--risk.tau" not in jobs["b/seed1"].command
    assert all("--log-every" in jobs[name].command for name in ("a/seed1", "b/seed1"))
    assert "--log-every" not in pretrained.command


def test_flags_of_the_recovery_policy_are_for_the_pretraining_that_all_share():
    jobs = prepare(CompareConfig(NAVIGATION, OUT, ("rspo",), seeds="1", flags=("--recovery.hidden-sizes", "8", "8")))
    assert ["--recovery.hidden-sizes" in job.command for job in jobs] == [False, True, False]


def test_a_run_of_a_version_with_other_settings_is_told_as_such(tmp_path):
    small = ("--sac.hidden-sizes", "8", "--batch-size", "16", "--start-steps", "1000")
    config = CompareConfig(
        NAVIGATION, tmp_path, ("unconstrained",), seeds="1", transitions=100, episodes=1, flags=small, device="cpu"
    )
    for job in prepare(config):
        assert main(list(job.command)) == 0
    run = tmp_path / "unconstrained" / "seed1"
    saved = json.loads((run / CONFIG).read_text())
    prepare(config)  # nothing is wrong with it
    lacking = {**saved, "sac": {name: value for name, value in saved["sac"].items() if name != "target_entropy_share"}}
    for changed, words in (
        (lacking, "by a version without sac.target_entropy_share"),
        ({**saved, "luck": 0.5}, "by a version with luck, which this one does not have"),
        ({**saved, "sac": {**saved["sac"], "gamma": 0.5}}, "with another sac.gamma than is asked for now"),
        ({**lacking, "seed": 5}, "with another seed than is asked for now"),  # what is known to both comes first
    ):
        (run / CONFIG).write_text(json.dumps(changed))
        with pytest.raises(UserError) as caught:
            prepare(config)
        assert str(caught.value) == f"{run} was run {words}: choose another --output, or delete {run}"


def test_runs_of_other_offline_data_are_not_taken_for_these(tmp_path):
    given = {"methods": ("unconstrained",), "seeds": "1", "episodes": 1}
    small = ("--sac.hidden-sizes", "8", "--batch-size", "16", "--start-steps", "1000")

    def config(**more):
        return CompareConfig(NAVIGATION, tmp_path, **{"transitions": 100, "flags": small, **given, **more})

    for job in prepare(config()):
        assert main(list(job.command)) == 0
    prepare(config())
    prepare(config(seeds="1:2"))
    for more, asked in (({"transitions": 200}, "200"), ({"demonstrations": 50}, "100+50")):
        with pytest.raises(
            UserError, match=re.escape(f"other offline data (100 transitions) than is asked for now ({asked})")
        ):
            prepare(config(**more))
    # Data that a person has put there are theirs to know.
    settings = tmp_path / "unconstrained/seed1" / CONFIG
    settings.write_text(settings.read_text().replace("data/100/seed1", "data/mine"))
    prepare(config(transitions=200))


def test_a_table_counts_as_many_episodes_as_it_says(tmp_path):
    config = CompareConfig(NAVIGATION, tmp_path, ("unconstrained",), seeds="1:2", episodes=2)
    for seed, successes in ((1, "110"), (2, "10")):  # the first one went further
        folder = tmp_path / f"unconstrained/seed{seed}"
        folder.mkdir(parents=True)
        (folder / CONFIG).write_text(json.dumps({"method": "unconstrained", "env": NAVIGATION, "seed": seed}))
        rows = [f"{number},5,-1.0,{1 - int(s)},{s},{1 - int(s)},0,{number}.0" for number, s in enumerate(successes)]
        head = "episode,steps,return,cost,success,violation,recovery_steps,wall_time_sec"
        (folder / "episodes.csv").write_text("\n".join([head, *rows]) + "\n")
    ((group, summary),) = read_groups(config)
    assert [len(run.episodes) for run in group.runs] == [2, 2]
    assert (summary.successes.mean, summary.violations.mean) == (1.5, 0.5)
    assert "| Unconstrained | 2, 0 | 1, 1 |" in markdown([(group, summary)], 2)
    ((group, summary),) = read_groups(dataclasses.replace(config, episodes=3))
    assert (summary.successes.mean, summary.violations.mean) == (2.0, 1.0)


def test_a_label_does_not_break_the_table():
    group = Group("p | q", "rspo", [])
    quantity = Quantity(1.0, 0.0)
    summary = dataclasses.replace(Summary(*[quantity] * 6), wall_time_sec=Quantity(90.0, 0.0))
    assert "| p \\| q | 0 | 1.0 ± 0.0 | 1.0 ± 0.0 | 1.0 ± 0.0 | 1.0 ± 0.0 | 1.50 |" in markdown([(group, summary)], 0)


def test_a_folder_of_many_flags_has_a_name_that_a_disk_takes():
    jobs = plan("a=rspo", "b=rspo --risk.tau 0.5", flags=" ".join(["--risk.hidden-sizes 16 16"] * 20))
    names = [name.split("/")[1] for name in jobs if name.startswith("pretrained/")]
    assert len(set(names)) == 2
    assert max(map(len, names)) <= 100


@pytest.mark.parametrize("study", STUDIES)
def test_every_row_of_every_study_is_understood_by_the_commands(study, tmp_path):
    config = CompareConfig(NAVIGATION, tmp_path / "out", study=study, seeds="1")
    jobs = prepare(config)
    assert not (tmp_path / "out").exists()
    assert sum(job.episodes > 0 for job in jobs) == len(STUDIES[study])
    for job in jobs:
        if job.command[0] == "pretrain":
            parse_arguments("recovery-rl", PretrainConfig, list(job.command[1:]), prog="x")


def test_all_methods_are_those_there_are():
    assert [variant.method for variant in CompareConfig("e", OUT, ("all",)).chosen()] == list(METHODS)


@pytest.mark.parametrize(("text", "seeds"), [("1:3", [1, 2, 3]), ("7", [7]), ("4,1,2", [1, 2, 4]), ("0", [0])])
def test_seeds(text, seeds):
    assert CompareConfig("e", OUT, seeds=text).all_seeds() == seeds


@pytest.mark.parametrize(
    "text", ["", "1:", ":3", "a", "1-3", "-1", "1:2:3", "3:1", "1,1", "1 2", "9" * 5000, f"1,{2**64}", "0:30000"]
)
def test_seeds_that_are_none(text):
    with pytest.raises(UserError, match="--seeds is"):
        CompareConfig("e", OUT, seeds=text)


def test_a_row_of_ones_own():
    row = parse_variant("tight, 2 = recovery-rl --risk.eps-risk 0.05 --sac.hidden-sizes 8 8")
    assert row == Variant("tight, 2", "recovery-rl", ("--risk.eps-risk", "0.05", "--sac.hidden-sizes", "8", "8"))
    assert row.slug == "tight-2"


def test_flags_are_grouped_by_their_setting():
    assert settings_named(["--sac.hidden-sizes", "8", "8", "--no-demonstrations", "--risk.eps-risk=0.1"]) == [
        ("sac.hidden_sizes", ("--sac.hidden-sizes", "8", "8")),
        ("demonstrations", ("--no-demonstrations",)),
        ("risk.eps_risk", ("--risk.eps-risk=0.1",)),
    ]


def test_a_short_flag_is_that_of_its_setting():
    """Every alias of a setting is known, and sets what it is said to set."""
    sections = {"": RecoveryRLConfig, "recovery.": RecoveryConfig, "planner.": PlannerConfig}
    aliases = {}
    for section, config in sections.items():
        for name, hint in get_type_hints(config, include_extras=True).items():
            for word in (word for extra in getattr(hint, "__metadata__", ()) for word in extra.aliases):
                aliases[word] = f"{section}{name}"
    assert aliases == {"--recovery": "recovery.kind", "--planner-budget": "planner.budget_ms"}
    for word, name in aliases.items():
        assert settings_named([word, "x"]) == [(name, (word, "x"))]


def test_a_short_flag_reaches_pretraining_and_common_flags():
    jobs = plan("a=recovery-rl --recovery q-sampling")
    (folder,) = needs(jobs, "a/seed1")
    assert value(jobs[folder], "--recovery") == "q-sampling"
    common = plan(methods=("recovery-rl", "unconstrained"), flags="--recovery model-based --planner-budget 50")
    (folder,) = needs(common, "recovery-rl/seed1")
    assert value(common[folder], "--recovery") == value(common["recovery-rl/seed1"], "--recovery") == "model-based"
    assert value(common["recovery-rl/seed1"], "--planner-budget") == "50"
    assert "--recovery" not in common["unconstrained/seed1"].command


def test_searches_share_the_pretraining_of_their_model():
    jobs = plan(study="planner")
    folders = [needs(jobs, name) for name, job in jobs.items() if job.episodes]
    assert len(folders) == len(STUDIES["planner"])
    assert folders == [["pretrained/100_recovery.kind_model-based/seed1"]] * len(folders)
    wide = plan("wide=recovery-rl --recovery model-based --planner.hidden-sizes 8 8")
    assert "--planner.hidden-sizes" in wide[needs(wide, "wide/seed1")[0]].command


def test_how_recovery_explores_online_leaves_the_pretraining_as_it_is():
    jobs = plan("bold=recovery-rl --recovery.explore-above 0.8", "usual=recovery-rl")
    assert needs(jobs, "bold/seed1") == needs(jobs, "usual/seed1")
    assert value(jobs["bold/seed1"], "--recovery.explore-above") == "0.8"


def test_jobs_at_the_same_time():
    assert CompareConfig("e", OUT, jobs="3").num_jobs() == 3
    assert CompareConfig("e", OUT).num_jobs() >= 1


# --------------------------------------------------------------------------------------------------- mistakes


@pytest.fixture
def fails(tmp_path, capsys):
    """Runs a comparison that must fail before any work, and leave nothing."""

    def run(*words: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        given = ["compare", "--env", "toys:Corridor", "--output", tmp_path / "out", *words]
        assert main([str(word) for word in given]) == 2
        out, err = capsys.readouterr()
        assert sorted(tmp_path.rglob("*")) == before
        assert out == ""
        assert err.startswith("safe-rl: error: ")
        assert err.count("\n") == 1
        return err

    return run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "sqlr"], "no method 'sqlr'"),
        (["--methods", "recovery-rl", "recovery-rl"], "two variants are called 'recovery-rl'"),
        (["--methods", "all", "--study", "ablations"], "--methods goes with --study methods"),
        (["--methods", "all", "rspo"], "--methods is all rspo: write all alone"),
        (["--study", "ablation"], "--study"),
        (["--variants", "nothing"], "write 'label=method --flag value ...'"),
        (["--variants", "x=nothing"], "no method 'nothing'"),
        (["--variants", " =rspo"], "is no variant"),
        (["--variants", "data=rspo"], "data in the output folder is something else"),
        (["--variants", "Table.md=rspo"], "table.md in the output folder is something else"),
        (["--variants", ".lock=rspo"], ".lock in the output folder is something else"),
        (["--variants", "..=rspo"], "give it a letter of a to z or a digit"),
        (["--variants", "\u98a8=rspo"], "a folder is named after '\u98a8': give it a letter"),
        (["--variants", f"{'l' * 300}=rspo"], "has 300 letters: give it a label of 100"),
        (["--variants", "x=rspo --help"], "x: --help runs nothing; see safe-rl train METHOD --help"),
        (
            [
                "--env",
                NAVIGATION,
                "--variants",
                "x=recovery-rl --recovery model-based --planner-budget 50 --num-envs 2",
            ],
            "--num-envs is 2: --planner.budget-ms is the time of one plan",
        ),
        (["--env", NAVIGATION, "--methods", "rspo", "--device", "abacus"], "--device is abacus"),
        (["--variants", "x=recovery-rl --risk.eps 0.1"], "unknown option --risk.eps"),
        (["--variants", "x=recovery-rl --risk.eps-risk 7"], "--risk.eps-risk is 7"),
        (["--variants", "x=recovery-rl --episodes 7"], "x: --episodes is the same for all runs of a comparison"),
        (["--variants", "x=recovery-rl 7"], "x: '7' is no flag"),
        (["--variants", "x=recovery-rl 'open"], "No closing quotation"),
        (["--", "--risk.nonsense", "1"], "none of the methods has --risk.nonsense"),
        (["--", "--preset", "none"], "--preset stands after --"),
        (["--", "--output", "elsewhere"], "--output is the same for all runs"),
        (["--seeds", "5:1"], "a range that goes up, such as 1:5"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--jobs", "many"], "--jobs is many"),
        (["--address", "auto"], "--address is auto"),
        (["--episodes", "0"], "--episodes is 0"),
        (["--transitions", "0"], "--transitions is 0"),
        (["--env", "toys:Nowhere"], "Nowhere"),
        (["--env", "safe_rl/Nowhere-v0"], "Nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_made(fails, words, said):
    assert said in fails(*words)


def test_an_output_that_cannot_be_written(fails, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write" in fails("--methods", "rspo", "--output", tmp_path / "file" / "below")


def test_a_second_comparison_in_the_same_folder_is_kept_out(tmp_path, capsys):
    from safe_rl.compare.compare import locked

    with locked(tmp_path):
        assert main(["compare", "--env", "toys:Corridor", "--methods", "rspo", "--output", str(tmp_path)]) == 2
    assert "another comparison, or what it has started, is at work" in capsys.readouterr().err


def test_what_a_killed_comparison_has_started_keeps_others_out_until_it_has_saved(tmp_path):
    from safe_rl.compare.compare import locked

    with locked(tmp_path / "out") as lock:
        child = LocalProcess(["--help"], tmp_path / "log", [lock])
        os.kill(child._process.pid, signal.SIGSTOP)  # saving takes its time
    try:
        with pytest.raises(UserError, match="what it has started, is at work"), locked(tmp_path / "out"):
            pass
    finally:
        os.kill(child._process.pid, signal.SIGCONT)
    while child.poll() is None:
        time.sleep(0.01)
    with locked(tmp_path / "out"):
        assert "usage: safe-rl" in (tmp_path / "log").read_text()


def test_a_run_that_failed_is_named_and_the_exit_code_is_1(tmp_path, capsys, monkeypatch):
    class Unlucky:
        slots = 1

        def start(self, words, log):
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text("safe-rl: error: no such luck\n")
            return self

        def poll(self):
            return 2

    monkeypatch.setattr("safe_rl.cli.compare.LocalStarter", lambda *_: Unlucky())
    given = ["compare", "--env", NAVIGATION, "--methods", "unconstrained", "--seeds", "1", "--transitions", "70"]
    assert main([*given, "--output", str(tmp_path / "out")]) == 1
    assert "safe-rl: data 70 seed 1 failed: no such luck\n" in capsys.readouterr().err
