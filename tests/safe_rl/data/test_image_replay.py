from __future__ import annotations

import resource
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_images
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_rl.checkpoint import load_state, save_state
from safe_rl.data.frame_store import FrameStore
from safe_rl.data.image_replay import ImageReplayBuffer
from safe_rl.errors import UserError
from safe_rl.transitions import Transitions

SHAPE = (2, 3, 3)


def chain(lengths: list[int], shape: tuple[int, int, int] = SHAPE, seed: int = 0, levels: int = 256) -> Transitions:
    """Episodes of random images, one of the lengths after the other; few ``levels`` make equal images likely."""
    rng, size = np.random.default_rng(seed), int(np.prod(shape))
    obs, next_obs, last = [], [], []
    for length in lengths:
        images = rng.integers(0, levels, (length + 1, size), dtype=np.uint8)
        obs.append(images[:-1])
        next_obs.append(images[1:])
        last += [False] * (length - 1) + [True]
    count = len(last)
    action = rng.uniform(-1, 1, (count, 2)).astype(np.float32)
    return Transitions(
        obs=np.concatenate(obs),
        task_action=-action,
        action=action,
        reward=rng.normal(size=count).astype(np.float32),
        cost=np.array(last, dtype=np.float32),
        next_obs=np.concatenate(next_obs),
        terminated=np.array(last),
        truncated=np.zeros(count, dtype=bool),
    )


def interleaved(parts: list[Transitions]) -> Transitions:
    """Environments side by side: one transition of each in turn."""
    joined = Transitions.concatenate(parts)
    order = np.argsort(np.concatenate([np.arange(len(part)) for part in parts]), kind="stable")
    return joined[order]


def assert_holds(buffer: ImageReplayBuffer, expected: list[Transitions | None]) -> None:
    """Compares every row with the transition that should stand there."""
    batch = buffer.batch(torch.arange(len(buffer)))
    assert batch.obs.dtype == batch.next_obs.dtype == torch.uint8
    for row, transition in enumerate(expected):
        for name in ("obs", "next_obs", "action", "task_action", "reward", "cost", "terminated"):
            ours, theirs = getattr(batch, name)[row], getattr(transition, name)[0]
            np.testing.assert_array_equal(np.asarray(ours), theirs, err_msg=f"row {row}: {name}")


# -------------------------------------------------------------------------------- against a store that copies all


@settings(max_examples=60)
@given(
    capacity=st.integers(1, 7),
    offline=st.lists(st.integers(1, 3), max_size=3),
    batches=st.lists(st.tuples(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.booleans()), max_size=6),
    stack=st.sampled_from([1, 2]),
    levels=st.sampled_from([2, 256]),
    save_at=st.integers(0, 6),
)
def test_it_holds_what_a_naive_store_holds(tmp_path_factory, capacity, offline, batches, stack, levels, save_at):
    """Rings that turn over, episodes cut in the middle, environments side by side, equal images, a checkpoint."""
    shape = (1, 1, 3 * stack) if levels == 2 else (2, 3, 3 * stack)
    buffer = ImageReplayBuffer(capacity, shape, 2)
    naive: list[Transitions | None] = []
    if offline:
        data = chain(offline, shape, seed=77, levels=levels)
        buffer.add_offline(data)
        naive = list(data)
    num_offline, written = len(naive), 0
    for number, (lengths, side_by_side) in enumerate(batches):
        if number == save_at:
            folder = tmp_path_factory.mktemp("state") / "s"
            save_state(folder, buffer.state_dict())
            buffer = ImageReplayBuffer(capacity, shape, 2)
            if offline:
                buffer.add_offline(data)
            buffer.load_state_dict(load_state(folder))
        parts = [chain([length], shape, seed=10 * number + i, levels=levels) for i, length in enumerate(lengths)]
        transitions = interleaved(parts) if side_by_side else Transitions.concatenate(parts)
        buffer.add(transitions)
        for transition in transitions:
            place = num_offline + written % capacity
            naive[place : place + 1] = [transition]
            written += 1
    assert len(buffer) == len(naive)
    if naive:
        assert_holds(buffer, naive)
    frames = {
        frame.tobytes()
        for transition in naive
        for image in (transition.obs[0], transition.next_obs[0])
        for frame in image.reshape(*shape[:2], stack, 3).transpose(2, 0, 1, 3)
    }
    assert len(buffer.frames) == len(frames)  # each once, and none that nothing shows any more


def test_the_frame_between_two_steps_is_kept_once():
    buffer = ImageReplayBuffer(100, SHAPE, 2)
    buffer.add(chain([5, 3]))
    assert len(buffer.frames) == 6 + 4
    buffer.add(interleaved([chain([4], seed=1), chain([4], seed=2)]))
    assert len(buffer.frames) == 10 + 2 * 5
    assert buffer.frames.nbytes == 20 * 18


def test_an_episode_that_goes_on_in_the_next_call_shares_too():
    buffer, data = ImageReplayBuffer(100, SHAPE, 2), chain([6])
    for transition in data:
        buffer.add(transition)
    assert len(buffer.frames) == 7
    assert_holds(buffer, list(data))


