"""Model-based recovery: by hand, on known dynamics, on Navigation 2's, and through the commands."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time

import numpy as np
import pytest
import torch
import toys
from gymnasium import spaces
from planning_commands import PlanningCommands
from toys import recovery_config

from safe_rl.algorithms.recovery_rl import RecoveryRLAgent
from safe_rl.config import RecoveryConfig, RecoveryRLConfig, RunConfig
from safe_rl.data.replay_buffer import ReplayBuffer
from safe_rl.envs.factory import make_env
from safe_rl.errors import UserError
from safe_rl.methods import make_agent
from safe_rl.model_recovery import ModelBasedRecovery
from safe_rl.nets.gaussian_ensemble import FastEnsemble
from safe_rl.planner_config import NOT_PRETRAINED, PlannerConfig
from safe_rl.pretraining import PARTIAL, pretrain_safety
from safe_rl.training import train
from safe_rl.transitions import Transitions


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class FarFrom:
    """Risk by hand: how far the point is from the goal, squared; actions cost nothing."""

    goal = torch.tensor([0.5, -0.5])

    def __call__(self, obs, action):
        return (obs - self.goal).square().sum(1)


def recovery(risk=None, **planner) -> ModelBasedRecovery:
    small = {"horizon": 2, "iterations": 8, "ensemble_size": 2, "particles": 4, "hidden_sizes": (8,)}
    settings = PlannerConfig(**{**small, **planner})
    return ModelBasedRecovery(2, 2, RecoveryConfig(), settings, risk or FarFrom(), generator=generator())


class Known:
    """A model whose members all know the linear system ``s' = s + 0.5 a + noise of a deviation``."""

    def __init__(self, std: float = 0.0, drift: tuple[float, ...] = (0.0, 0.0)) -> None:
        self.std, self.drift, self.seen = std, torch.tensor(drift), []

    def predict(self, inputs):
        self.seen.append(inputs.clone())
        mean = 0.5 * inputs[..., 2:] + self.drift.view(-1, 1, 1)
        return mean, torch.full_like(mean, self.std)


def knowing(made: ModelBasedRecovery, model: Known) -> ModelBasedRecovery:
    def cost(obs, search, rng):
        shape = (search.horizon - 1, search.ensemble_size, 1, search.particles // search.ensemble_size, 2)
        noise = torch.randn(shape, generator=rng)
        return lambda plans: made._mean_risk(obs, plans, noise, model, made._risk[0])

    made._cost = cost
    return made


# ---------------------------------------------------------------------------------------------------------- planning


def test_the_cost_is_the_mean_risk_along_the_plan():
    """From (0, 0) by (0.5, 0) to (0.5, -0.5): risks 0.5, 0.25, 0; the last action leads where nobody looks."""
    plan = torch.tensor([[1.0, 0.0], [0.0, -1.0], [1.0, 1.0]]).view(1, 1, 3, 2)
    made = recovery(horizon=3)
    cost = made._mean_risk(torch.zeros(1, 2), plan, torch.zeros(2, 2, 1, 2, 2), Known(), FarFrom())
    assert cost.item() == pytest.approx((0.5 + 0.25 + 0.0) / 3)


def test_the_cost_is_the_mean_over_the_particles_by_hand():
    """Standing at the goal with noise 0.1 * (1, 2, 3, 4) in x: risks 0.01 * (1, 4, 9, 16), mean 0.075."""
    noise = torch.zeros(1, 2, 1, 2, 2)
    noise[..., 0] = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 2, 1, 2)
    made = recovery()
    cost = made._mean_risk(FarFrom.goal[None], torch.zeros(1, 3, 2, 2), noise, Known(std=0.1), FarFrom())
    assert cost.tolist() == [[pytest.approx(0.075 / 2)] * 3]


def test_a_particle_keeps_its_member():
    """The first member drifts by 0.1 a step, the second by -0.1: after two steps none is between (TSinf)."""
    made, model = recovery(horizon=4), Known(drift=(0.1, -0.1))
    made._mean_risk(torch.zeros(1, 2), torch.zeros(1, 5, 4, 2), torch.zeros(3, 2, 1, 2, 2), model, FarFrom())
    assert [tuple(seen.shape) for seen in model.seen] == [(2, 5, 4), (2, 10, 4), (2, 10, 4)]
    for step, seen in enumerate(model.seen):
        torch.testing.assert_close(seen[0, :, :2], torch.full_like(seen[0, :, :2], 0.1 * step))
        torch.testing.assert_close(seen[1, :, :2], torch.full_like(seen[1, :, :2], -0.1 * step))


