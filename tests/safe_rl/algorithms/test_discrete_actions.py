"""Discrete actions: SAC-discrete's terms, the least risky action, and every method that serves them."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import toys
from toy_images import SeenSteps, image_config

from safe_rl.algorithms.temperature import target_entropy
from safe_rl.cli.main import main
from safe_rl.compare.compare import prepare
from safe_rl.compare.config import CompareConfig
from safe_rl.config import RunConfig, SACConfig
from safe_rl.data.collect import CollectConfig, collect
from safe_rl.data.replay_buffer import Batch
from safe_rl.envs.factory import make_env
from safe_rl.errors import UserError
from safe_rl.evaluation import evaluate
from safe_rl.flow import LocalBackend
from safe_rl.methods import make_agent
from safe_rl.pretraining import PretrainConfig, pretrain_run
from safe_rl.recovery import LeastRiskyRecovery
from safe_rl.risk import DiscreteRiskCritic
from safe_rl.runs import load_run
from safe_rl.shield.export import export_run
from safe_rl.switch import Mode
from safe_rl.training import train

OBS = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACT = gym.spaces.Discrete(3, start=2)
SERVED = ["recovery-rl", "lagrangian", "rspo", "rcpo", "reward-penalty", "unconstrained"]


def agent(method="recovery-rl", seed=0, **changes):
    return make_agent(method, toys.agent_config(method, **changes), OBS, ACT, seed=seed)


def set_values(critics, *members):
    """Makes critics say these values of the actions, whatever the state."""
    with torch.no_grad():
        critics.flat.zero_()
        for unit, values in zip(critics.units(), members, strict=True):
            unit[-1].bias.copy_(torch.tensor([values]))


def set_policy(made, *prob):
    set_values(made.actor.net, [math.log(p) for p in prob])


def logits(*risks):
    return [math.log(p / (1 - p)) for p in risks]


def batch(**fields):
    zeros, row = torch.zeros, torch.tensor([[0.0, 1.0, 0.0]])
    return Batch(**{
        "obs": zeros(1, 2), "task_action": row, "action": row, "next_obs": zeros(1, 2),
        "reward": zeros(1), "cost": zeros(1), "terminated": zeros(1), **fields,
    })  # fmt: skip


# ------------------------------------------------------------------------------------------------- terms by hand


def test_the_critic_target_is_the_exact_expectation():
    made = agent("unconstrained", sac__gamma=0.5, sac__alpha=0.1)
    set_policy(made, 0.5, 0.3, 0.2)
    set_values(made.critic_targets, [1.0, 4.0, 10.0], [2.0, 3.0, 20.0])
    set_values(made.critics, [0.0, 1.0, 0.0], [0.0, 2.0, 0.0])
    rows = batch(reward=torch.tensor([1.0]))
    expected_log_prob = sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
    target = 1 + 0.5 * (0.5 * 1 + 0.3 * 3 + 0.2 * 10 - 0.1 * expected_log_prob)
    loss = made._critic_loss(rows, rows.obs, rows.next_obs)
    assert loss.item() == pytest.approx(((1 - target) ** 2 + (2 - target) ** 2) / 2, rel=1e-5)


def test_the_actor_loss_is_the_exact_expectation():
    made = agent("unconstrained", sac__alpha=0.1)
    set_policy(made, 0.5, 0.3, 0.2)
    set_values(made.critics, [1.0, 4.0, 10.0], [2.0, 3.0, 20.0])
    prob, log_prob = made.actor.sample(torch.zeros(1, 2), torch.zeros(1, 3))
    loss = made._actor_loss(batch(), torch.zeros(1, 2), prob, log_prob)
    entropy = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
    assert loss.item() == pytest.approx(-0.1 * entropy - (0.5 * 1 + 0.3 * 3 + 0.2 * 10), rel=1e-5)


def test_a_policy_that_is_trained_comes_to_the_softmax_of_its_values():
    """The minimum of the actor's loss: ``pi(a) ~ exp(Q(a) / alpha)``."""
    made = agent("unconstrained", sac__alpha=0.5, sac__learning_rate=0.02)
    set_values(made.critics, [1.0, 0.0, 0.5], [2.0, 0.5, 0.25])
    obs = torch.zeros(1, 2)
    for _ in range(600):
        prob, log_prob = made.actor.sample(obs, torch.zeros(1, 3))
        made.actor_optimizer.step(made._actor_loss(batch(), obs, prob, log_prob))
    wanted = (torch.tensor([1.0, 0.0, 0.25]) / 0.5).softmax(0)
    torch.testing.assert_close(made.actor.sample(obs, None)[0][0], wanted, atol=0.01, rtol=0)


