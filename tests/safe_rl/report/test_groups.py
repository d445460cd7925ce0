"""Which runs belong together, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from safe_rl.data.dataset import OfflineDataset
from safe_rl.report.curves import RunRecord, read_run
from safe_rl.report.groups import config_rows, crashing_pays, group_runs, summarize
from safe_rl.report.offline import describe_offline_data, unequal_task_data
from safe_rl.report.style import assign_series, line_name, series_color


@pytest.fixture
def read(make_run, tmp_path: Path):
    def make(*args, **kwargs) -> RunRecord:
        return read_run(make_run(tmp_path / f"run{len(list(tmp_path.iterdir()))}", *args, **kwargs))

    return make


def test_seeds_are_one_group_and_settings_another(read) -> None:
    runs = [
        read("recovery-rl", 2, "ss"),
        read("unconstrained", 1, "vv"),
        read("recovery-rl", 1, "ssss"),
        read("recovery-rl", 1, "ss", risk__eps_risk=0.1),
    ]
    groups = group_runs(runs)
    assert [(g.label, [r.run.seed for r in g.runs]) for g in groups] == [
        ("Recovery RL (eps-risk 0.3)", [1, 2]),
        ("Unconstrained", [1]),
        ("Recovery RL (eps-risk 0.1)", [1]),
    ]
    assert groups[0].num_episodes == 2


def test_what_does_not_change_the_method_keeps_seeds_together(read) -> None:
    own = ({"device": "cpu", "threads": 1, "dataset": "d1"}, {"device": "cuda", "threads": 4, "dataset": "d2"})
    (group,) = group_runs([read("recovery-rl", seed, "ss", planned=5 + seed, **own[seed]) for seed in (0, 1)])
    assert group.label == "Recovery RL"
    assert len(group_runs([read("recovery-rl", seed, "ss", batch_size=64 + seed) for seed in (0, 1)])) == 2


@pytest.mark.parametrize(("seeds", "expected"), [((1, 2), 1), ((1, 1), 2)])
def test_pretrainings_tell_runs_apart_only_where_a_seed_occurs_twice(read, seeds, expected) -> None:
    runs = [read("recovery-rl", seed, "s", pretrained=name) for seed, name in zip(seeds, ("p1", "p2"), strict=True)]
    assert len(group_runs(runs)) == expected


def test_summary_by_hand(read) -> None:
    # Seed 1: 2 successes, 1 violation, 1 time-out in 45 steps; seed 2: 4 successes in 40 steps; 2 recovery steps each.
    (group,) = group_runs([read("recovery-rl", 1, "ssvt"), read("recovery-rl", 2, "ssss")])
    summary = summarize(group)
    expected = {
        "successes": (3.0, 1.0),
        "violations": (0.5, 0.5),
        "timeouts": (0.5, 0.5),
        "ratio": (3.25, 1.75),  # of 3 / 2 and 5 / 1
        "recovery_percent": (100.0 * (8 / 45 + 8 / 40) / 2, 100.0 * (8 / 40 - 8 / 45) / 2),
        "wall_time_sec": (6.0, 0.0),
    }
    assert set(expected) == set(vars(summary))
    for name, pair in expected.items():
        quantity = getattr(summary, name)
        assert (quantity.mean, quantity.error) == pytest.approx(pair), name


def test_seeds_are_compared_over_the_episodes_that_all_have(read) -> None:
    (group,) = group_runs([read("recovery-rl", 1, "ss"), read("recovery-rl", 2, "svvv")])
    summary = summarize(group)
    assert (summary.successes.mean, summary.violations.mean) == (1.5, 0.5)


def test_crashing_pays_is_said_where_it_does(read) -> None:
    crashing, careful = group_runs([read("unconstrained", 1, "tvvv"), read("recovery-rl", 1, "tsss")])
    everyone = [run.episodes for group in (crashing, careful) for run in group.runs]
    text = crashing_pays(crashing, everyone)
    assert text is not None
    assert "3 of 4 training episodes ended so, after 5 steps with a return of -15" in text
    assert "runs out of time returns -60" in text
    assert crashing_pays(careful, everyone) is None


@pytest.mark.parametrize(("column", "value"), [("returns", 1.0), ("cost", 2.0)])
def test_crashing_is_not_said_to_pay_without_evidence(read, column: str, value: float) -> None:
    (group,) = group_runs([read("unconstrained", 1, "tvvv")])
    assert crashing_pays(group, [group.runs[0].episodes]) is not None
    getattr(group.runs[0].episodes, column)[0] = value  # a positive return; an episode that went on after a violation
    assert crashing_pays(group, [group.runs[0].episodes]) is None


def test_crashing_does_not_pay_where_it_costs_more_than_running_on(read) -> None:
    (group,) = group_runs([read("unconstrained", 1, "tvvv")])
    group.runs[0].episodes.returns[1:] = -61.0
    assert crashing_pays(group, [group.runs[0].episodes]) is None


def test_an_unequal_start_is_said(read) -> None:
    plain, informed = (
        read("unconstrained", 1, "t"),
        read("recovery-rl", 1, "s", demonstrations=True, task_pretrain_steps=5000),
    )
    text = unequal_task_data(group_runs([plain, informed]))
    assert text is not None
    assert "the task policy of Recovery RL learned from the offline data too, with up to 5,000 gradient steps" in text
    assert "that of Unconstrained did not" in text
    assert unequal_task_data(group_runs([informed])) is None
    assert unequal_task_data(group_runs([plain, read("recovery-rl", 1, "s")])) is None


def test_configuration_shows_what_differs(read) -> None:
    groups = group_runs([read("recovery-rl", 1, "s"), read("recovery-rl", 2, "s"), read("unconstrained", 1, "s")])
    rows = {row.name: row for row in config_rows(groups)}
    assert rows["seed"].values == ["1, 2", "1"]
    assert rows["risk.eps_risk"].values == ["0.3", "-"]
    assert rows["risk.eps_risk"].differs
    assert not rows["sac.gamma"].differs


def test_a_method_keeps_its_colour() -> None:
    both = assign_series([("Unconstrained", "unconstrained"), ("Recovery RL", "recovery-rl")])
    alone = assign_series([("Recovery RL", "recovery-rl")])
    many = assign_series([("SQRL", "sqrl"), ("A", "recovery-rl"), ("B", "recovery-rl"), ("U", "unconstrained")])
    assert both["Recovery RL"] == alone["Recovery RL"] == many["A"]
    assert both["Unconstrained"] == many["U"]
    assert len(set(many.values())) == 4


def test_a_colour_that_repeats_is_drawn_otherwise() -> None:
    methods = [("Recovery RL", "recovery-rl"), *((f"Mine {number}", "mine") for number in range(20))]
    series = assign_series(methods)
    assert len({(series_color(index), line_name(index)) for index in series.values()}) == len(methods)
    assert [line_name(index) for index in series.values()] == ["solid"] * 8 + ["broken"] * 8 + ["dotted"] * 5


def test_offline_violations_are_counted_apart(read, corridor_data: Path, tmp_path: Path) -> None:
    transitions = OfflineDataset.open(corridor_data).transitions()
    percent = 100.0 * transitions.cost.mean()
    (group,) = group_runs([read("recovery-rl", 1, "s", dataset=str(corridor_data))])
    assert describe_offline_data(group) == f"offline data: {len(transitions):,} transitions, {percent:.1f} % violations"
    (moved,) = group_runs([read("recovery-rl", 1, "s", dataset=str(tmp_path / "gone"))])
    assert describe_offline_data(moved) == "offline data: no longer where the run found it"
    (without,) = group_runs([read("unconstrained", 1, "s")])
    assert describe_offline_data(without) is None