def test_every_row_and_plan_is_judged_as_if_it_were_alone():
    made = recovery(horizon=3, population=6, elites=2)
    obs, plans = torch.randn(3, 2, generator=generator(1)), torch.rand(3, 6, 3, 2, generator=generator(2))
    noise, model = torch.randn(2, 2, 1, 2, 2, generator=generator(3)), FastEnsemble(made.model)
    with torch.inference_mode():
        together = made._mean_risk(obs, plans, noise, model, FarFrom())
        for row in range(3):
            for plan in range(6):
                alone = made._mean_risk(obs[row : row + 1], plans[row, plan][None, None], noise, model, FarFrom())
                assert alone.item() == pytest.approx(together[row, plan].item(), rel=1e-4)


STATES = torch.tensor([[0.2, -0.3], [0.9, -0.6], [0.5, -0.2]])
"""From each the goal is one action away."""


def test_it_finds_the_best_plan_of_a_known_system_in_spite_of_noise():
    made = knowing(recovery(iterations=15), Known(std=0.01))
    action = made.act(STATES, generator(), explore=True)
    torch.testing.assert_close(action, 2 * (FarFrom.goal - STATES), atol=0.06, rtol=0)


def test_predicted_states_stay_where_the_data_are():
    made, model = recovery(horizon=3), Known()
    made.model.lowest.copy_(torch.tensor([-0.2, -0.2]))
    made.model.highest.copy_(torch.tensor([0.3, 0.2]))
    plan = torch.tensor([[1.0, -1.0]] * 3).view(1, 1, 3, 2)
    made._mean_risk(torch.zeros(1, 2), plan, torch.zeros(2, 2, 1, 2, 2), model, FarFrom())
    assert model.seen[1][0, 0, :2].tolist() == pytest.approx([0.3, -0.2])


def test_a_decision_without_exploring_depends_on_the_state_alone():
    made = recovery()
    first = made.act(STATES, generator(1), explore=False)
    made.act(STATES, generator(2), explore=True)
    assert torch.equal(made.act(STATES, generator(3), explore=False), first)
    torch.testing.assert_close(made.act(STATES[1:2], generator(4), explore=False), first[1:2])


# ------------------------------------------------------------------------------------------------------- learning


def random_walk(count: int = 3000, seed: int = 0) -> Transitions:
    """Navigation 2 by random actions: ``s' = s + a + 0.05 * noise``."""
    env = make_env("safe_rl/Navigation2-v0")
    rng, rows = np.random.default_rng(seed), []
    obs, ended = env.flat(env.reset(seed=seed)[0]), False
    for number in range(count):
        if ended or number % 10 == 0:
            obs = env.flat(env.reset(seed=seed + number)[0])
        action = rng.uniform(-1, 1, 2).astype(np.float32)
        result = env.step(action)
        after, ended = env.flat(result[0]), result[2] or result[3]
        rows.append((obs, action, after, result[4]["cost"], result[2]))
        obs = after
    before, actions, afters, cost, terminated = (
        np.array(column, dtype=np.float32) for column in zip(*rows, strict=True)
    )
    return Transitions(
        obs=before, task_action=actions, action=actions, reward=np.zeros(count, np.float32), cost=cost,
        next_obs=afters, terminated=terminated > 0, truncated=np.zeros(count, bool),
    )  # fmt: skip


def filled(made: ModelBasedRecovery, data: Transitions) -> ReplayBuffer:
    replay = ReplayBuffer(10, 2, 2)
    replay.add_offline(data)
    return replay


@pytest.fixture(scope="module")
def navigator() -> ModelBasedRecovery:
    """Fitted to Navigation 2 in the environment's own units."""
    made = recovery(horizon=4, ensemble_size=3, particles=6, hidden_sizes=(64, 64), batch_size=64, population=100,
                    elites=10, iterations=4)  # fmt: skip
    replay = filled(made, random_walk())
    for metrics in made.fit(torch.nn.Identity(), replay, 800, generator()):
        last = metrics
    assert last["recovery/model_error"] < 0.02
    return made


