"""Recovery IMPACT: what enters its objective, the switch in its workers, and runs of it from data to evaluation."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import toys

from safe_rl.algorithms.fragment import Fragment
from safe_rl.algorithms.impact import IMPACTConfig, IMPACTLearner
from safe_rl.algorithms.recovery_impact import RecoveryIMPACTAgent, RecoveryIMPACTConfig
from safe_rl.cli.main import main
from safe_rl.config import RecoveryConfig, RiskConfig
from safe_rl.errors import UserError
from safe_rl.flow.switch_worker import SwitchWorker
from safe_rl.plans.config import OfflinePlanRunConfig
from safe_rl.plans.train import train_plan
from safe_rl.pretraining import PretrainConfig, pretrain_run
from safe_rl.runs import load_run
from safe_rl.switch import Mode

ENV = "toys:Corridor"
OBS = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACT = gym.spaces.Box(-0.15, 0.15, (2,), np.float32)


def config(**changes: Any) -> RecoveryIMPACTConfig:
    made = RecoveryIMPACTConfig(
        impact=IMPACTConfig(hidden_sizes=toys.SMALL, num_minibatches=2),
        risk=RiskConfig(hidden_sizes=toys.SMALL, pretrain_steps=30, tau=0.01, learning_rate=3e-3),
        recovery=RecoveryConfig(hidden_sizes=toys.SMALL),
        batch_size=32,
        replay_capacity=2000,
    )
    return toys._changed(made, changes)


def agent(**changes: Any) -> RecoveryIMPACTAgent:
    return RecoveryIMPACTAgent(OBS, ACT, config(**changes))


def fragment(**changes: Any) -> Fragment:
    """Six steps of two environments, two of them overridden; one crashes, one arrives."""
    rng = np.random.default_rng(0)
    shape = (6, 2)
    overridden, cost, terminated = np.zeros((3, *shape), dtype=np.bool_)
    overridden[2, 0] = overridden[4, 1] = True
    terminated[3, 0] = cost[3, 0] = True
    terminated[5, 1] = True
    values = {
        "obs": rng.normal(size=(7, 2, 2)),
        "task_action": rng.normal(size=(*shape, 2)),
        "action": rng.uniform(-0.15, 0.15, (*shape, 2)),
        "log_prob": rng.normal(size=shape) - 2,
        "reward": rng.normal(size=shape),
        "cost": cost,
    }
    arrays = {name: array.astype(np.float32) for name, array in values.items()}
    flags = {"terminated": terminated, "truncated": np.zeros_like(terminated), "valid": np.ones_like(terminated)}
    return dataclasses.replace(Fragment(**arrays, **flags, overridden=overridden), **changes)


def gradient_step(learner: IMPACTLearner, item: Fragment) -> np.ndarray:
    before = learner.weights()
    learner.learn(learner.prepare(item))
    return learner.weights() - before


# ------------------------------------------------------------------ objective


def test_an_overridden_step_counts_with_the_proposal_and_the_outcome():
    """The executed action is nowhere in the objective; it is IMPACT's on the proposals."""
    plain = IMPACTLearner(OBS, ACT, config().impact)
    step = gradient_step(plain, fragment())
    np.testing.assert_array_equal(gradient_step(agent().task, fragment()), step)
    other = fragment(action=np.zeros((6, 2, 2), np.float32), overridden=np.zeros((6, 2), np.bool_))
    np.testing.assert_array_equal(gradient_step(agent().task, other), step)


def test_without_relabelling_it_counts_with_what_was_executed():
    made, item = agent(relabel_actions=False), fragment()
    net = made.task.net
    (batch,) = [made.task.prepare(item)]
    parts = {part.fragment.overridden.any(axis=1).argmax(): part.fragment for part in batch.parts}
    for t, env in ((2, 0), (4, 1)):
        unit = item.action[t, env] / 0.15
        np.testing.assert_allclose(parts[t].task_action[t, 0], unit, rtol=1e-6)
        expected = net.log_prob(torch.from_numpy(item.obs[t, env][None]), torch.from_numpy(unit[None]))
        np.testing.assert_allclose(parts[t].log_prob[t, 0], expected[0], rtol=1e-5)
        keep = [index for index in range(6) if index != t]
        np.testing.assert_array_equal(parts[t].task_action[keep, 0], item.task_action[keep, env])
        np.testing.assert_array_equal(parts[t].log_prob[keep, 0], item.log_prob[keep, env])
    assert item.overridden.any()
    np.testing.assert_array_equal(item.task_action, fragment().task_action)  # its own copy


