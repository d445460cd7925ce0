"""DQN and Ape-X as plans, and the core's agents with their environments in workers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys

from safe_rl.algorithms.dqn import ApexConfig
from safe_rl.algorithms.off_policy_learner import Due
from safe_rl.cli.main import main
from safe_rl.config import RunConfig
from safe_rl.flow import LocalBackend
from safe_rl.flow.agent_worker import AgentWorker
from safe_rl.flow.q_worker import QWorker
from safe_rl.plans.config import PlanRunConfig
from safe_rl.plans.methods import PLAN_METHODS
from safe_rl.plans.train import train_plan
from safe_rl.runs import load_run
from safe_rl.training import train

CARTPOLE = "CartPole-v1"


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "episodes.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# ----------------------------------------------------------------- DQN, Ape-X


def q_settings(method: str, **changes: Any) -> Any:
    small = {"hidden_sizes": (16,), "batch_size": 16, "learning_starts": 100}
    return PLAN_METHODS[method].config(**{**small, **changes})


def q_run(output: Path, **changes: Any) -> PlanRunConfig:
    return PlanRunConfig(CARTPOLE, output, **{"envs_per_worker": 4, "fragment_length": 8, "steps": 600, **changes})


@pytest.mark.parametrize("method", ["dqn", "apex"])
def test_it_trains_resumes_and_acts(tmp_path: Path, method: str):
    first = train_plan(method, q_run(tmp_path / "run"), q_settings(method))
    version = first.learner.version
    assert version > 0
    second = train_plan(method, q_run(tmp_path / "run", steps=1_000, resume=True), q_settings(method))
    assert second.learner.num_steps >= 1_000
    assert second.learner.version > version
    assert [int(row["episode"]) for row in rows(tmp_path / "run")] == list(range(second.num_episodes))
    assert all(float(row["return"]) == float(row["steps"]) for row in rows(tmp_path / "run"))
    loaded = load_run(tmp_path / "run").make_agent()
    obs = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    np.testing.assert_array_equal(loaded.act(obs, explore=False).action, second.learner.act(obs, explore=False).action)


def test_dqn_takes_the_steps_that_are_due(tmp_path: Path):
    learner = train_plan("dqn", q_run(tmp_path / "run"), q_settings("dqn", updates_per_step=0.5)).learner
    assert learner.version == pytest.approx((learner.num_steps - 100) / 2, abs=17)  # half a fragment may be open


def test_the_worker_takes_epsilon_with_the_weights_and_ape_x_keeps_its_own():
    spec = PLAN_METHODS["dqn"]
    worker = QWorker(CARTPOLE, q_settings("dqn"), num_envs=4, fragment_length=25)
    learner = spec.learner(worker.envs.observation_space, worker.envs.action_space, q_settings("dqn"))
    for learner.num_steps, random in ((0, True), (10**9, False)):
        worker.set_weights(learner.weights(), 0)
        np.testing.assert_allclose(worker.epsilon, learner.epsilon, rtol=1e-6)
        sample = worker.sample()
        greedy = learner.act(sample.obs[:-1].reshape(-1, 4), explore=False).action.reshape(25, 4)
        same = float((sample.action == greedy).mean())
        assert (same < 0.75) if random else (same > 0.9)
    config = q_settings("apex")
    assert isinstance(config, ApexConfig)
    second = QWorker(CARTPOLE, config, num_workers=2, num_envs=2, index=1)
    second.set_weights(learner.weights(), 0)
    np.testing.assert_allclose(second.epsilon, [config.epsilon_of(2, 4), config.epsilon_of(3, 4)])


@pytest.mark.slow
@pytest.mark.parametrize(("method", "steps"), [("dqn", 80_000), ("apex", 120_000)])
def test_it_learns_to_balance(tmp_path: Path, method: str, steps: int):
    preset = PLAN_METHODS[method].preset(CARTPOLE, "tuned")
    run = PlanRunConfig(
        CARTPOLE, tmp_path / "run", envs_per_worker=preset.num_envs, fragment_length=preset.fragment_length,
        steps=steps, stop_at_return=195.0,
    )  # fmt: skip
    assert train_plan(method, run, preset.settings).return_mean >= 195.0


# -------------------------------------------------- the core's agents, workers


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are objects of this process: the same plan without Ray."""
    monkeypatch.setattr("safe_rl.plans.episodes.make_backend", lambda workers, address: LocalBackend())