def test_the_risk_of_a_policy_is_the_expectation_of_the_risks():
    made = agent("lagrangian", risk__eps_risk=0.25, multiplier__initial=10.0, sac__reward_scale=0.5)
    set_values(made.risk_critic.critics, logits(0.1, 0.8, 0.3), logits(0.2, 0.4, 0.9))
    prob = torch.tensor([[0.5, 0.3, 0.2]], requires_grad=True)
    expected = 0.5 * 0.2 + 0.3 * 0.8 + 0.2 * 0.9  # of each action the larger one
    risk = made.risk_critic(torch.zeros(1, 2), prob)
    assert risk.item() == pytest.approx(expected, abs=1e-6)
    risk.sum().backward()
    assert prob.grad[0].tolist() == pytest.approx([0.2, 0.8, 0.9])
    log_prob = torch.zeros(1)
    set_values(made.critics, [0.0] * 3, [0.0] * 3)
    loss = made._actor_loss(batch(), torch.zeros(1, 2), prob, log_prob)
    assert loss.item() == pytest.approx(10 * 0.5 * (expected - 0.25), rel=1e-5)


def test_the_risk_target_by_hand():
    made = agent(risk__gamma_risk=0.5)
    set_values(made.risk_critic.targets, logits(0.1, 0.8, 0.3), logits(0.2, 0.4, 0.9))
    rows = batch()
    assert made.risk_critic.target(rows, rows.obs, rows.action).item() == pytest.approx(0.5 * 0.8)


def test_the_risk_loss_trains_the_executed_action_alone():
    made = agent()
    rows = batch(cost=torch.ones(1))
    loss = made.risk_critic.loss(rows.obs, rows.action, torch.ones(1))
    (gradient,) = torch.autograd.grad(loss, [made.risk_critic.critics.flat])
    for layers in made.risk_critic.critics.views_of(gradient):
        assert [value != 0 for value in layers[-1].bias[0].tolist()] == [False, True, False]


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (SACConfig(), 0.3 * math.log(8)),
        (SACConfig(target_entropy_share=0.5), 0.5 * math.log(8)),
        (SACConfig(target_entropy=0.7), 0.7),
    ],
)
def test_the_entropy_to_keep(config, wanted):
    assert target_entropy(config, 8, discrete=True) == pytest.approx(wanted)


def test_continuous_actions_keep_their_own_entropy():
    assert target_entropy(SACConfig(), 3, discrete=False) == -3.0
    with pytest.raises(UserError, match=r"--sac.target-entropy-share is 0.5: .* not Discrete"):
        target_entropy(SACConfig(target_entropy_share=0.5), 3, discrete=False)


# ------------------------------------------------------------------------------------- switch and least risky action


def test_recovery_takes_the_least_risky_of_all_actions():
    made = agent(risk__eps_risk=0.35, start_steps=0)
    assert isinstance(made.recovery, LeastRiskyRecovery)
    set_values(made.risk_critic.critics, logits(0.5, 0.1, 0.2), logits(0.1, 0.4, 0.3))
    for proposed, executed, mode in (([0.98, 0.01, 0.01], 4, Mode.RECOVERY), ([0.01, 0.01, 0.98], 4, Mode.TASK)):
        set_policy(made, *proposed)
        decision = made.act(np.zeros((5, 2), np.float32), explore=False)
        assert decision.task_action.tolist() == [2 + int(np.argmax(proposed))] * 5
        assert decision.action.tolist() == [executed] * 5  # the largest risks of the actions are 0.5, 0.4, 0.3
        assert (decision.mode == mode).all()
        assert all(ACT.contains(number) for number in decision.action)
    assert decision.risk.tolist() == pytest.approx([0.3] * 5)


def test_the_backup_follows_the_switch():
    made = agent(risk__eps_risk=0.35)
    set_policy(made, 1 - 2e-6, 1e-6, 1e-6)
    set_values(made.risk_critic.critics, logits(0.5, 0.1, 0.2), logits(0.1, 0.4, 0.3))
    assert made._next_action(torch.zeros(4, 2), pretraining=False).tolist() == [[0, 0, 1]] * 4
    made.config.risk.backup = "task"
    assert made._next_action(torch.zeros(4, 2), pretraining=False).tolist() == [[1, 0, 0]] * 4


def test_risk_and_watch_speak_the_environments_numbers():
    made = agent(risk__eps_risk=0.35)
    set_values(made.risk_critic.critics, logits(0.5, 0.1, 0.2), logits(0.1, 0.4, 0.3))
    obs = np.zeros((3, 2), np.float32)
    assert made.risk(obs, np.array([2, 3, 4])).tolist() == pytest.approx([0.5, 0.4, 0.3])
    decision = made.watch(obs, np.array([2, 3, 4]), explore=False)
    assert decision.action.tolist() == [4, 4, 4]
    assert decision.mode.tolist() == [Mode.RECOVERY, Mode.RECOVERY, Mode.TASK]