def test_stacks_keep_every_frame_once():
    env = toy_images.Stacked()
    data = toy_images.walk(env, 60)
    buffer = ImageReplayBuffer(100, env.observation_space.shape, 2)
    buffer.add(data)
    ends = int((data.terminated | data.truncated).sum())
    assert (buffer.stack, buffer.frames.frame_size) == (2, 16 * 16 * 3)
    assert len(buffer.frames) <= 60 + ends + 1
    assert_holds(buffer, list(data))


def test_an_overwritten_frame_is_forgotten_and_its_place_used_again():
    buffer = ImageReplayBuffer(3, SHAPE, 2)
    for seed in range(20):
        buffer.add(chain([1], seed=seed))
    assert len(buffer.frames) == 6
    assert buffer.frames.num_used <= 8


def test_offline_images_are_kept_once_and_stay():
    buffer, data = ImageReplayBuffer(2, SHAPE, 2), chain([5, 4])
    buffer.add_offline(data)
    assert len(buffer.frames) == 6 + 5
    buffer.add(chain([4], seed=1))
    assert_holds(buffer, [*data, *chain([4], seed=1)[2:]])


def test_other_offline_images_than_the_checkpoints_are_noticed():
    data = chain([4])
    changed = data.replace(obs=data.obs.copy())
    changed.obs[0, 0] ^= 1
    first, other = ImageReplayBuffer(5, SHAPE, 2), ImageReplayBuffer(5, SHAPE, 2)
    first.add_offline(data)
    other.add_offline(changed)
    with pytest.raises(UserError, match="other offline transitions"):
        other.load_state_dict(first.state_dict())
    full = ImageReplayBuffer(5, SHAPE, 2)
    full.add_offline(data)
    full.add(chain([2], seed=1))
    with pytest.raises(UserError, match="make a new one"):
        full.load_state_dict(first.state_dict())


def test_floats_that_hold_bytes_are_taken():
    """What rollout workers hand in passes through arrays of floats."""
    data, buffer = chain([4]), ImageReplayBuffer(5, SHAPE, 2)
    buffer.add(data.replace(obs=data.obs.astype(np.float32), next_obs=data.next_obs.astype(np.float32)))
    assert_holds(buffer, list(data))
    assert len(buffer.frames) == 5


# ------------------------------------------------------------------------------------------------------------ size


def test_a_hundred_thousand_transitions_take_no_more_than_they_may():
    """64 x 64 x 3, episodes of 50 steps: counted for 2,000 transitions of a replay that has room for 100,000."""
    shape, count = (64, 64, 3), 2_000
    before = resident_bytes()
    buffer = ImageReplayBuffer(100_000, shape, 2)
    fixed = buffer.nbytes
    assert resident_bytes() - before < 50 * 2**20  # room that nothing was written to is not taken
    rng = np.random.default_rng(0)
    for seed in range(count // 50):
        data = chain([50], (1, 1, 3), seed=seed)
        images = rng.integers(0, 256, (51, 12288), dtype=np.uint8)
        buffer.add(data.replace(obs=images[:-1], next_obs=images[1:]))
    assert buffer.frames.nbytes == count // 50 * 51 * 12288
    per_transition = buffer.frames.nbytes / count
    bookkeeping = 250 * 100_000  # digests and their table, an entry a frame
    assert fixed + 100_000 * per_transition + bookkeeping <= 1.3 * 2**30
    assert resident_bytes() - before < fixed + count * per_transition + 60 * 2**20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_checkpoint_is_written_without_a_copy_in_memory(tmp_path):
    buffer = ImageReplayBuffer(3_000, (64, 64, 3), 2)
    rng = np.random.default_rng(0)
    for seed in range(20):
        images = rng.integers(0, 256, (51, 12288), dtype=np.uint8)
        buffer.add(chain([50], (1, 1, 3), seed=seed).replace(obs=images[:-1], next_obs=images[1:]))
    held = buffer.frames.nbytes
    before = peak_bytes()
    tracemalloc.start()
    save_state(tmp_path / "s", buffer.state_dict())
    python_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert python_peak < 0.3 * held
    assert peak_bytes() - before < 0.3 * held
    assert (tmp_path / "s" / "tensors.safetensors").stat().st_size == pytest.approx(held, rel=0.02)
    restored = ImageReplayBuffer(3_000, (64, 64, 3), 2)
    restored.load_state_dict(load_state(tmp_path / "s"))
    rows = torch.arange(len(buffer))
    assert torch.equal(restored.batch(rows).next_obs, buffer.batch(rows).next_obs)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ----------------------------------------------------------------------------------------------------- frame store


def test_references_decide_how_long_a_frame_stays():
    store = FrameStore(4, 3)
    red, blue = np.uint8([255, 0, 0]), np.uint8([0, 0, 255])
    assert [store.put(red), store.put(blue), store.put(red)] == [0, 1, 0]
    store.release(0)
    assert len(store) == 2
    store.release(0)
    assert len(store) == 1
    assert store.put(np.uint8([1, 2, 3])) == 0  # in the place that became free
    assert store.frames[:2].tolist() == [[1, 2, 3], [0, 0, 255]]
    assert store.put(red) == 2
    with pytest.raises(ValueError, match="do not fit behind 3 frames"):
        store.restore(1, torch.zeros((1, 3), dtype=torch.uint8), np.array([1]))