def test_the_model_learns_navigations_dynamics_and_how_noisy_they_are(navigator):
    held_out = random_walk(300, seed=7)
    inputs = torch.from_numpy(np.concatenate([held_out.obs, held_out.action], axis=1))
    with torch.inference_mode():
        mean, std = FastEnsemble(navigator.model).predict(inputs.expand(3, -1, -1))
    error = mean - torch.from_numpy(held_out.action)
    assert error.square().mean().sqrt() < 0.05  # actions are up to 1
    assert 0.04 < std.mean() < 0.08  # the noise's deviation is 0.05, and the model errs besides


class NearTheLine:
    """Danger grows towards the line x = -48."""

    def __call__(self, obs, action):
        return torch.sigmoid(obs[:, 0] + action[:, 0] + 48)


def test_planning_in_a_learned_model_moves_away_from_danger(navigator):
    navigator._risk = (NearTheLine(),)
    state = torch.tensor([[-49.0, 0.5]])
    plan = navigator.plan(state, generator())
    assert plan[0, 0, 0] < -0.8
    assert plan[0, :3, 0].mean() < -0.5


def test_every_member_learns_from_its_own_resampling():
    made = recovery(ensemble_size=5, particles=5)
    rows = made.resampling(1000)
    assert rows.shape == (5, 1000)
    shares = [len(set(member.tolist())) / 1000 for member in rows]
    assert all(0.58 < share < 0.68 for share in shares)  # 1 - 1/e
    assert not torch.equal(rows[0], rows[1])
    assert torch.equal(rows, made.resampling(1000))


def test_members_are_only_taught_by_their_own_rows():
    """The first member has drawn the one row in which nothing moves, the second all: it alone hears of moving."""
    made = recovery(ensemble_size=2, particles=2, hidden_sizes=(16,), learning_rate=1e-2)
    made.resampling = lambda count: torch.stack([torch.zeros(count, dtype=torch.long), torch.arange(count)])
    count = 200
    moves = np.ones((count, 2), np.float32)
    moves[0] = 0.0
    obs = np.random.default_rng(0).normal(size=(count, 2)).astype(np.float32)
    action, zero = np.zeros((count, 2), np.float32), np.zeros(count, np.float32)
    data = Transitions(obs=obs, task_action=action, action=action, reward=zero, cost=zero, next_obs=obs + moves,
                       terminated=zero > 0, truncated=zero > 0)  # fmt: skip
    for _ in made.fit(torch.nn.Identity(), filled(made, data), 300, generator()):
        pass
    mean, _ = FastEnsemble(made.model).predict(
        torch.from_numpy(np.concatenate([obs, action], axis=1)).expand(2, -1, -1)
    )
    assert mean[1, 1:].mean() > 0.9
    assert mean[0, 0].abs().max() < 0.1


# ------------------------------------------------------------------------------------------------------ the agent

PLANNER = PlannerConfig(horizon=3, population=32, elites=4, iterations=2, ensemble_size=2, particles=4,
                        hidden_sizes=(16,), batch_size=16, pretrain_steps=6, refresh_every=1,
                        refresh_steps=3)  # fmt: skip
ENV = toys.Corridor()


def walk(count: int, seed: int = 0) -> Transitions:
    rng, env, rows = np.random.default_rng(seed), toys.Corridor(), []
    obs = env.reset(seed=seed)[0]
    for _ in range(count):
        action = rng.uniform(-0.15, 0.15, 2).astype(np.float32)
        after, reward, terminated, truncated, info = env.step(action)
        rows.append((obs, action, after, reward, float(info["cost"]), terminated, truncated))
        obs = env.reset()[0] if terminated or truncated else after
    before, action, after, reward, cost, terminated, truncated = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    return Transitions(
        obs=before, task_action=action, action=action, reward=reward.astype(np.float32), cost=cost.astype(np.float32),
        next_obs=after, terminated=terminated, truncated=truncated,
    )  # fmt: skip


DATA = walk(200)


def agent(seed: int = 0, **changes) -> RecoveryRLAgent:
    small = {"recovery__kind": "model-based", "planner": PLANNER, "risk__eps_risk": 0.0, **changes}
    made = RecoveryRLAgent(ENV.observation_space, ENV.action_space, recovery_config(**small), seed=seed)
    made.add_offline(DATA[:120])
    return made


