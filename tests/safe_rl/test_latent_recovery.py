"""Recovery by planning in a latent model: by hand, on a toy of known dynamics, and through the commands."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from gymnasium import spaces
from planning_commands import PlanningCommands
from toy_images import Seen, image_config, walk
from toys import recovery_config

from safe_rl.algorithms.recovery_rl import RecoveryRLAgent
from safe_rl.config import RecoveryConfig, RecoveryRLConfig
from safe_rl.data.sequences import feature_sequences
from safe_rl.errors import UserError
from safe_rl.latent_recovery import LatentModelRecovery
from safe_rl.methods import make_agent
from safe_rl.nets.latent_dynamics import relative_errors
from safe_rl.planner_config import PlannerConfig
from safe_rl.planning_recovery import NUM_REMEMBERED
from safe_rl.pretraining import PARTIAL, pretrain_safety

ENV = Seen()
DATA = walk(ENV, 200)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------------------------------------------- planning


class FarFrom:
    """Risk by hand: how far the point is from the goal; actions cost nothing."""

    goal = torch.tensor([0.5, -0.5])

    def __call__(self, obs, action):
        return (obs - self.goal).square().sum(1)


class Moves(torch.nn.Module):
    """Known dynamics: a point moves by half the action."""

    def forward(self, features, action):
        return features + 0.5 * action


def recovery(**planner) -> LatentModelRecovery:
    settings = PlannerConfig(**{"horizon": 2, "iterations": 8, "hidden_sizes": (8,), **planner})
    made = LatentModelRecovery(2, 2, RecoveryConfig(), settings, FarFrom(), generator=generator())
    made.model.net.forward = lambda x: 0.5 * x[None, :, 2:]
    return made


STATES = torch.tensor([[0.2, -0.3], [0.9, -0.6], [0.5, -0.2]])
"""From each the goal is one action away."""


def test_the_cost_is_the_mean_risk_along_the_plan():
    plan = torch.tensor([[1.0, 0.0], [0.0, -1.0], [1.0, 1.0]])  # the last action leads where nobody looks
    # from (0, 0): by (0.5, 0) to (0.5, -0.5), risks 0.5, 0.25, 0
    cost = recovery(horizon=3).cost(torch.zeros(1, 2), plan.view(1, 1, 3, 2))
    assert cost.item() == pytest.approx((0.5 + 0.25 + 0.0) / 3)


def test_it_plans_to_the_minimum_of_a_known_quadratic_from_every_state():
    action = recovery(iterations=15).act(STATES, generator(), explore=True)
    torch.testing.assert_close(action, 2 * (FarFrom.goal - STATES), atol=0.02, rtol=0)


def test_a_model_that_is_not_asked_beyond_the_first_step_with_horizon_one():
    assert recovery(horizon=1).cost(STATES[:1], torch.zeros(1, 4, 1, 2)).tolist() == [[pytest.approx(0.13)] * 4]


def test_the_last_plan_is_a_start_where_it_is_good_and_only_there():
    made = recovery(iterations=1, population=2, elites=1)
    good = torch.tensor([[0.6, -0.4], [0.0, 0.0]])
    made.plans[3] = good  # what brings the first state to the goal
    noise = generator(3)
    first = made.cost(STATES[:1], made.plan(STATES[:1], noise, made.plans)[:, None])
    assert first.item() <= made.cost(STATES[:1], good[None, None]).item() + 1e-6
    bad = recovery(iterations=1, population=2, elites=1)
    bad.plans[:] = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]])
    standing = made.cost(STATES, torch.zeros(3, 1, 2, 2))
    assert (bad.cost(STATES, bad.plan(STATES, noise, bad.plans)[:, None]) <= standing).all()


def test_plans_are_remembered_one_step_on():
    made = recovery(horizon=3)
    plans = made.plan(STATES, generator(), made.plans)
    assert torch.equal(made.plans[:3], plans[:, [1, 2, 2]])
    assert not made.plans[3:].any()
    made.plan(STATES[:1].repeat(NUM_REMEMBERED + 2, 1), generator(), made.plans)
    assert made.plans.shape == (NUM_REMEMBERED, 3, 2)


def test_an_evaluation_changes_nothing_of_the_training():
    made, rng = recovery(), generator()
    made.act(STATES, rng, explore=True)
    plans, state = made.plans.clone(), rng.get_state()
    made.act(STATES, rng, explore=False)
    assert torch.equal(made.plans, plans)
    assert torch.equal(rng.get_state(), state)


# ------------------------------------------------------------------------------------------------------ a toy world


def config(**changes) -> RecoveryRLConfig:
    planner = PlannerConfig(horizon=3, population=64, elites=8, iterations=3, hidden_sizes=(64,), learning_rate=3e-3,
                            batch_size=32, pretrain_steps=5, refresh_every=1, refresh_steps=3)  # fmt: skip
    small = {"recovery__kind": "latent-model", "planner": planner, **changes}
    return image_config(**small)


def agent(seed: int = 0, **changes) -> RecoveryRLAgent:
    return RecoveryRLAgent(ENV.observation_space, ENV.action_space, config(**changes), seed=seed)


@pytest.fixture(scope="module")
def learned() -> RecoveryRLAgent:
    """Pretrained on random walks of the corridor."""
    made = agent(
        encoder__pretrain_steps=300, encoder__learning_rate=3e-3, encoder__channels=(16, 32), batch_size=64,
        risk__learning_rate=2e-3, risk__hidden_sizes=(64, 64), risk__gamma_risk=0.7, risk__tau=0.02,
        planner__pretrain_steps=800,
    )  # fmt: skip
    made.add_offline(walk(ENV, 1500))
    for steps in (made.pretrain_encoder(300), made.pretrain(500)):
        for _ in steps:
            pass
    made.losses = [float(m["recovery/model_loss"]) for m in made.pretrain_recovery(800)]
    return made


def test_the_models_loss_falls_and_held_out_it_beats_that_nothing_moves(learned):
    assert np.mean(learned.losses[-50:]) < 0.3 * np.mean(learned.losses[:10])
    other = agent()
    other.add_offline(walk(ENV, 300, seed=9))
    held_out = feature_sequences(other.replay, 3, learned.risk_encoder)
    features, actions = held_out.features[held_out.images], held_out.actions
    with torch.no_grad():
        errors = relative_errors(learned.recovery.model.unroll(features[:, 0], actions), features)
        blind = relative_errors(learned.recovery.model.unroll(features[:, 0], actions[torch.randperm(
            len(actions), generator=generator())]), features)  # fmt: skip
    assert errors.max() < 0.5
    assert (errors < 0.5 * blind).all()  # it listens to the actions


def violations(act, *, episodes: int = 40, steps: int = 4) -> int:
    """How many episodes that begin near the edge leave the corridor within a few steps."""
    env, count = Seen(), 0
    corridor = env.unwrapped
    for number in range(episodes):
        env.reset(seed=number)
        side = 1 if number % 2 else -1
        corridor.point = np.array([0.3, side * 0.22])
        obs = env.observation(corridor.point)
        for _ in range(steps):
            obs, _, done, _, info = env.step(act(obs.reshape(1, -1), number))
            if done:
                count += bool(info["cost"])
                break
    return count


def test_recovery_violates_less_than_random_actions(learned):
    rng = np.random.default_rng(0)

    def recover(obs, number):
        with torch.inference_mode():
            state = learned.risk_encoder(learned._tensor(obs))
            return learned.scaler.to_env(learned.recovery.act(state, generator(), explore=False).numpy())[0]

    by_chance = violations(lambda obs, number: rng.uniform(-0.15, 0.15, 2))
    assert by_chance >= 10
    assert violations(recover) <= 0.2 * by_chance


# ------------------------------------------------------------------------------------------------------ the agent


def filled(seed: int = 0, **changes) -> RecoveryRLAgent:
    made = agent(seed, risk__eps_risk=0.0, **changes)
    made.add_offline(DATA[:120])
    return made


def live(made: RecoveryRLAgent, data) -> list[dict[str, float]]:
    metrics = []
    for row in range(len(data)):
        made.act(data.obs[row : row + 1], explore=True)
        made.observe(data[row : row + 1])
        metrics.append({name: float(value) for name, value in made.update().items()})
    return metrics


def test_the_model_is_refreshed_every_so_many_episodes_and_not_before():
    made = filled(planner__refresh_every=2)
    before, ends = made.recovery.model.net.flat.detach().clone(), (DATA.terminated | DATA.truncated)[120:]
    first, second = 120 + np.flatnonzero(ends)[:2]
    made.observe(DATA[120:second])
    assert torch.equal(made.recovery.model.net.flat, before)
    made.observe(DATA[second : second + 1])
    assert first < second
    assert not torch.equal(made.recovery.model.net.flat, before)
    assert made.update()["recovery/model_loss"] > 0
    frozen = filled(risk__update_online=False)
    before = frozen.recovery.model.net.flat.detach().clone()
    frozen.observe(DATA[120:])
    assert torch.equal(frozen.recovery.model.net.flat, before)


def test_a_refresh_moves_the_model_alone():
    made = filled()
    before = made.risk_encoder.flat.detach().clone(), made.risk_critic.critics.flat.detach().clone()
    made.observe(DATA[120:])
    assert torch.equal(made.risk_encoder.flat, before[0])
    assert torch.equal(made.risk_critic.critics.flat, before[1])


def test_a_resumed_agent_goes_on_as_if_it_had_not_stopped():
    made, other = filled(), filled(seed=5)
    live(made, DATA[120:150])
    other.load_state_dict(made.state_dict())
    assert live(made, DATA[150:190]) == live(other, DATA[150:190])
    assert torch.equal(made.recovery.model.net.flat, other.recovery.model.net.flat)
    assert torch.equal(made.recovery.plans, other.recovery.plans)
    assert torch.equal(made.recovery.num_episodes, other.recovery.num_episodes)


def test_a_pretraining_cut_within_the_model_goes_on_as_if_it_had_not(tmp_path, monkeypatch):
    class Kill(BaseException):
        pass

    def kill(done, total, status):
        if done == 13:
            raise Kill

    changes = {"risk__pretrain_steps": 6, "planner__pretrain_steps": 12}
    monkeypatch.setattr("safe_rl.pretraining.SAVE_EVERY", 5)
    whole, cut, resumed = filled(**changes), filled(**changes), filled(**changes)
    told: list[tuple[int, int, str]] = []
    pretrain_safety(whole, tmp_path / "whole", lambda *args: told.append(args))
    assert [status for *_, status in told] == ["risk critic and recovery policy"] * 5 + ["dynamics model"] * 13
    with pytest.raises(Kill):
        pretrain_safety(cut, tmp_path / "run", kill)
    assert (tmp_path / "run" / PARTIAL).is_dir()
    pretrain_safety(resumed, tmp_path / "run")
    assert torch.equal(whole.recovery.model.net.flat, resumed.recovery.model.net.flat)
    assert torch.equal(whole.generator.get_state(), resumed.generator.get_state())


def test_observations_that_are_no_images_are_refused():
    actions = spaces.Box(-1, 1, (2,))
    with pytest.raises(UserError, match=r"^--recovery.kind is latent-model: the observation is no image"):
        make_agent(
            "recovery-rl", recovery_config(recovery__kind="latent-model"), spaces.Box(-1, 1, (4,)), actions, seed=0
        )
    with pytest.raises(UserError, match=r"^--planner.horizon is 7: --recovery.kind q-sampling does not plan"):
        agent(recovery__kind="q-sampling", planner=PlannerConfig(horizon=7))
    with pytest.raises(UserError, match=r"--planner.horizon is 31: no 31 transitions of the data follow each other"):
        filled(planner__horizon=31)


def test_a_run_keeps_the_planners_settings_only_where_there_is_one():
    assert "planner" not in recovery_config().settings(images=True)
    assert config().settings(images=True)["planner"]["horizon"] == 3


# ---------------------------------------------------------------------------------------------------- the commands

NETWORKS = [
    *("--encoder.channels", "8", "16", "--encoder.feature-dim", "16", "--batch-size", "16", "--device", "cpu"),
    *("--sac.hidden-sizes", "32", "--risk.hidden-sizes", "32", "--risk.eps-risk", "0.05", "--replay-capacity", "2000"),
    *("--recovery.kind", "latent-model", "--planner.hidden-sizes", "32", "--planner.population", "32"),
    *("--planner.elites", "4", "--planner.iterations", "3", "--planner.horizon", "3", "--planner.pretrain-steps", "20"),
    *("--planner.refresh-every", "2", "--planner.refresh-steps", "5", "--risk.pretrain-steps", "20"),
]


def test_through_the_commands_resumed_and_refused(tmp_path, capsys):
    commands = PlanningCommands(tmp_path, "toy_images:Seen", NETWORKS, capsys)
    collected = ("--output", tmp_path / "data", "--transitions", 300, "--policy", "random")
    assert commands.run("collect", "--env", "toy_images:Seen", *collected) == 0
    commands.pretrain()
    whole = commands.train("whole", 4)
    commands.train("parts", 2)
    assert commands.train("parts", 4, "--resume") == whole
    assert sum(int(row[whole[0].index("recovery_steps")]) for row in whole[1:]) > 0
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["recovery/model_loss"] > 0
    assert commands.run("evaluate", tmp_path / "whole", "--episodes", 2) == 0
    line = commands.refused("export", tmp_path / "whole", "--output", tmp_path / "bundle")
    assert line.startswith("safe-rl: error: ")
    assert "recovers by planning (latent-model), which a bundle cannot hold" in line
    assert "--workers is 1: --recovery.kind latent-model" in commands.refused_training("--workers", 1)
    line = commands.refused_training("--pretrained", tmp_path / "pretrained", "--planner.horizon", 2)
    assert "was pretrained with planner.horizon = 3, not 2" in line
