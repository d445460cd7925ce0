from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # workers find flow_toys as they would a user's own module

import flow_toys

from safe_rl.flow import ActorGroup, ActorOptions, Backend, LocalBackend

SMALL = ActorOptions(num_cpus=0.1)
"""So that many actors have a place in one Ray."""


@pytest.fixture(scope="session")
def ray_backend() -> Iterator[Backend]:
    """One Ray for all tests of a process."""
    pytest.importorskip("ray")
    from safe_rl.flow import RayBackend

    with RayBackend(num_cpus=4) as backend:
        yield backend


@pytest.fixture(scope="session", params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "ray":
        yield request.getfixturevalue("ray_backend")
    else:
        with LocalBackend() as local:
            yield local


@pytest.fixture(scope="session")
def _counters(backend: Backend) -> ActorGroup[flow_toys.Counter]:
    return backend.actors(flow_toys.Counter, 3, options=SMALL)


@pytest.fixture
def counters(_counters: ActorGroup[flow_toys.Counter]) -> ActorGroup[flow_toys.Counter]:
    """Three actors that count from 0: ``a0 a1 ...``, ``b0 b1 ...``, ``c0 c1 ...``."""
    for handle in _counters.handles:
        handle.call(flow_toys.Counter.reset).get(30)
    return _counters
