from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_rl.checkpoint import load_state, save_state
from safe_rl.data.replay_buffer import ReplayBuffer
from safe_rl.errors import UserError
from safe_rl.transitions import Transitions


def transitions(numbers, costs=None, obs_dim=2, act_dim=1) -> Transitions:
    """Transition ``n`` has the observation n, the reward 10 n, the next observation n + 0.5, and so on."""
    n = np.asarray(numbers, np.float32)
    cost = np.zeros(len(n), np.float32) if costs is None else np.asarray(costs, np.float32)
    column = n[:, None]
    return Transitions(
        obs=np.repeat(column, obs_dim, 1),
        task_action=np.repeat(column + 0.1, act_dim, 1),
        action=np.repeat(column + 0.2, act_dim, 1),
        reward=10 * n,
        cost=cost,
        next_obs=np.repeat(column + 0.5, obs_dim, 1),
        terminated=cost > 0,
        truncated=np.zeros(len(n), bool),
    )


def held(buffer: ReplayBuffer) -> list[float]:
    return buffer.rows[: len(buffer), 0].tolist()


def test_a_batch_has_every_field_where_it_belongs():
    buffer = ReplayBuffer(4, obs_dim=2, act_dim=3)
    buffer.add(transitions([1, 2], costs=[0, 1], act_dim=3))
    batch = buffer.batch(torch.tensor([1, 0, 1]))
    assert batch.obs.tolist() == [[2, 2], [1, 1], [2, 2]]
    torch.testing.assert_close(batch.task_action[0], torch.full((3,), 2.1))
    torch.testing.assert_close(batch.action[0], torch.full((3,), 2.2))
    assert batch.next_obs.tolist() == [[2.5, 2.5], [1.5, 1.5], [2.5, 2.5]]
    assert batch.reward.tolist() == [20, 10, 20]
    assert batch.cost.tolist() == [1, 0, 1]
    assert batch.terminated.tolist() == [1, 0, 1]


def test_truncation_is_no_termination():
    buffer = ReplayBuffer(1, 2, 1)
    cut = transitions([1]).replace(truncated=np.array([True]))
    buffer.add(cut)
    assert buffer.batch(torch.tensor([0])).terminated.item() == 0.0


def test_the_ring_overwrites_the_oldest_first():
    buffer = ReplayBuffer(3, 2, 1)
    seen = []
    for n in range(1, 6):
        buffer.add(transitions([n]))
        seen.append(held(buffer))
    assert seen == [[1], [1, 2], [1, 2, 3], [4, 2, 3], [4, 5, 3]]
    buffer.add(transitions([6, 7, 8, 9]))  # more than it holds, at once
    assert held(buffer) == [7, 8, 9]


def test_offline_rows_are_never_overwritten():
    buffer = ReplayBuffer(2, 2, 1)
    buffer.add_offline(transitions([100, 101, 102], costs=[0, 1, 0]))
    for n in range(7):
        buffer.add(transitions([n], costs=[1]))
        assert held(buffer)[:3] == [100, 101, 102]
    assert sorted(held(buffer)[3:]) == [5, 6]
    assert (buffer.num_offline, buffer.num_online, len(buffer), buffer.num_violations) == (3, 2, 5, 3)


def test_offline_rows_come_first_and_once():
    buffer = ReplayBuffer(2, 2, 1)
    buffer.add(transitions([1]))
    with pytest.raises(ValueError, match="before any online"):
        buffer.add_offline(transitions([2]))
    buffer = ReplayBuffer(2, 2, 1)
    buffer.add_offline(transitions([1]))
    with pytest.raises(ValueError, match="once"):
        buffer.add_offline(transitions([2]))


def test_online_samples_hold_no_offline_row_and_all_samples_hold_both():
    buffer = ReplayBuffer(50, 2, 1, seed=3)
    buffer.add_offline(transitions(range(100, 150)))
    buffer.add(transitions(range(20)))
    online = buffer.sample(2000, "online").obs[:, 0]
    assert set(online.tolist()) == set(range(20))
    everything = buffer.sample(5000, "all").obs[:, 0]
    assert set(everything.tolist()) == set(range(20)) | set(range(100, 150))


def test_sampling_from_nothing_is_an_error():
    buffer = ReplayBuffer(2, 2, 1)
    with pytest.raises(UserError, match="all transitions"):
        buffer.sample(1)
    buffer.add_offline(transitions([1]))
    with pytest.raises(UserError, match="no online transitions"):
        buffer.sample(1, "online")


@pytest.mark.parametrize(
    ("fraction", "batch_size", "positives"), [(0.3, 256, 77), (0.25, 8, 2), (0.5, 7, 4), (0.99, 10, 10)]
)
def test_a_stratified_batch_holds_exactly_its_share_of_violations(fraction, batch_size, positives):
    buffer = ReplayBuffer(40, 2, 1, seed=1)
    buffer.add_offline(transitions(range(100, 130), costs=[n % 3 == 0 for n in range(30)]))
    buffer.add(transitions(range(55), costs=[n % 5 == 0 for n in range(55)]))  # the ring turns over
    for _ in range(20):
        assert buffer.sample(batch_size, "all", fraction).cost.sum().item() == positives


