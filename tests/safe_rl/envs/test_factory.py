from __future__ import annotations

import logging
import math
import sys
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import toys

from safe_rl.envs.factory import CostEnv, make_env, split_arguments
from safe_rl.errors import EnvironmentFault, UserError

NAN = math.nan


def obs(*numbers):
    return np.array(numbers, np.float32)


@pytest.fixture
def registered():
    gym.register("ToyCorridor-v3", entry_point=toys.Corridor, max_episode_steps=7)
    yield "ToyCorridor-v3"
    del gym.registry["ToyCorridor-v3"]


def test_a_registered_id_keeps_its_time_limit(registered):
    env = make_env(registered)
    env.reset(seed=0)
    steps = [env.step(np.zeros(2, np.float32)) for _ in range(7)]
    assert [step[3] for step in steps] == [False] * 6 + [True]
    assert env.name == registered
    assert isinstance(env.unwrapped, toys.Corridor)


def test_a_factory_of_the_users_own():
    env = make_env("toys:Script", length=2, costs=(2,))
    env.reset(seed=0)
    assert [env.step(obs(0))[4] for _ in range(2)] == [{"cost": 0.0, "success": False}, {"cost": 1.0, "success": True}]
    assert env.unwrapped.length == 2


def test_a_module_in_the_current_folder_is_found(tmp_path: Path, monkeypatch):
    (tmp_path / "my_robot_7.py").write_text("from toys import Corridor as make\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    assert isinstance(make_env("my_robot_7:make").unwrapped, toys.Corridor)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("NoSuchEnvironment-v0", "no environment 'NoSuchEnvironment-v0'"),
        ("ToyCorridor-v9", "ToyCorridor-v9"),
        ("no_such_namespace/Thing-v0", "no_such_namespace"),
        ("", "no environment ''"),
        ("no_such_module:make", "cannot import 'no_such_module'"),
        (":make", "package.module:factory"),
        ("..toys:make", "cannot import '..toys'"),
        ("toys:", "package.module:factory"),
        ("toys:no_such_factory", "has no factory 'no_such_factory'"),
        ("toys:NOT_CALLABLE", "toys:NOT_CALLABLE is no factory"),
        ("toys:nothing", "returned str, not a gymnasium.Env"),
        ("toys:raising", "raised RuntimeError: no licence"),
    ],
)
def test_an_environment_that_does_not_exist(name, words, registered):
    with pytest.raises(UserError) as caught:
        make_env(name)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_typing_error_in_an_id_gets_a_suggestion(registered):
    with pytest.raises(UserError, match="ToyCorridor"):
        make_env("ToyCoridor-v3")


@pytest.mark.parametrize("source", ["raise RuntimeError('no GPU')", "import numpy as", "1 / 0"])
def test_a_module_that_cannot_be_imported_is_named(tmp_path, monkeypatch, source):
    (tmp_path / "broken_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("broken_module", None)
    with pytest.raises(UserError, match="cannot import 'broken_module'"):
        make_env("broken_module:make")


def test_a_registered_environment_that_cannot_be_made_is_named():
    gym.register("Unmakeable-v0", entry_point=toys.raising)
    try:
        with pytest.raises(UserError, match="'Unmakeable-v0' raised RuntimeError: no licence"):
            make_env("Unmakeable-v0")
    finally:
        del gym.registry["Unmakeable-v0"]


def test_an_observation_space_that_no_learner_takes():
    with pytest.raises(UserError, match="must be a Box or a Dict"):
        make_env("FrozenLake-v1")


# --------------------------------------------------------------------------------------- the contract of step


def step_of(result, cost_key="cost"):
    env = CostEnv(toys.Broken(result), cost_key, "toy")
    env.reset(seed=0)
    return env.step(obs(0))


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (True, 1.0), (False, 0.0), (np.True_, 1.0), (0, 0.0), (3, 1.0), (0.0, 0.0), (0.25, 1.0), (-1.0, 0.0),
        (np.float32(2), 1.0), (np.array(1), 1.0), (math.inf, 1.0),
    ],
)  # fmt: skip
def test_the_constraint_may_be_a_bool_an_int_or_a_float(cost, expected):
    info = step_of((obs(0, 0), 0.0, False, False, {"hazard": cost, "cost": "another thing"}), "hazard")[4]
    assert info["cost"] == expected
    assert type(info["cost"]) is float
    assert info["hazard"] is cost


