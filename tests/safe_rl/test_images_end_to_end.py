"""The commands one after the other on a toy that is seen as images, from collecting to the shield."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import toy_images
from torch.nn.utils import parameters_to_vector
from toy_images import STACK, Seen, Stacked

from safe_rl.cli.main import main
from safe_rl.data.dataset import OfflineDataset
from safe_rl.envs.factory import make_env
from safe_rl.errors import EnvironmentFault
from safe_rl.evaluation import evaluate
from safe_rl.methods import make_agent
from safe_rl.runs import load_run
from safe_rl.shield.agent import ShieldAgent
from safe_rl.shield.black_box import read_black_box
from safe_rl.shield.decision import Reason
from safe_rl.shield.shield import Shield
from safe_rl.switch import Mode

NETWORKS = [
    *("--encoder.channels", "8", "16", "--encoder.feature-dim", "16", "--batch-size", "32"),
    *("--sac.hidden-sizes", "32", "32", "--risk.hidden-sizes", "32", "32", "--recovery.hidden-sizes", "32", "32"),
    *("--replay-capacity", "3000", "--device", "cpu"),
]


def has_onnx() -> bool:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError:
        return False
    return True


def safe_rl(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Collected, pretrained, trained, exported and calibrated by the commands."""
    base = tmp_path_factory.mktemp("images")
    env = ("--env", "toy_images:Seen")
    safe_rl("collect", *env, "--output", base / "data", "--transitions", 800, "--policy", "random")
    safe_rl("collect", *env, "--output", base / "held_out", "--transitions", 800, "--policy", "random", "--seed", 7)
    pretraining = ("--risk.pretrain-steps", 60, "--encoder.pretrain-steps", 30)
    safe_rl("pretrain", *env, "--dataset", base / "data", "--output", base / "pretrained", *NETWORKS, *pretraining)
    given = ("--dataset", base / "data", "--pretrained", base / "pretrained", "--output", base / "run")
    training = ("--episodes", 3, "--task-pretrain-steps", 20, "--encoder.augmentation", "random-shift")
    safe_rl("train", "recovery-rl", *env, *given, *NETWORKS, *training, "--encoder.pad", 1)
    safe_rl("evaluate", base / "run", "--episodes", 3)
    safe_rl("export", base / "run", "--output", base / "bundle", *(["--onnx"] if has_onnx() else []))
    safe_rl("calibrate", base / "bundle", "--dataset", base / "held_out", "--miss-rate", 0.3)
    safe_rl("evaluate", base / "bundle", "--episodes", 3)
    return base


def test_the_dataset_holds_bytes_that_minari_reads(folder):
    dataset = OfflineDataset.open(folder / "data")
    transitions = dataset.transitions()
    assert (transitions.obs.dtype, transitions.obs.shape) == (np.uint8, (800, 768))
    with h5py.File(folder / "data" / "data" / "main_data.hdf5") as file:
        stored = file["episode_0/observations"]
        assert stored.dtype == np.uint8
        assert stored.shape[1:] == (16, 16, 3)
        np.testing.assert_array_equal(np.array(stored[:-1]).reshape(-1, 768), transitions.obs[: len(stored) - 1])
    env, seed = Seen(), dataset.table().seeds[0]
    np.testing.assert_array_equal(env.reset(seed=int(seed))[0].reshape(-1), transitions.obs[0])
    dataset.release()
    np.testing.assert_array_equal(dataset.transitions().obs, transitions.obs)  # read again


