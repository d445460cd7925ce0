from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from toys import recovery_config, unconstrained_config

from safe_rl.checkpoint import load_state, save_state
from safe_rl.errors import UserError
from safe_rl.exploration import PinkNoise
from safe_rl.methods import get_method, make_agent

OBS = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACT = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
MEAN_RHO = (0 + 0.7788 + 0.9394 + 0.9845) / 4  # of exp(-1 / 4), exp(-1 / 16) and exp(-1 / 64)


def draws(steps, rows=1, act_dim=1, seed=0) -> np.ndarray:
    noise = PinkNoise(act_dim, torch.Generator().manual_seed(seed))
    return np.stack([noise.draw(rows).numpy() for _ in range(steps)])


def test_each_draw_is_standard_normal_from_the_first_on():
    for step in draws(3, rows=50_000):
        assert step.mean() == pytest.approx(0, abs=0.02)
        assert step.std() == pytest.approx(1, abs=0.02)
        assert (np.abs(step) < 1.96).mean() == pytest.approx(0.95, abs=0.01)


def test_draws_that_follow_each_other_are_alike_and_rows_and_components_are_not():
    first, second = draws(2, rows=50_000, act_dim=2)
    for component in range(2):
        assert np.corrcoef(first[:, component], second[:, component])[0, 1] == pytest.approx(MEAN_RHO, abs=0.02)
    assert np.corrcoef(first[:, 0], second[:, 1])[0, 1] == pytest.approx(0, abs=0.02)
    assert np.corrcoef(first[:-1, 0], second[1:, 0])[0, 1] == pytest.approx(0, abs=0.02)


def test_the_power_falls_as_one_over_the_frequency():
    steps = 1024
    power = (np.abs(np.fft.rfft(draws(steps, rows=256)[:, :, 0], axis=0)) ** 2).mean(1)
    frequency = np.fft.rfftfreq(steps)
    seen = (frequency > 1 / 400) & (frequency < 1 / 4)
    slope = np.polyfit(np.log(frequency[seen]), np.log(power[seen]), 1)[0]
    assert slope == pytest.approx(-1, abs=0.15)


def test_a_hundred_draws_go_three_times_as_far_as_independent_ones():
    distance = draws(100, rows=5_000)[:, :, 0].sum(0).std()
    assert distance > 3 * np.sqrt(100)


def test_another_number_of_environments_begins_anew():
    noise = PinkNoise(1, torch.Generator().manual_seed(0))
    one = noise.draw(50_000)
    assert noise.draw(3).shape == (3, 1)
    again = noise.draw(50_000)
    assert np.corrcoef(one[:, 0], again[:, 0])[0, 1] == pytest.approx(0, abs=0.02)


def sac_agent(noise, seed=0):
    config = unconstrained_config(sac__exploration_noise=noise, start_steps=0)
    return make_agent("unconstrained", config, OBS, ACT, seed=seed)


def acted(agent, steps=20, *, explore=True) -> np.ndarray:
    return np.stack([agent.act(np.zeros((2, 2), np.float32), explore=explore).action for _ in range(steps)])


def test_an_agent_explores_by_it_and_evaluates_without():
    made = sac_agent("pink")
    actions = acted(made, 500)
    alike = np.corrcoef(actions[:-1, :, 0].ravel(), actions[1:, :, 0].ravel())[0, 1]
    assert alike > 0.4
    white = acted(sac_agent("white"), 500)
    assert abs(np.corrcoef(white[:-1, :, 0].ravel(), white[1:, :, 0].ravel())[0, 1]) < 0.1
    still = acted(made, 2, explore=False)
    assert (still[0] == still[1]).all()


def test_a_saved_agent_goes_on_where_the_noise_was(tmp_path):
    made, other = sac_agent("pink"), sac_agent("pink", seed=5)
    acted(made)
    save_state(tmp_path / "agent", made.state_dict())
    other.load_state_dict(load_state(tmp_path / "agent"))
    assert (acted(made) == acted(other)).all()


@pytest.mark.parametrize(
    ("method", "action_space"),
    [("sqrl", ACT), ("recovery-rl", gym.spaces.Discrete(4)), ("unconstrained", gym.spaces.Discrete(4))],
)
def test_who_cannot_heed_it_refuses_it(method, action_space):
    config = get_method(method).config()
    config.sac.exploration_noise = "pink"
    with pytest.raises(UserError, match=r"--sac.exploration-noise is pink: it must be white: "):
        make_agent(method, config, OBS, action_space, seed=0)


def test_the_switch_watches_it_too():
    made = make_agent(
        "recovery-rl", recovery_config(sac__exploration_noise="pink", risk__eps_risk=0.0), OBS, ACT, seed=0
    )
    decision = made.act(np.zeros((1, 2), np.float32), explore=True)
    assert decision.task_action.shape == (1, 3)
    assert not np.array_equal(decision.action, decision.task_action)
