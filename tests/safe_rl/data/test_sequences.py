from __future__ import annotations

import numpy as np
import pytest
import torch

from safe_rl.data.image_replay import ImageReplayBuffer
from safe_rl.data.sequences import feature_sequences, find_windows
from safe_rl.errors import UserError
from safe_rl.transitions import Transitions

SHAPE = 8, 8, 3


def windows(obs, next_obs, ends, length):
    return find_windows(np.array(obs), np.array(next_obs), np.array(ends, dtype=bool), length).tolist()


def test_transitions_that_follow_each_other():
    # two episodes, 0-1-2-3 and 7-8-9, the first ended by a violation
    assert windows([0, 1, 2, 7, 8], [1, 2, 3, 8, 9], [0, 0, 1, 0, 0], 2) == [[0, 1], [1, 2], [3, 4]]
    assert windows([0, 1, 2, 7, 8], [1, 2, 3, 8, 9], [0, 0, 1, 0, 0], 3) == [[0, 1, 2]]
    assert windows([0, 1, 2, 7, 8], [1, 2, 3, 8, 9], [0, 0, 1, 0, 0], 4) == []


def test_two_environments_side_by_side():
    assert windows([0, 5, 1, 6], [1, 6, 2, 7], [0] * 4, 2) == [[0, 2], [1, 3]]


def test_nothing_follows_the_end_and_nothing_earlier_follows():
    assert windows([0, 1], [1, 2], [1, 0], 2) == []
    assert windows([1, 0], [2, 1], [0, 0], 2) == []


def test_an_image_that_comes_again_is_followed_by_the_nearest():
    # a robot that stands at the wall: image 1 three times
    assert windows([0, 1, 1, 1], [1, 1, 1, 2], [0] * 4, 3) == [[0, 1, 2], [1, 2, 3]]


def transitions(count: int, frames: int = 1) -> Transitions:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count + 1, *SHAPE[:2], 3 * frames), dtype=np.uint8)
    for later in range(1, count + 1):
        images[later, ..., : 3 * (frames - 1)] = images[later - 1, ..., 3:]
    images = images.reshape(count + 1, -1)
    action = rng.uniform(-1, 1, (count, 2)).astype(np.float32)
    zeros = np.zeros(count, np.float32)
    return Transitions(
        images[:-1], action, action, zeros, zeros, images[1:], np.zeros(count, bool), np.zeros(count, bool)
    )


@pytest.mark.parametrize("frames", [1, 2])
def test_features_of_a_replay_are_those_of_its_images_each_encoded_once(frames):
    data = transitions(10, frames)
    replay = ImageReplayBuffer(20, (8, 8, 3 * frames), 2)
    replay.add_offline(data[:6])
    replay.add(data[6:])
    seen = []

    def encoder(images):
        seen.append(len(images))
        return images[:, :5].float()

    sequences = feature_sequences(replay, 4, encoder)
    assert sum(seen) == 11
    assert len(sequences) == 7
    first = sequences.features[sequences.images]
    expected = np.concatenate([data.obs, data.next_obs[-1:]])[:, :5]
    for number in range(7):
        np.testing.assert_array_equal(first[number].numpy(), expected[number : number + 5])
        np.testing.assert_array_equal(sequences.actions[number].numpy(), data.action[number : number + 4])
    (features, actions), *_ = sequences.batches(3, 2, torch.Generator().manual_seed(0))
    assert (features.shape, actions.shape) == ((3, 5, 5), (3, 4, 2))


def test_a_horizon_longer_than_every_episode_is_one_line():
    replay = ImageReplayBuffer(20, SHAPE, 2)
    replay.add(transitions(3))
    with pytest.raises(UserError, match=r"--planner.horizon is 4: no 4 transitions of the data follow each other"):
        feature_sequences(replay, 4, lambda images: images.float())
