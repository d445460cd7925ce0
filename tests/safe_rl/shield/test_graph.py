"""The graph decides what the agent decides; weights that do not fit are named."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from toy_bundles import ACT, OBS, make_agent, make_bundle, make_spec, random_actions, random_obs

from safe_rl.envs.spaces import flatten_observations
from safe_rl.errors import UserError
from safe_rl.shield.bundle import WEIGHTS, arrays_to_bytes, write_bundle
from safe_rl.shield.engine import Evaluation
from safe_rl.shield.graph import DecisionGraph
from safe_rl.shield.weights import agent_arrays
from safe_rl.switch import Mode, RecoverySwitch
from safe_rl.transitions import Transitions

KEYED = gym.spaces.Dict(
    {
        "velocity": gym.spaces.Box(-1.0, 1.0, (2,), np.float32),
        "image": gym.spaces.Box(0, 255, (2, 2, 1), np.uint8),
        "arm": gym.spaces.Dict({"angle": gym.spaces.Box(-np.inf, np.inf, (), np.float64)}),
    }
)
SPACES = {
    "box": (OBS, ACT),
    "keyed": (KEYED, ACT),
    "one action": (OBS, gym.spaces.Box(-3.0, 1.0, (1,), np.float32)),
    "many actions": (OBS, gym.spaces.Box(np.linspace(-9, 0, 7, dtype=np.float32), np.linspace(1, 2, 7).astype("f4"))),
    "a fixed component": (OBS, gym.spaces.Box(np.float32([-1.0, 0.5]), np.float32([1.0, 0.5]))),
}


def evaluate(graph: DecisionGraph, obs, eps_risk, proposal=None) -> Evaluation:
    obs, eps = torch.from_numpy(obs), torch.tensor(eps_risk)
    outputs = graph.decide(obs, eps) if proposal is None else graph.filter(obs, torch.from_numpy(proposal), eps)
    return Evaluation(*(output.numpy() for output in outputs))


def assert_decides_as(agent, graph, obs) -> Evaluation:
    """Compares at a threshold in the midst of the risks; returns what the graph said."""
    eps_risk = float(np.median(agent.act(obs, explore=False).risk))
    agent.switch = dataclasses.replace(agent.switch, eps_risk=eps_risk)
    expected, made = agent.act(obs, explore=False), evaluate(graph, obs, eps_risk)
    np.testing.assert_allclose(made.proposal, expected.task_action, rtol=0, atol=1e-5)
    np.testing.assert_allclose(made.risk, expected.risk, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(made.hands_over, expected.mode == Mode.RECOVERY)
    action = np.where(made.hands_over[:, None], made.recovery_action, made.proposal)
    np.testing.assert_allclose(action, expected.action, rtol=0, atol=1e-5)
    assert 0 < made.hands_over.sum() < len(obs)
    assert {array.dtype for array in made} == {np.dtype("f4"), np.dtype("?")}
    return made


@pytest.mark.parametrize("must_help", [False, True])
@pytest.mark.parametrize("kind", ["model-free", "q-sampling"])
@pytest.mark.parametrize("spaces", SPACES)
def test_it_decides_as_the_agent(spaces, kind, must_help):
    obs_space, act_space = SPACES[spaces]
    agent = make_agent(obs_space, act_space, recovery__kind=kind, risk__recovery_must_help=must_help)
    agent.normalizer.update(random_obs(agent, 50, seed=3))
    graph = DecisionGraph.from_agent(agent, make_spec(agent, obs_space, act_space))
    assert_decides_as(agent, graph, random_obs(agent, 40))


def test_recovery_that_must_help_acts_less_often():
    agent, strict = make_agent(), make_agent(risk__recovery_must_help=True)
    obs = random_obs(agent, 200)
    graphs = [DecisionGraph.from_agent(a, make_spec(a)) for a in (agent, strict)]
    often, seldom = (assert_decides_as(a, g, obs).hands_over for a, g in zip((agent, strict), graphs, strict=True))
    assert (seldom <= often).all()
    assert 0 < seldom.sum() < often.sum()


@pytest.mark.parametrize("critics", [1, 2, 5])
@pytest.mark.parametrize("hidden", [(), (7,), (8, 9, 10)])
def test_networks_of_any_shape(critics, hidden):
    shapes = {"sac__hidden_sizes": hidden, "risk__hidden_sizes": hidden, "recovery__hidden_sizes": hidden}
    agent = make_agent(risk__num_critics=critics, **shapes)
    made = assert_decides_as(agent, DecisionGraph.from_agent(agent, make_spec(agent)), random_obs(agent, 40))
    assert made.features.shape == (40, hidden[-1] if hidden else agent.obs_dim + agent.act_dim)


def transitions(agent, rows: int) -> Transitions:
    obs, action = random_obs(agent, rows + 1), random_actions(agent, rows)
    zeros = np.zeros(rows, np.float32)
    return Transitions(
        obs=obs[:-1], task_action=action, action=action, reward=zeros, cost=zeros, next_obs=obs[1:], terminated=zeros,
        truncated=zeros,
    )  # fmt: skip


@pytest.mark.parametrize("normalize", ["running", "dataset", "none"])
def test_the_scale_of_the_observations_is_taken_along(normalize):
    agent = make_agent(normalize_obs=normalize)
    if normalize == "running":
        agent.observe(transitions(agent, 30))
    else:
        agent.add_offline(transitions(agent, 30))
    assert (agent.normalizer.mean.abs().sum() == 0) == (normalize == "none")
    graph = DecisionGraph.from_agent(agent, make_spec(agent))
    assert_decides_as(agent, graph, random_obs(agent, 40))
    assert_decides_as(agent, graph, 1000 * random_obs(agent, 40))  # far out, where they are clipped


def test_the_observations_of_a_dict_come_in_the_layout_that_training_gave_them():
    agent = make_agent(KEYED)
    obs = flatten_observations(KEYED, {"velocity": np.float32([[1, 2]] * 2), "image": np.zeros((2, 2, 2, 1), np.uint8),
                                       "arm": {"angle": np.float64([3, 30])}})  # fmt: skip
    np.testing.assert_array_equal(obs[:, 0], [3, 30])  # arm, image, velocity
    graph = DecisionGraph.from_agent(agent, make_spec(agent, KEYED))
    expected = agent.act(obs, explore=False)
    np.testing.assert_allclose(evaluate(graph, obs, 0.5).risk, expected.risk, atol=1e-6)


def test_a_bundle_keeps_the_decision(tmp_path):
    agent = make_agent()
    bundle = make_bundle(tmp_path / "bundle", agent)
    obs = random_obs(agent, 20)
    one, two = (evaluate(g, obs, 0.4) for g in (DecisionGraph.from_bundle(bundle),
                                                DecisionGraph.from_agent(agent, bundle.spec)))  # fmt: skip
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


# ------------------------------------------------------------------- filtering


@pytest.mark.parametrize("kind", ["model-free", "q-sampling"])
def test_a_given_proposal_is_judged_as_the_agent_judges_it(kind):
    agent = make_agent(recovery__kind=kind)
    graph = DecisionGraph.from_agent(agent, make_spec(agent))
    obs, proposal = random_obs(agent, 40), random_actions(agent, 40)
    made = evaluate(graph, obs, 0.5, proposal)
    clipped = np.clip(proposal, agent.scaler.low, agent.scaler.high)
    assert (clipped != proposal).any()
    np.testing.assert_array_equal(made.proposal, clipped)
    np.testing.assert_allclose(made.risk, agent.risk(obs, proposal), atol=1e-6)
    np.testing.assert_array_equal(made.hands_over, made.risk > 0.5)
    np.testing.assert_allclose(made.recovery_action, evaluate(graph, obs, 0.5).recovery_action, atol=1e-6)


def test_the_task_policys_own_action_passes_the_filter_as_it_decides():
    agent = make_agent()
    graph = DecisionGraph.from_agent(agent, make_spec(agent))
    obs = random_obs(agent, 40)
    own = evaluate(graph, obs, 0.4)
    for a, b in zip(own, evaluate(graph, obs, 0.4, own.proposal), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


# ------------------------------------------------------------------ the switch


def test_a_risk_at_the_threshold_is_safe():
    agent = make_agent()
    graph = DecisionGraph.from_agent(agent, make_spec(agent))
    obs = random_obs(agent, 10)
    risk = evaluate(graph, obs, 0.5).risk
    for row in range(10):
        at, below = risk[row], np.nextafter(risk[row], np.float32(0))
        assert not evaluate(graph, obs, float(at)).hands_over[row]
        assert evaluate(graph, obs, float(below)).hands_over[row]


def test_the_rule_is_the_switchs(monkeypatch):
    agent = make_agent()
    graph, obs = DecisionGraph.from_agent(agent, make_spec(agent)), random_obs(agent, 10)
    rule = RecoverySwitch.hands_over
    monkeypatch.setattr(RecoverySwitch, "hands_over", lambda self, risk, other=None: ~rule(self, risk, other))
    made = evaluate(graph, obs, 0.4)
    np.testing.assert_array_equal(made.hands_over, made.risk <= np.float32(0.4))


def test_the_features_are_the_first_critics_last_hidden_layer():
    agent = make_agent()
    arrays, obs = agent_arrays(agent), random_obs(agent, 10)
    made = evaluate(DecisionGraph.from_agent(agent, make_spec(agent)), obs, 0.5)
    hidden = np.concatenate([obs, agent.scaler.to_unit(made.proposal)], axis=1)
    for index in (0, 1):
        weight, bias = (arrays[f"risk_critic.0.{index}.{part}"] for part in ("weight", "bias"))
        hidden = np.maximum(hidden @ weight.T + bias, 0)
    np.testing.assert_allclose(made.features, hidden, atol=1e-5)


def test_q_sampling_takes_the_least_risky_candidate_even_where_every_risk_rounds_to_one():
    agent = make_agent(recovery__kind="q-sampling", risk__num_critics=1, risk__hidden_sizes=())
    arrays = agent_arrays(agent)
    arrays["risk_critic.0.0.weight"][:] = [[0, 0, 0, 1.0, 0]]  # the logit is 40 + the action's first component
    arrays["risk_critic.0.0.bias"][:] = 40
    made = evaluate(DecisionGraph(make_spec(agent), arrays, "x"), random_obs(agent, 4), 0.5)
    best = arrays["recovery.candidates"][arrays["recovery.candidates"][:, 0].argmin()]
    np.testing.assert_allclose(made.recovery_action, np.tile(agent.scaler.to_env(best), (4, 1)), atol=1e-6)
    assert (made.risk == 1).all()


def test_building_it_draws_no_random_numbers():
    agent = make_agent()
    before = torch.get_rng_state()
    DecisionGraph.from_agent(agent, make_spec(agent))
    assert torch.equal(torch.get_rng_state(), before)


# ----------------------------------------------------------- weights that do not fit


@pytest.mark.parametrize("kind", ["model-free", "q-sampling"])
def test_every_array_is_needed_and_its_shape_and_type_are_checked(kind, tmp_path):
    agent = make_agent(recovery__kind=kind)
    spec, whole = make_spec(agent), agent_arrays(agent)

    def refused(arrays) -> str:
        files = {WEIGHTS: arrays_to_bytes(arrays)}
        bundle = write_bundle(tmp_path / "bundle", spec, files)
        with pytest.raises(UserError) as error:
            DecisionGraph.from_bundle(bundle)
        assert str(tmp_path / "bundle" / WEIGHTS) in str(error.value)
        assert "\n" not in str(error.value)
        return str(error.value)

    for name, array in whole.items():
        without = {key: value for key, value in whole.items() if key != name}
        # A network without its last weights ends early or has a bias left over: a neighbour is named.
        parent = name.rpartition(".")[0].rpartition(".")[0]
        assert (parent or name) in refused(without)
        for axis in range(array.ndim):
            wider = whole | {name: np.concatenate([array, array], axis=axis)}
            if name == "recovery.candidates" and axis == 0:
                continue  # any number of candidates will do
            assert (parent or name) in refused(wider)
        assert f"{name} has shape" in refused(whole | {name: array[None]})
        assert f"{name} is float64" in refused(whole | {name: array.astype(np.float64)})
    if kind == "q-sampling":
        assert "recovery.candidates has shape (0, 2), not (any, 2)" in refused(
            whole | {"recovery.candidates": np.zeros((0, 2), np.float32)}
        )
    assert "unknown array more" in refused(whole | {"more": np.zeros(1, np.float32)})
    assert "unknown array task_policy.9.weight" in refused(whole | {"task_policy.9.weight": np.zeros(1, np.float32)})
    other = "q-sampling" if kind == "model-free" else "model-free"
    assert "recovery" in refused(agent_arrays(make_agent(recovery__kind=other)))


def test_weights_for_other_spaces_are_named():
    agent = make_agent()
    arrays = agent_arrays(agent)
    longer = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    with pytest.raises(UserError, match=r"it.npz: normalizer.mean has shape \(3,\), not \(4\)"):
        DecisionGraph(make_spec(agent, longer), arrays, "it.npz")
    wider = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
    with pytest.raises(UserError, match=r"it.npz: task_policy.2.weight has shape \(2, 16\), not \(3, 16\)"):
        DecisionGraph(make_spec(make_agent(OBS, wider), OBS, wider), arrays, "it.npz")


@pytest.mark.parametrize("bounds", [{}, {"low": "x"}, {"low": [0.0] * 3}, {"low": None}, {"low": "-inf"}])
def test_a_damaged_action_space_is_one_line(bounds):
    agent = make_agent()
    spec = make_spec(agent)
    space = {"type": "Box", "shape": [2], "high": [0.5, 4.0], "dtype": "float32", **bounds}
    with pytest.raises(UserError, match=r"action.space"):
        DecisionGraph(dataclasses.replace(spec, action_space=space), agent_arrays(agent), "x")
