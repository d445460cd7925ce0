"""`python -m ros_nodes.start shield params_file:=my_robot.yaml`: what `ros2 launch` does, where there is no ros2."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from types import FrameType

from ros_nodes.launch_description import DESCRIPTIONS, REFUSED, NodeDescription, describe
from safe_rl.errors import UserError


class Starter:
    """Keeps one node running, as its description says."""

    def __init__(self, description: NodeDescription, given: Mapping[str, str], remaps: Sequence[str] = ()) -> None:
        """Checks the arguments.

        Raises:
            UserError: One cannot be.
        """
        self._description = description
        self._command = description.command_line(description.values(given), remaps)
        self._asked_to_end = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Runs the node until it ends for good.

        Returns:
            Its exit code; 1 where it died of a signal too often.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        num_restarts = 0
        while True:
            self._process = subprocess.Popen(self._command)  # noqa: S603
            if self._asked_to_end.is_set():  # by a signal that came while there was no process to pass it to
                self._process.send_signal(signal.SIGINT)
            code = self._process.wait()
            if self._asked_to_end.is_set() or not self._description.restarts(code, num_restarts):
                return code if code >= 0 else 1
            num_restarts += 1
            sys.stderr.write(
                f"{self._description.name} ended with {code}: restart {num_restarts} of "
                f"{self._description.max_restarts}\n"
            )
            if self._asked_to_end.wait(self._description.restart_delay_sec):
                return 0

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked_to_end.set()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads ``<node> name:=value ... [-r from:=to ...]`` and runs the node."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] not in DESCRIPTIONS:
        sys.stderr.write(
            f"usage: python -m ros_nodes.start {'|'.join(DESCRIPTIONS)} name:=value ... [-r from:=to ...]\n"
        )
        return REFUSED
    description = DESCRIPTIONS[words.pop(0)]
    if {"-h", "--help", "-s", "--show-args"} & set(words):
        sys.stdout.write(describe(description) + "\n")
        return 0
    try:
        given, remaps = _parse(words)
        return Starter(description, given, remaps).run()
    except UserError as error:
        sys.stderr.write(f"start: error: {error}\n")
        return REFUSED


def _parse(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    given: dict[str, str] = {}
    remaps: list[str] = []
    rest = iter(words)
    for word in rest:
        rule = next(rest, "") if word in ("-r", "--remap") else word
        name, separator, value = rule.partition(":=")
        if not separator:
            raise UserError(f"{word!r} is no name:=value")
        if rule is word:
            given[name] = value
        else:
            remaps.append(rule)
    return given, remaps


if __name__ == "__main__":
    sys.exit(main())