@pytest.mark.parametrize("kind", ["model-free", "q-sampling"])
def test_every_kind_of_recovery_becomes_the_exact_one_and_the_settings_say_so(kind):
    config = toys.recovery_config(recovery__kind=kind)
    made = make_agent("recovery-rl", config, OBS, ACT, seed=0)
    assert made.config.recovery.kind == "least-risky"
    assert made.config.settings(images=False)["recovery"]["kind"] == "least-risky"
    assert config.recovery.kind == kind  # the caller's own


def test_recovery_must_help_compares_risks():
    made = agent(risk__eps_risk=0.05, risk__recovery_must_help=True)
    set_values(made.risk_critic.critics, logits(0.5, 0.2, 0.3), logits(0.5, 0.2, 0.3))
    decision = made.watch(np.zeros((3, 2), np.float32), np.array([2, 3, 4]), explore=False)
    assert decision.mode.tolist() == [Mode.RECOVERY, Mode.TASK, Mode.RECOVERY]  # 3 is itself the least risky one


# ----------------------------------------------------------------------------------------------------- refusals


def test_what_does_not_fit_is_refused_in_one_line():
    box = gym.spaces.Box(-1, 1, (2,), np.float32)
    cases = [
        ("sqrl", {}, ACT, "sqrl samples continuous actions.*Discrete.*recovery-rl.*lagrangian"),
        ("recovery-rl", {"recovery__kind": "latent-model"}, ACT, "--recovery.kind is latent-model.*Discrete"),
        ("recovery-rl", {"recovery__kind": "least-risky"}, box, "--recovery.kind is least-risky.*not Discrete"),
        ("unconstrained", {}, gym.spaces.MultiDiscrete([2, 2]), "MultiDiscrete.*must be Discrete or a one-dim"),
    ]
    for method, changes, space, words in cases:
        with pytest.raises(UserError, match=words) as error:
            make_agent(method, toys.agent_config(method, **changes), OBS, space, seed=0)
        assert "\n" not in str(error.value)


# -------------------------------------------------------------------------------------------------- as a whole


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return toys.collect_corridor(tmp_path_factory.mktemp("steps") / "data", transitions=1500, env="toys:Steps")


def run_config(output, data=None, **changes) -> RunConfig:
    return RunConfig(
        "toys:Steps", output, **{"dataset": data, "episodes": 4, "device": "cpu", "log_every": 10, **changes}
    )


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "episodes.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def played(run: Path) -> list[list[str]]:
    return [[value for name, value in row.items() if name != "wall_time_sec"] for row in rows(run)]


@pytest.mark.parametrize("method", SERVED)
def test_a_method_trains_resumes_as_if_never_stopped_and_acts(method, data, tmp_path):
    config = toys.agent_config(method, demonstrations=True, task_pretrain_steps=5)
    if method == "rspo":
        config.schedule.episodes = 4
    whole = train(method, run_config(tmp_path / "whole", data), config)
    for episodes in (2, 4):
        train(method, run_config(tmp_path / "parts", data, episodes=episodes, resume=episodes > 2), config)
    assert played(tmp_path / "whole") == played(tmp_path / "parts")
    if method == "recovery-rl":
        assert json.loads((tmp_path / "whole" / "config.json").read_text())["recovery"]["kind"] == "least-risky"
    obs = np.random.default_rng(0).uniform(-0.3, 1, (20, 2)).astype(np.float32)
    loaded = load_run(tmp_path / "whole").make_agent().act(obs, explore=False)
    np.testing.assert_array_equal(loaded.action, whole.act(obs, explore=False).action)
    assert set(loaded.action) <= {3, 4, 5, 6}
    evaluate(whole, make_env("toys:Steps"), 2)


def test_an_episode_that_was_cut_in_its_middle_goes_on(data, tmp_path):
    def stop(total):
        raise KeyboardInterrupt

    config = toys.recovery_config()
    train("recovery-rl", run_config(tmp_path / "whole", data), config)
    toys.Corridor.on_step = toys.faults_at(13, lambda: stop(0))
    with pytest.raises(KeyboardInterrupt):
        train("recovery-rl", run_config(tmp_path / "parts", data, checkpoint_every=1), config)
    toys.Corridor.on_step = None
    train("recovery-rl", run_config(tmp_path / "parts", data, resume=True), config)
    assert len(rows(tmp_path / "parts")) == 4