def test_the_run_and_its_checkpoint_hold_the_encoders(folder):
    config = json.loads((folder / "run" / "config.json").read_text())
    assert config["encoder"]["augmentation"] == "random-shift"
    agent = load_run(folder / "run").make_agent()
    assert (agent.encoder.channels, agent.risk_encoder.feature_dim) == ((8, 16), 16)
    assert not np.array_equal(agent.encoder.flat.detach(), agent.risk_encoder.flat.detach())


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_the_shield_decides_as_the_agent(folder, engine, tmp_path):
    if engine == "onnx":
        pytest.importorskip("onnxruntime")
    agent, env = load_run(folder / "run").make_agent(), Seen()
    data = toy_images.walk(env, 40, seed=3)
    with Shield.load(folder / "bundle", engine=engine, black_box=tmp_path) as shield:
        shield.eps_risk = 0.999  # nobody but the task policy acts
        shield._largest_score = np.inf  # whatever the state
        for row in data.obs:
            decision, expected = shield.decide(row.reshape(16, 16, 3)), agent.act(row[None], explore=False)
            np.testing.assert_allclose(decision.action, expected.task_action[0], atol=1e-5)
            assert decision.risk == pytest.approx(expected.risk[0], abs=1e-5)
            assert np.isfinite(decision.distribution_score)
        shield.decide(None)
    recording = read_black_box(next(tmp_path.glob("*.safetensors")))
    assert recording.obs.dtype == np.uint8
    np.testing.assert_array_equal(recording.obs[-2], data.obs[-1])
    assert recording.obs[-1].max() == 0  # no picture came


def test_a_shield_in_the_place_of_the_agent_runs_episodes(folder):
    with Shield.load(folder / "bundle", engine="torch") as shield:
        env = make_env("toy_images:Seen")
        acting = ShieldAgent(shield)
        assert len(evaluate(acting, env, 2).episodes) == 2
        assert set(acting.reasons) <= {Reason.NONE, Reason.RISK, Reason.OUT_OF_DISTRIBUTION}


@pytest.mark.parametrize(
    ("image", "reason", "words"),
    [
        (np.zeros((3, 16, 16), np.uint8), Reason.OBSERVATION_WRONG_SHAPE, "the order must be height, width, channels"),
        (np.zeros((8, 8, 3), np.uint8), Reason.OBSERVATION_WRONG_SHAPE, "uint8(8, 8, 3) came where"),
        (np.zeros((16, 16, 4), np.uint8), Reason.OBSERVATION_WRONG_SHAPE, "on an image uint8(16, 16, 3)"),
        (np.zeros((16, 16, 3), np.float32), Reason.OBSERVATION_WRONG_DTYPE, "float32(16, 16, 3) came where"),
        (np.full((16, 16, 3), 300, np.uint16), Reason.OBSERVATION_WRONG_DTYPE, "uint16(16, 16, 3) came where"),
    ],
)
def test_another_image_than_trained_on_stops_and_is_told_in_one_line(folder, caplog, image, reason, words):
    with Shield.load(folder / "bundle", engine="torch") as shield, caplog.at_level(logging.WARNING):
        for _ in range(3):
            decision = shield.decide(image)
            assert (decision.mode, decision.reason) == (Mode.STOP, reason)
    assert len(caplog.messages) == 1  # not at every step
    assert words in caplog.messages[0]
    assert "\n" not in caplog.messages[0]


def one_line(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("safe-rl: error: ")
    return error


def test_images_of_another_size_or_order_are_one_line(folder, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "env": "toy_images:Small"}))
    assert "does not fit toy_images:Small as it is now" in one_line(capsys, "evaluate", run)
    other = ("--dataset", folder / "data", "--output", tmp_path / "new", *NETWORKS)
    line = one_line(capsys, "pretrain", "--env", "toy_images:Small", *other)
    assert "observations of shape (16, 16, 3)" in line
    assert "(8, 8, 3)" in line
    line = one_line(capsys, "pretrain", "--env", "toy_images:ChannelsFirst", *other)
    assert "it must be (height, width, channels)" in line
    line = one_line(capsys, "calibrate", folder / "bundle", "--dataset", _small_data(tmp_path), "--miss-rate", 0.3)
    assert "they do not belong together" in line
    assert not (tmp_path / "new").exists()


def _small_data(folder: Path) -> Path:
    safe_rl("collect", "--env", "toy_images:Small", "--output", folder / "small", "--transitions", 60)
    return folder / "small"


