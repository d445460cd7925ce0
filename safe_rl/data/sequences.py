"""Sequences of images, found again among the transitions of a replay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from safe_rl.data.image_replay import ImageReplayBuffer
from safe_rl.errors import UserError

CHUNK = 256
"""Images encoded at once: the same ones together, whoever asks, so that the results are equal to the last bit."""

Integers = npt.NDArray[np.int64]


@dataclass
class FeatureSequences:
    """What a model learns from: features of every image once, and which follow each other."""

    features: Tensor
    """(number of images, feature_dim)"""
    images: Tensor
    """(W, length + 1) the images of each sequence."""
    actions: Tensor
    """(W, length, act_dim) the actions between them, in [-1, 1]."""

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, batch_size: int, count: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Draws features (B, length + 1, feature_dim) and actions (B, length, act_dim), ``count`` times."""
        for _ in range(count):
            drawn = torch.randint(len(self), (batch_size,), generator=generator, device=self.images.device)
            yield self.features[self.images[drawn]], self.actions[drawn]


def feature_sequences(replay: ImageReplayBuffer, length: int, encoder: Callable[[Tensor], Tensor]) -> FeatureSequences:
    """Encodes the images of a replay, each of them once, and gathers all sequences of ``length`` transitions.

    Raises:
        UserError: There is no sequence of that length.
    """
    rows = require_windows(replay, length)
    obs, next_obs, places = replay.image_numbers()
    with torch.no_grad():
        features = torch.cat([encoder(replay.images_at(chunk)) for chunk in _chunks(places)])
    numbers = torch.from_numpy(np.concatenate([obs[rows], next_obs[rows[:, -1:]]], axis=1)).to(replay.device)
    actions = replay.actions(torch.from_numpy(rows.reshape(-1)).to(replay.device))
    return FeatureSequences(features, numbers, actions.view(*rows.shape, -1))


def require_windows(replay: ImageReplayBuffer, length: int) -> Integers:
    """The sequences of a replay; see ``find_windows``.

    Raises:
        UserError: There is none.
    """
    obs, next_obs, _ = replay.image_numbers()
    rows = find_windows(obs, next_obs, replay.ends(), length)
    if not len(rows):
        raise UserError(
            f"--planner.horizon is {length}: no {length} transitions of the data follow each other; "
            "lower it, or collect longer episodes"
        )
    return rows


def _chunks(places: Integers) -> Iterator[Integers]:
    return (places[first : first + CHUNK] for first in range(0, len(places), CHUNK))


def find_windows(obs: Integers, next_obs: Integers, ends: npt.NDArray[np.bool_], length: int) -> Integers:
    """Finds sequences of transitions in which each begins with the image that the one before ended with.

    Equality of the image decides, not neighbourhood: the transitions of several environments may be interleaved. Of
    several followers the nearest later one counts.

    Args:
        obs: (n,) number of the image that a transition begins with.
        next_obs: (n,) number of the image that it ends with.
        ends: (n,) whether nothing follows it.
        length: Transitions in a sequence.

    Returns:
        (W, length) numbers of transitions.
    """
    followers = _followers(obs, next_obs, ends)
    windows = np.arange(len(obs))[:, None]
    for _ in range(length - 1):
        last = followers[windows[:, -1]]
        windows = np.concatenate([windows, last[:, None]], axis=1)[last >= 0]
    return windows


def _followers(obs: Integers, next_obs: Integers, ends: npt.NDArray[np.bool_]) -> Integers:
    """(n,) the first later transition that begins where each one ends, -1 where there is none."""
    count = len(obs)
    order = np.argsort(obs, kind="stable")
    keys = obs[order] * (count + 1) + order  # sorted by image, then by time
    found = np.searchsorted(keys, next_obs * (count + 1) + np.arange(count), side="right")
    candidates = order[np.minimum(found, count - 1)]
    follows = (found < count) & (obs[candidates] == next_obs) & ~ends
    return np.where(follows, candidates, -1)