def live(made: RecoveryRLAgent, data: Transitions) -> list[dict[str, float]]:
    metrics = []
    for row in range(len(data)):
        made.act(data.obs[row : row + 1], explore=True)
        made.observe(data[row : row + 1])
        metrics.append({name: float(value) for name, value in made.update().items()})
    return metrics


def weights(made: RecoveryRLAgent) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in made.recovery.model.parameters()])


def test_plans_are_forgotten_when_an_episode_ends_and_not_before():
    made, end = agent(), 120 + int(np.flatnonzero((DATA.terminated | DATA.truncated)[120:])[0])
    made.act(DATA.obs[:1], explore=True)
    made.observe(DATA[120:end])
    assert made.recovery.plans.any()
    made.observe(DATA[end : end + 1])
    assert not made.recovery.plans.any()


def test_the_model_is_refreshed_every_so_many_episodes():
    made, frozen = agent(), agent(risk__update_online=False)
    before = weights(made)
    made.observe(DATA[120:])
    frozen.observe(DATA[120:])
    assert not torch.equal(weights(made), before)
    assert torch.equal(weights(frozen), before)


def test_a_resumed_agent_goes_on_as_if_it_had_not_stopped():
    made, other = agent(), agent()
    live(made, DATA[120:150])
    other.load_state_dict(made.state_dict())
    assert live(made, DATA[150:190]) == live(other, DATA[150:190])
    assert torch.equal(weights(made), weights(other))
    assert torch.equal(made.recovery.plans, other.recovery.plans)


def test_a_pretraining_cut_within_the_model_goes_on_as_if_it_had_not(tmp_path, monkeypatch):
    class Kill(BaseException):
        pass

    def kill(done, total, status):
        if done == 13:
            raise Kill

    changes = {"risk__pretrain_steps": 6, "planner__pretrain_steps": 12}
    monkeypatch.setattr("safe_rl.pretraining.SAVE_EVERY", 5)
    whole, cut, resumed = agent(**changes), agent(**changes), agent(**changes)
    pretrain_safety(whole, tmp_path / "whole")
    with pytest.raises(Kill):
        pretrain_safety(cut, tmp_path / "run", kill)
    assert (tmp_path / "run" / PARTIAL).is_dir()
    pretrain_safety(resumed, tmp_path / "run")
    assert torch.equal(weights(whole), weights(resumed))
    assert torch.equal(whole.generator.get_state(), resumed.generator.get_state())


def test_what_is_pretrained_does_not_depend_on_the_search(tmp_path):
    others = {"population": 9, "elites": 3, "iterations": 7, "particles": 6, "momentum": 0.5, "budget_ms": 1e4}
    others |= {"precision": "bfloat16", "refresh_every": 3, "refresh_steps": 7}
    assert others.keys() == NOT_PRETRAINED
    assert all(getattr(PLANNER, name) != value for name, value in others.items())
    pretrained = []
    for planner in (PLANNER, dataclasses.replace(PLANNER, **others), dataclasses.replace(PLANNER, learning_rate=0.5)):
        made = agent(planner=planner, risk__pretrain_steps=3, planner__pretrain_steps=3)
        pretrain_safety(made, tmp_path / f"{len(pretrained)}")
        pretrained.append(weights(made))
    one, searching_otherwise, learning_otherwise = pretrained
    assert torch.equal(one, searching_otherwise)
    assert not torch.equal(one, learning_otherwise)


def test_low_precision_decides_nearly_the_same():
    full, low = agent(), agent(planner__precision="bfloat16")
    obs = torch.zeros(1, 2)
    with torch.inference_mode():
        plans = torch.rand(1, 8, 3, 2, generator=generator())
        costs = [made.recovery._cost(obs, made.recovery.search, generator())(plans) for made in (full, low)]
    torch.testing.assert_close(costs[0], costs[1], atol=0.01, rtol=0.02)


@pytest.mark.slow
def test_a_budget_is_kept_to():
    made = agent(planner=PlannerConfig(budget_ms=60), risk__hidden_sizes=(64, 64))
    search = made.recovery.search
    assert search.particles * search.population * search.iterations < 20 * 400 * 5
    times = []
    for _ in range(15):
        started = time.perf_counter()
        made.act(np.zeros((1, 2), np.float32), explore=True)
        times.append(time.perf_counter() - started)
    assert statistics.median(times) < 0.06


