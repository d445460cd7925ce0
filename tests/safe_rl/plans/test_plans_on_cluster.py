"""`safe-rl train --address`: a cluster of several Ray nodes, here on one machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="the extra `ray` brings it")

ROOT = Path(__file__).parents[3]
pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

START = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
for _ in range(2):
    cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture
def address() -> Iterator[str]:
    """A head without CPUs and two nodes of one CPU each: two workers must be on two nodes."""
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as cluster:
        lines = iter(cluster.stdout.readline, "")
        try:
            yield next(line.strip() for line in lines if line.startswith(("127.", "10.", "172.", "192.")))
        finally:
            cluster.stdin.close()
            cluster.wait(60)


def test_impact_trains_on_two_nodes_and_leaves_the_cluster_running(address: str, tmp_path: Path):
    output = tmp_path / "run"
    line = [sys.executable, "-m", "safe_rl.cli.main", "train", "impact", "--env", "CartPole-v1", "--workers", "2"]
    line += ["--address", address, "--steps", "20000", "--output", str(output)]
    for resume in ([], ["--resume", "--steps", "40000"]):  # the cluster is there for the second one, too
        done = subprocess.run([*line, *resume], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "they share them" not in done.stderr
    last = json.loads((output / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] >= 40_000
    assert last.get("faults/lost_items", 0) == 0


def test_the_launchers_example_fits_rays_schema():
    util = pytest.importorskip("ray.autoscaler._private.util")
    yaml = pytest.importorskip("yaml")
    pytest.importorskip("jsonschema")
    config = yaml.safe_load((ROOT / "examples/cluster.yaml").read_text(encoding="utf-8"))
    prepared = util.prepare_config(config)  # as `ray up` does
    util.validate_config(prepared)
    (nodes,) = [kind for name, kind in prepared["available_node_types"].items() if kind.get("min_workers")]
    assert nodes["min_workers"] == len(config["provider"]["worker_ips"])
    with pytest.raises(Exception, match="cluster_nam"):
        util.validate_config({**prepared, "cluster_nam": "a word that the schema does not know"})
