"""The black box: the last decisions, written to disk when the shield stops."""

from __future__ import annotations

import json
import logging
import os
import queue
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

from safe_rl.errors import UserError
from safe_rl.shield.decision import Reason, ShieldDecision
from safe_rl.switch import Mode

FloatArray = npt.NDArray[np.float32]

KIND = "safe_rl black box"
FORMAT_VERSION = 1
REASONS = tuple(Reason)
_NUMBER_OF = {reason: number for number, reason in enumerate(REASONS)}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recording:
    """The last decisions before a STOP, the oldest first."""

    time_sec: npt.NDArray[np.float64]
    """(T,) when each began, by the shield's monotonic clock."""
    solve_time_sec: npt.NDArray[np.float64]
    """(T,) how long each took."""
    obs: npt.NDArray[Any]
    """(T, obs_dim) flat observations; NaN, in images 0, where none could be read."""
    task_action: FloatArray
    """(T, act_dim) what was proposed."""
    action: FloatArray
    """(T, act_dim) what was answered."""
    risk: npt.NDArray[np.float64]
    """(T,) ``Q_risk`` of the proposals."""
    distribution_score: npt.NDArray[np.float64]
    """(T,) see ``safe_rl.shield.distribution``."""
    mode: npt.NDArray[np.int64]
    """(T,) ``safe_rl.switch.Mode``."""
    reason: tuple[str, ...]
    """(T,) values of ``Reason``."""
    source: str
    """The bundle."""
    written: str
    """Date and time, UTC."""


class BlackBox:
    """A ring of the last decisions in preallocated memory.

    ``record`` costs a few microseconds and never raises. ``dump`` copies the ring and leaves the writing to a thread of
    its own: a slow or full disk never holds up a control loop.
    """

    def __init__(
        self,
        folder: Path,
        obs_dim: int,
        act_dim: int,
        *,
        obs_dtype: np.dtype[Any] | type[Any] = np.float32,
        capacity: int = 256,
        min_interval_sec: float = 1.0,
        max_files: int = 100,
        source: str = "",
    ) -> None:
        """Makes an empty ring.

        Args:
            folder: Where dumps are written; made if it is missing.
            obs_dim: Length of a flat observation.
            act_dim: Length of an action.
            obs_dtype: Type of a flat observation.
            capacity: Number of decisions that are kept.
            min_interval_sec: Least time between two dumps: stopping and starting all the time shall not fill the disk.
            max_files: With so many files in the folder no more are written; none is ever deleted.
            source: The bundle's name, for the reader.

        Raises:
            UserError: The folder cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the black box's folder {folder}: {error.strerror}") from error
        self.folder = folder
        self.num_lost = 0
        """Dumps that were not written: too soon after the last one, too many files, or the disk refused."""
        self._capacity, self._min_interval, self._max_files, self._source = (
            capacity,
            min_interval_sec,
            max_files,
            source,
        )
        # time, solve time, risk, score, mode, reason
        self._numbers = np.zeros((capacity, 6))
        self._obs = np.zeros((capacity, obs_dim), dtype=obs_dtype)
        self._task_action, self._action = (np.zeros((capacity, act_dim), dtype=np.float32) for _ in range(2))
        self._count = 0
        self._last_dump_sec = -float("inf")
        self._token = secrets.token_hex(2)  # several shields may write to one folder in the same second
        self._waiting: queue.Queue[dict[str, npt.NDArray[Any]] | None] = queue.Queue(maxsize=2)
        self._writer = threading.Thread(target=self._write_all, name="black box", daemon=True)
        self._writer.start()

    def record(self, time_sec: float, obs: npt.NDArray[Any], decision: ShieldDecision) -> None:
        """Takes one decision on the observation (obs_dim,)."""
        place = self._count % self._capacity
        self._numbers[place] = (
            time_sec,
            decision.solve_time_sec,
            decision.risk,
            decision.distribution_score,
            decision.mode,
            _NUMBER_OF[decision.reason],
        )
        self._obs[place] = obs
        self._task_action[place] = decision.task_action
        self._action[place] = decision.action
        self._count += 1

    def dump(self) -> None:
        """Hands the ring over to be written, unless the last time is not long ago or the writer is still busy."""
        now = time.monotonic()
        if now - self._last_dump_sec < self._min_interval:
            self.num_lost += 1
            return
        self._last_dump_sec = now
        order = np.arange(max(0, self._count - self._capacity), self._count) % self._capacity
        arrays: dict[str, npt.NDArray[Any]] = {
            "numbers": self._numbers[order],
            "obs": self._obs[order],
            "task_action": self._task_action[order],
            "action": self._action[order],
        }
        try:
            self._waiting.put_nowait(arrays)
        except queue.Full:
            self.num_lost += 1

    def close(self) -> None:
        """Waits until what was dumped is written."""
        if self._writer.is_alive():
            self._waiting.put(None)
            self._writer.join()

    def _write_all(self) -> None:
        while (arrays := self._waiting.get()) is not None:
            try:
                self._write(arrays)
            except Exception as error:  # whatever it is, the next dump may succeed
                self.num_lost += 1
                _log.warning("the black box could not write to %s: %s", self.folder, error)

    def _write(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        number = sum(1 for _ in self.folder.glob("stop-*.safetensors"))
        if number >= self._max_files:
            self.num_lost += 1
            _log.warning("the black box holds %d files in %s and writes no more: move them away", number, self.folder)
            return
        written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        reason = REASONS[int(arrays["numbers"][-1, 5])].value
        name = f"stop-{written.replace(':', '')}-{os.getpid()}-{self._token}-{number:03d}-{reason}.safetensors"
        description = {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            "reasons": [known.value for known in REASONS],
            "source": self._source,
            "written": written,
        }
        staging = self.folder / f".{name}.staging"
        try:
            save_file(arrays, staging, {"description": json.dumps(description)})
            os.replace(staging, self.folder / name)
        finally:
            staging.unlink(missing_ok=True)


def read_black_box(path: Path) -> Recording:
    """Reads a dump.

    Raises:
        UserError: It is missing, damaged, no dump, or of a newer version.
    """
    if not path.is_file():
        raise UserError(f"no black box at {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            description = json.loads((file.metadata() or {}).get("description", "{}"))
            if description.get("kind") != KIND:
                raise UserError(f"{path} is not a black box's file")
            if description["format_version"] > FORMAT_VERSION:
                raise UserError(f"{path} is of the newer format {description['format_version']}: update safe_rl")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
        numbers = arrays["numbers"]
        sound = numbers.shape == (len(numbers), 6) and np.isin(numbers[:, 4], list(Mode)).all() and len(numbers) > 0
        if not sound or any(arrays[name].shape[:-1] != (len(numbers),) for name in ("obs", "task_action", "action")):
            raise ValueError("its arrays do not fit together")
        return Recording(
            time_sec=numbers[:, 0],
            solve_time_sec=numbers[:, 1],
            obs=arrays["obs"],
            task_action=arrays["task_action"],
            action=arrays["action"],
            risk=numbers[:, 2],
            distribution_score=numbers[:, 3],
            mode=numbers[:, 4].astype(np.int64),
            reason=tuple(description["reasons"][int(number)] for number in numbers[:, 5]),
            source=str(description["source"]),
            written=str(description["written"]),
        )
    except UserError:
        raise
    except Exception as error:  # of all kinds: whatever may stand in a file
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())[:100]})") from error
