"""The training loop: what it writes, when it stops, and that a run that was cut goes on as if it had not been."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
from pathlib import Path

import pytest
import torch
import toys

import safe_rl.runner
from safe_rl import pretraining
from safe_rl.checkpoint import list_checkpoints, load_newest
from safe_rl.config import RecoveryConfig, RecoveryRLConfig, RunConfig
from safe_rl.errors import EnvironmentFault, UserError
from safe_rl.runs import first_difference, load_run, other_version
from safe_rl.training import train

METHODS = ["unconstrained", "recovery-rl"]


def run_config(output: Path, data: Path, **changes) -> RunConfig:
    settings = {"episodes": 5, "checkpoint_every": 2, "log_every": 10, "seed": 3, "device": "cpu", **changes}
    return RunConfig(env="toys:Corridor", output=output, dataset=data, **settings)


def train_small(output: Path, data: Path, method: str = "recovery-rl", agent=None, callbacks=(), **changes):
    config = toys.agent_config(method, **(agent or {}))
    return train(method, run_config(output, data, **changes), config, callbacks=callbacks)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "episodes.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def trace(run: Path) -> dict:
    """Everything a run has written that does not depend on the clock."""
    episodes = [{k: v for k, v in row.items() if k != "wall_time_sec"} for row in rows(run)]
    numbers = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in metrics(run)]
    return {"episodes": episodes, "metrics": numbers, "state": _flat(load_newest(run / "checkpoints"))}


def _flat(value, name="") -> dict:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{name}/{key}").items()}
    if isinstance(value, list):
        return {k: v for i, item in enumerate(value) for k, v in _flat(item, f"{name}/{i}").items()}
    if name.endswith(("/wall_time_sec", "/elapsed_sec")):
        return {}
    return (
        {name: str(value) if value != value else value} if isinstance(value, float) else {name: value}
    )  # NaN equals NaN


def assert_equal_runs(first: Path, second: Path) -> None:
    one, two = trace(first), trace(second)
    assert one["episodes"] == two["episodes"]
    assert one["metrics"] == two["metrics"]
    assert list(one["state"]) == list(two["state"])
    for name, value in one["state"].items():
        same = (
            torch.equal(value, two["state"][name]) if isinstance(value, torch.Tensor) else value == two["state"][name]
        )
        assert same, name


@pytest.fixture(scope="module")
def whole(tmp_path_factory, corridor_data):
    """Uninterrupted runs, each made once."""
    made: dict[tuple, Path] = {}

    def run(method="recovery-rl", agent=None, **changes) -> Path:
        key = (method, *(agent or {}).items(), *changes.items())
        if key not in made:
            made[key] = tmp_path_factory.mktemp("whole") / "run"
            train_small(made[key], corridor_data, method, agent, **changes)
        return made[key]

    return run


# ------------------------------------------------------------------------------------------------ what it writes


def test_the_logs_of_a_run(whole):
    run = whole()
    episodes = rows(run)
    header = "episode,steps,return,cost,success,violation,recovery_steps,wall_time_sec"
    assert (run / "episodes.csv").read_text().splitlines()[0] == header
    assert [int(row["episode"]) for row in episodes] == list(range(5))
    total = sum(int(row["steps"]) for row in episodes)
    assert all({row["success"], row["violation"]} <= {"0", "1"} for row in episodes)
    times = [float(row["wall_time_sec"]) for row in episodes]
    assert times == sorted(times)
    assert times[0] > 0
    assert [row["step"] for row in metrics(run)] == list(range(10, total + 1, 10))
    names = set(metrics(run)[-1])
    assert {"train/critic_loss", "risk/loss", "recovery/risk", "safety/recovery_share", "rollout/return_mean"} <= names
    assert {name.partition("/")[0] for name in names} == {
        "step", "episode", "train", "risk", "recovery", "safety", "rollout", "time",
    }  # fmt: skip
    shares = [row["safety/recovery_share"] for row in metrics(run)]
    recovered = sum(int(row["recovery_steps"]) for row in episodes)
    assert sum(shares) * 10 <= recovered + 1e-6 <= sum(shares) * 10 + 10 + 1e-6
    assert list((run / "tensorboard").iterdir())


def test_the_metrics_of_a_run_without_risk(whole):
    names = set(metrics(whole("unconstrained"))[-1])
    assert not {name for name in names if name.startswith(("risk/", "recovery/"))}
    assert "safety/violation_rate" in names
    assert "safety/mean_risk" not in names


@pytest.mark.parametrize("method", METHODS)
def test_equal_seeds_give_equal_runs_and_others_do_not(tmp_path, whole, corridor_data, method):
    train_small(tmp_path / "again", corridor_data, method)
    assert_equal_runs(tmp_path / "again", whole(method))
    train_small(tmp_path / "other", corridor_data, method, seed=4)
    assert trace(tmp_path / "other")["episodes"] != trace(whole(method))["episodes"]


def test_updates_follow_the_steps_at_the_wanted_rate(tmp_path, corridor_data):
    for rate, expected in ((0.0, 0), (0.4, None), (2.0, None)):
        agent = train_small(tmp_path / str(rate), corridor_data, "unconstrained", updates_per_step=rate, episodes=2)
        wanted = expected if expected is not None else int(agent.num_observed * rate + 1e-9)
        assert abs(agent.num_updates - wanted) <= (0 if rate != 0.4 else 1)


@pytest.mark.parametrize(
    "agent", [{}, {"recovery__kind": "q-sampling", "risk__eps_risk": 0.2}], ids=["model-free", "q-sampling"]
)
def test_evaluations_are_apart_from_training(tmp_path, whole, corridor_data, agent):
    train_small(tmp_path / "run", corridor_data, agent=agent, eval_every=2, eval_episodes=2)
    plain, evaluated = trace(whole(agent=agent)), trace(tmp_path / "run")
    assert evaluated["episodes"] == plain["episodes"]
    evaluations = [row for row in evaluated["metrics"] if "eval/return_mean" in row]
    assert [row["episode"] for row in evaluations] == [2, 4]
    assert [row for row in evaluated["metrics"] if row not in evaluations] == plain["metrics"]
    for name, value in plain["state"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, evaluated["state"][name]), name


def test_checkpoints_come_when_they_are_due_however_many_episodes_end_at_once(tmp_path, corridor_data):
    saved = []

    def callback(runner, record):
        checkpoints = list_checkpoints(runner.checkpoints)
        saved.append((record.episode + 1, checkpoints[-1].name if checkpoints else None, runner.num_steps))

    toys.Twins = lambda: toys.Script(length=3)
    try:
        config = RunConfig(
            env="toys:Twins", output=tmp_path / "run", episodes=8, checkpoint_every=3, num_envs=2, device="cpu"
        )
        train("unconstrained", config, toys.unconstrained_config(), callbacks=[callback])
    finally:
        del toys.Twins
    # Two episodes end at every third step of both: 1 and 2 at step 6, 3 and 4 at step 12, 5 and 6 at 18, 7 and 8 at 24.
    assert saved == [
        (1, None, 6), (2, None, 6), (3, "step_000000012", 12), (4, "step_000000012", 12),
        (5, "step_000000018", 18), (6, "step_000000018", 18), (7, "step_000000018", 24), (8, "step_000000018", 24),
    ]  # fmt: skip
    assert load_newest(tmp_path / "run" / "checkpoints")["runner"]["num_successes"] == 8


def test_a_callback_ends_the_training_and_the_state_is_saved(tmp_path, corridor_data):
    seen = []

    def callback(runner, record):
        seen.append(record.episode)
        return record.episode == 2

    train_small(tmp_path / "run", corridor_data, callbacks=[callback])
    assert seen == [0, 1, 2]
    assert len(rows(tmp_path / "run")) == 3
    state = load_newest(tmp_path / "run" / "checkpoints")
    assert state["runner"]["num_steps"] == sum(int(row["steps"]) for row in rows(tmp_path / "run"))


def test_training_stops_early_where_it_is_good_enough(tmp_path):
    toys.Easy = lambda: toys.Script(length=2)
    toys.Hard = lambda: toys.Script(length=2, costs=(1,))
    try:
        lengths = {}
        for name in ("Easy", "Hard"):
            config = RunConfig(
                env=f"toys:{name}", output=tmp_path / name, episodes=55, stop_at_success_rate=0.9, updates_per_step=0
            )
            train("unconstrained", config, toys.unconstrained_config())
            lengths[name] = len(rows(tmp_path / name))
    finally:
        del toys.Easy, toys.Hard
    assert lengths == {"Easy": 50, "Hard": 55}  # a success with a violation does not count


# ------------------------------------------------------------------------------------------------ cut and resumed


@pytest.mark.parametrize("num_envs", [1, 2])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", [1, 31])
def test_a_run_cut_by_ctrl_c_goes_on_step_for_step(tmp_path, whole, corridor_data, method, num_envs, step):
    toys.Corridor.on_step = toys.faults_at(step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_small(tmp_path / "run", corridor_data, method, num_envs=num_envs)
    cut = load_newest(tmp_path / "run" / "checkpoints")["runner"]
    assert step <= cut["num_steps"] <= step + 1
    toys.Corridor.on_step = None
    train_small(tmp_path / "run", corridor_data, method, num_envs=num_envs, resume=True)
    assert_equal_runs(tmp_path / "run", whole(method, num_envs=num_envs))


@pytest.mark.parametrize(
    "agent",
    [
        {"sac__entropy": "auto", "normalize_obs": "running"},
        {"recovery__kind": "q-sampling", "risk__positive_fraction": 0.3, "relabel_actions": False},
        {"replay_capacity": 20, "demonstrations": True, "violation_ends_value": False},
    ],
    ids=["auto entropy, running scale", "q-sampling, stratified", "a ring that turns over, demonstrations"],
)
def test_every_part_of_an_agent_goes_on(tmp_path, whole, corridor_data, agent):
    for step in (12, 20):
        toys.Corridor.on_step = toys.faults_at(step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_small(tmp_path / "run", corridor_data, agent=agent, resume=(tmp_path / "run").exists())
    toys.Corridor.on_step = None
    train_small(tmp_path / "run", corridor_data, agent=agent, resume=True)
    assert_equal_runs(tmp_path / "run", whole(agent=agent))


def test_an_update_that_is_not_due_yet_is_not_forgotten(tmp_path, whole, corridor_data):
    settings = {"updates_per_step": 0.4, "eval_every": 2, "eval_episodes": 1}
    toys.Corridor.on_step = toys.faults_at(13, interrupt)  # 13 * 0.4 = 5.2: a fifth of an update is left over
    with pytest.raises(KeyboardInterrupt):
        train_small(tmp_path / "run", corridor_data, "unconstrained", **settings)
    toys.Corridor.on_step = None
    train_small(tmp_path / "run", corridor_data, "unconstrained", resume=True, **settings)
    assert_equal_runs(tmp_path / "run", whole("unconstrained", **settings))


@pytest.mark.parametrize("updates_per_step", [0.1, 1 / 7, 2.5])
def test_updates_are_as_many_as_asked_for_and_every_row_tells_of_the_latest(tmp_path, corridor_data, updates_per_step):
    agent = train_small(tmp_path / "run", corridor_data, "unconstrained", updates_per_step=updates_per_step)
    assert agent.num_updates == int(updates_per_step * agent.num_observed)
    assert all(
        ("train/critic_loss" in row) == (updates_per_step * row["step"] >= 1) for row in metrics(tmp_path / "run")
    )


def test_who_asks_twice_stops_in_the_middle_of_a_step_and_loses_no_more_than_the_way_since_the_checkpoint(
    tmp_path, whole, corridor_data
):
    def twice():
        interrupt()
        interrupt()

    toys.Corridor.on_step = toys.faults_at(85, twice)
    with pytest.raises(KeyboardInterrupt):
        train_small(tmp_path / "run", corridor_data)
    assert load_newest(tmp_path / "run" / "checkpoints")["runner"]["rollout"]["num_finished"] % 2 == 0
    toys.Corridor.on_step = None
    train_small(tmp_path / "run", corridor_data, resume=True)
    assert_equal_runs(tmp_path / "run", whole())


def test_pretraining_is_no_training_time(tmp_path, corridor_data, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("safe_rl.runner.time.perf_counter", lambda: now[0])

    def progress(done, total, status):
        now[0] += 100.0

    train(
        "recovery-rl", run_config(tmp_path / "run", corridor_data, episodes=1), toys.recovery_config(),
        pretrain_progress=progress,
    )  # fmt: skip
    assert now[0] >= 3000.0
    assert [float(row["wall_time_sec"]) for row in rows(tmp_path / "run")] == [0.0]


def test_a_run_cut_between_two_episodes_goes_on(tmp_path, whole, corridor_data):
    def callback(runner, record):
        if record.episode == 3:
            interrupt()

    with pytest.raises(KeyboardInterrupt):
        train_small(tmp_path / "run", corridor_data, callbacks=[callback])
    assert len(rows(tmp_path / "run")) == 4
    train_small(tmp_path / "run", corridor_data, resume=True)
    assert_equal_runs(tmp_path / "run", whole())


@pytest.mark.parametrize("step", [1, 13, 30])
def test_a_run_cut_while_pretraining_goes_on(tmp_path, whole, corridor_data, step):
    def progress(done, total, status):
        if done == step:
            interrupt()

    config = run_config(tmp_path / "run", corridor_data)
    if step == 30:  # after the last step it is the training that is cut, before its first one
        with pytest.raises(KeyboardInterrupt):
            train("recovery-rl", config, toys.recovery_config(), pretrain_progress=_once_more(progress))
    else:
        with pytest.raises(KeyboardInterrupt):
            train("recovery-rl", config, toys.recovery_config(), pretrain_progress=progress)
        assert (tmp_path / "run" / pretraining.PARTIAL).is_dir()
    assert not (tmp_path / "run" / "episodes.csv").exists() or not rows(tmp_path / "run")
    train_small(tmp_path / "run", corridor_data, resume=True)
    assert_equal_runs(tmp_path / "run", whole())
    assert not (tmp_path / "run" / pretraining.PARTIAL).exists()


@pytest.mark.parametrize("stage", ["risk critic and recovery policy", "task policy"])
def test_a_run_cut_while_either_policy_is_pretrained_goes_on(tmp_path, whole, corridor_data, stage):
    agent = {"demonstrations": True, "task_pretrain_steps": 12}

    def progress(done, total, status):
        if status == stage and done == 7:
            interrupt()

    config = run_config(tmp_path / "run", corridor_data)
    with pytest.raises(KeyboardInterrupt):
        train("recovery-rl", config, toys.recovery_config(**agent), pretrain_progress=progress)
    assert not list_checkpoints(tmp_path / "run" / "checkpoints")
    train_small(tmp_path / "run", corridor_data, agent=agent, resume=True)
    assert_equal_runs(tmp_path / "run", whole(agent=agent))


def _once_more(progress):
    """Interrupts in the step that the progress is told of; there the flag is seen by nobody but the next loop."""

    def told(done, total, status):
        if done == total:
            raise KeyboardInterrupt
        progress(done, total, status)

    return told


def test_a_run_killed_between_pretraining_and_its_first_checkpoint_goes_on(tmp_path, whole, corridor_data, monkeypatch):
    class Kill(BaseException):
        pass

    def kill():
        raise Kill

    toys.Corridor.on_step = toys.faults_at(5, kill)
    with pytest.raises(Kill):
        train_small(tmp_path / "run", corridor_data)
    assert not list_checkpoints(tmp_path / "run" / "checkpoints")
    toys.Corridor.on_step = None
    train_small(tmp_path / "run", corridor_data, resume=True)
    assert_equal_runs(tmp_path / "run", whole())


def test_a_run_killed_after_a_checkpoint_forgets_what_came_later(tmp_path, whole, corridor_data):
    class Kill(BaseException):
        pass

    def kill(runner, record):
        if record.episode == 4:
            raise Kill

    with pytest.raises(Kill):
        train_small(tmp_path / "run", corridor_data, callbacks=[kill])
    assert len(rows(tmp_path / "run")) == 5
    state = load_newest(tmp_path / "run" / "checkpoints")["runner"]
    assert state["rollout"]["num_finished"] == 4
    # A process that dies while it writes leaves half a line.
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9999, "epis')
    with (tmp_path / "run" / "episodes.csv").open("a") as file:
        file.write("5,3")
    train_small(tmp_path / "run", corridor_data, resume=True)
    assert_equal_runs(tmp_path / "run", whole())


def test_episodes_are_on_disk_before_a_checkpoint_counts_them(tmp_path, corridor_data, monkeypatch):
    synced, counted = [], []
    monkeypatch.setattr(
        os, "fsync",
        lambda file, real=os.fsync: (synced.append(Path(os.readlink(f"/proc/self/fd/{file}")).name), real(file)),
    )  # fmt: skip

    def save(folder, number, state, real=safe_rl.runner.save_checkpoint):
        assert synced[-1] == "episodes.csv"
        assert len(rows(tmp_path / "run")) == state["runner"]["rollout"]["num_finished"]
        counted.append(number)
        real(folder, number, state)

    monkeypatch.setattr("safe_rl.runner.save_checkpoint", save)
    train_small(tmp_path / "run", corridor_data)
    assert len(counted) == 3


@pytest.mark.parametrize(
    ("kept", "there"), [(lambda text: text[: text.rindex("\n3,") + 4], 3), (lambda text: "", 0), (None, 0)]
)
def test_episodes_that_went_missing_are_told(tmp_path, corridor_data, kept, there):
    """A run that went on behind a gap would count too few successes and violations, and never be complete."""
    train_small(tmp_path / "run", corridor_data)
    table = tmp_path / "run" / "episodes.csv"
    text = table.read_text()
    table.unlink()
    if kept is not None:
        table.write_text(kept(text))
    words = rf"episodes.csv has {there} of the 5 episodes that the newest checkpoint counts"
    with pytest.raises(UserError, match=words):
        train_small(tmp_path / "run", corridor_data, episodes=7, resume=True)


def test_more_episodes_may_be_asked_for(tmp_path, whole, corridor_data):
    train_small(tmp_path / "run", corridor_data, episodes=3)
    train_small(tmp_path / "run", corridor_data, episodes=5, resume=True)
    assert_equal_runs(tmp_path / "run", whole())


def test_resuming_a_finished_run_changes_nothing(tmp_path, corridor_data):
    train_small(tmp_path / "run", corridor_data)
    before = trace(tmp_path / "run")["episodes"]
    agent = train_small(tmp_path / "run", corridor_data, resume=True)
    assert trace(tmp_path / "run")["episodes"] == before
    assert agent.num_observed == sum(int(row["steps"]) for row in before)


def test_a_fault_of_the_environment_saves_the_state_and_resume_goes_on(tmp_path, corridor_data):
    def fail():
        raise RuntimeError("the wheel came off")

    toys.Corridor.on_step = toys.faults_at(40, fail)
    with pytest.raises(EnvironmentFault, match="the wheel came off"):
        train_small(tmp_path / "run", corridor_data)
    state = load_newest(tmp_path / "run" / "checkpoints")["runner"]
    assert state["num_steps"] == 39
    toys.Corridor.on_step = None
    agent = train_small(tmp_path / "run", corridor_data, resume=True)
    episodes = rows(tmp_path / "run")
    assert [int(row["episode"]) for row in episodes] == list(range(5))
    assert agent.num_observed == sum(int(row["steps"]) for row in episodes)


def test_tensorboard_shows_each_episode_once_after_a_resume(tmp_path, corridor_data):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Kill(BaseException):
        pass

    def kill(runner, record):
        if record.episode == 4:
            raise Kill

    with pytest.raises(Kill):
        train_small(tmp_path / "run", corridor_data, callbacks=[kill])
    train_small(tmp_path / "run", corridor_data, resume=True)
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"), purge_orphaned_data=True)
    board.Reload()
    assert [int(event.value) for event in board.Scalars("rollout/steps")] == [
        int(r["steps"]) for r in rows(tmp_path / "run")
    ]


# ------------------------------------------------------------------------------------------------ what is refused


def test_a_run_is_not_overwritten_unasked(tmp_path, corridor_data):
    train_small(tmp_path / "run", corridor_data, "unconstrained", episodes=1)
    before = (tmp_path / "run" / "episodes.csv").read_bytes()
    with pytest.raises(UserError, match="already holds a run: go on with --resume, replace it with --overwrite"):
        train_small(tmp_path / "run", corridor_data, "unconstrained", episodes=2)
    assert (tmp_path / "run" / "episodes.csv").read_bytes() == before
    train_small(tmp_path / "run", corridor_data, "unconstrained", episodes=2, overwrite=True)
    assert len(rows(tmp_path / "run")) == 2


def test_nothing_to_resume(tmp_path, corridor_data):
    with pytest.raises(UserError, match="holds no run to resume"):
        train_small(tmp_path / "run", corridor_data, resume=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", [{}, {"overwrite": True}])
def test_a_folder_of_other_files_is_left_alone(tmp_path, corridor_data, option):
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(UserError, match="holds other files and no run"):
        train_small(tmp_path, corridor_data, **option)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("changes", "agent", "method", "words"),
    [
        ({"seed": 4}, {}, "recovery-rl", "was started with seed = 3, not 4"),
        ({"num_envs": 2}, {}, "recovery-rl", "num_envs = 1, not 2"),
        ({}, {"risk__eps_risk": 0.25}, "recovery-rl", "risk.eps_risk = 0.3, not 0.25"),
        ({}, {"sac__hidden_sizes": (8,)}, "recovery-rl", r"sac.hidden_sizes = \[16, 16\], not \[8\]"),
        ({}, {}, "unconstrained", "method = recovery-rl, not unconstrained"),
    ],
)
def test_a_run_goes_on_with_its_own_settings_only(tmp_path, whole, corridor_data, changes, agent, method, words):
    run = whole()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=words):
        train_small(run, corridor_data, method, agent, resume=True, **changes)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_of_a_version_without_a_setting_is_told_as_such_on_resume(tmp_path):
    train_small(tmp_path, None, "unconstrained", episodes=1)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["sac"]["target_entropy_share"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as caught:
        train_small(tmp_path, None, "unconstrained", episodes=2, resume=True)
    assert str(caught.value) == (
        f"{tmp_path} was started by a version without sac.target_entropy_share: "
        "resume it with that one, or choose another --output"
    )


def test_a_section_that_comes_with_another_setting_is_not_taken_for_another_versions():
    plain, planning = (
        RecoveryRLConfig(recovery=RecoveryConfig(kind=kind)).settings(images=False)
        for kind in ("model-free", "model-based")
    )
    assert "planner" in planning and "planner" not in plain
    for saved, wanted in ((plain, planning), (planning, plain)):
        assert first_difference(saved, wanted) == "recovery.kind"
        assert other_version(saved, wanted, "recovery.kind") == ""


def test_an_environment_of_other_shapes_is_noticed_on_resume(tmp_path, corridor_data, monkeypatch):
    train_small(tmp_path / "run", None, "unconstrained", episodes=1)
    monkeypatch.setattr(toys, "Corridor", toys.Script)  # one action instead of two
    with pytest.raises(UserError, match="does not fit toys:Corridor as it is now") as caught:
        train_small(tmp_path / "run", None, "unconstrained", episodes=2, resume=True)
    assert "\n" not in str(caught.value)


def test_another_dataset_is_noticed_on_resume(tmp_path, corridor_data):
    with pytest.raises(KeyboardInterrupt):
        train_small(tmp_path / "run", corridor_data, callbacks=[lambda runner, record: interrupt()])
    other = toys.collect_corridor(tmp_path / "other", transitions=300)
    with pytest.raises(UserError, match="600 offline transitions, the dataset has 300"):
        train_small(tmp_path / "run", other, resume=True)


def test_training_that_cannot_begin_leaves_no_folder(tmp_path, corridor_data):
    empty = tmp_path / "empty"
    empty.mkdir()
    for changes, words in [
        ({"dataset": None}, "learns risk from offline data"),
        ({"dataset": tmp_path / "nowhere"}, "no dataset at"),
        ({"pretrained": tmp_path / "nowhere"}, "holds no pretrained networks"),
        ({"pretrained": empty}, "holds no pretrained networks"),
        ({"env": "toys:Wide"}, "do not belong together"),
        ({"device": "tpu"}, "--device is tpu"),
    ]:
        settings = {"env": "toys:Corridor", "output": tmp_path / "run", "dataset": corridor_data, **changes}
        with pytest.raises(UserError, match=words):
            train("recovery-rl", RunConfig(**settings), toys.recovery_config())
        assert not (tmp_path / "run").exists(), changes


def test_a_method_without_risk_takes_no_pretraining(tmp_path, corridor_data):
    with pytest.raises(UserError, match="method unconstrained learns no risk: leave --pretrained out"):
        train_small(tmp_path / "run", corridor_data, "unconstrained", pretrained=tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes", [{}, {"dataset": None}, {"pretrained": Path("nowhere")}])
def test_the_environments_are_closed_however_it_ends(tmp_path, corridor_data, monkeypatch, changes):
    closed = []
    monkeypatch.setattr(toys.Corridor, "close", lambda env: closed.append(env))
    settings = {"dataset": corridor_data, "episodes": 1, "num_envs": 2, **changes}
    with contextlib.nullcontext() if not changes else pytest.raises(UserError):
        train("recovery-rl", RunConfig("toys:Corridor", tmp_path / "run", **settings), toys.recovery_config())
    assert len({id(env) for env in closed}) == len(closed) == 2


def test_a_run_folder_says_how_it_was_made(whole, corridor_data):
    run = load_run(whole())
    assert (run.method, run.env_id, run.cost_key, run.seed) == ("recovery-rl", "toys:Corridor", "cost", 3)
    assert run.config["risk"]["pretrain_steps"] == 30
    assert run.config["dataset"] == str(corridor_data)
    assert run.agent_config() == toys.recovery_config()
    versions = json.loads((run.path / "versions.json").read_text())
    assert versions["libraries"]["torch"] == torch.__version__.split("+")[0] or versions["libraries"]["torch"]
    assert {"command", "started", "git_revision", "python", "platform"} <= set(versions)


def test_an_echo_of_ctrl_c_is_no_second_one(monkeypatch):
    from safe_rl import runner

    with runner.Interrupt() as request:
        interrupt()
        interrupt()  # the launcher passes on what the terminal has sent to both
        assert request.requested
        monkeypatch.setattr(runner, "ECHO_SEC", 0.0)
        with pytest.raises(KeyboardInterrupt):
            interrupt()
