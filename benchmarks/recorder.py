"""The recorder under load, and when it is killed: what is lost, and what it costs.

    python -m benchmarks.recorder load                           # 64x64 and 320x240 images, odometry: 5 minutes
    python -m benchmarks.recorder load --seconds 60 --images 640x480
    python -m benchmarks.recorder load --seconds 60 --compression none --depth 100
    python -m benchmarks.recorder kill --repeats 10              # SIGKILL at a random moment

Publisher and recorder are processes of their own. Each image size is a topic at 30 Hz, of pictures with the noise of a
camera; odometry comes at 100 Hz and commands at 20 Hz, all reliable. Every message carries the moment of its sending as
its stamp, and the publisher remembers them all: a message is lost if its stamp is not in the recording. Needs the extra
ros. Results: ``docs/results/recorder.md``.
"""

from __future__ import annotations

import argparse
import array
import heapq
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mcap.records import Channel, Message

from ros_nodes.bags.cut_files import cut_records
from ros_nodes.launch_description import RECORDER

IMAGE_HZ, ODOM_HZ, COMMAND_HZ = 30.0, 100.0, 20.0
NUM_FRAMES = 30
STARTED_WITHIN_SEC = 30.0
SETTLE_SEC = 1.0
"""Between the discovery of the recorder and the first message: discovery is done on one side before the other."""
SEC = 10**9


def topics_of(images: list[str]) -> dict[str, tuple[str, float]]:
    """Type and rate of each topic."""
    return {
        **{f"/camera_{size}": ("sensor_msgs/msg/Image", IMAGE_HZ) for size in images},
        "/odom": ("nav_msgs/msg/Odometry", ODOM_HZ),
        "/cmd_vel": ("geometry_msgs/msg/TwistStamped", COMMAND_HZ),
    }


# ------------------------------------------------------------------------------------------------------- the publisher


def frames(size: str) -> list[array.array[int]]:
    """Pictures of a gradient and a box, with a camera's noise."""
    width, height = map(int, size.split("x"))
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:height, 0:width]
    scene = np.stack([columns % 256, rows % 256, np.full_like(rows, 90)], axis=-1)
    scene[height // 3 : height // 2, width // 4 : width // 2] = (200, 30, 30)
    noisy = [(scene + rng.normal(0, 3, scene.shape)).clip(0, 255).astype(np.uint8) for _ in range(NUM_FRAMES)]
    return [array.array("B", frame.tobytes()) for frame in noisy]


def read_sent(sent_file: Path) -> dict[str, np.ndarray[Any, Any]]:
    """When each topic's messages were sent."""
    return {topic: np.array(stamps) for topic, stamps in json.loads(sent_file.read_text()).items()}


def publish(images: list[str], seconds: float, sent_file: Path, depth: int) -> None:
    """Waits for a subscriber of each topic, sends for a while or until SIGTERM, and writes down what it sent when."""
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from ros_nodes.messages import message_class

    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("load")
    plan = topics_of(images)
    publishers = {topic: node.create_publisher(message_class(kind), topic, depth) for topic, (kind, _) in plan.items()}
    messages = {topic: message_class(kind)() for topic, (kind, _) in plan.items()}
    pictures = {f"/camera_{size}": frames(size) for size in images}
    for size in images:
        message = messages[f"/camera_{size}"]
        message.width, message.height = map(int, size.split("x"))
        message.encoding, message.step = "rgb8", 3 * message.width
    deadline = time.monotonic() + STARTED_WITHIN_SEC
    while any(not publisher.get_subscription_count() for publisher in publishers.values()):
        if time.monotonic() > deadline or ended:
            raise SystemExit("no recorder listens")
        time.sleep(0.05)
    time.sleep(SETTLE_SEC)
    sent: dict[str, list[int]] = {topic: [] for topic in plan}
    start = time.monotonic()
    due = [(start, topic) for topic in plan]
    while not ended:
        moment, topic = heapq.heappop(due)
        if moment > start + seconds:
            break
        time.sleep(max(0.0, moment - time.monotonic()))
        message = messages[topic]
        if topic in pictures:
            message.data = pictures[topic][len(sent[topic]) % NUM_FRAMES]
        now_ns = time.time_ns()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(now_ns, SEC)
        publishers[topic].publish(message)
        sent[topic].append(now_ns)
        heapq.heappush(due, (moment + 1 / plan[topic][1], topic))
    sent_file.write_text(json.dumps(sent))
    time.sleep(1.0)  # so that what was sent arrives
    node.destroy_node()
    rclpy.try_shutdown()


# ---------------------------------------------------------------------------------------------------------- the bench


def write_parameters(folder: Path, images: list[str], compression: str) -> Path:
    """The recorder's parameter file."""
    names = [topic.strip("/") for topic in topics_of(images) if topic != "/cmd_vel"]
    sources = {name: {"topic": name, "type": topics_of(images)[f"/{name}"][0]} for name in names}
    mapping: dict[str, Any] = {
        "observation": {"sources": names, **sources},
        "action": {"topic": "cmd_vel", "type": "geometry_msgs/msg/TwistStamped", "fields": ["twist.linear.x"]},
    }
    mapping["observation"]["odom"]["fields"] = ["pose.pose.position.x"]
    path = folder / "load.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": {**mapping, "compression": compression}}}))
    return path


def start_recorder(params_file: Path, output: Path) -> subprocess.Popen[bytes]:
    """The recorder as launch starts it."""
    values = RECORDER.values({"params_file": str(params_file), "output": str(output)})
    with output.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(RECORDER.command_line(values), stdout=log, stderr=subprocess.STDOUT)


