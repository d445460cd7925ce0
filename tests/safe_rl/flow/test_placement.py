"""CPUs, versions, addresses: what can be said before an actor runs."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import pytest

from safe_rl.errors import UserError
from safe_rl.flow.cluster import require_cluster
from safe_rl.flow.placement import check_versions, fitting_cpus


@pytest.mark.parametrize(
    ("free", "num", "wanted", "share"),
    [
        ([4], 3, 1.0, 1.0),
        ([4], 4, 1.0, 1.0),
        ([2], 3, 1.0, 0.6666),
        ([1, 1], 3, 1.0, 0.5),  # 0.66 would fit twice only
        ([2, 1], 4, 1.0, 0.6666),  # three on the first node, one on the second
        ([4], 2, 3.0, 1.0),  # above one CPU Ray takes whole numbers
        ([1], 2, 3.0, 0.5),
        ([0.0], 2, 1.0, 0.0),
        ([-1.0, 0.5], 2, 1.0, 0.25),
        ([1], 100, 0.0, 0.0),
    ],
)
def test_what_each_actor_can_reserve(free: list[float], num: int, wanted: float, share: float) -> None:
    assert fitting_cpus(free, num, wanted) == pytest.approx(share)


MINE = {"python": "3.11.7", "safe_rl": "0.1.0", "torch": "2.5.1+cpu", "numpy": "2.1.3"}


def test_equal_versions_need_no_word() -> None:
    assert check_versions(MINE, {"one": dict(MINE), "two": dict(MINE)}) == []


@pytest.mark.parametrize(("package", "version"), [("python", "3.11.2"), ("torch", "2.5.0"), ("numpy", "2.2.0")])
def test_small_differences_are_told(package: str, version: str) -> None:
    (line,) = check_versions(MINE, {"one": dict(MINE), "robot": {**MINE, package: version}})
    assert line.startswith(f"node robot has {package} {version} where this machine has {MINE[package]}; ")


@pytest.mark.parametrize(
    ("package", "version"),
    [("python", "3.10.7"), ("torch", "2.4.1"), ("torch", "missing"), ("numpy", "1.26.4"), ("safe_rl", "0.2.0")],
)
def test_great_differences_are_refused(package: str, version: str) -> None:
    with pytest.raises(
        UserError, match=f"^node robot has {package} {version} where .* install the same versions there$"
    ):
        check_versions(MINE, {"robot": {**MINE, package: version}})


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    from safe_rl.flow import RayBackend

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"Ray is not installed: pip install 'safe_rl\[ray\]'"):
        RayBackend()


def test_the_library_works_without_ray() -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from safe_rl.flow import *\n"
        "class W:\n"
        "    def __init__(self, *, index): pass\n"
        "    def one(self): return 1\n"
        "with LocalBackend() as backend: print(next(backend.actors(W, 2).iterate(W.one).gather_async()))\n"
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.mark.parametrize("address", ["here", "host:", ":80", "host:http", "host:99999"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(UserError, match="is neither auto nor host:port"):
        require_cluster(address, 1.0)


def test_ray_client_is_refused() -> None:
    with pytest.raises(UserError, match="Ray Client is not supported"):
        require_cluster("ray://10.0.0.1:10001", 1.0)


def test_a_port_that_nobody_listens_at() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=f"no Ray cluster answers at {address} .*refused.*ray start --head"):
            require_cluster(address, 5.0)


@pytest.mark.ray
def test_a_port_where_something_else_listens() -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(UserError, match=f"no Ray cluster answers at {address} within 4 s"):
            require_cluster(address, 4.0)
        assert time.monotonic() - began < 8
