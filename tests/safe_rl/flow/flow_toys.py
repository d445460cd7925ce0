"""Actors of the tests. Ray's workers import this module by its name."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from safe_rl.errors import UserError
from safe_rl.flow import current_metrics


class Counter:
    """Counts its calls: actor 0 gives a0, a1, ..., actor 1 b0, b1, ..."""

    def __init__(self, *, index: int) -> None:
        self.name = "abc"[index]
        self.reset()

    def reset(self) -> None:
        self.count = 0
        self.weights: Any = None
        self.version = -1

    def sample(self) -> str:
        self.count += 1
        return f"{self.name}{self.count - 1}"

    def sample_slowly(self) -> str:
        if self.name == "a":
            time.sleep(0.5)
        return self.sample()

    def sample_versioned(self) -> tuple[str, int]:
        return self.sample(), self.version

    def sample_three(self) -> str:
        if self.count >= 3:
            raise StopIteration
        return self.sample()

    def sample_array(self) -> np.ndarray:
        self.count += 1
        return np.full(50_000, self.count - 1.0)

    def sample_counted(self) -> str:
        current_metrics().count("toy/samples")
        return self.sample()

    def fail(self) -> str:
        raise ValueError("no luck")

    def fail_plainly(self) -> str:
        raise UserError("turn it on")

    def unsendable(self) -> Any:
        return threading.Lock()

    def get_count(self) -> int:
        return self.count

    def set_weights(self, weights: Any, version: int = 0) -> None:
        self.weights, self.version = weights, version

    def get_weights(self) -> Any:
        return self.weights


class Mortal:
    """Can be killed and hung by its own process id; keeps what its constructor was given."""

    def __init__(self, base: int, die_at_start: str = "", *, index: int) -> None:
        self.value, self.index, self.version = base, index, -1
        if die_at_start and Path(die_at_start).exists():
            raise RuntimeError("cannot start any more")

    def sample(self) -> tuple[int, int, int, int]:
        """Index, process, base, version of the weights."""
        time.sleep(0.02)
        return self.index, os.getpid(), self.value, self.version

    def sample_or_hang(self) -> tuple[int, int, int, int]:
        if self.index == 0 and self.version == 0:
            time.sleep(1000)
        return self.sample()

    def set_version(self, version: int) -> None:
        self.version = version


class Picky:
    """Its constructor raises."""

    def __init__(self, *, index: int) -> None:
        raise UserError(f"no environment for {index}")


class Holder:
    """Keeps what it is sent."""

    def __init__(self, given: Any = None, *, index: int) -> None:
        self.given, self.kept = given, 0.0

    def keep(self, array: np.ndarray) -> float:
        self.kept = float(array[0])
        return self.kept


def shout(item: str) -> str:
    return item.upper()


def label(counter: Counter, item: str) -> str:
    return f"{item} of {counter.name}"


def is_even(item: str) -> bool:
    return int(item[1:]) % 2 == 0


def explode(item: Any) -> Any:
    raise ValueError(f"cannot use {item}")
