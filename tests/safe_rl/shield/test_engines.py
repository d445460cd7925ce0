"""Both engines compute the same; graphs that are not this bundle's are refused, and nothing of a bundle is executed."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toy_bundles
from toy_bundles import bundle_files, make_agent, make_bundle, random_actions, random_obs

from safe_rl.errors import UserError
from safe_rl.shield.agreement import TOLERANCE, largest_difference
from safe_rl.shield.bundle import DECIDE_GRAPH, FILTER_GRAPH, WEIGHTS, PolicyBundle, write_bundle
from safe_rl.shield.engine import Evaluation
from safe_rl.shield.engines import load_engine
from safe_rl.shield.torch_engine import TorchEngine

KINDS = {
    "model-free": {},
    "must help": {"risk__recovery_must_help": True},
    "q-sampling": {"recovery__kind": "q-sampling", "risk__recovery_must_help": True},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Agent and bundle with graphs by kind; made when first asked for, since each takes seconds."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    cache = {}

    def make(kind: str) -> tuple:
        if kind not in cache:
            agent = make_agent(**KINDS[kind])
            agent.normalizer.update(random_obs(agent, 50, seed=3))
            cache[kind] = agent, make_bundle(tmp_path_factory.mktemp("bundles") / "bundle", agent, onnx=True)
        return cache[kind]

    return make


@pytest.fixture(params=["torch", "onnx"])
def engine(request, tmp_path):
    if request.param == "torch":
        return TorchEngine(make_bundle(tmp_path / "bundle", make_agent()))
    return load_engine(request.getfixturevalue("made")("model-free")[1], "onnx")


@pytest.fixture
def bundle(made) -> PolicyBundle:
    return made("model-free")[1]


@pytest.fixture
def files(bundle) -> dict[str, bytes]:
    return {name: bundle.read_bytes(name) for name in (WEIGHTS, DECIDE_GRAPH, FILTER_GRAPH)}


# ------------------------------------------------------------------- agreement


@pytest.mark.parametrize("kind", KINDS)
def test_the_engines_agree_on_random_and_on_extreme_inputs(kind, made):
    agent, bundle = made(kind)
    torch_engine, onnx_engine = load_engine(bundle, "torch"), load_engine(bundle, "onnx")
    assert (torch_engine.name, onnx_engine.name) == ("torch", "onnx")
    assert largest_difference(torch_engine, onnx_engine, bundle.spec, batch_sizes=(1, 2, 257)) <= TOLERANCE
    for scale in (0.0, 1e-42, 1.0, 1e6):
        for rows in (1, 2, 257):
            obs, proposal = (scale * random_obs(agent, rows)).astype(np.float32), random_actions(agent, rows)
            for one, two in (
                (torch_engine.decide(obs, 0.4), onnx_engine.decide(obs, 0.4)),
                (torch_engine.filter(obs, proposal, 0.4), onnx_engine.filter(obs, proposal, 0.4)),
            ):
                for name, a, b in zip(Evaluation._fields, one, two, strict=True):
                    assert (a.dtype, a.shape) == (b.dtype, b.shape)
                    if name in ("proposal", "risk", "features"):
                        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_decides_as_the_agent(kind, made):
    agent, bundle = made(kind)
    engine, obs = load_engine(bundle, "onnx"), random_obs(agent, 40)
    expected = agent.act(obs, explore=False)
    for result in (engine.decide(obs, agent.switch.eps_risk), _row_by_row(engine, obs, agent.switch.eps_risk)):
        action = np.where(result.hands_over[:, None], result.recovery_action, result.proposal)
        np.testing.assert_allclose(action, expected.action, atol=1e-5)
        np.testing.assert_allclose(result.risk, expected.risk, atol=1e-5)
        np.testing.assert_array_equal(result.hands_over, expected.mode == 1)
    assert 0 < result.hands_over.sum() < 40


def _row_by_row(engine, obs, eps_risk) -> Evaluation:
    rows = [engine.decide(obs[i : i + 1], eps_risk) for i in range(len(obs))]
    return Evaluation(*(np.concatenate(parts) for parts in zip(*rows, strict=True)))


class Altered:
    """An engine with another's answers, changed."""

    name = "altered"

    def __init__(self, engine, **changes) -> None:
        self.engine, self.changes = engine, changes

    def _change(self, result: Evaluation) -> Evaluation:
        return result._replace(**{name: change(getattr(result, name)) for name, change in self.changes.items()})

    def decide(self, *args) -> Evaluation:
        return self._change(self.engine.decide(*args))

    def filter(self, *args) -> Evaluation:
        return self._change(self.engine.filter(*args))


