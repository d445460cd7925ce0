"""Sample Factory's APPO with the settings of its own example for CartPole-v1: a peer of `benchmarks.impact_compare`.

The settings are those of the command line in ``sf_examples/train_gym_env.py``, but for two things: 2 rollout workers
and networks of 64-64 tanh (the trunk is shared, which is Sample Factory's default). The clock starts when learner and
inference workers are there and the rollout workers begin. Steps are those that the learner has taken in, as in Sample
Factory's own figures.

It runs in the environment that has sample-factory. Its last line is a curve as JSON.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import tempfile
from typing import Any

import gymnasium as gym
from sample_factory.algo.runners.runner import AlgoObserver, Runner
from sample_factory.algo.utils.misc import EPISODIC, ExperimentStatus
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.train import make_runner
from signal_slot.signal_slot import EventLoopObject

from benchmarks.curves import Curve, Recorder, peer_parser, peer_recorder

EXAMPLE = (
    "--algo=APPO --use_rnn=False --num_envs_per_worker=20 --policy_workers_per_policy=2 --recurrence=1 "
    "--with_vtrace=False --batch_size=512 --reward_scale=0.1 --save_every_sec=10 --experiment_summaries_interval=10"
)
OURS = "--num_workers=2 --encoder_mlp_layers 64 64 --nonlinearity=tanh --device=cpu"


def make_env(name: str, cfg: Any = None, env_config: Any = None, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """What Sample Factory calls in its processes."""
    return gym.make(name, render_mode=render_mode)


class Record(AlgoObserver, EventLoopObject):
    """Tells the recorder of each training step."""

    def __init__(self, runner: Runner, options: Any) -> None:
        EventLoopObject.__init__(self, runner.event_loop, "record")
        self.options = options
        self.recorder: Recorder = peer_recorder(options)
        self.returns: list[float] = []
        runner.register_episodic_stats_handler(self.on_episode)
        runner.register_observer(self)

    def on_connect_components(self, runner: Runner) -> None:
        """Waits for the inference workers: each of them says that it is ready; the last one starts the clock."""
        runner.sampler.initialized.connect(self.on_ready)

    def on_ready(self) -> None:
        """Starts the clock."""
        self.recorder = peer_recorder(self.options)

    def on_episode(self, runner: Runner, message: dict[str, Any], policy: int) -> None:
        """Takes the return of an episode, which is not scaled."""
        self.returns.append(float(message[EPISODIC]["reward"]))

    def on_training_step(self, runner: Runner, training_iteration_since_resume: int) -> None:
        """Tells the recorder, and ends the run by Sample Factory's own limit."""
        if self.recorder.add(self.returns, runner.env_steps.get(0, 0)):
            runner.cfg.train_for_env_steps = 0
        self.returns.clear()


def train(options: Any, folder: str) -> Curve:
    """Trains once; logs and checkpoints go to the folder."""
    register_env(options.env, make_env)
    arguments = [*EXAMPLE.split(), *OURS.split(), f"--env={options.env}", f"--seed={options.seed}"]
    arguments += [f"--train_dir={folder}", "--experiment=peer"]
    parser, _ = parse_sf_args(arguments)
    _, runner = make_runner(parse_full_cfg(parser, arguments))
    record = Record(runner, options)
    status = runner.init()
    if status == ExperimentStatus.SUCCESS:
        status = runner.run()
    if status != ExperimentStatus.SUCCESS:
        raise SystemExit(f"Sample Factory ended with status {status}")
    return record.recorder.curve


def main() -> None:
    options = peer_parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        curve = train(options, folder)
    print(curve.to_json())


if __name__ == "__main__":
    main()