def test_a_step_without_the_entry_costs_nothing():
    assert step_of((obs(0, 0), 0.0, False, False, {}))[4] == {"cost": 0.0, "success": False}


def test_a_missing_entry_is_warned_about_once(caplog):
    env = CostEnv(toys.Broken((obs(0, 0), 0.0, False, False, {})), "hazard", "toy")
    env.reset(seed=0)
    with caplog.at_level(logging.WARNING):
        for _ in range(2500):
            env.step(obs(0))
    assert [record.getMessage().count("'hazard'") for record in caplog.records] == [1]


def test_an_entry_that_comes_only_with_violations_is_not_warned_about(caplog):
    env = CostEnv(toys.Script(length=5000, costs=(1,)), "cost", "toy")
    env.reset(seed=0)
    env.env.step = lambda action, real=env.env.step: _without_false_cost(real(action))
    with caplog.at_level(logging.WARNING):
        costs = [env.step(obs(0))[4]["cost"] for _ in range(1500)]
    assert sum(costs) == 1
    assert not caplog.records


def _without_false_cost(result):
    if not result[4]["cost"]:
        del result[4]["cost"]
    return result


def test_the_six_values_of_safety_gymnasium_are_adapted():
    result = step_of((obs(1, 2), 0.5, 2.0, True, False, {"cost": 0.0, "goal_met": True}))
    assert len(result) == 5
    assert result[1:4] == (0.5, True, False)
    assert result[4]["cost"] == 1.0
    assert result[4]["goal_met"] is True


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"success": True}, True), ({"success": 0}, False), ({"is_success": np.float32(1)}, True), ({}, False),
        ({"success": False, "is_success": True}, False),
    ],
)  # fmt: skip
def test_success_is_a_bool_under_either_of_its_names(info, expected):
    assert step_of((obs(0, 0), 0.0, False, False, info))[4]["success"] is expected


def test_plain_types_come_out():
    result = step_of((obs(0, 0), np.float64(1), np.True_, np.False_, {}))
    assert [type(value) for value in result[1:4]] == [float, bool, bool]