def test_a_crash_can_be_looked_past_and_success_cannot():
    looks_past = agent(violation_ends_value=False).task.prepare(fragment())
    ends = agent().task.prepare(fragment())
    for batch, crash_ends in ((looks_past, False), (ends, True)):
        flags = {bool(p.fragment.cost.any()): (p.fragment.terminated, p.fragment.truncated) for p in batch.parts}
        assert (bool(flags[True][0][3, 0]), bool(flags[True][1][3, 0])) == (crash_ends, not crash_ends)
        assert flags[False][0][5, 0]
        assert not flags[False][1].any()


def test_the_risk_learner_gets_what_was_executed_in_the_environments_units():
    made, item = agent(), fragment()
    assert made.store(item) is item
    batch = made.replay.batch(torch.arange(12))
    np.testing.assert_allclose(batch.action.numpy(), (item.action / 0.15).reshape(12, 2), rtol=1e-5)
    np.testing.assert_allclose(batch.task_action.numpy(), np.clip(item.task_action, -1, 1).reshape(12, 2), rtol=1e-5)
    np.testing.assert_array_equal(batch.cost.numpy(), item.cost.reshape(12))
    assert made.num_steps == 0  # counted by the task's learner, once


def test_risk_steps_are_due_in_proportion_to_environment_steps():
    made = agent(risk_updates_per_step=0.25)
    made.store(fragment())
    steps = 0
    while (rows := made.next()) is not None:
        assert made.learn_risk(rows).keys() == {"risk/loss", "recovery/risk"}
        steps += 1
    assert steps == 3 == made.num_updates
    frozen = agent(risk__update_online=False)
    frozen.store(fragment())
    assert frozen.next() is None


def test_the_backup_asks_the_task_policy_as_it_acts():
    made = agent()
    obs, noise = torch.randn(5, 2), torch.randn(5, 2)
    output, _ = made.task.net.policy.run(obs)
    std = made.task.net.head_parameters.detach().exp()
    expected = (output + std * noise).clamp(-1, 1)
    torch.testing.assert_close(made.actor.sample_action(obs, noise), expected)
    torch.testing.assert_close(made.actor.mean_action(obs), output.clamp(-1, 1))
    assert (expected.abs() == 1).any()  # some were clipped


# --------------------------------------------------------------------- worker


@pytest.fixture
def worker() -> SwitchWorker:
    made = SwitchWorker(ENV, config(), num_envs=4, fragment_length=10, seed=3)
    return made


def test_the_worker_executes_what_the_switch_says(worker: SwitchWorker):
    """The same decisions as the agent whose weights it got, both sides of the threshold among them."""
    learner = agent(recovery__explore=False)
    worker.agent.recovery.config.explore = False
    obs = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    action = np.random.default_rng(1).uniform(-0.15, 0.15, (64, 2)).astype(np.float32)
    threshold = float(np.median(learner.risk(obs, action)))
    for one in (learner, worker.agent):
        one.switch = dataclasses.replace(one.switch, eps_risk=threshold)
    worker.set_weights(learner.weights(), 0)
    overridden = np.empty(64, np.bool_)
    executed = worker.execute(obs, action, overridden)
    expected = learner.watch(obs, action, explore=False)
    np.testing.assert_array_equal(overridden, expected.mode == Mode.RECOVERY)
    assert 0 < overridden.sum() < 64
    np.testing.assert_allclose(executed, expected.action, atol=1e-6)
    np.testing.assert_allclose(executed[~overridden], action[~overridden], atol=1e-6)
    assert (np.abs(executed[overridden] - action[overridden]).max(axis=1) > 1e-4).all()


def test_fragments_tell_the_overridden_rows(worker: SwitchWorker):
    worker.set_weights(agent().weights(), 0)
    for eps, share in ((-1.0, True), (1.0, False)):
        worker.agent.switch = dataclasses.replace(worker.agent.switch, eps_risk=eps)
        sample = worker.sample()
        assert (sample.overridden == share).all()
        proposed = np.clip(sample.task_action, -1, 1) * 0.15
        assert np.allclose(proposed, sample.action, atol=1e-6) != share


# ----------------------------------------------------------------------- runs


