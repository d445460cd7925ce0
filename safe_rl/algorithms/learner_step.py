"""Runs a gradient step from the numbers of the replay rows: at once on the CPU, as a CUDA graph on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

Step = Callable[..., dict[str, torch.Tensor]]

WARM_UP_STEPS = 3


class LearnerStep:
    """Calls ``step(*indices)``; on CUDA captures it once and replays it.

    A learner step is some hundred kernels of a few microseconds each: launched one by one the GPU idles most of the
    time. Everything inside must therefore work on tensors of fixed shape and address and draw from ``generator``.
    """

    def __init__(self, step: Step, generator: torch.Generator, device: torch.device) -> None:
        self._step = step
        self._generator = generator
        self._device = device
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._indices: tuple[torch.Tensor, ...] = ()
        self._metrics: dict[str, torch.Tensor] = {}

    def __call__(self, *indices: npt.NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """Learns from the rows ``indices``; the metrics on CUDA are overwritten by the next call."""
        if self._device.type != "cuda":
            return self._step(*(torch.from_numpy(rows) for rows in indices))
        if self._calls == 0:
            self._indices = tuple(torch.empty(rows.shape, dtype=torch.int64, device=self._device) for rows in indices)
        for static, rows in zip(self._indices, indices, strict=True):
            static.copy_(torch.from_numpy(rows), non_blocking=True)
        self._calls += 1
        if self._graph is not None:
            self._graph.replay()
            return self._metrics
        if self._calls <= WARM_UP_STEPS:
            return self._on_side_stream()
        self._capture()
        return self._metrics

    def _on_side_stream(self) -> dict[str, torch.Tensor]:
        """Runs as usual, on a side stream: libraries allocate their workspaces there before the capture."""
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            metrics = self._step(*self._indices)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        return metrics

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        with torch.cuda.graph(graph):
            self._metrics = self._step(*self._indices)
        graph.replay()  # capturing records, it does not run
        self._graph = graph
