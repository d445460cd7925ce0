"""What peers of ``benchmarks.impact_compare`` report, and how they are named on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.curves import Curve, Recorder, parse_curve, peer_parser, peer_recorder
from benchmarks.peers import PEER_LABELS, PEERS, peer_argument, train_peer


def test_a_recorder_notes_when_the_last_hundred_episodes_reach_the_goal():
    """99 episodes of 0 and then one hundred of 500: 95 of these make a mean of 475."""
    recorder = peer_recorder(peer_parser(None).parse_args([]))
    over = [recorder.add([0.0], 1_000 * (i + 1)) for i in range(99)]
    over += [recorder.add([500.0], 1_000 * (i + 100)) for i in range(95)]
    assert over == [False] * 193 + [True]
    curve = recorder.curve
    assert curve.goal_steps == curve.steps[-1] == 194_000
    assert curve.goal_seconds == curve.seconds[-1]
    assert curve.returns[-1] == 475.0
    assert curve.rate == pytest.approx(194_000 / curve.seconds[-1])


def test_a_run_ends_at_its_limits_without_the_goal():
    assert Recorder(475.0, 10, 60.0).add([500.0] * 99, 10)
    assert Recorder(475.0, 10, -1.0).add([], 0)
    recorder = Recorder(475.0, 10, 60.0)
    assert not recorder.add([500.0] * 99, 9)
    assert recorder.curve.goal_steps is None


def test_a_curve_is_found_between_what_libraries_print():
    curve = Curve([20, 40], [0.5, 1.0], [21.5, 480.0], 40, 1.0, 40.0, 2.5)
    assert parse_curve(f"{{warning}}\nstarting\n{curve.to_json()}\nbye\n") == curve


@pytest.mark.parametrize("text", ["", "no curve\n", '{"steps": [1]', '{"speed": 3}'])
def test_no_curve_is_said_with_what_there_was(text: str):
    with pytest.raises(ValueError, match="no curve in what was printed") as raised:
        parse_curve(text)
    assert repr(text) in str(raised.value)


def test_peers_are_named_with_their_interpreters():
    assert peer_argument("rllib-appo=/envs/a=b/bin/python") == ("rllib-appo", "/envs/a=b/bin/python")
    assert list(PEERS) == list(PEER_LABELS)
    for text in ("rllib=/bin/python", "sf-appo", "sf-appo="):
        with pytest.raises(argparse.ArgumentTypeError, match="NAME=PYTHON"):
            peer_argument(text)


def test_a_peer_is_a_process_that_prints_its_curve(tmp_path: Path):
    """An interpreter in its place, which says what it was told; then one that fails."""
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/told\necho '{Curve(rate=7.0).to_json()}'\n")
    interpreter.chmod(0o755)
    assert train_peer("rllib-ppo", str(interpreter), "CartPole-v1", 475.0, 3, 9.0) == Curve(rate=7.0)
    told = (tmp_path / "told").read_text().split()
    assert told[:4] == ["-m", "benchmarks.peer_rllib", "--algorithm", "ppo"]
    assert vars(peer_parser(None).parse_args(told[4:])) == {
        "env": "CartPole-v1", "goal": 475.0, "seed": 3, "limit_steps": 2_000_000, "limit_sec": 9.0,
    }  # fmt: skip
    interpreter.write_text("#!/bin/sh\necho no such module >&2\nexit 3\n")
    with pytest.raises(RuntimeError, match="rllib-ppo ended with 3: no such module"):
        train_peer("rllib-ppo", str(interpreter), "CartPole-v1", 475.0, 3, 9.0)
