from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces

from safe_rl.data.behaviours import checked_act, make_behaviour, random_action
from safe_rl.data.collect import CollectConfig, collect
from safe_rl.envs.factory import make_env
from safe_rl.errors import EnvironmentFault, UserError


def actions(policy: str, noise: float | None = None, env: str = "tiny_env:LineEnv", count: int = 2000) -> np.ndarray:
    made = make_env(env)
    start = make_behaviour(policy, noise, made)(np.random.default_rng(0))
    obs, _ = made.reset(seed=0)
    return np.array([start.act(obs)[0] for _ in range(count)])


def test_random_actions_fill_the_range() -> None:
    drawn = actions("random")
    assert drawn.min() >= -0.5
    assert drawn.max() <= 0.5
    assert drawn.std() == pytest.approx(1 / np.sqrt(12), rel=0.05)


def test_random_actions_of_an_unbounded_component_are_standard_normal() -> None:
    space = spaces.Box(np.array([-2.0, -np.inf, 0.0]), np.array([2.0, np.inf, np.inf]), dtype=np.float64)
    rng = np.random.default_rng(0)
    drawn = np.array([random_action(space, rng) for _ in range(4000)])
    assert drawn[:, 0].std() == pytest.approx(4 / np.sqrt(12), rel=0.05)
    assert drawn[:, 1].std() == pytest.approx(1, rel=0.05)
    assert drawn[:, 2].min() >= 0
    assert np.isfinite(drawn).all()


def test_the_expert_alone_and_with_noise() -> None:
    assert set(actions("expert").reshape(-1)) == {np.float32(-0.3)}
    noisy = actions("expert", noise=0.05)
    assert noisy.mean() == pytest.approx(-0.3, abs=0.005)
    assert noisy.std() == pytest.approx(0.05, rel=0.1)  # 5 % of a range of 1
    by_default = actions("noisy-expert")
    assert by_default.min() == -0.5  # clipped to the range
    assert 0.07 < by_default.std() < 0.1


def test_discrete_noise_is_a_probability() -> None:
    import tiny_env

    env = make_env("tiny_env:DictEnv")
    tiny_env.DictEnv.expert_action = lambda self, obs: np.int64(1)
    start = make_behaviour("expert", 0.3, env)(np.random.default_rng(0))
    drawn = np.array([start.act(None)[0] for _ in range(4000)])
    assert set(drawn) == {1, 2, 3}
    assert (drawn == 1).mean() == pytest.approx(0.8, abs=0.02)  # 0.7, and a third of 0.3


def test_auto_takes_segments_where_they_are_offered() -> None:
    rng = np.random.default_rng(0)
    segment = make_behaviour("auto", None, make_env("tiny_env:BoundaryEnv"))(rng)
    assert segment.max_steps == 4
    assert segment.options is not None
    plain = make_behaviour("auto", None, make_env("tiny_env:LineEnv"))(rng)
    assert (plain.max_steps, plain.options) == (None, None)


@pytest.mark.parametrize(
    ("policy", "noise", "env", "message"),
    [
        ("boundary", None, "tiny_env:LineEnv", "knows no boundary .*use --policy random"),
        ("expert", None, "CartPole-v1", "has no expert .*use --policy random"),
        ("random", 0.1, "tiny_env:LineEnv", "--noise 0.1 has no meaning with --policy random"),
        ("auto", 0.1, "tiny_env:BoundaryEnv", "--noise 0.1 has no meaning with --policy boundary"),
        ("brilliant", None, "tiny_env:LineEnv", "neither one of auto, boundary, .* nor the folder of a run"),
    ],
)
def test_what_an_environment_does_not_offer(policy: str, noise: float | None, env: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_behaviour(policy, noise, make_env(env))


def test_noise_needs_a_range(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env("tiny_env:LineEnv")
    monkeypatch.setattr(env.unwrapped, "action_space", spaces.Box(-np.inf, np.inf, (1,), np.float32))
    with pytest.raises(UserError, match="has no bounds"):
        make_behaviour("expert", 0.1, env)


@pytest.fixture
def saved_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose policy proposes 0.5 and executes -0.25 where the position is positive."""

    class Agent:
        def act(self, obs: np.ndarray, *, explore: bool) -> SimpleNamespace:
            assert obs.dtype == np.float32
            assert obs.shape == (1, 2)
            assert not explore
            proposed = np.full((1, 1), 0.5, dtype=np.float32)
            return SimpleNamespace(task_action=proposed, action=np.where(obs[:, :1] > 0, -0.25, proposed))

    def load_run(path: Path) -> SimpleNamespace:
        return SimpleNamespace(
            env_id="tiny_env:LineEnv", make_agent=lambda: Agent(), make_env=lambda: make_env("tiny_env:LineEnv")
        )

    module = ModuleType("safe_rl.runs")
    module.load_run = load_run
    monkeypatch.setitem(sys.modules, "safe_rl.runs", module)
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_a_saved_policy_acts_and_what_it_proposed_is_kept(saved_run: Path, tmp_path: Path) -> None:
    settings = {"env": "tiny_env:LineEnv", "policy": str(saved_run), "transitions": 100}
    transitions = collect(CollectConfig(output=tmp_path / "d", **settings)).transitions()
    assert set(transitions.task_action[:, 0]) == {0.5}
    overridden = transitions.obs[:, 0] > 0
    assert overridden.any()
    np.testing.assert_array_equal(transitions.action[:, 0], np.where(overridden, -0.25, 0.5))
    noisy = collect(CollectConfig(output=tmp_path / "noisy", noise=0.05, **settings)).transitions()
    changed = noisy.action != noisy.task_action
    np.testing.assert_array_equal(changed[:, 0], noisy.obs[:, 0] > 0)
    assert set(noisy.task_action[changed]) == {0.5}
    assert len(set(noisy.action[:, 0])) > 50


def test_a_saved_policy_of_another_environment_is_refused(saved_run: Path) -> None:
    with pytest.raises(UserError, match=r"observations of shape \(2,\), environment CartPole-v1 of \(4,\)"):
        make_behaviour(str(saved_run), None, make_env("CartPole-v1"))


def test_a_policy_that_fails_is_named() -> None:
    env = make_env("tiny_env:LineEnv")
    faulty = [
        (lambda obs: 1 / 0, "ZeroDivisionError"),
        (lambda obs: (np.zeros(3), np.zeros(3)), "ValueError"),
        (lambda obs: (np.array([np.nan]), np.zeros(1)), "must be finite"),
    ]
    for act, message in faulty:
        with pytest.raises(EnvironmentFault, match=message):
            checked_act(act, None, env)