def run_config(output: Path, data: Path, **changes: Any) -> OfflinePlanRunConfig:
    values = {"envs_per_worker": 4, "fragment_length": 16, "steps": 600, "checkpoint_every_sec": 1e6}
    return OfflinePlanRunConfig(ENV, output, dataset=data, **{**values, **changes})


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_trains_resumes_and_is_loaded_as_an_agent_that_knows_risk(tmp_path: Path, corridor_data: Path):
    first = train_plan("recovery-impact", run_config(tmp_path / "run", corridor_data), config()).learner
    assert (tmp_path / "run" / "pretrained").is_dir()
    assert first.num_updates == pytest.approx(600 * 0.05, abs=4)
    second = train_plan(
        "recovery-impact", run_config(tmp_path / "run", corridor_data, steps=900, resume=True), config()
    )
    learner = second.learner
    assert learner.num_steps >= 900
    assert learner.num_steps == learner.num_observed == learner.replay.num_online
    assert learner.version > first.version
    with (tmp_path / "run" / "episodes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["episode"]) for row in rows] == list(range(second.num_episodes))
    last = metrics(tmp_path / "run")[-1]
    assert {"risk/loss", "train/kl", "safety/recovery_share", "buffer/occupancy"} <= last.keys()
    assert last["train/staleness"] >= 0
    loaded = load_run(tmp_path / "run").make_agent()
    assert loaded.has_risk
    obs = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    expected, got = learner.act(obs, explore=False), loaded.act(obs, explore=False)
    np.testing.assert_array_equal(got.action, expected.action)
    np.testing.assert_array_equal(got.risk, expected.risk)
    np.testing.assert_array_equal(loaded.risk(obs, got.task_action), got.risk)


def test_pretrained_networks_are_taken_over(tmp_path: Path, corridor_data: Path):
    same = {"risk__pretrain_steps": 40, "risk__tau": 0.01}
    pretrain_run("recovery-rl", PretrainConfig(ENV, corridor_data, tmp_path / "pre"), toys.recovery_config(**same))
    frozen = config(risk__update_online=False)
    run = run_config(tmp_path / "run", corridor_data, pretrained=tmp_path / "pre", steps=64)
    learner = train_plan("recovery-impact", run, frozen).learner
    saved = load_run(tmp_path / "run").make_agent()
    other = agent()
    from safe_rl.pretraining import read_pretrained

    other.load_safety_state_dict(read_pretrained(other, tmp_path / "pre"))
    for one in (learner, saved):
        torch.testing.assert_close(one.risk_critic.critics.flat, other.risk_critic.critics.flat)
        torch.testing.assert_close(one.normalizer.mean, other.normalizer.mean)
    assert not (tmp_path / "run" / "pretrained").exists()


def test_what_is_missing_is_said_before_anything_is_written(tmp_path: Path, corridor_data: Path):
    with pytest.raises(UserError, match="learns risk from offline data"):
        train_plan("recovery-impact", OfflinePlanRunConfig(ENV, tmp_path / "run"), config())
    with pytest.raises(UserError, match="no pretrained networks"):
        train_plan("recovery-impact", run_config(tmp_path / "run", corridor_data, pretrained=tmp_path), config())
    with pytest.raises(UserError, match=r"impact.normalize-running"):
        config(impact=IMPACTConfig(normalize_running=True)).__post_init__()
    assert not (tmp_path / "run").exists()


def test_from_the_command_line(tmp_path: Path, corridor_data: Path, capsys: pytest.CaptureFixture[str]):
    output = str(tmp_path / "run")
    words = ["train", "recovery-impact", "--env", ENV, "--dataset", str(corridor_data), "--output", output]
    small = ["--risk.hidden-sizes", "8", "8", "--recovery.hidden-sizes", "8", "8", "--risk.pretrain-steps", "20"]
    assert main([*words, *small, "--steps", "600", "--impact.clip", "0.3"]) == 0
    assert "recovery-impact: " in capsys.readouterr().out
    saved = load_run(output).config
    assert (saved["impact"]["clip"], saved["risk"]["pretrain_steps"]) == (0.3, 20)
    assert main(["evaluate", output, "--episodes", "2"]) == 0
    assert main(["train", "--resume", "--output", output, "--steps", "1300"]) == 0
    assert main(["export", output, "--output", str(tmp_path / "bundle")]) == 2
    assert "was trained by recovery-impact, whose policy a bundle cannot hold yet" in capsys.readouterr().err
    assert main([*words[:-1], str(tmp_path / "other"), "--workers", "0", "--address", "auto"]) == 2