@pytest.mark.parametrize("kind", ["model-free", "q-sampling"])
def test_a_difference_is_seen(kind, tmp_path):
    agent = make_agent(recovery__kind=kind)
    bundle = make_bundle(tmp_path / "bundle", agent)
    engine = TorchEngine(bundle)

    def difference(**changes) -> float:
        return largest_difference(engine, Altered(engine, **changes), bundle.spec, batch_sizes=(1, 5))

    assert difference() == 0
    for name in ("proposal", "risk", "features"):
        # Above 1 it is relative; in no row is every number as large as 10.
        assert 0.001 < difference(**{name: lambda a: a + np.float32(0.01)}) < 0.0101
        assert difference(**{name: lambda a: a * np.float32("nan")}) == np.inf
    assert difference(hands_over=np.logical_not) == np.inf
    # Another action counts by its risk where it is one of many.
    away = difference(recovery_action=lambda a: np.clip(a + np.float32(0.1), agent.scaler.low, agent.scaler.high))
    assert TOLERANCE < away < 0.11


# ----------------------------------------------------------------- both engines


def test_the_threshold_is_an_input_and_a_risk_at_it_is_safe(engine):
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    proposal = np.zeros((5, 2), np.float32)
    for rows in (slice(0, 1), slice(None)):
        for ask in (
            lambda eps, rows=rows: engine.decide(obs[rows], eps),
            lambda eps, rows=rows: engine.filter(obs[rows], proposal[rows], eps),
        ):
            risk = ask(0.5).risk
            for row, value in enumerate(risk):
                assert not ask(float(value)).hands_over[row]
                assert ask(float(np.nextafter(value, np.float32(0)))).hands_over[row]
            assert ask(-1.0).hands_over.all()
            assert not ask(1.0).hands_over.any()


@pytest.mark.parametrize("rows", [1, 3])
def test_an_answer_stays_as_it_was_given(engine, rows):
    rng = np.random.default_rng(0)
    obs, proposal = rng.normal(size=(rows, 3)).astype(np.float32), np.full((rows, 2), 0.3, np.float32)
    first = engine.decide(obs, 0.5), engine.filter(obs, proposal, 0.5)
    kept = [[array.copy() for array in result] for result in first]
    obs *= -3
    engine.decide(obs, 0.1), engine.filter(obs, -proposal, 0.1)
    for result, copies in zip(first, kept, strict=True):
        for array, copy in zip(result, copies, strict=True):
            np.testing.assert_array_equal(array, copy)
    assert (proposal == np.float32(0.3)).all()


# --------------------------------------------------------------- which engine


def test_auto_takes_onnx_where_it_can(made, tmp_path, monkeypatch):
    _, bundle = made("model-free")
    plain = make_bundle(tmp_path / "plain", make_agent())
    assert load_engine(bundle).name == "onnx"
    assert load_engine(plain).name == "torch"
    with pytest.raises(UserError, match=r"plain has no ONNX graphs: .*--onnx"):
        load_engine(plain, "onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert load_engine(bundle).name == "torch"
    with pytest.raises(UserError, match="pip install onnxruntime"):
        load_engine(bundle, "onnx")


def test_without_any_engine_the_cure_is_named(tmp_path, monkeypatch):
    bundle = make_bundle(tmp_path / "bundle", make_agent())
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"PyTorch is not installed; .*safe-rl export RUN .*--onnx"):
        load_engine(bundle)
    write_bundle(bundle.path, bundle.spec, {WEIGHTS: b"", DECIDE_GRAPH: b"", FILTER_GRAPH: b""})
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="pip install onnxruntime"):
        load_engine(PolicyBundle.load(bundle.path))


