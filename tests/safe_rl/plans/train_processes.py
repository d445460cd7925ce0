"""`safe-rl train` as a process with workers of its own, which a test may kill."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "flow"))

from flow_processes import family


class TrainProcess:
    """`safe-rl train METHOD`, its log and its run folder."""

    def __init__(self, method: str, output: Path, *flags: str, patience_sec: float, **environment: str) -> None:
        self.output, self._patience_sec = output, patience_sec
        line = [sys.executable, "-m", "safe_rl.cli.main", "train", method, "--output", str(output), *flags]
        self.log = (output.parent / f"{output.name}.log").open("w+")
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self.process = subprocess.Popen(line, stdout=self.log, stderr=subprocess.STDOUT, env=variables)

    @property
    def text(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + self._patience_sec
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come about\n{self.text[-2000:]}"
            time.sleep(0.05)

    @property
    def last(self) -> dict[str, float]:
        """The last row of metrics."""
        path = self.output / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return json.loads(lines[-1]) if lines else {"step": 0}

    def workers(self) -> list[int]:
        return [pid for pid, name in family(self.process.pid).items() if name.startswith("ray::RayHost")]

    def finish(self) -> None:
        self.wait(lambda: self.process.poll() is not None, "the end")
        assert self.process.returncode == 0, self.text

    def end(self) -> None:
        """Leaves nothing behind, whatever became of it."""
        children = family(self.process.pid)
        self.process.kill()
        self.process.wait()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.log.close()
