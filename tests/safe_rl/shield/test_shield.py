"""What the shield decides, with an engine whose answers the test chooses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from safe_rl.errors import UserError
from safe_rl.shield.black_box import BlackBox, read_black_box
from safe_rl.shield.bundle import PolicyBundle
from safe_rl.shield.decision import Reason
from safe_rl.shield.engine import Evaluation
from safe_rl.shield.shield import Shield
from safe_rl.shield.spec import BundleSpec, DistributionSpec, LimitSpec, StopSpec, SwitchSpec
from safe_rl.switch import Mode, RecoverySwitch

TASK_ACTION, RECOVERY_ACTION = np.float32([0.5, -0.25]), np.float32([-1.0, 1.0])


def box(*shape: int, dtype: str = "float32") -> dict:
    return {"type": "Box", "low": "-inf", "high": "inf", "shape": list(shape), "dtype": dtype}


SPEC = BundleSpec(
    method="recovery-rl",
    env="test/Env-v0",
    observation_space=box(3),
    action_space=box(2),
    recovery="model-free",
    gamma_risk=0.8,
    switch=SwitchSpec(eps_risk=0.3),
    limits=LimitSpec(low=(-1.0, -1.0), high=(1.0, 1.0)),
)
OBS = np.zeros(3, dtype=np.float32)


class ScriptedEngine:
    """Answers what the test wrote into it."""

    name = "scripted"

    def __init__(self) -> None:
        self.risk = 0.0
        self.task_action, self.recovery_action = TASK_ACTION, RECOVERY_ACTION
        self.error: Exception | None = None
        self.seen: list[np.ndarray] = []
        self.on_call = lambda: None

    def decide(self, obs: np.ndarray, eps_risk: float) -> Evaluation:
        return self.filter(obs, self.task_action[None], eps_risk)

    def filter(self, obs: np.ndarray, proposal: np.ndarray, eps_risk: float) -> Evaluation:
        self.on_call()
        if self.error is not None:
            raise self.error
        self.seen.append(obs.copy())
        risk = np.float32([self.risk])
        hands_over = RecoverySwitch(np.float32(eps_risk)).hands_over(risk)
        return Evaluation(proposal, self.recovery_action[None], risk, hands_over, np.zeros((1, 4), np.float32))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(engine: ScriptedEngine, clock: Clock):
    def make_shield(**changes) -> Shield:
        return Shield(PolicyBundle(Path("nowhere"), dataclasses.replace(SPEC, **changes)), engine, clock=clock)

    return make_shield


def test_the_truth_table(make, engine):
    shield = make()
    for risk, mode, reason, action in (
        (0.0, Mode.TASK, Reason.NONE, TASK_ACTION),
        (0.3, Mode.TASK, Reason.NONE, TASK_ACTION),  # at the threshold is still safe
        (np.nextafter(np.float32(0.3), np.float32(1)), Mode.RECOVERY, Reason.RISK, RECOVERY_ACTION),
        (1.0, Mode.RECOVERY, Reason.RISK, RECOVERY_ACTION),
        (float("nan"), Mode.STOP, Reason.OUTPUT_NOT_FINITE, np.zeros(2)),
    ):
        engine.risk = risk
        decision = shield.decide(OBS)
        assert (decision.mode, decision.reason) == (mode, reason), risk
        np.testing.assert_array_equal(decision.action, np.float32(action))
        np.testing.assert_array_equal(decision.task_action, TASK_ACTION)
        assert decision.risk == pytest.approx(risk, nan_ok=True)


@pytest.mark.parametrize(
    ("obs", "reason"),
    [
        (np.float32([0, np.nan, 0]), Reason.OBSERVATION_NOT_FINITE),
        (np.float32([0, 0, -np.inf]), Reason.OBSERVATION_NOT_FINITE),
        (np.float64([0, 1e300, 0]), Reason.OBSERVATION_NOT_FINITE),
        (np.zeros(4, np.float32), Reason.OBSERVATION_WRONG_SHAPE),
        (np.zeros((1, 3), np.float32), Reason.OBSERVATION_WRONG_SHAPE),
        (np.zeros(3, complex), Reason.OBSERVATION_WRONG_DTYPE),
        (np.array(["a", "b", "c"]), Reason.OBSERVATION_WRONG_DTYPE),
        (np.array([None, 1, 2]), Reason.OBSERVATION_WRONG_DTYPE),
        (None, Reason.OBSERVATION_WRONG_SHAPE),
        ([[1, 2], [3]], Reason.OBSERVATION_UNREADABLE),
        (np.ma.array([0, 1, 0], np.float32, mask=[0, 1, 0]), Reason.OBSERVATION_UNREADABLE),
    ],
)
def test_an_observation_that_cannot_be_decided_on_stops(make, engine, obs, reason):
    shield = make()
    calls = len(engine.seen)
    for decision in (shield.decide(obs), shield.filter(obs, TASK_ACTION)):
        assert (decision.mode, decision.reason) == (Mode.STOP, reason)
        np.testing.assert_array_equal(decision.action, [0, 0])
        assert np.isnan(decision.risk)
    assert len(engine.seen) == calls
    assert shield.decide(OBS).mode is Mode.TASK  # and it goes on with the next good one


def test_finite_numbers_whose_square_overflows_are_finite(make):
    assert make().decide(np.float32([3e38, -3e38, 1])).mode is Mode.TASK


@pytest.mark.parametrize(
    ("proposal", "reason"),
    [
        ([np.nan, 0], Reason.PROPOSAL_NOT_FINITE),
        ([0.0, np.inf], Reason.PROPOSAL_NOT_FINITE),
        ([0.0], Reason.PROPOSAL_WRONG_SHAPE),
        (["1", "2"], Reason.PROPOSAL_WRONG_DTYPE),
        ([[1], [2, 3]], Reason.PROPOSAL_UNREADABLE),
        (np.ma.array([0.0, 1.0], mask=[1, 0]), Reason.PROPOSAL_UNREADABLE),
    ],
)
def test_a_command_that_cannot_be_judged_stops(make, proposal, reason):
    decision = make().filter(OBS, proposal)
    assert (decision.mode, decision.reason) == (Mode.STOP, reason)


def test_a_command_beyond_the_limits_is_judged_and_executed_at_the_limits(make):
    decision = make().filter(OBS, [5, -0.5])
    assert decision.mode is Mode.TASK
    np.testing.assert_array_equal(decision.task_action, np.float32([1, -0.5]))
    np.testing.assert_array_equal(decision.action, np.float32([1, -0.5]))


def test_a_failing_engine_stops(make, engine, caplog):
    shield = make()
    engine.error = MemoryError("no room")
    decision = shield.decide(OBS)
    assert (decision.mode, decision.reason) == (Mode.STOP, Reason.ENGINE_FAILED)
    assert "no room" in caplog.text
    engine.error = None
    engine.recovery_action = np.float32([np.nan, 0])  # not even what is not used may be no number
    assert shield.decide(OBS).reason is Reason.OUTPUT_NOT_FINITE


def test_parts_that_do_not_fit_together_are_one_line_before_the_loop(make, engine):
    engine.error = RuntimeError("shapes differ,\nthey say")
    with pytest.raises(UserError, match=r"nowhere does not fit together \(shapes differ, they say\)"):
        make()


@pytest.mark.parametrize("stopping", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_passes(make, engine, stopping):
    shield = make()
    engine.error = stopping()
    with pytest.raises(stopping):
        shield.decide(OBS)


def test_hysteresis_and_least_recovery_time(make, engine, clock):
    shield = make(switch=SwitchSpec(eps_risk=0.3, release_risk=0.1, min_recovery_sec=1.0))
    for step_sec, risk, expected in (
        (0.0, 0.2, Reason.NONE),
        (0.1, 0.4, Reason.RISK),
        (0.1, 0.2, Reason.HYSTERESIS),
        (0.1, 0.35, Reason.RISK),
        (0.1, 0.1, Reason.MINIMUM_RECOVERY_TIME),  # 0.3 s of 1 s
        (0.6, 0.0, Reason.MINIMUM_RECOVERY_TIME),  # 0.9 s
        (0.2, 0.1, Reason.NONE),  # 1.1 s, at release_risk
        (0.1, 0.2, Reason.NONE),  # below eps_risk as before
    ):
        clock.now += step_sec
        engine.risk = risk
        assert shield.decide(OBS).reason is expected, (clock.now, risk)


def test_a_stop_does_not_end_a_recovery_and_a_reset_does(make, engine):
    shield = make(switch=SwitchSpec(eps_risk=0.3, release_risk=0.1))
    engine.risk = 0.5
    assert shield.decide(OBS).reason is Reason.RISK
    assert shield.decide(None).mode is Mode.STOP
    engine.risk = 0.2
    assert shield.decide(OBS).reason is Reason.HYSTERESIS
    shield.reset()
    assert shield.decide(OBS).reason is Reason.NONE


def test_whoever_runs_it_can_stop_it(make, tmp_path):
    shield = make(stop=StopSpec("hold"))
    shield.black_box = BlackBox(tmp_path, 3, 2)
    shield.decide(OBS)
    decision = shield.stop()
    assert (decision.mode, decision.reason) == (Mode.STOP, Reason.EXTERNAL)
    np.testing.assert_array_equal(decision.action, TASK_ACTION)
    shield.stop()
    shield.close()
    (dump,) = tmp_path.iterdir()  # of the first of the two alone
    recording = read_black_box(dump)
    assert recording.reason == ("", "external")
    assert np.isnan(recording.obs[-1]).all()


def test_the_threshold_can_be_set_while_it_runs(make, engine):
    shield = make(switch=SwitchSpec(eps_risk=0.3, release_risk=0.2))
    engine.risk = 0.15
    assert shield.decide(OBS).mode is Mode.TASK
    shield.eps_risk = 0.1
    assert shield.decide(OBS).reason is Reason.RISK
    engine.risk = 0.1  # the release came down with it
    assert shield.decide(OBS).mode is Mode.TASK
    shield.eps_risk = 0.3
    engine.risk = 0.25
    assert shield.decide(OBS).mode is Mode.TASK
    for wrong in (-0.1, 1.0, 1 - 1e-8, float("nan")):  # 1 - 1e-8 is 1 in float32: nothing is above it
        with pytest.raises(ValueError, match="eps_risk is"):
            shield.eps_risk = wrong
    assert shield.eps_risk == 0.3


def test_an_overrun_stops(make, engine, clock):
    shield = make(deadline_sec=0.01)
    engine.on_call = lambda: setattr(clock, "now", clock.now + 0.011)
    decision = shield.decide(OBS)
    assert (decision.mode, decision.reason) == (Mode.STOP, Reason.OVERRUN)
    assert decision.solve_time_sec == pytest.approx(0.011)
    engine.on_call = lambda: setattr(clock, "now", clock.now + 0.009)
    assert shield.decide(OBS).mode is Mode.TASK


def test_rates_are_limited_from_rest_and_stop_is_immediate(make, engine):
    limits = LimitSpec(low=(-1.0, -1.0), high=(1.0, 1.0), max_rate=(1.0, 4.0), control_period_sec=0.1)
    shield = make(limits=limits)
    np.testing.assert_allclose(shield.decide(OBS).action, [0.1, -0.25], rtol=1e-6)
    np.testing.assert_allclose(shield.decide(OBS).action, [0.2, -0.25], rtol=1e-6)
    engine.risk = 1.0
    np.testing.assert_allclose(shield.decide(OBS).action, [0.1, 0.15], rtol=1e-5)
    np.testing.assert_array_equal(shield.decide(None).action, [0, 0])
    np.testing.assert_allclose(shield.decide(OBS).action, [-0.1, 0.4], rtol=1e-6)


def test_deciding_sooner_does_not_loosen_the_rate_limits(make):
    limits = LimitSpec(low=(-1.0, -1.0), high=(1.0, 1.0), max_rate=(1.0, 4.0), control_period_sec=0.1)
    shield = make(limits=limits)
    np.testing.assert_allclose(shield.decide(OBS, elapsed_sec=0.025).action, [0.025, -0.1], rtol=1e-6)
    np.testing.assert_allclose(shield.decide(OBS, elapsed_sec=0.0).action, [0.025, -0.1], rtol=1e-6)
    np.testing.assert_allclose(shield.decide(OBS, elapsed_sec=-1.0).action, [0.025, -0.1], rtol=1e-6)
    np.testing.assert_allclose(shield.decide(OBS, elapsed_sec=7.0).action, [0.125, -0.25], rtol=1e-6)  # one period
    filtered = shield.filter(OBS, np.float32([1.0, -0.25]), elapsed_sec=0.05)
    np.testing.assert_allclose(filtered.action, [0.175, -0.25], rtol=1e-6)


def test_rates_beyond_float32_are_finite_steps(make):
    limits = LimitSpec((-1.0, -1.0), (1.0, 1.0), max_rate=(1e-46, 1e38), control_period_sec=1e300)
    np.testing.assert_array_equal(make(limits=limits).decide(OBS).action, TASK_ACTION)


@pytest.mark.parametrize(
    ("stop", "low", "first", "later"),
    [
        (StopSpec("zero"), -1.0, [0, 0], [0, 0]),
        (StopSpec("zero"), 0.1, [0.1, 0.1], [0.1, 0.1]),  # zero is not allowed here: the nearest that is
        (StopSpec("hold"), -1.0, [0, 0], TASK_ACTION),
        (StopSpec("action", (0.25, -5.0)), -1.0, [0.25, -1], [0.25, -1]),
    ],
)
def test_what_stop_means(make, stop, low, first, later):
    shield = make(stop=stop, limits=LimitSpec(low=(low, low), high=(1.0, 1.0)))
    np.testing.assert_array_equal(shield.decide(None).action, np.float32(first))
    shield.decide(OBS)
    np.testing.assert_array_equal(shield.decide(None).action, np.maximum(np.float32(later), np.float32(low)))
    np.testing.assert_array_equal(shield.decide(None).action, np.maximum(np.float32(later), np.float32(low)))


def test_answers_are_the_callers_own(make):
    shield = make(stop=StopSpec("hold"))
    decision = shield.decide(OBS)
    decision.action[:] = 77
    decision.task_action[:] = 77
    np.testing.assert_array_equal(shield.decide(None).action, TASK_ACTION)
    np.testing.assert_array_equal(shield.decide(OBS).task_action, TASK_ACTION)
    stopped = shield.decide(None)
    stopped.task_action[:] = 5
    assert np.isnan(shield.decide(None).task_action).all()


def test_dict_observations_are_read_entry_by_entry(make, engine):
    space = {
        "type": "Dict",
        "spaces": {"b": box(2), "a": {"type": "Dict", "spaces": {"image": box(2, 2, dtype="uint8")}}},
    }
    shield = make(observation_space=space)
    obs = {"b": [1.0, 2.0], "a": {"image": np.uint8([[3, 4], [5, 255]])}, "unused": None}
    assert shield.decide(obs).mode is Mode.TASK
    np.testing.assert_array_equal(engine.seen[-1], np.float32([[3, 4, 5, 255, 1, 2]]))
    assert shield.decide({"b": [1.0, 2.0]}).reason is Reason.OBSERVATION_ENTRY_MISSING
    assert shield.decide([1.0]).reason is Reason.OBSERVATION_ENTRY_MISSING
    for dtype in (np.float64, np.float32):  # an image of 0 to 1 would be all but black
        floats = {**obs, "a": {"image": np.ones((2, 2), dtype)}}
        assert shield.decide(floats).reason is Reason.OBSERVATION_WRONG_DTYPE


class Hostile:
    """Raises wherever it is touched."""

    def __array__(self, *args, **kwargs):
        raise RuntimeError("touched")

    def __len__(self):
        raise RuntimeError("touched")


anything = st.one_of(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8, bool, complex, "U3", object]), st.just((3,))
    ),
    hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=3, max_side=4)),
    hnp.arrays(np.float32, 3, elements=st.floats(width=32)),
    st.recursive(
        st.none() | st.floats() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    ),
    st.just(Hostile()),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(anything, st.none() | anything, st.floats(width=32), st.floats(width=32)), max_size=5))
def test_nothing_raises_and_nothing_escapes_the_limits(inputs):
    engine, clock = ScriptedEngine(), Clock()
    limits = LimitSpec(low=(-1.0, 0.1), high=(1.0, 0.1), max_rate=(3.0, 1e30), control_period_sec=0.1)
    spec = dataclasses.replace(SPEC, limits=limits, switch=SwitchSpec(0.3, release_risk=0.2, min_recovery_sec=0.1))
    shield = Shield(PolicyBundle(Path("nowhere"), spec), engine, clock=clock)
    for obs, proposal, risk, action in inputs:
        engine.risk = risk
        engine.task_action = np.float32([action, 0.0])
        engine.recovery_action = np.float32([0.0, action])
        clock.now += 0.05
        decision = shield.decide(obs) if proposal is None else shield.filter(obs, proposal)
        assert decision.action.shape == (2,)
        assert decision.action.dtype == np.float32
        assert np.isfinite(decision.action).all()
        assert (np.float32(limits.low) <= decision.action).all()
        assert (decision.action <= np.float32(limits.high)).all()
        assert (decision.reason is Reason.NONE) == (decision.mode is Mode.TASK)


class FarAway:
    def score(self, features: np.ndarray) -> np.ndarray:
        return np.float32([9.0])


@pytest.mark.parametrize(
    ("threshold", "stop", "mode"), [(8.0, True, Mode.STOP), (8.0, False, Mode.TASK), (9.0, True, Mode.TASK)]
)
def test_an_unknown_state_stops_where_that_is_wanted(make, monkeypatch, threshold, stop, mode):
    monkeypatch.setattr(PolicyBundle, "read_arrays", lambda self, name: {})
    monkeypatch.setattr("safe_rl.shield.shield.FeatureDistribution.from_arrays", lambda arrays: FarAway())
    decision = make(distribution=DistributionSpec(threshold, stop)).decide(OBS)
    assert decision.mode is mode
    assert decision.reason is (Reason.OUT_OF_DISTRIBUTION if mode is Mode.STOP else Reason.NONE)
    assert decision.distribution_score == 9.0
