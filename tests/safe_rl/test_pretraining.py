from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import toys

from safe_rl.checkpoint import save_state
from safe_rl.config import RunConfig
from safe_rl.data.dataset import OfflineDataset
from safe_rl.errors import UserError
from safe_rl.methods import make_agent
from safe_rl.pretraining import PARTIAL, PRETRAINED, PretrainConfig, load_pretrained, pretrain_run, pretrain_safety
from safe_rl.runs import load_run, prepare_run_folder, read_config
from safe_rl.training import train


def config(data: Path, output: Path, **changes) -> PretrainConfig:
    return PretrainConfig(env="toys:Corridor", dataset=data, output=output, device="cpu", **changes)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, corridor_data) -> Path:
    run = tmp_path_factory.mktemp("pretrained") / "run"
    pretrain_run("recovery-rl", config(corridor_data, run), toys.recovery_config())
    return run


def fresh(**changes):
    env = toys.Corridor()
    return make_agent("recovery-rl", toys.recovery_config(**changes), env.observation_space, env.action_space, seed=8)


def test_the_metrics_of_the_last_step_come_back(tmp_path, corridor_data):
    told = []
    metrics = pretrain_run(
        "recovery-rl", config(corridor_data, tmp_path / "run"), toys.recovery_config(), lambda *args: told.append(args)
    )
    assert set(metrics) == {"risk/loss", "recovery/risk"}
    assert [done for done, _, _ in told] == list(range(1, 31))
    assert {total for _, total, _ in told} == {30}
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", PRETRAINED, "versions.json"]


def test_a_pretraining_learns_which_states_are_near_the_edge(tmp_path, corridor_data):
    pretrain_run("recovery-rl", config(corridor_data, tmp_path / "run"), toys.recovery_config(risk__pretrain_steps=800))
    agent = fresh(risk__pretrain_steps=800)
    load_pretrained(agent, tmp_path / "run")
    obs = torch.tensor([[0.3, 0.29], [0.3, -0.29], [0.3, 0.0]]).numpy()
    outwards = torch.tensor([[0.0, 0.15], [0.0, -0.15], [0.0, 0.0]]).numpy()
    risk = agent.risk(obs, outwards)
    assert risk[:2].min() > 0.7
    assert risk[2] < 0.4


def test_training_takes_a_pretraining_over(tmp_path, corridor_data, pretrained):
    agent = fresh()
    load_pretrained(agent, pretrained)
    expected = agent.risk_critic.critics.flat.detach().clone()
    run = RunConfig(
        env="toys:Corridor",
        output=tmp_path / "run",
        dataset=corridor_data,
        pretrained=pretrained,
        episodes=1,
        device="cpu",
    )
    steps = []
    trained = train(
        "recovery-rl", run, toys.recovery_config(risk__update_online=False),
        pretrain_progress=lambda *args: steps.append(args),
    )  # fmt: skip
    assert torch.equal(trained.risk_critic.critics.flat, expected)
    assert steps == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"risk__gamma_risk": 0.5}, r"risk.gamma_risk = 0.8, not 0.5"),
        ({"risk__num_critics": 3}, r"risk.num_critics = 2, not 3"),
        ({"risk__hidden_sizes": (8,)}, r"risk.hidden_sizes = \[16, 16\], not \[8\]"),
        ({"recovery__kind": "q-sampling"}, "recovery.kind = model-free, not q-sampling"),
        ({"normalize_obs": "none"}, "normalize_obs = dataset, not none"),
    ],
)
def test_a_pretraining_with_other_settings_is_refused(pretrained, changes, words):
    agent = fresh(**changes)
    before = agent.risk_critic.critics.flat.detach().clone()
    with pytest.raises(UserError, match=words):
        load_pretrained(agent, pretrained)
    assert torch.equal(agent.risk_critic.critics.flat, before)


def test_a_finished_pretraining_is_loaded_and_not_repeated(tmp_path, corridor_data, pretrained):
    before = {path: path.read_bytes() for path in pretrained.rglob("*") if path.is_file()}
    metrics = pretrain_run("recovery-rl", config(corridor_data, pretrained, resume=True), toys.recovery_config())
    assert metrics == {}
    assert {path: path.read_bytes() for path in pretrained.rglob("*") if path.is_file()} == before