FAULTS = {
    "NaN observation": ((obs(NAN, 0), 0.0, False, False, {}), "observation that is not finite"),
    "infinite observation": ((obs(math.inf, 0), 0.0, False, False, {}), "observation that is not finite"),
    "too large for float32": ((np.array([1e300, 0]), 0.0, False, False, {}), "observation that is not finite"),
    "wrong shape": ((obs(0, 0, 0), 0.0, False, False, {}), r"shape \(3,\); its space says \(2,\)"),
    "transposed shape": ((np.zeros((2, 1), np.float32), 0.0, False, False, {}), r"shape \(2, 1\)"),
    "no observation": ((None, 0.0, False, False, {}), "observation"),
    "words for an observation": ((np.array(["a", "b"]), 0.0, False, False, {}), "observation"),
    "ragged observation": (([1.0, [2.0, 3.0]], 0.0, False, False, {}), "observation"),
    "NaN reward": ((obs(0, 0), NAN, False, False, {}), "reward nan"),
    "infinite reward": ((obs(0, 0), -math.inf, False, False, {}), "reward -inf"),
    "no reward": ((obs(0, 0), None, False, False, {}), "reward None"),
    "NaN cost": ((obs(0, 0), 0.0, False, False, {"cost": NAN}), "NaN as the constraint info\\['cost'\\]"),
    "words for a cost": ((obs(0, 0), 0.0, False, False, {"cost": "low"}), "'low' as the constraint"),
    "the old four values": ((obs(0, 0), 0.0, False, {}), "returned 4 values"),
    "no tuple": (7, "returned int from step"),
    "no info": ((obs(0, 0), 0.0, False, False, None), "the dictionary info"),
    "exception": (RuntimeError("the motor\nis on fire"), "raised in step: RuntimeError: the motor is on fire"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_step_that_no_learner_can_use(name):
    result, words = FAULTS[name]
    with np.errstate(over="ignore"), pytest.raises(EnvironmentFault, match=words) as caught:
        step_of(result)
    assert "toy" in str(caught.value)
    assert "\n" not in str(caught.value)


RESET_FAULTS = {
    "NaN": ((obs(0, NAN), {}), "not finite"),
    "wrong shape": ((obs(0), {}), r"shape \(1,\)"),
    "no info": (obs(0, 0), r"shape \(\)"),
    "exception": (OSError("no /dev/ttyUSB0"), "raised in reset: OSError: no /dev/ttyUSB0"),
}


@pytest.mark.parametrize("name", RESET_FAULTS)
def test_a_reset_that_no_learner_can_use(name):
    result, words = RESET_FAULTS[name]
    env = CostEnv(toys.Broken(reset_result=result), "cost", "toy")
    with pytest.raises(EnvironmentFault, match=words) as caught:
        env.reset(seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"x": obs(0)},
        {"x": obs(0), "y": obs(NAN)},
        {"x": obs(0, 1), "y": np.zeros(0, np.float32)},  # two numbers in all, as there should be
        obs(0, 0),
    ],
    ids=["missing key", "NaN", "other shapes", "no dict"],
)
def test_a_dict_observation_is_checked_entry_by_entry(wrong):
    env = CostEnv(toys.Keyed(), "hazard", "toy")
    env.reset(seed=0)
    env.env.step = partial(_fixed, (wrong, 0.0, False, False, {}))
    with pytest.raises(EnvironmentFault, match="observation"):
        env.step(obs(0, 0))


def _fixed(result, action):
    return result


def test_a_dict_observation_is_flattened_by_the_wrapper():
    env = make_env("toys:Keyed", cost_key="hazard")
    start, _ = env.reset(seed=4)
    assert env.flat(start).tolist() == [start["x"].item(), start["y"].item()]
    assert env.obs_dim == 2


def test_a_users_error_passes_through_unchanged():
    error = UserError("plug the robot in")
    with pytest.raises(UserError, match=r"^plug the robot in$"):
        step_of(error)


def test_ctrl_c_is_no_fault_of_the_environment():
    with pytest.raises(KeyboardInterrupt):
        step_of(KeyboardInterrupt())


def test_arguments_follow_a_question_mark():
    assert split_arguments("a/B-v0") == ("a/B-v0", {})
    name, arguments = split_arguments("a/B-v0?size=64&noise=0.5&renderer=egl&flat=true&deep=false&big=1e3&mixed=3px")
    assert name == "a/B-v0"
    assert arguments == {
        "size": 64, "noise": 0.5, "renderer": "egl", "flat": True, "deep": False, "big": 1000.0, "mixed": "3px"
    }  # fmt: skip
    assert type(arguments["size"]) is int and type(arguments["big"]) is float


@pytest.mark.parametrize("env", ["a/B-v0?noise", "a/B-v0?=3", "a/B-v0?no ise=3", "a/B-v0?a=1&&b=2"])
def test_arguments_that_are_none_are_named(env):
    with pytest.raises(UserError, match="name=value"):
        make_env(env)


def test_arguments_reach_registered_environments_and_factories(monkeypatch):
    made = []

    def factory(**kwargs):
        made.append(kwargs)
        return toys.Corridor()

    monkeypatch.setattr(toys, "with_arguments", factory, raising=False)
    gym.register("WithArguments-v0", entry_point=factory)
    try:
        env = make_env("toys:with_arguments?size=3&kind=b", kind="c")
        make_env("WithArguments-v0?size=4")
    finally:
        del gym.registry["WithArguments-v0"]
    assert made == [{"size": 3, "kind": "c"}, {"size": 4}]
    assert env.name == "toys:with_arguments?size=3&kind=b"
