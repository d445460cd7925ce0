"""Replay of transitions between images."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from safe_rl.data.frame_store import FrameStore
from safe_rl.data.replay_buffer import Batch, ReplayBuffer
from safe_rl.errors import UserError
from safe_rl.transitions import Transitions

RGB = 3


class ImageReplayBuffer(ReplayBuffer):
    """A ``ReplayBuffer`` whose observations are flat uint8 images, of which each is kept once.

    A transition's last image is the next one's first, unless the episode ends: 100,000 transitions of 64 x 64 x 3 take
    1.15 GiB and what their episodes' ends add. Of frames stacked along the channels, (H, W, 3 * k), every frame is kept
    once. Equality of content decides, so the transitions of several environments may come in any order.
    """

    def __init__(
        self,
        capacity: int,
        shape: tuple[int, int, int],
        act_dim: int,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        """Makes an empty buffer.

        Args:
            capacity: Largest number of online transitions; the oldest is overwritten first.
            shape: Height, width and channels of an observation.
            act_dim: Length of an action.
            seed: Seed of the sampling.
            device: Where the images live.
        """
        self.shape = shape
        height, width, channels = shape
        self.stack = channels // RGB if channels % RGB == 0 else 1
        self._frame_shape = height, width, channels // self.stack
        super().__init__(capacity, 0, act_dim, seed=seed, device=device)

    @property
    def nbytes(self) -> int:
        """Memory taken: images, their places, and the numbers beside them."""
        return self.frames.nbytes + self._held.nbytes + self._rows.nbytes

    def add_offline(self, transitions: Transitions) -> None:
        """See ``ReplayBuffer``."""
        super().add_offline(transitions)
        digest = hashlib.sha256(self._offline_digest.encode())
        for images in (transitions.obs, transitions.next_obs):
            digest.update(np.ascontiguousarray(images).data)
        self._offline_digest = digest.hexdigest()
        for index in range(len(transitions)):
            self._put(index, transitions.obs[index], transitions.next_obs[index])

    def add(self, transitions: Transitions) -> None:
        """See ``ReplayBuffer``."""
        first = self._next
        super().add(transitions)
        for number in range(len(transitions)):
            index = self.num_offline + (first + number) % self.capacity
            self._put(index, transitions.obs[number], transitions.next_obs[number])

    def batch(self, indices: torch.Tensor) -> Batch:
        """See ``ReplayBuffer``; ``obs`` and ``next_obs`` are uint8."""
        places = self._places.index_select(0, indices)
        return dataclasses.replace(
            super().batch(indices),
            obs=self._images(places[:, : self.stack]),
            next_obs=self._images(places[:, self.stack :]),
        )

    def image_numbers(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Numbers the observations, equal ones alike.

        Returns:
            (len(self),) numbers of ``obs`` and of ``next_obs``, and (number of observations, stack) for ``images_at``.
        """
        held = self._held[: len(self)]
        places, numbers = np.unique(held.reshape(-1, self.stack), axis=0, return_inverse=True)
        obs, next_obs = numbers.reshape(len(self), 2).T
        return obs, next_obs, places

    def images_at(self, places: npt.NDArray[np.int64]) -> torch.Tensor:
        """The observations (B, H * W * C) of places (B, stack) that ``image_numbers`` gave."""
        return self._images(torch.from_numpy(places).to(self.device))

    def state_dict(self) -> dict[str, Any]:
        """See ``ReplayBuffer``; on the CPU the images are the buffer's own memory: write them before it changes."""
        return {
            **super().state_dict(),
            "frames": self.frames.frames[self._num_offline_frames : self.frames.num_used].cpu(),
            "places": self._held[self.num_offline : len(self)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``ReplayBuffer``.

        Raises:
            UserError: There are transitions already, beside what the base class raises.
        """
        if self.num_online:
            raise UserError("a replay that holds transitions cannot take those of a checkpoint: make a new one")
        super().load_state_dict(state)
        places = np.asarray(state["places"])
        self.frames.restore(self._num_offline_frames, state["frames"], places.reshape(-1))
        self._hold(slice(self.num_offline, len(self)), places)

    @property
    def _num_offline_frames(self) -> int:
        """The offline transitions' images have the first places, and keep them."""
        return int(self._held[: self.num_offline].max(initial=-1)) + 1

    def _allocate(self, num_rows: int) -> torch.Tensor:
        rows = super()._allocate(num_rows)
        per_row = 2 * self.stack
        frame_size = int(np.prod(self._frame_shape))
        try:
            self.frames = FrameStore(num_rows * per_row, frame_size, self.device)
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"a replay of {num_rows} transitions between images {self.shape} does not fit the memory of "
                f"{self.device}: lower --replay-capacity"
            ) from error
        self._held = np.full((num_rows, per_row), -1, dtype=np.int64)
        self._places = torch.from_numpy(self._held).to(self.device)  # on the CPU the same memory
        return rows

    def _to_rows(self, transitions: Transitions) -> torch.Tensor:
        nothing = np.empty((len(transitions), 0), dtype=np.float32)
        return super()._to_rows(transitions.replace(obs=nothing, next_obs=nothing))

    def _put(self, index: int, obs: npt.NDArray[np.uint8], next_obs: npt.NDArray[np.uint8]) -> None:
        for place in self._held[index].tolist():
            if place >= 0:
                self.frames.release(place)
        self._hold(
            index, np.array([self.frames.put(frame) for image in (obs, next_obs) for frame in self._split(image)])
        )

    def _hold(self, index: int | slice, places: npt.NDArray[np.int64]) -> None:
        self._held[index] = places
        if self._places.is_cuda:
            self._places[index] = torch.from_numpy(places).to(self.device)

    def _split(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The frames (stack, frame_size) of a flat observation."""
        image = np.ascontiguousarray(image, dtype=np.uint8)
        if self.stack == 1:
            return image[None]
        height, width, channels = self._frame_shape
        frames = image.reshape(height, width, self.stack, channels).transpose(2, 0, 1, 3)
        return np.ascontiguousarray(frames).reshape(self.stack, -1)

    def _images(self, places: torch.Tensor) -> torch.Tensor:
        """The observations (B, H * W * C) whose frames have the places (B, stack)."""
        frames = self.frames.frames.index_select(0, places.reshape(-1))
        if self.stack == 1:
            return frames
        height, width, channels = self._frame_shape
        return frames.view(-1, self.stack, height, width, channels).permute(0, 2, 3, 1, 4).flatten(1)