def test_a_long_pretraining_is_saved_on_the_way_and_survives_a_kill(tmp_path, corridor_data, monkeypatch):
    class Kill(BaseException):
        pass

    def agent():
        made = fresh()
        made.add_offline(OfflineDataset.open(corridor_data).transitions())
        return made

    def kill(done, total, status):
        if done == 27:
            raise Kill

    monkeypatch.setattr("safe_rl.pretraining.SAVE_EVERY", 10)
    whole, cut, resumed = agent(), agent(), agent()
    pretrain_safety(whole, tmp_path / "whole")
    with pytest.raises(Kill):
        pretrain_safety(cut, tmp_path / "run", kill)
    assert (tmp_path / "run" / PARTIAL).is_dir()
    told = []
    pretrain_safety(resumed, tmp_path / "run", lambda done, total, status: told.append(done))
    assert told == list(range(21, 31))
    assert torch.equal(whole.risk_critic.critics.flat, resumed.risk_critic.critics.flat)
    assert torch.equal(whole.risk_critic.targets.flat, resumed.risk_critic.targets.flat)
    assert torch.equal(whole.recovery.actor.net.flat, resumed.recovery.actor.net.flat)
    assert torch.equal(whole.generator.get_state(), resumed.generator.get_state())


def test_a_partial_pretraining_of_another_version_is_one_line(tmp_path, corridor_data):
    agent = fresh()
    agent.add_offline(OfflineDataset.open(corridor_data).transitions())
    state = agent.state_dict()
    del state["replay"]["offline_digest"]
    save_state(tmp_path / "run" / PARTIAL, {"agent": state, "done": 5})
    with pytest.raises(UserError, match="does not fit this version of safe_rl"):
        pretrain_safety(agent, tmp_path / "run")


def test_a_method_without_risk_has_nothing_to_pretrain(tmp_path, corridor_data):
    with pytest.raises(UserError, match="'unconstrained' has no risk critic"):
        pretrain_run("unconstrained", config(corridor_data, tmp_path / "run"), toys.unconstrained_config())
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------- run folders


def test_a_run_of_pretraining_alone_has_no_policy_to_load(pretrained):
    with pytest.raises(UserError, match="holds a pretraining and no policy"):
        load_run(pretrained).make_agent()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "it has no config.json"),
        ("", "is damaged"),
        ("[1, 2]", "is damaged"),
        ('{"method": "recovery-rl"}', "is damaged"),
        ('{"method": "recovery-rl", "env": "toys:Corridor", "se', "is damaged"),
    ],
)
def test_a_folder_that_is_no_run(tmp_path, content, words):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        load_run(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="the folder does not exist"):
        load_run(tmp_path / "nowhere")


def test_a_run_of_an_unknown_method_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"method": "recovery_rl", "env": "toys:Corridor", "seed": 1}')
    with pytest.raises(UserError, match="no method 'recovery_rl': did you mean 'recovery-rl'"):
        load_run(tmp_path).make_agent()


def test_a_checkpoint_that_does_not_fit_its_environment_is_named(tmp_path, corridor_data):
    run = RunConfig(env="toys:Corridor", output=tmp_path / "run", episodes=1, device="cpu")
    train("unconstrained", run, toys.unconstrained_config())
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "env": "toys:Wide"}))
    with pytest.raises(UserError, match="does not fit toys:Wide as it is now") as caught:
        load_run(tmp_path / "run").make_agent()
    assert "\n" not in str(caught.value)


def test_settings_that_may_change_on_resume(tmp_path):
    settings = {
        "method": "m",
        "env": "e",
        "seed": 1,
        "episodes": 3,
        "sac": {"tau": 0.1, "sizes": (1, 2)},
        "dataset": "a",
    }
    prepare_run_folder(tmp_path / "run", settings, resume=False, overwrite=False)
    assert read_config(tmp_path / "run")["sac"] == {"tau": 0.1, "sizes": [1, 2]}
    moved = {**settings, "episodes": 9, "dataset": Path("b"), "device": "cpu", "output": Path("elsewhere")}
    prepare_run_folder(tmp_path / "run", moved, resume=True, overwrite=False)
    with pytest.raises(UserError, match=r"sac.tau = 0.1, not 0.2"):
        prepare_run_folder(
            tmp_path / "run", {**moved, "sac": {"tau": 0.2, "sizes": (1, 2)}}, resume=True, overwrite=False
        )
    with pytest.raises(UserError, match="by a version without new_option"):
        prepare_run_folder(tmp_path / "run", {**moved, "new_option": 1}, resume=True, overwrite=False)