@contextmanager
def publisher_process(
    images: list[str], seconds: float, sent_file: Path, depth: int = 10
) -> Iterator[subprocess.Popen[bytes]]:
    """The publisher; ended at the latest with the block."""
    line = [sys.executable, "-m", "benchmarks.recorder", "publish", "--seconds", str(seconds), "--sent", str(sent_file)]
    process = subprocess.Popen([*line, "--depth", str(depth), "--images", *images])
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)


def recorded(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Stamps (n,) of each topic's messages, as far as the file goes."""
    topics: dict[int, str] = {}
    stamps: dict[str, list[int]] = {}
    for record in cut_records(next(folder.glob("*.mcap"))):
        if isinstance(record, Channel):
            topics[record.id] = record.topic
        elif isinstance(record, Message):
            stamps.setdefault(topics[record.channel_id], []).append(record.publish_time)
    return {topic: np.array(values) for topic, values in stamps.items()}


def cpu_sec(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(images: list[str], seconds: float, compression: str, depth: int, folder: Path) -> None:
    """Counts what is lost, and what it costs."""
    output, sent_file = folder / "run", folder / "sent.json"
    recorder = start_recorder(write_parameters(folder, images, compression), output)
    try:
        with publisher_process(images, seconds, sent_file, depth) as publisher:
            time.sleep(5.0)  # both are up: what they cost to start is not counted
            cpu_before, time_before = cpu_sec(recorder.pid), time.monotonic()
            publisher_before = cpu_sec(publisher.pid)
            time.sleep(max(1.0, seconds - 10.0))
            span_sec = time.monotonic() - time_before
            share = (cpu_sec(recorder.pid) - cpu_before) / span_sec
            publisher_share = (cpu_sec(publisher.pid) - publisher_before) / span_sec
            publisher.wait()
        recorder.send_signal(signal.SIGINT)
        code = recorder.wait(60)
    finally:
        recorder.kill()
    sent, got = read_sent(sent_file), recorded(output)
    size = sum(file.stat().st_size for file in output.iterdir())
    print("| topic | sent | recorded | lost |\n|---|---|---|---|")
    for topic in topics_of(images):
        lost = sorted(set(sent[topic].tolist()) - set(got.get(topic, np.array([])).tolist()))
        when = ", ".join(f"{(stamp - sent[topic][0]) / SEC:.2f} s" for stamp in lost[:5])
        print(f"| {topic} | {len(sent[topic])} | {len(got.get(topic, []))} | {len(lost)} {when and f'({when})'} |")
    print(
        f"\n{seconds:.0f} s, compression {compression}: recorder {share:.1%} of a core (publisher "
        f"{publisher_share:.1%}), {size / 2**20:.1f} MiB, {size / 2**20 / seconds:.2f} MiB/s, exit code {code}; "
        f"it says that it {output.with_suffix('.log').read_text().split(';')[-1].strip()}"
    )


def kill(images: list[str], repeats: int, compression: str, folder: Path) -> None:
    """Kills the recorder at random moments and compares the last message on disk with the last one sent before."""
    params_file, sent_file = write_parameters(folder, images, compression), folder / "sent.json"
    rng = random.Random(0)  # noqa: S311
    kills: list[tuple[int, Path]] = []
    recorder = start_recorder(params_file, folder / "run0")
    try:
        with publisher_process(images, 1e6, sent_file):
            for repeat in range(repeats):
                output = folder / f"run{repeat}"
                if repeat:
                    recorder = start_recorder(params_file, output)
                deadline = time.monotonic() + STARTED_WITHIN_SEC
                while not any(file.stat().st_size > 2000 for file in output.glob("*.mcap")):
                    if time.monotonic() > deadline:
                        raise SystemExit("nothing is recorded")
                    time.sleep(0.05)
                time.sleep(rng.uniform(2.0, 4.0))
                kills.append((time.time_ns(), output))
                recorder.kill()
                recorder.wait()
    finally:
        recorder.kill()
    sent = read_sent(sent_file)
    lost_sec = []
    for killed_ns, output in kills:
        got = recorded(output)
        behind = {}
        for topic in topics_of(images):
            before = sent[topic][sent[topic] <= killed_ns]
            behind[topic] = (before[-1] - got[topic][-1]) / SEC
        lost_sec.append(max(behind.values()))
        print(f"{output.name}: " + ", ".join(f"{topic} {seconds:.3f} s" for topic, seconds in behind.items()))
    print(
        f"\n{repeats} kills, compression {compression}, worst topic of each: median "
        f"{statistics.median(lost_sec):.3f} s, max {max(lost_sec):.3f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("load", "kill", "publish"))
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--images", nargs="+", default=["64x64", "320x240"], help="sizes, width x height")
    parser.add_argument("--compression", choices=("zstd", "none"), default="zstd")
    parser.add_argument("--depth", type=int, default=10, help="messages that the publishers keep for a late recorder")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--sent", type=Path, default=Path("sent.json"), help="of publish: where its stamps are written")
    given = parser.parse_args()
    if given.what == "publish":
        publish(given.images, given.seconds, given.sent, given.depth)
        return
    with tempfile.TemporaryDirectory(prefix="recorder_") as folder:
        if given.what == "load":
            load(given.images, given.seconds, given.compression, given.depth, Path(folder))
        else:
            kill(given.images, given.repeats, given.compression, Path(folder))


if __name__ == "__main__":
    main()