def test_networks_pretrained_through_another_encoder_are_refused(folder, tmp_path, capsys):
    given = ("--dataset", folder / "data", "--pretrained", folder / "pretrained", "--output", tmp_path / "new")
    line = one_line(capsys, "train", "recovery-rl", "--env", "toy_images:Seen", *given, *NETWORKS,
                    "--encoder.feature-dim", 24)  # fmt: skip
    assert "was pretrained with encoder.feature_dim = 16, not 24" in line
    line = one_line(capsys, "train", "recovery-rl", "--env", "toys:Corridor", *given[:2], *given[4:],
                    "--encoder.sharing", "shared")  # fmt: skip
    assert "--encoder.sharing is shared: the observation is no image" in line


def test_floats_where_the_space_says_bytes_are_a_fault():
    with pytest.raises(EnvironmentFault, match="of type float32; its space says uint8"):
        make_env("toy_images:Floats").reset()


def test_a_resumed_training_from_images_is_the_uninterrupted_one(folder, tmp_path):
    def train(output: Path, episodes: int, *more: str) -> list[list[str]]:
        given = ("--dataset", folder / "data", "--pretrained", folder / "pretrained", "--output", output)
        safe_rl("train", "recovery-rl", "--env", "toy_images:Seen", *given, *NETWORKS, "--episodes", episodes,
                "--task-pretrain-steps", 5, "--batch-size", 16, *more)  # fmt: skip
        with (output / "episodes.csv").open() as file:
            return [row[:-1] for row in csv.reader(file)]  # all but the time

    whole = train(tmp_path / "whole", 4)
    train(tmp_path / "parts", 2)
    assert train(tmp_path / "parts", 4, "--resume") == whole


def test_stacked_frames_and_shared_encoders_pass_through_the_commands(tmp_path):
    env = ("--env", "toy_images:Stacked")
    safe_rl("collect", *env, "--output", tmp_path / "data", "--transitions", 300, "--policy", "random")
    given = ("--dataset", tmp_path / "data", "--output", tmp_path / "run", *NETWORKS, "--encoder.sharing", "shared")
    short = ("--episodes", 2, "--task-pretrain-steps", 3, "--risk.pretrain-steps", 3, "--num-envs", 2)
    safe_rl("train", "recovery-rl", *env, *given, *short, "--encoder.pretrain-steps", 3)
    safe_rl("export", tmp_path / "run", "--output", tmp_path / "bundle")
    agent, obs = load_run(tmp_path / "run").make_agent(), Stacked().reset(seed=0)[0]
    assert agent.risk_encoder is agent.encoder
    assert obs.shape == (16, 16, 3 * STACK)
    decision = Shield.load(tmp_path / "bundle", engine="torch").decide(obs)
    expected = agent.act(obs.reshape(1, -1), explore=False)
    np.testing.assert_allclose(decision.task_action, expected.task_action[0], atol=1e-5)


def test_the_unconstrained_method_trains_from_images(tmp_path):
    few = [word for word in NETWORKS]
    for section in ("--risk.hidden-sizes", "--recovery.hidden-sizes"):
        at = few.index(section)
        del few[at : at + 3]
    output = ("--output", tmp_path / "run", "--episodes", 2, "--start-steps", 5)
    safe_rl("train", "unconstrained", "--env", "toy_images:Seen", *output, *few)
    safe_rl("evaluate", tmp_path / "run", "--episodes", 1)
    run = load_run(tmp_path / "run")
    with (run.path / "episodes.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
    assert len(json.loads((run.path / "evaluation.json").read_text())["episodes"]) == 1
    assert "risk" not in run.config
    trained, obs = run.make_agent(), Seen().reset(seed=0)[0].reshape(1, -1)
    assert not trained.has_risk
    fresh = make_agent("unconstrained", trained.config, Seen().observation_space, Seen().action_space, seed=run.seed)
    for learned, initial in ((trained.encoder, fresh.encoder), (trained.actor, fresh.actor)):
        assert not torch.equal(parameters_to_vector(learned.parameters()), parameters_to_vector(initial.parameters()))
    actions = [agent.act(obs, explore=False).action for agent in (trained, fresh)]
    assert np.abs(actions[0] - actions[1]).max() > 1e-6