def test_a_pretraining_is_taken(data, tmp_path):
    config = toys.recovery_config()
    pretrain_run("recovery-rl", PretrainConfig("toys:Steps", data, tmp_path / "pre", device="cpu"), config)
    train("recovery-rl", run_config(tmp_path / "run", data, pretrained=tmp_path / "pre"), config)
    assert len(rows(tmp_path / "run")) == 4


def test_a_comparison_knows_its_finished_runs_again(tmp_path):
    flags = ("--risk.pretrain-steps", "5", "--batch-size", "16", "--task-pretrain-steps", "0")
    config = CompareConfig(
        "toys:Steps",
        tmp_path / "compare",
        methods=("recovery-rl",),
        seeds="1",
        episodes=1,
        transitions=300,
        flags=flags,
    )
    for job in prepare(config):
        assert main([*job.command]) == 0
    assert all(job.is_done() for job in prepare(config))
    with pytest.raises(UserError, match="sqrl samples continuous actions"):
        prepare(CompareConfig("toys:Steps", tmp_path / "all", seeds="1"))


def test_data_of_continuous_actions_are_refused(corridor_data, tmp_path):
    with pytest.raises(UserError, match="do not belong together"):
        train("recovery-rl", run_config(tmp_path / "run", corridor_data), toys.recovery_config())
    assert not (tmp_path / "run").exists()


def test_a_bundle_is_refused_in_one_line(data, tmp_path):
    train("recovery-rl", run_config(tmp_path / "run", data), toys.recovery_config())
    with pytest.raises(UserError, match="discrete actions, which a bundle cannot hold") as error:
        export_run(tmp_path / "run", tmp_path / "bundle")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("method", ["recovery-rl", "unconstrained"])
def test_workers_act_alike(method, data, tmp_path, monkeypatch):
    monkeypatch.setattr("safe_rl.plans.episodes.make_backend", lambda workers, address: LocalBackend())
    made = train(method, run_config(tmp_path / "run", data, workers=1, episodes=6), toys.agent_config(method))
    assert len(rows(tmp_path / "run")) >= 6
    assert made.num_updates > 0
    stored = made.replay.batch(torch.arange(len(made.replay))).action
    assert stored.shape[1] == 4
    assert (stored.sum(1) == 1).all()


@pytest.mark.parametrize("method", ["recovery-rl", "unconstrained"])
def test_images_with_discrete_actions(method, tmp_path):
    env = "toy_images:SeenSteps"
    collect(CollectConfig(env, tmp_path / "data", transitions=200, policy="random"))
    run = RunConfig(env, tmp_path / "run", dataset=tmp_path / "data", episodes=2, device="cpu")
    made = train(method, run, image_config(method))
    before = next(made.encoder.parameters()).detach().clone()
    made.update()
    assert not torch.equal(next(made.encoder.parameters()), before)  # the critics of all actions teach it
    image, _ = SeenSteps().reset(seed=0)
    assert made.act(image.reshape(1, -1), explore=True).action[0] in (3, 4, 5, 6)


def test_recovery_rl_learns_the_corridor_on_foot_more_safely_than_without_a_shield(tmp_path):
    dataset = toys.collect_corridor(tmp_path / "data", transitions=3000, env="toys:Steps")
    sac = SACConfig(hidden_sizes=(32, 32), learning_rate=2e-3, alpha=0.02, tau=0.02, gamma=0.95)
    shared = {"batch_size": 64, "replay_capacity": 5000, "sac": sac, "start_steps": 60, "update_after": 60}
    risk = {
        "risk__hidden_sizes": (32, 32), "risk__learning_rate": 3e-3, "risk__tau": 0.02, "risk__gamma_risk": 0.6,
        "risk__eps_risk": 0.25, "risk__pretrain_steps": 800,
    }  # fmt: skip
    violations = {}
    for method in ("recovery-rl", "unconstrained"):
        config = toys.agent_config(method, **shared, **(risk if method == "recovery-rl" else {}))
        run = run_config(tmp_path / method, dataset, episodes=50, seed=1, log_every=200)
        made = train(method, run, config)
        violations[method] = sum(int(row["violation"]) for row in rows(tmp_path / method))
        if method == "recovery-rl":
            assert isinstance(made.risk_critic, DiscreteRiskCritic)
            assert sum(int(row["success"]) for row in rows(tmp_path / method)[-20:]) >= 16
            summary = evaluate(made, make_env("toys:Steps"), 20, seed=1).summary()
            assert summary["success_rate"] >= 0.9
            assert summary["violation_rate"] <= 0.05
    assert violations["recovery-rl"] <= 5
    assert violations["unconstrained"] >= max(8, 2 * violations["recovery-rl"])