def test_a_budget_that_nothing_meets_is_refused_before_anything_is_written(tmp_path, corridor_data):
    config = recovery_config(recovery__kind="model-based", planner=PlannerConfig(budget_ms=0.001))
    run = RunConfig(env="toys:Corridor", output=tmp_path / "run", dataset=corridor_data, episodes=1, device="cpu")
    with pytest.raises(UserError, match=r"^--planner.budget-ms is 0.001: .* give at least \d+,"):
        train("recovery-rl", run, config)
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"particles": 12}, "--planner.particles is 12: it must be a multiple of the ensemble's size, 5"),
        ({"particles": 0}, "--planner.particles is 0"),
        ({"ensemble_size": 0}, "--planner.ensemble-size is 0"),
        ({"budget_ms": -1.0}, "--planner.budget-ms is -1.0"),
        ({"budget_ms": float("nan")}, "--planner.budget-ms is nan"),
    ],
)
def test_a_setting_out_of_range_is_one_line(changes, words):
    with pytest.raises(UserError, match=words):
        PlannerConfig(**changes)


def test_what_does_not_fit_is_refused_and_the_other_named():
    actions, state = spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (4,))
    image = spaces.Box(0, 255, (16, 16, 3), np.uint8)

    def refused(observations, words, **changes):
        with pytest.raises(UserError, match=words):
            make_agent("recovery-rl", recovery_config(**changes), observations, actions, seed=0)

    refused(state, "choose model-based", recovery__kind="latent-model")
    refused(image, "--recovery.kind is model-based: the observation is an image; choose latent-model",
            recovery__kind="model-based")  # fmt: skip
    refused(image, "--planner.particles is 10: --recovery.kind latent-model has one network",
            recovery__kind="latent-model", planner=PlannerConfig(particles=10))  # fmt: skip
    refused(state, "--planner.horizon is 7: --recovery.kind model-free does not plan", planner=PlannerConfig(horizon=7))


def test_a_run_keeps_the_planners_settings_only_where_there_is_one():
    assert isinstance(recovery_config(), RecoveryRLConfig)
    assert "planner" not in recovery_config().settings(images=False)
    assert recovery_config(recovery__kind="model-based").settings(images=False)["planner"]["particles"] == 20


# ---------------------------------------------------------------------------------------------------- the commands

NETWORKS = [
    *("--batch-size", "16", "--device", "cpu", "--sac.hidden-sizes", "32", "--risk.hidden-sizes", "32"),
    *("--risk.eps-risk", "0.05", "--replay-capacity", "2000", "--risk.pretrain-steps", "20"),
    *("--recovery", "model-based", "--planner.hidden-sizes", "16", "--planner.population", "32"),
    *("--planner.elites", "4", "--planner.iterations", "2", "--planner.particles", "4", "--planner.ensemble-size", "2"),
    *("--planner.horizon", "3", "--planner.pretrain-steps", "20"),
    *("--planner.refresh-every", "2", "--planner.refresh-steps", "5"),
]


def test_through_the_commands_resumed_and_refused(tmp_path, capsys):
    commands = PlanningCommands(tmp_path, "toys:Corridor", NETWORKS, capsys)
    toys.collect_corridor(tmp_path / "data")
    commands.pretrain()
    whole = commands.train("whole", 4)
    commands.train("parts", 2)
    assert commands.train("parts", 4, "--resume") == whole
    assert sum(int(row[whole[0].index("recovery_steps")]) for row in whole[1:]) > 0
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["recovery"]["kind"] == "model-based"
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert "recovery/model_error" in rows[-1]
    assert commands.run("evaluate", tmp_path / "whole", "--episodes", 2) == 0
    line = commands.refused("export", tmp_path / "whole", "--output", tmp_path / "bundle")
    assert "recovers by planning (model-based), which a bundle cannot hold" in line
    refused = commands.refused_training
    assert "--workers is 1: --recovery.kind model-based" in refused("--workers", 1)
    assert "--num-envs is 2: --planner.budget-ms" in refused("--num-envs", 2, "--planner-budget", 50)
    line = refused("--pretrained", tmp_path / "pretrained", "--planner.ensemble-size", 4)
    assert "was pretrained with planner.ensemble_size = 2, not 4" in line


def test_recovery_impact_does_not_plan(tmp_path, capsys):
    commands = PlanningCommands(tmp_path, "toys:Corridor", ["--recovery.kind", "model-based"], capsys)
    assert "only recovery-rl plans" in commands.refused_training(method="recovery-impact")