ON_THE_ROBOT = """
import importlib.abc, json, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        absent = {"torch", "gymnasium", "minari", "h5py", "matplotlib", "onnx", "onnxscript", "tyro"}
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import numpy as np
from safe_rl.shield import Shield
shield = Shield.load(sys.argv[1])
decision = shield.decide(np.float32([0.1, -0.2, 0.3]))
passed = shield.filter(np.float32([0.1, -0.2, 0.3]), np.float32([0.0, 1.0]))
print(json.dumps([shield.engine.name, decision.action.tolist(), float(decision.risk), float(passed.risk)]))
"""


def test_a_robot_needs_neither_pytorch_nor_gymnasium(made):
    _, bundle = made("model-free")
    command = [sys.executable, "-c", ON_THE_ROBOT, str(bundle.path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[3])
    assert result.returncode == 0, result.stderr
    name, action, risk, filtered_risk = json.loads(result.stdout)
    assert name == "onnx"
    obs, proposal, eps_risk = np.float32([[0.1, -0.2, 0.3]]), np.float32([[0.0, 1.0]]), bundle.spec.switch.eps_risk
    expected = TorchEngine(bundle).decide(obs, eps_risk)
    chosen = expected.recovery_action if expected.hands_over[0] else expected.proposal
    np.testing.assert_allclose(action, chosen[0], atol=1e-5)
    assert risk == pytest.approx(float(expected.risk[0]), abs=1e-5)
    assert filtered_risk == pytest.approx(float(TorchEngine(bundle).filter(obs, proposal, eps_risk).risk[0]), abs=1e-5)


# ------------------------------------------------------ graphs that do not belong


@pytest.fixture
def refused(bundle, files, tmp_path):
    """Puts files into an intact bundle (its manifest fits them) and returns why the engine refuses it."""

    def check(spec=bundle.spec, **changes: bytes) -> str:
        names = {"decide": DECIDE_GRAPH, "filter": FILTER_GRAPH, "weights": WEIGHTS}
        changed = write_bundle(tmp_path / "b", spec, files | {names[key]: value for key, value in changes.items()})
        with pytest.raises(UserError) as error:
            load_engine(changed, "onnx")
        message = str(error.value)
        assert message.startswith(str(tmp_path / "b"))
        assert "\n" not in message
        assert "export the run again with --onnx" in message
        return message

    return check


def test_graphs_of_other_weights_or_another_description_are_refused(bundle, files, refused, made):
    other = bundle_files(make_agent(seed=1), bundle.spec, onnx=False)
    assert "decide.onnx was not made from this bundle's" in refused(weights=other[WEIGHTS])
    helps = dataclasses.replace(bundle.spec, switch=dataclasses.replace(bundle.spec.switch, recovery_must_help=True))
    assert "was not made from this bundle's" in refused(spec=helps)
    assert "decide.onnx was not" in refused(decide=made("must help")[1].read_bytes(DECIDE_GRAPH))
    assert "filter.onnx was not" in refused(filter=made("must help")[1].read_bytes(FILTER_GRAPH))
    assert "has the inputs obs, proposed_action, eps_risk, not obs, eps_risk" in refused(decide=files[FILTER_GRAPH])
    assert "has the inputs obs, eps_risk, not" in refused(filter=files[DECIDE_GRAPH])


def test_other_thresholds_need_no_other_graphs(bundle, files, tmp_path):
    switch = dataclasses.replace(bundle.spec.switch, eps_risk=0.9, release_risk=0.1, min_recovery_sec=1.0)
    changed = write_bundle(tmp_path / "b", dataclasses.replace(bundle.spec, switch=switch), files)
    assert load_engine(changed, "onnx").name == "onnx"


def rewritten(content: bytes, change) -> bytes:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_model_from_string(content)
    change(model, onnx)
    return model.SerializeToString()


def _rename_risk(model, name):
    for node in model.graph.node:
        node.output[:] = [name if output == "risk" else output for output in node.output]
        node.input[:] = [name if value == "risk" else value for value in node.input]


def _renamed(model, onnx):
    _rename_risk(model, "danger")
    model.graph.output[2].name = "danger"


def _longer(model, onnx):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4


def _of_two_rows(model, onnx):
    for node in (*model.graph.input, *model.graph.output):
        for dim in node.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = 2


def _double(model, onnx):
    _rename_risk(model, "narrow")
    model.graph.node.append(onnx.helper.make_node("Cast", ["narrow"], ["risk"], to=onnx.TensorProto.DOUBLE))
    model.graph.output[2].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def _fewer(model, onnx):
    del model.graph.output[-1]


def _external(model, onnx):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def _unknown_operator(model, onnx):
    model.graph.node[0].domain = "com.example.shell"
    model.opset_import.add(domain="com.example.shell", version=1)


def _unmarked(model, onnx):
    model.ClearField("metadata_props")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_renamed, "has the outputs proposal, recovery_action, danger, hands_over, features, not"),
        (_fewer, "has the outputs proposal, recovery_action, risk, hands_over, not"),
        (_longer, "cannot be loaded"),
        (_of_two_rows, r"obs has the shape \(2, 3\), not \(N, 3\)"),
        (_double, r"risk is a tensor\(double\), not a tensor\(float\)"),
        (_external, "refers to other files: refused"),
        (_unknown_operator, "cannot be loaded"),
        (_unmarked, "was not made from this bundle's"),
    ],
)
def test_a_changed_graph_is_refused(change, message, files, refused):
    assert re.search(message, refused(decide=rewritten(files[DECIDE_GRAPH], change)))