def core_run(output: Path, data: Path | None, **changes: Any) -> RunConfig:
    values = {"episodes": 6, "device": "cpu", "workers": 1, "log_every": 20, "checkpoint_every": 3}
    return RunConfig("toys:Corridor", output, dataset=data, **{**values, **changes})


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("method", ["recovery-rl", "unconstrained"])
def test_a_training_with_workers_leaves_the_same_run_folder(tmp_path: Path, corridor_data: Path, method: str):
    data = corridor_data if method == "recovery-rl" else None
    agents = {}
    for workers in (0, 1):
        run = core_run(tmp_path / str(workers), data, workers=workers)
        agents[workers] = train(method, run, toys.agent_config(method))
    names = [{path.name for path in (tmp_path / str(workers)).iterdir()} for workers in (0, 1)]
    assert names[0] == names[1]
    found = rows(tmp_path / "1")
    assert [int(row["episode"]) for row in found] == list(range(len(found)))
    assert len(found) >= 6
    assert sum(int(row["steps"]) for row in found) <= agents[1].num_observed
    lines = (tmp_path / "1" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["train/staleness"] >= 0
    loaded = load_run(tmp_path / "1").make_agent()
    obs = np.zeros((3, 2), np.float32)
    np.testing.assert_allclose(
        loaded.act(obs, explore=False).action, agents[1].act(obs, explore=False).action, atol=1e-6
    )


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("method", ["recovery-rl", "unconstrained"])
def test_as_many_gradient_steps_are_taken_as_are_due(tmp_path: Path, corridor_data: Path, method: str):
    data = corridor_data if method == "recovery-rl" else None
    agent = train(method, core_run(tmp_path / "run", data, updates_per_step=0.5), toys.agent_config(method))
    assert agent.num_updates == pytest.approx(agent.num_observed / 2, abs=16)  # those of the last fragment may be open


@pytest.mark.usefixtures("here")
def test_a_run_goes_on_with_workers_and_without(tmp_path: Path, corridor_data: Path):
    config = toys.recovery_config()
    steps = []
    for episodes, workers in ((3, 0), (6, 1), (9, 2), (12, 0)):
        run = core_run(tmp_path / "run", corridor_data, episodes=episodes, workers=workers, resume=bool(steps))
        steps.append(train("recovery-rl", run, config).num_observed)
        assert [int(row["episode"]) for row in rows(tmp_path / "run")] == list(range(len(rows(tmp_path / "run"))))
        assert len(rows(tmp_path / "run")) >= episodes
    assert steps == sorted(set(steps))


@pytest.mark.usefixtures("here")
def test_training_with_workers_stops_by_success(tmp_path: Path):
    run = core_run(tmp_path / "run", None, episodes=10_000, stop_at_success_rate=0.9)
    run.env = "toys:Script"  # every episode succeeds, in three steps
    train("unconstrained", run, toys.unconstrained_config())
    assert 50 <= len(rows(tmp_path / "run")) < 100


def test_a_worker_acts_with_the_composite_policy_of_the_learner(corridor_data: Path):
    config = toys.recovery_config(start_steps=0)
    worker = AgentWorker("toys:Corridor", "recovery-rl", config, num_envs=3, fragment_length=5)
    learner = AgentWorker("toys:Corridor", "recovery-rl", config, seed=9).agent
    obs = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    assert not np.allclose(worker.agent.act(obs, explore=False).action, learner.act(obs, explore=False).action)
    worker.set_weights(learner.policy_weights(), 7)
    mine, theirs = worker.agent.act(obs, explore=False), learner.act(obs, explore=False)
    np.testing.assert_allclose(mine.action, theirs.action, atol=1e-6)
    np.testing.assert_allclose(mine.risk, theirs.risk, atol=1e-6)
    sample = worker.sample()
    assert (sample.version, sample.num_steps) == (7, 15)
    np.testing.assert_array_equal(sample.overridden, np.abs(sample.action - sample.task_action).max(axis=-1) > 0)


def test_due_counts_from_where_the_agent_stands():
    agent = AgentWorker("toys:Corridor", "unconstrained", toys.unconstrained_config()).agent
    agent.num_observed = 10
    due = Due(agent, 0.5)
    assert due.next() is None
    agent.num_observed = 15
    assert [due.next() for _ in range(3)] == [6, 7, None]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workers", "-1"], "--workers is -1"),
        (["--address", "auto"], "--address is auto: it must be left out with --workers 0"),
        (["--workers", "2", "--num-envs", "0"], "--num-envs is 0"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str):
    words = ["train", "unconstrained", "--env", "toys:Corridor", "--output", str(tmp_path / "run"), *flags]
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
