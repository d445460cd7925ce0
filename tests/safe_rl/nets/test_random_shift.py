from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_rl.nets.random_shift import random_shift, shift


def naive_shift(images: np.ndarray, shape: tuple[int, int, int], pad: int, shifts: np.ndarray) -> np.ndarray:
    """Pixel by pixel, as the paper says: pad by repeating the border, then crop."""
    height, width, _ = shape
    shifted = np.empty_like(images).reshape(-1, *shape)
    for number, image in enumerate(images.reshape(-1, *shape)):
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
        top, left = shifts[:, number]
        for y in range(height):
            for x in range(width):
                shifted[number, y, x] = padded[top + y, left + x]
    return shifted.reshape(len(images), -1)


@settings(max_examples=60)
@given(
    count=st.integers(1, 4),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.sampled_from([1, 3, 6]),
    pad=st.integers(1, 5),
    seed=st.integers(0, 999),
)
def test_it_is_the_naive_loop(count, height, width, channels, pad, seed):
    shape, rng = (height, width, channels), np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, height * width * channels), dtype=np.uint8)
    shifts = rng.integers(0, 2 * pad + 1, (2, count))
    ours = shift(torch.from_numpy(images), shape, pad, torch.from_numpy(shifts))
    np.testing.assert_array_equal(ours, naive_shift(images, shape, pad, shifts))


def test_a_shift_by_hand():
    image = torch.tensor([[1, 2, 3, 4, 5, 6]], dtype=torch.uint8)  # two rows of three pixels
    assert shift(image, (2, 3, 1), 1, torch.tensor([[0], [1]])).tolist() == [[1, 2, 3, 1, 2, 3]]  # down
    assert shift(image, (2, 3, 1), 1, torch.tensor([[1], [2]])).tolist() == [[2, 3, 3, 5, 6, 6]]  # to the left
    assert shift(image, (2, 3, 1), 1, torch.tensor([[1], [1]])).tolist() == image.tolist()


def test_every_shift_is_drawn_alike_and_by_the_generator_alone():
    pad, shape = 2, (5, 5, 1)
    spot = np.zeros((4000, 5, 5), np.uint8)
    spot[:, 2, 2] = 1
    images = torch.from_numpy(spot.reshape(4000, -1))
    shifted = random_shift(images, shape, pad, torch.Generator().manual_seed(1))
    counts = shifted.sum(0)
    assert counts.sum() == 4000
    assert counts.min() > 100  # 160 expected for each of the 25 places
    assert counts.max() < 220
    assert torch.equal(shifted, random_shift(images, shape, pad, torch.Generator().manual_seed(1)))
    assert not torch.equal(shifted, random_shift(images, shape, pad, torch.Generator().manual_seed(2)))
