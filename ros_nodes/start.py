"""`python -m ros_nodes.start shield params_file:=my_robot.yaml`: what `ros2 launch` does, where there is no ros2."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import FrameType

from ros_nodes.launch_description import DESCRIPTIONS, REFUSED, NodeDescription, describe
from safe_rl.errors import UserError


class Keeper:
    """Keeps one node running, as its description says."""

    def __init__(self, description: NodeDescription, command: Sequence[str]) -> None:
        self._description, self._command = description, command
        self._asked_to_end = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Runs the node until it ends for good.

        Returns:
            Its exit code; 1 where it died of a signal too often.
        """
        num_restarts = 0
        while True:
            self._process = subprocess.Popen(self._command)  # noqa: S603
            if self._asked_to_end.is_set():  # while there was no process to pass it to
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

    def end(self) -> None:
        """Asks the node to end."""
        self._asked_to_end.set()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)


def run_all(keepers: Sequence[Keeper]) -> int:
    """Runs nodes side by side until Ctrl-C, SIGTERM, or until one of them ends for good; then all end.

    Returns:
        The exit code of the one that ended first, or 0.
    """
    ended: queue.Queue[int] = queue.Queue()

    def end_all(number: int, frame: FrameType | None) -> None:
        for keeper in keepers:
            keeper.end()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end_all)
    threads = [threading.Thread(target=lambda keeper=keeper: ended.put(keeper.run())) for keeper in keepers]
    for thread in threads:
        thread.start()
    code = ended.get()
    end_all(signal.SIGINT, None)
    for thread in threads:
        thread.join()
    return code


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
        nodes = description.group(given)
        return run_all([Keeper(one, one.command_line(values, remaps)) for one, values in nodes])
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
