"""Draws what a latent model of images predicts beside what came, and prints how far it is off.

    safe-rl collect --env safe_rl/ImageMaze-v0 --output held_out --seed 7
    python -m benchmarks.predicted_frames RUN --dataset held_out --output frames.png

RUN is a run of ``safe-rl train recovery-rl --recovery.kind latent-model``. The model itself has no decoder: here one is
fitted to the run's own offline images, with encoder and model as they are. Two rows for each sequence, true and
predicted from the first image and the actions alone; a column for each step ahead. The sequences are among those in
which most changes. The table holds the mean square error of features and of pixels, each against that of "nothing
moves", and what of the pixels' is the decoder's own: that of features which are not predicted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from safe_rl.algorithms.recovery_rl import RecoveryRLAgent
from safe_rl.data.dataset import OfflineDataset
from safe_rl.data.image_replay import ImageReplayBuffer
from safe_rl.data.sequences import FeatureSequences, feature_sequences
from safe_rl.errors import UserError
from safe_rl.latent_recovery import LatentModelRecovery
from safe_rl.nets.autoencoder import ImageDecoder
from safe_rl.nets.conv import ImageEncoder, to_maps
from safe_rl.nets.latent_dynamics import relative_errors
from safe_rl.nets.optim import FlatAdam
from safe_rl.runs import load_run

BATCH, LEARNING_RATE = 64, 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--dataset", type=Path, help="images to predict (default: the run's own)")
    parser.add_argument("--output", type=Path, default=Path("predicted_frames.png"))
    parser.add_argument("--horizon", type=int, help="steps ahead (default: the planner's)")
    parser.add_argument("--sequences", type=int, default=3)
    parser.add_argument("--decoder-steps", type=int, default=1500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    run = load_run(args.run)
    agent = run.make_agent("cpu")
    recovery, encoder = agent.recovery, agent.risk_encoder
    if not isinstance(recovery, LatentModelRecovery):
        raise UserError(f"{args.run} has no latent model: train with --recovery.kind latent-model")
    horizon = args.horizon or recovery.planner.horizon
    own = Images(agent, Path(run.config["dataset"]), run.cost_key, horizon)
    seen = own if args.dataset is None else Images(agent, args.dataset, run.cost_key, horizon)
    decoder = Decoder(encoder, own, args.decoder_steps)
    features = seen.sequences.features[seen.sequences.images]
    with torch.no_grad():
        predicted = recovery.model.unroll(features[:, 0], seen.sequences.actions)
        report(features, predicted, seen, decoder)
        draw(args.output, features, predicted, seen, decoder, args.sequences)
        print(f"a plan: {1e3 * time_plan(recovery, features[:1, 0]):.1f} ms, the median of 20")


class Images:
    """A dataset's images with what the agent's encoder makes of them."""

    def __init__(self, agent: RecoveryRLAgent, dataset: Path, cost_key: str, horizon: int) -> None:
        if agent.image_shape is None:
            raise UserError("the observation is no image")
        self.shape = agent.image_shape
        transitions = OfflineDataset.open(dataset, cost_key=cost_key).transitions()
        self.replay = ImageReplayBuffer(1, self.shape, agent.act_dim)
        self.replay.add_offline(transitions.replace(action=agent.scaler.to_unit(transitions.action)))
        self.sequences: FeatureSequences = feature_sequences(self.replay, horizon, agent.risk_encoder)
        self._places = self.replay.image_numbers()[2]

    def maps(self, numbers: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] by their numbers (B,)."""
        return to_maps(self.replay.images_at(self._places[numbers.numpy()]), self.shape)


class Decoder:
    """Draws images of features, which it does not move."""

    def __init__(self, encoder: torch.nn.Module, images: Images, steps: int) -> None:
        if not isinstance(encoder, ImageEncoder):
            raise UserError("the observation is no image")
        generator = torch.Generator().manual_seed(0)
        self._net = ImageDecoder(encoder, generator=generator)
        features = images.sequences.features
        some = torch.randint(len(features), (1000,), generator=generator)
        self._mean = images.maps(some).mean(0)
        optimizer = FlatAdam(self._net, LEARNING_RATE)
        for _ in range(steps):
            numbers = torch.randint(len(features), (BATCH,), generator=generator)
            optimizer.step(functional.mse_loss(self._net(features[numbers]) + self._mean, images.maps(numbers)))

    def __call__(self, features: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] of features (B, feature_dim)."""
        return (self._net(features) + self._mean).clamp(0, 1)


def report(features: Tensor, predicted: Tensor, images: Images, decoder: Decoder) -> None:
    some = torch.linspace(0, len(features) - 1, min(len(features), 500)).long()
    first = images.maps(images.sequences.images[some, 0])
    print(f"{len(features)} sequences; mean square error against that of nothing moves")
    print("steps ahead   features   pixels   of which the decoder's")
    for step, relative in enumerate(relative_errors(predicted, features).tolist()):
        true = images.maps(images.sequences.images[some, step + 1])
        still = functional.mse_loss(first, true)
        drawn, decoded = (decoder(each[some]) for each in (predicted[:, step], features[:, step + 1]))
        pixels, own = (float(functional.mse_loss(each, true) / still) for each in (drawn, decoded))
        print(f"{step + 1:>11}{relative:>11.3f}{pixels:>9.3f}{own:>25.3f}")


def draw(path: Path, features: Tensor, predicted: Tensor, images: Images, decoder: Decoder, count: int) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    moved = (features[:, -1] - features[:, 0]).square().sum(1)
    liveliest = moved.argsort(descending=True)[:: max(1, len(moved) // (10 * count))][:count].tolist()
    columns = features.shape[1]
    _, axes = pyplot.subplots(2 * count, columns, figsize=(1.3 * columns, 2.7 * count), squeeze=False)
    for place, number in enumerate(liveliest):
        true = images.maps(images.sequences.images[number])
        drawn = decoder(torch.cat([features[number, :1], predicted[number]]))
        for row, name, pictures in ((2 * place, "true", true), (2 * place + 1, "predicted", drawn)):
            for axis, picture in zip(axes[row], pictures, strict=True):
                axis.imshow(np.asarray(picture[-3:].permute(1, 2, 0)), interpolation="nearest")
                axis.set_xticks([])
                axis.set_yticks([])
            axes[row, 0].set_ylabel(name)
    for step, axis in enumerate(axes[0]):
        axis.set_title("now" if step == 0 else f"+{step}", fontsize=10)
    pyplot.tight_layout(pad=0.4)
    pyplot.savefig(path, dpi=110)
    print(path)


def time_plan(recovery: LatentModelRecovery, features: Tensor) -> float:
    seconds = []
    for _ in range(20):
        began = time.process_time()
        recovery.act(features, torch.Generator(), explore=False)
        seconds.append(time.process_time() - began)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