def test_another_way_to_write_a_length_leads_out_no_more(files, refused):
    plain = rewritten(files[DECIDE_GRAPH], _external)
    padded = plain.replace(b"\x0a\x08location\x12\x0b/etc", b"\x0a\x88\x00location\x12\x0aetc")
    assert padded != plain
    assert "refers to other files: refused" in refused(decide=padded)


def test_a_graph_of_other_shapes_is_refused(bundle, tmp_path, made, monkeypatch):
    """Another robot's graphs with this bundle's mark: the shapes tell."""
    longer = dataclasses.replace(bundle.spec, observation_space=bundle.spec.observation_space | {"shape": [4]})
    from safe_rl.shield import onnx_engine

    monkeypatch.setattr(onnx_engine, "fingerprint", lambda spec, weights: "the same")
    files = {name: bundle.read_bytes(name) for name in (WEIGHTS, DECIDE_GRAPH, FILTER_GRAPH)}
    with pytest.raises(UserError, match=r"decide.onnx: obs has the shape \('N', 3\), not \(N, 4\): export"):
        load_engine(write_bundle(tmp_path / "b", longer, files), "onnx")


@pytest.mark.parametrize("which", ["decide", "filter"])
def test_damaged_graphs_are_one_line(which, files, refused):
    content = files[DECIDE_GRAPH if which == "decide" else FILTER_GRAPH]
    for damaged in (b"", b"onnx", content[: len(content) // 2], content[:-1], b"\0" * 1000, content[100:]):
        assert f"{which}.onnx" in refused(**{which: damaged})


class Bomb:
    """Unpickling it runs a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_of_a_bundle_is_executed(refused, files, bundle, tmp_path):
    marker = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(marker))
    refused(decide=bomb)
    refused(filter=bomb)
    hidden = write_bundle(tmp_path / "w", bundle.spec, files | {WEIGHTS: bomb})
    with pytest.raises(UserError, match=r"weights.safetensors is damaged"):
        load_engine(hidden, "torch")
    assert not marker.exists()
    pickle.loads(bomb)  # noqa: S301 (the bomb works)
    assert marker.exists()


def test_the_exporters_traces_stay_at_home(files):
    for name in (DECIDE_GRAPH, FILTER_GRAPH):
        for trace in (b"stack_trace", b".py", str(Path(toy_bundles.__file__).parent).encode()):
            assert trace not in files[name]
