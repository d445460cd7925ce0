"""The simulation of ``benchmarks.scale_model`` where the answer is known without it."""

from __future__ import annotations

import math

import pytest

from benchmarks.scale_simulation import Clock, Cluster, Costs, Cpu, Link, Prediction, Training


def costs(**changes: float) -> Costs:
    """A fragment of 100 steps takes a worker 10 ms and the driver 1 + 1 + 1 ms and the learning."""
    learn = {"ppo": 0.002, "impala": 0.002, "impact": 0.002}
    numbers = dict.fromkeys(
        ("take_background_sec", "send_background_sec", "latency_sec", "prepare_sec", "load_sec"), 0.0
    )
    numbers |= {"take_sec": 0.001, "send_sec": 0.001, "put_sec": 0.001, "worker_sec": 0.002, "sample_sec": 0.008}
    numbers |= {"env_sec": 0.0, "inference_sec": 0.0, "sample_variation": 0.0, **changes}
    versions = {"ppo": 4, "impala": 1, "impact": 1}
    return Costs("toy", 100, fragment_bytes=0, weights_bytes=0, learn_sec=learn, versions=versions,
                 num_slots=4, max_uses=8, **numbers)  # fmt: skip


def predict(design: str, workers: int, **settings: float) -> Prediction:
    cluster = Cluster(workers, **{"bytes_per_sec": math.inf, "latency_sec": 0.0, **settings})
    return Training(design, costs(), cluster).predict(200, 400)


def test_few_workers_limit_impala():
    """One worker: 100 steps each 10 ms; the driver's 5 ms are done meanwhile."""
    found = predict("impala", 1)
    assert found.steps_per_sec == pytest.approx(100 / 0.010, rel=0.01)
    assert found.use["workers"] == pytest.approx(1.0, abs=0.01)
    assert found.use["driver"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("workers", [4, 20])
def test_many_workers_fill_impalas_driver_and_wait_in_its_queue(workers: int):
    found = predict("impala", workers)
    assert found.steps_per_sec == pytest.approx(100 / 0.005, rel=0.01)
    assert found.use["driver"] == pytest.approx(1.0, abs=0.01)
    assert found.staleness == pytest.approx(2 * workers, abs=1.0)


def test_ppo_waits_for_its_workers_and_they_for_it():
    """A round of 3: 10 ms sampling, the takes (3), learning (6), the put (1) and the sends (3)."""
    found = predict("ppo", 3)
    assert found.steps_per_sec == pytest.approx(300 / 0.023, rel=0.01)
    assert found.staleness == 0.0
    assert found.use["workers"] == pytest.approx(10 / 23, abs=0.01)


def test_impact_learns_of_each_step_as_often_as_it_may():
    found = predict("impact", 8)
    assert found.learned_per_step == pytest.approx(8, rel=0.03)
    assert found.steps_per_sec == pytest.approx(100 / (0.003 + 8 * 0.002), rel=0.03)


def test_a_slow_network_limits():
    slow = Training("impala", costs(), Cluster(50, bytes_per_sec=1e6, latency_sec=0.0))
    slow.costs.fragment_bytes = 20_000  # 20 ms each
    found = slow.predict(200, 400)
    assert found.steps_per_sec == pytest.approx(100 / 0.020, rel=0.01)
    assert found.use["network in"] == pytest.approx(1.0, abs=0.01)


def test_waiting_for_cores_is_slower():
    assert predict("ppo", 1, driver_speed=0.5, worker_speed=0.5).steps_per_sec == pytest.approx(
        predict("ppo", 1).steps_per_sec / 2, rel=0.01
    )


def ends(cpu_cores: float, jobs: list[tuple[float, bool]]) -> list[float]:
    """When each job of (seconds, low priority) is done, all begun at once."""
    clock, done = Clock(), [0.0] * len(jobs)
    cpu = Cpu(clock, cpu_cores)
    for number, (seconds, low) in enumerate(jobs):
        cpu.work(seconds, low=low)(lambda _, number=number: done.__setitem__(number, clock.now))
    clock.run_until(lambda: all(done))
    return done


def test_jobs_share_cores():
    assert ends(2, [(1.0, False), (2.0, False)]) == pytest.approx([1.0, 2.0])  # one each
    assert ends(1, [(1.0, False), (2.0, False)]) == pytest.approx([2.0, 3.0])  # half each, then all
    assert ends(2, [(1.0, False), (2.0, True), (2.0, True)]) == pytest.approx([1.0, 2.5, 2.5])  # the low ones share one


def test_messages_follow_one_another():
    clock, arrived = Clock(), []
    link = Link(clock, bytes_per_sec=100.0, latency_sec=0.5)
    for _ in range(2):
        link.send(100, lambda: arrived.append(clock.now))
    clock.run_until(lambda: len(arrived) == 2)
    assert arrived == pytest.approx([1.5, 2.5])