def test_a_stratified_batch_draws_from_every_row_of_its_kind():
    buffer = ReplayBuffer(10, 2, 1)
    buffer.add_offline(transitions([100, 101, 102], costs=[1, 0, 1]))
    buffer.add(transitions([1, 2, 3], costs=[0, 1, 0]))
    batch = buffer.sample(2000, "all", 0.5)
    violating = batch.cost > 0
    assert set(batch.obs[violating, 0].tolist()) == {100, 102, 2}
    assert set(batch.obs[~violating, 0].tolist()) == {101, 1, 3}


@pytest.mark.parametrize("costs", [[0, 0, 0], [1, 1, 1]])
def test_where_only_one_kind_exists_the_share_gives_way(costs):
    buffer = ReplayBuffer(3, 2, 1)
    buffer.add(transitions([1, 2, 3], costs=costs))
    assert len(buffer.sample(64, "all", 0.5).cost) == 64


@settings(max_examples=80, deadline=None)
@given(
    capacity=st.integers(1, 9),
    offline=st.lists(st.booleans(), max_size=6),
    chunks=st.lists(st.lists(st.booleans(), min_size=1, max_size=7), max_size=12),
)
def test_the_index_of_violations_is_what_the_rows_say(capacity, offline, chunks):
    buffer = ReplayBuffer(capacity, 1, 1)
    if offline:
        buffer.add_offline(transitions(range(len(offline)), costs=offline, obs_dim=1))
    ring: dict[int, bool] = {}
    count = 0
    for chunk in chunks:
        buffer.add(transitions(range(len(chunk)), costs=chunk, obs_dim=1))
        for violates in chunk:
            ring[count % capacity] = violates
            count += 1
        expected = {i for i, violates in enumerate(offline) if violates}
        expected |= {len(offline) + i for i, violates in ring.items() if violates}
        members = buffer._violations.members
        assert len(members) == len(set(members.tolist())) == buffer.num_violations
        assert set(members.tolist()) == expected
        everything = np.arange(len(offline) + len(ring))
        assert set(everything[buffer._violations.contains(everything)].tolist()) == expected
        rows = buffer.rows[: len(buffer)]
        assert set(torch.nonzero(rows[:, -2])[:, 0].tolist()) == expected  # cost is the last column but one


def test_memory_of_a_transition_is_its_numbers_and_no_more():
    buffer = ReplayBuffer(1000, obs_dim=4, act_dim=2)
    assert buffer.bytes_per_transition == 4 * (4 + 2 + 2 + 4 + 3)
    assert buffer.rows.untyped_storage().nbytes() == 1000 * buffer.bytes_per_transition


def _filled(seed=0):
    buffer = ReplayBuffer(6, 2, 1, seed=seed)
    buffer.add_offline(transitions([100, 101, 102, 103], costs=[1, 0, 1, 0]))
    buffer.add(transitions(range(9), costs=[n % 2 for n in range(9)]))
    buffer.sample(5)
    return buffer


def test_a_restored_buffer_goes_on_the_same(tmp_path):
    original = _filled()
    save_state(tmp_path / "state", original.state_dict())
    restored = ReplayBuffer(6, 2, 1, seed=77)
    restored.add_offline(transitions([100, 101, 102, 103], costs=[1, 0, 1, 0]))
    restored.load_state_dict(load_state(tmp_path / "state"))
    for step in range(20):
        for fraction in (None, 0.4):
            expected, actual = (b.sample_indices(16, "all", fraction) for b in (original, restored))
            assert expected.tolist() == actual.tolist()
        for buffer in (original, restored):
            buffer.add(transitions([200 + step], costs=[step % 3 == 0]))
        assert torch.equal(original.rows[: len(original)], restored.rows[: len(restored)])
        assert original.num_violations == restored.num_violations


def test_the_offline_rows_are_not_in_the_checkpoint():
    assert len(_filled().state_dict()["online"]) == 6


def test_a_seed_decides_the_samples():
    first, second, other = _filled(1), _filled(1), _filled(2)
    draws = [buffer.sample_indices(50).tolist() for buffer in (first, second, other)]
    assert draws[0] == draws[1] != draws[2]


def test_another_dataset_cannot_be_resumed_with():
    state = _filled().state_dict()
    buffer = ReplayBuffer(6, 2, 1)
    buffer.add_offline(transitions([100]))
    with pytest.raises(UserError, match=r"4 offline transitions, the dataset has 1: resume with the same --dataset"):
        buffer.load_state_dict(state)


def test_another_dataset_of_the_same_size_cannot_be_resumed_with_either():
    state = _filled().state_dict()
    buffer = ReplayBuffer(6, 2, 1)
    buffer.add_offline(transitions([100, 101, 102, 104], costs=[1, 0, 1, 0]))
    with pytest.raises(UserError, match="other offline transitions than the dataset's: resume with the same --dataset"):
        buffer.load_state_dict(state)


def test_a_replay_larger_than_the_memory_is_a_mistake_of_one_line():
    with pytest.raises(UserError, match=r"a replay of 1000000000000000 transitions, .* lower --replay-capacity"):
        ReplayBuffer(10**15, 2, 1)


@pytest.mark.parametrize("capacity", [5, 8])
def test_a_ring_of_another_size_cannot_be_restored(capacity):
    state = _filled().state_dict()
    buffer = ReplayBuffer(capacity, 2, 1)
    buffer.add_offline(transitions([100, 101, 102, 103], costs=[1, 0, 1, 0]))
    with pytest.raises(UserError, match=f"capacity {capacity}"):
        buffer.load_state_dict(state)
