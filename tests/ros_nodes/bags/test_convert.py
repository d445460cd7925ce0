"""From recordings to datasets: every step of small recordings known by hand."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest

pytest.importorskip("rosbags")
pytest.importorskip("mcap")

from recordings import (
    BOOL,
    IMAGE,
    MAPPING,
    ODOM,
    TWIST,
    Entry,
    bumper,
    command,
    drive,
    image,
    make,
    odom,
    write_bag,
    write_mapping,
)

from ros_nodes.bags.convert import Config, collect
from safe_rl.cli.main import main
from safe_rl.data.dataset import OfflineDataset
from safe_rl.data.episodes import EpisodeTable
from safe_rl.errors import UserError

pytestmark = pytest.mark.bags

Sections = dict[str, Any]


def convert(
    tmp_path: Path, entries: list[Entry], sections: Sections | None = None, **settings: Any
) -> tuple[EpisodeTable, list[str]]:
    bag = write_bag(tmp_path / "bag", entries)
    mapping = write_mapping(tmp_path / "mapping.yaml", **(sections or {}))
    dataset, lines = collect(Config((bag,), mapping, tmp_path / "data", **settings))
    return dataset.table(), lines


def column(table: EpisodeTable, name: str) -> list[float]:
    return table.steps[name].reshape(-1).tolist()


def xs(table: EpisodeTable) -> list[list[float]]:
    """Observations of each episode."""
    return [episode.obs[""].reshape(-1).tolist() for episode in table]


def test_a_drive_by_hand(tmp_path: Path) -> None:
    table, lines = convert(tmp_path, drive(1.0))
    # Ten commands, so ten steps; the last has no observation after it.
    assert xs(table) == [list(range(10))]
    np.testing.assert_allclose(column(table, "action"), np.arange(9) / 10, rtol=1e-6)
    assert column(table, "reward") == [0.0] * 9
    assert column(table, "cost") == [0.0] * 9
    assert column(table, "terminated") == [False] * 9
    assert column(table, "truncated") == [False] * 8 + [True]
    assert "9 steps at 10 Hz in 1 episodes" in "\n".join(lines)
    assert "/cmd_vel 10" in lines[0]


def test_minari_opens_it_and_it_tells_where_it_comes_from(tmp_path: Path) -> None:
    convert(tmp_path, drive(1.0, hit=[4]))
    alone = minari.MinariDataset(tmp_path / "data" / "data")
    assert alone.total_steps == 9
    assert alone[0].observations.shape == (6, 1)
    assert alone.spec.action_space.low.tolist() == [-1.0]
    dataset = OfflineDataset.open(tmp_path / "data")
    (source,) = dataset.metadata["safe_rl"]["collections"]
    assert source["recordings"][0]["name"] == "bag"
    assert source["recordings"][0]["messages"]["/odom"] == 10
    assert len(source["recordings"][0]["sha256"]["bag.mcap"]) == 64
    assert source["mapping"]["action"]["topic"] == "/cmd_vel"
    assert source["clock"] == "header"
    assert str(tmp_path) not in str(source)


class TestViolations:
    def test_end_the_episode(self, tmp_path: Path) -> None:
        table, lines = convert(tmp_path, drive(1.0, hit=[4, 5]))
        # Step 5 still violates: it is dropped.
        assert xs(table) == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]]
        assert column(table, "cost") == [0, 0, 0, 0, 1, 0, 0, 0]
        assert column(table, "terminated") == [False] * 4 + [True] + [False] * 3
        assert column(table, "truncated") == [False] * 7 + [True]
        assert "  1 steps are dropped: after_violation" in lines

    def test_or_do_not(self, tmp_path: Path) -> None:
        entries = [(t + 0.02 * (topic == "/bumper"), topic, m) for t, topic, m in drive(1.0, hit=[4])]
        table, _ = convert(tmp_path, sorted(entries, key=lambda entry: entry[0]), end_at_violation=False)
        assert table.lengths.tolist() == [9]
        assert column(table, "cost") == [0, 0, 0, 0, 1, 1, 0, 0, 0]  # in force from 100.42 until 100.52
        assert not any(column(table, "terminated"))

    def test_any_moment_of_the_step_counts(self, tmp_path: Path) -> None:
        entries = sorted([*drive(1.0), (100.34, "/bumper", bumper(True)), (100.36, "/bumper", bumper(False))],
                         key=lambda entry: entry[0])  # fmt: skip
        table, _ = convert(tmp_path, entries)
        assert column(table, "cost") == [0, 0, 0, 1, 0, 0, 0, 0, 0]

    def test_of_a_silent_monitor_nothing_is_known(self, tmp_path: Path) -> None:
        entries = [e for e in drive(1.0) if e[1] != "/bumper" or not 100.35 < e[0] < 100.65]
        table, lines = convert(tmp_path, entries)
        # The message of 100.3 is in force for 0.15 s: steps 3 and 4 are known, 5 and 6 are not.
        assert xs(table) == [[0, 1, 2, 3, 4, 5], [7, 8, 9]]
        assert "  2 steps are dropped: cost_silent" in lines

    def test_events_are_silent_between(self, tmp_path: Path) -> None:
        entries = [e for e in drive(1.0, hit=[4]) if e[1] != "/bumper" or e[2].data]
        table, _ = convert(tmp_path, entries, cost_events=True)
        assert column(table, "cost") == [0, 0, 0, 0, 1, 0, 0, 0, 0]
        assert table.lengths.tolist() == [5, 4]

    def test_a_limit_on_a_number(self, tmp_path: Path) -> None:
        cost = {"topic": "/odom", "type": ODOM, "fields": ["pose.pose.position.x"], "offset": -6.5, "timeout_sec": 0.2}
        table, _ = convert(tmp_path, drive(1.0), {"cost": cost})
        assert column(table, "cost") == [0] * 6 + [1]  # x = 7 comes at 100.69, within step 6

    def test_lost_ones_are_told(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        entries = [e for e in drive(1.0, hit=[4]) if e[1] != "/odom" or not 100.35 < e[0] < 100.55]
        with caplog.at_level(logging.WARNING):
            convert(tmp_path, entries)
        assert "steps that violate the constraint are dropped" in caplog.text

    def test_none_counted(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        table, _ = convert(tmp_path, drive(1.0, hit=[4]), {"cost": None}, no_cost=True)
        assert column(table, "cost") == [0.0] * 9
        assert "nothing counts as a violation" in caplog.text


class TestEpisodes:
    def test_cut_at_a_gap(self, tmp_path: Path) -> None:
        table, lines = convert(tmp_path, [*drive(0.5), *drive(0.5, start=103.0)])
        assert xs(table) == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
        assert "  1 cuts: gap" in lines

    def test_a_longer_gap_may_be_allowed_but_silence_still_cuts(self, tmp_path: Path) -> None:
        table, lines = convert(tmp_path, [*drive(0.5), *drive(0.5, start=103.0)], max_gap_sec=10)
        assert len(table.lengths) == 2
        assert any("odom_silent" in line for line in lines)

    def test_cut_where_the_clock_goes_back(self, tmp_path: Path) -> None:
        again = [(received + 1.0, topic, message) for received, topic, message in drive(0.5, start=100.0)]
        table, lines = convert(tmp_path, [*drive(1.0, start=100.0), *again])
        assert xs(table) == [list(range(10)), [0, 1, 2, 3, 4]]
        assert any("clock_jump" in line for line in lines)

    @pytest.mark.parametrize("topic", ["episode", "episode_mark"])
    def test_counted_episodes_cut_unasked_and_a_repeated_number_does_not(self, tmp_path: Path, topic: str) -> None:
        counts = [(100.29, 1), (100.49, 2), (100.69, 2)]  # just before the odometry of steps 3, 5 and 7
        entries = [(time - 0.005, f"/{topic}", make("std_msgs/msg/Int32", data=count)) for time, count in counts]
        table, lines = convert(tmp_path, [*drive(1.0), *entries])
        assert xs(table) == [[0, 1, 2], [3, 4], [5, 6, 7, 8, 9]]
        assert "  2 cuts: mark" in lines

    def test_a_topic_of_that_name_and_another_type_is_nothing(self, tmp_path: Path) -> None:
        assert xs(convert(tmp_path, [*drive(1.0), (100.5, "/episode", bumper(True))])[0]) == [list(range(10))]

    def test_cut_at_marks_of_any_type(self, tmp_path: Path) -> None:
        mark = (100.385, "/reset", make("std_msgs/msg/Empty"))
        table, lines = convert(tmp_path, [*drive(1.0), mark], mark_topics=("reset",))
        # Step 3 has no observation after it any more: the next one comes after the reset.
        assert xs(table) == [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9]]
        assert "  1 cuts: mark" in lines

    def test_nan_is_dropped_and_cuts(self, tmp_path: Path) -> None:
        entries = [
            (t, topic, odom(t, float("nan")) if topic == "/odom" and message.pose.pose.position.x == 4 else message)
            for t, topic, message in drive(1.0)
        ]
        table, lines = convert(tmp_path, entries)
        assert xs(table) == [[0, 1, 2, 3], [5, 6, 7, 8, 9]]
        assert "  2 steps are dropped: odom_not_finite" in lines  # the one before has no observation after it

    def test_nan_commands_are_dropped(self, tmp_path: Path) -> None:
        entries = [
            (t, topic, command(t, float("nan")) if topic == "/cmd_vel" and 100.35 < t < 100.45 else message)
            for t, topic, message in drive(1.0)
        ]
        table, lines = convert(tmp_path, entries)
        assert xs(table) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
        assert "  1 steps are dropped: command_not_finite" in lines

    def test_a_command_is_in_force_for_a_while(self, tmp_path: Path) -> None:
        entries = [e for e in drive(2.0) if e[1] != "/cmd_vel" or not 100.25 < e[0] < 101.45]
        table, lines = convert(tmp_path, entries, rate_hz=10.0)
        # The command of 100.2 holds for 0.5 s, until the middle of step 6 at 100.65.
        assert xs(table)[0] == list(range(8))
        np.testing.assert_allclose(column(table, "action")[:7], [0, 0.1, 0.2, 0.2, 0.2, 0.2, 0.2], rtol=1e-6)
        assert any("command_silent" in line for line in lines)


class TestSampling:
    def test_rate(self, tmp_path: Path) -> None:
        table, _ = convert(tmp_path, drive(1.0), rate_hz=5.0)
        assert xs(table) == [[0, 2, 4, 6, 8]]
        # In force at the middle of each step: the command sent there.
        np.testing.assert_allclose(column(table, "action"), [0.1, 0.3, 0.5, 0.7], rtol=1e-6)

    def test_nearest_looks_ahead(self, tmp_path: Path) -> None:
        ahead = [(t + (0.02 if topic == "/odom" else 0), topic, m) for t, topic, m in drive(1.0)]
        entries = [(t, topic, odom(t, m.pose.pose.position.x) if topic == "/odom" else m) for t, topic, m in ahead]
        table, _ = convert(tmp_path, entries, sync="nearest", tolerance_sec=0.05)
        assert xs(table)[0] == list(range(10))

    def test_previous_does_not(self, tmp_path: Path) -> None:
        ahead = [(t + (0.02 if topic == "/odom" else 0), topic, m) for t, topic, m in drive(1.0)]
        entries = [(t, topic, odom(t, m.pose.pose.position.x) if topic == "/odom" else m) for t, topic, m in ahead]
        table, lines = convert(tmp_path, entries)
        assert xs(table)[0] == list(range(10))  # step i sees i - 1; the last now has an observation after it
        np.testing.assert_allclose(column(table, "action"), np.arange(1, 10) / 10, rtol=1e-6)
        assert "  1 steps are dropped: odom_silent" in lines

    def test_tolerance_of_all_sources(self, tmp_path: Path) -> None:
        entries = [e for e in drive(1.0) if e[1] != "/odom" or not 100.35 < e[0] < 100.45]
        assert len(convert(tmp_path, entries, tolerance_sec=0.12)[0].lengths) == 1
        (tmp_path / "tight").mkdir()
        assert len(convert(tmp_path / "tight", entries, tolerance_sec=0.1)[0].lengths) == 2

    def test_stack(self, tmp_path: Path) -> None:
        observation = {"sources": ["odom"], "odom": {**MAPPING["observation"]["odom"], "stack": 3}}
        table, lines = convert(tmp_path, drive(1.0), {"observation": observation})
        assert table.obs[""][:2].tolist() == [[0, 1, 2], [1, 2, 3]]
        assert "  2 steps are dropped: odom_too_few_messages" in lines

    def test_clipped_commands(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        action = {**MAPPING["action"], "high": [0.35]}
        table, _ = convert(tmp_path, drive(1.0), {"action": action})
        np.testing.assert_allclose(column(table, "action"), [0, 0.1, 0.2, 0.3] + [0.35] * 5, rtol=1e-6)
        assert "beyond action.low and action.high" in caplog.text

    def test_proposed_commands(self, tmp_path: Path) -> None:
        proposals = [(t, "/cmd_vel_in", command(t, 5.0)) for t, topic, _ in drive(0.5) if topic == "/cmd_vel"]
        table, _ = convert(tmp_path, [*drive(1.0), *proposals], proposed_topic="cmd_vel_in", command_timeout_sec=0.11)
        np.testing.assert_allclose(column(table, "task_action"), [5] * 5 + [0.5, 0.6, 0.7, 0.8], rtol=1e-6)
        np.testing.assert_allclose(column(table, "action"), np.arange(9) / 10, rtol=1e-6)

    def test_proposed_commands_that_are_left_out_are_told(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        table, _ = convert(tmp_path, [*drive(1.0), (100.0, "/cmd_vel_in", command(100.0, 5.0))])
        assert column(table, "task_action") == column(table, "action")
        assert "they are left out without --proposed-topic /cmd_vel_in" in caplog.text

    def test_namespace(self, tmp_path: Path) -> None:
        entries = [(t, f"/robot1{topic}" if topic == "/odom" else topic, m) for t, topic, m in drive(1.0)]
        assert xs(convert(tmp_path, entries, namespace="/robot1")[0]) == [list(range(10))]


class TestClocks:
    EPOCH = 1_755_872_279.0

    def simulated(self) -> list[Entry]:
        """Headers of a simulation at half speed; the bumper has none."""
        return [(self.EPOCH + 2 * t, topic, message) for t, topic, message in drive(1.0, hit=[6])]

    def test_header_stamps_rule_and_the_disagreement_is_told(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        table, lines = convert(tmp_path, self.simulated())
        assert xs(table)[0] == list(range(8))
        assert column(table, "cost")[:7] == [0] * 6 + [1]  # on the clock of the stamped topics
        assert "at 10 Hz" in "\n".join(lines)
        assert "the header stamps of /odom lie 1755872379.4" in caplog.text
        assert "/bumper" not in caplog.text

    def test_receive_times(self, tmp_path: Path) -> None:
        sections = {
            "observation": {"sources": ["odom"], "odom": {**MAPPING["observation"]["odom"], "timeout_sec": 0.3}}
        }
        table, lines = convert(tmp_path, self.simulated(), sections, clock="receive", tolerance_sec=0.3)
        assert xs(table)[0] == list(range(8))
        assert "at 5 Hz" in "\n".join(lines)

    def test_a_topic_on_a_clock_of_its_own(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        entries = [(t, topic, odom(t + 50, 0) if topic == "/odom" else m) for t, topic, m in drive(1.0)]
        with pytest.raises(UserError, match="give no step: odom_silent 10"):
            convert(tmp_path, entries)
        assert "try --clock receive" in caplog.text

    def test_headers_that_nobody_fills(self, tmp_path: Path) -> None:
        entries = [(t, topic, odom(0, m.pose.pose.position.x) if topic == "/odom" else m) for t, topic, m in drive(1.0)]
        assert xs(convert(tmp_path, entries)[0]) == [list(range(10))]


class TestObservations:
    def test_dict_with_pictures(self, tmp_path: Path) -> None:
        entries = [*drive(1.0), *((100 + i / 10 - 0.02, "/camera", image(100 + i / 10 - 0.02, i)) for i in range(10))]
        observation = {
            "sources": ["camera", "odom"],
            "camera": {"topic": "/camera", "type": IMAGE, "entry": "image", "crop": [0, 0, 2, 3], "stack": 2},
            "odom": {**MAPPING["observation"]["odom"], "entry": "robot/x"},
        }
        table, _ = convert(tmp_path, entries, {"observation": observation})
        assert table.obs["image"].shape == (9, 2, 3, 6)
        assert table.obs["image"].dtype == np.uint8
        assert table.obs["image"][0, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]
        assert table.obs["robot/x"].reshape(-1).tolist() == list(range(1, 10))
        assert minari.MinariDataset(tmp_path / "data" / "data")[0].observations["image"].shape == (9, 2, 3, 6)

    def test_sources_follow_each_other(self, tmp_path: Path) -> None:
        observation = {
            "sources": ["speed", "odom"],
            "odom": MAPPING["observation"]["odom"],
            "speed": {"topic": "/cmd_vel", "type": TWIST, "fields": ["twist.linear.x"], "scale": 10.0},
        }
        table, _ = convert(tmp_path, drive(1.0), {"observation": observation})
        np.testing.assert_allclose(table.obs[""][:3], [[0, 0], [1, 1], [2, 2]], rtol=1e-6)

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"odom": {"entry": "x"}}, "observation.camera has no entry while others have one"),
            ({}, "observation.camera is a picture: give it an entry of its own"),
            ({"odom": {"entry": "a"}, "camera": {"entry": "a/b"}}, "the entry a holds a source and other entries"),
        ],
    )
    def test_sources_that_do_not_fit(self, tmp_path: Path, changes: Sections, says: str) -> None:
        entries = [*drive(1.0), (100.0, "/camera", image(100.0, 1))]
        camera = {"topic": "/camera", "type": IMAGE, **changes.get("camera", {})}
        odometry = {**MAPPING["observation"]["odom"], **changes.get("odom", {})}
        observation = {"sources": ["camera", "odom"], "camera": camera, "odom": odometry}
        with pytest.raises(UserError, match=says):
            convert(tmp_path, entries, {"observation": observation})


class TestOutput:
    def test_append_and_overwrite(self, tmp_path: Path) -> None:
        mapping, output = write_mapping(tmp_path / "mapping.yaml"), tmp_path / "data"
        bags = [write_bag(tmp_path / f"bag{n}", drive(0.5 + n)) for n in (0, 1)]
        assert len(collect(Config((bags[0],), mapping, output))[0].transitions()) == 4
        assert collect(Config((bags[1],), mapping, output, append=True))[0].episode_lengths.tolist() == [4, 14]
        with pytest.raises(UserError, match="already holds a dataset"):
            collect(Config((bags[1],), mapping, output))
        assert collect(Config(tuple(bags), mapping, output, overwrite=True))[0].episode_lengths.tolist() == [4, 14]

    def test_same_recordings_same_data(self, tmp_path: Path) -> None:
        mapping, bag = write_mapping(tmp_path / "mapping.yaml"), write_bag(tmp_path / "bag", drive(2.0, hit=[7]))
        hashes = {collect(Config((bag,), mapping, tmp_path / name))[0].sha256 for name in "ab"}
        assert len(hashes) == 1

    def test_resume_after_a_kill(self, tmp_path: Path) -> None:
        mapping, bag = write_mapping(tmp_path / "mapping.yaml"), write_bag(tmp_path / "bag", drive(1.0))
        (tmp_path / "data.partial").mkdir()
        (tmp_path / "data.partial" / "journal.json").write_text('{"mode": "create"}')
        with pytest.raises(UserError, match="go on with --resume"):
            collect(Config((bag,), mapping, tmp_path / "data"))
        assert len(collect(Config((bag,), mapping, tmp_path / "data", resume=True))[0].transitions()) == 9
        assert not (tmp_path / "data.partial").exists()


def bad_case(tmp_path: Path, name: str) -> tuple[list[str], str]:
    """Arguments of a command that must fail, and what it must say."""
    entries, sections, extra, says = drive(1.0), {}, [], ""
    odometry = MAPPING["observation"]["odom"]
    if name == "no such topic":
        sections = {"observation": {"sources": ["odom"], "odom": {**odometry, "topic": "/odometry"}}}
        says = "bag holds no topic /odometry, which observation.odom of the mapping names: it holds /bumper"
    elif name == "no such field":
        sections = {"observation": {"sources": ["odom"], "odom": {**odometry, "fields": ["pose.pose.x"]}}}
        says = "no message of topic /odom can be read as observation.odom of the mapping says"
    elif name == "no such type":
        sections = {"observation": {"sources": ["odom"], "odom": {**odometry, "type": "nav_msgs/msg/Odometri"}}}
        says = "is of type nav_msgs/msg/Odometry, observation.odom of the mapping says nav_msgs/msg/Odometri"
    elif name == "another type":
        sections = {"action": {**MAPPING["action"], "type": "geometry_msgs/msg/Twist", "fields": ["linear.x"]}}
        says = f"topic /cmd_vel is of type {TWIST}, action of the mapping says geometry_msgs/msg/Twist"
    elif name == "another frame":
        sections = {"observation": {"sources": ["odom"], "odom": {**odometry, "frame_id": "map"}}}
        says = "wrong_frame: frame odom in place of map"
    elif name == "no limits":
        sections = {"action": {key: MAPPING["action"][key] for key in ("topic", "type", "fields")}}
        says = "action.low and action.high are missing"
    elif name == "no cost":
        sections, says = {"cost": None}, "has no section cost: label violations by a topic"
    elif name == "no messages of a topic":
        entries = [entry for entry in entries if entry[1] != "/bumper"]
        says = "holds no message of topic /bumper"
    elif name == "one command":
        entries, says = entries[:3], "too few commands to tell their rate: give --rate-hz"
    elif name == "rate":
        extra, says = ["--rate-hz", "0"], "--rate-hz is 0.0: it must be positive"
    elif name == "unknown option":
        extra, says = ["--rate", "5"], "unknown option --rate; did you mean --rate-hz"
    elif name == "no mapping":
        extra, says = ["--mapping", str(tmp_path / "nothing.yaml")], "no mapping at"
    elif name == "marks":
        extra, says = ["--mark-topics", "/reset"], "holds no topic /reset, which --mark-topics names"
    empty = [("/bumper", BOOL)] if name == "no messages of a topic" else []
    bag = write_bag(tmp_path / "bag", entries, empty_topics=empty)
    if name == "cut":
        (bag / "bag.mcap").write_bytes((bag / "bag.mcap").read_bytes()[:20])
        says = "holds no message (bag.mcap: cut short"
    elif name == "empty":
        (bag / "bag.mcap").write_bytes(b"")
        says = "holds no message"
    elif name == "no bag":
        bag, says = tmp_path / "nowhere", "no recording at"
    mapping = write_mapping(tmp_path / "mapping.yaml", **sections)
    return ["--from-bag", str(bag), "--mapping", str(mapping), *extra, "--output", str(tmp_path / "data")], says


BAD = """no such topic|no such field|no such type|another type|another frame|no limits|no cost|no messages of a topic
one command|rate|unknown option|no mapping|marks|cut|empty|no bag""".replace("\n", "|").split("|")


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, says = bad_case(tmp_path, name)
    before = set(tmp_path.iterdir())
    assert main(["collect", *arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("safe-rl: error")]
    assert says in line
    assert set(tmp_path.iterdir()) == before


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / "bag", drive(1.0, hit=[5]), "sqlite3", "message")
    mapping = write_mapping(tmp_path / "mapping.yaml")
    output = tmp_path / "data"
    assert main(["collect", "--from-bag", str(bag), "--mapping", str(mapping), "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert "9 transitions in 2 episodes, 11.1% violate" in said
    assert "safe-rl inspect" in said
    assert main(["inspect", str(output)]) == 0
    with pytest.raises(SystemExit) as stop:
        main(["collect", "--from-bag", "--help"])
    assert stop.value.code == 0
    assert "--mark-topics" in capsys.readouterr().out


def test_without_what_reads_recordings(tmp_path: Path) -> None:
    """One line says what brings it."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['rosbags'] = None\n")  # as if not installed
    words = ["collect", "--from-bag", "a", "--mapping", "b", "--output", "c"]
    done = subprocess.run(
        [sys.executable, "-m", "safe_rl.cli.main", *words],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'safe_rl[bags]'" in done.stderr
