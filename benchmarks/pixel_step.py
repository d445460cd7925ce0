"""Where does the time of a gradient step from pixels go?

Profiles ``RecoveryRLAgent.update`` (task policy, risk critic and recovery policy) on images of 64 x 64 x 3, and prints
the share of every kind of operation; what is neither a convolution nor a matrix product should be under a quarter:

    python -m benchmarks.pixel_step
    python -m benchmarks.pixel_step --augmentation random-shift --sharing shared
    python -m benchmarks.pixel_step --device cuda      # steps a second, as a CUDA graph, beside the profile of kernels

Shares are of the time of the operations themselves, one thread on the CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict

import gymnasium as gym
import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from safe_rl.algorithms.recovery_rl import RecoveryRLAgent
from safe_rl.config import EncoderConfig, RecoveryRLConfig
from safe_rl.transitions import Transitions

SHAPE = 64, 64, 3
ACT_DIM = 2
NUM_TRANSITIONS, EPISODE = 1000, 50

KINDS = {
    "convolutions": ("conv", "dnn", "implicit", "winograd", "xmma", "cutlass_tensorop", "fprop", "dgrad", "wgrad"),
    "matrix products": ("addmm", "aten::mm", "bmm", "aten::linear", "gemm", "cutlass", "gemv"),
    "ReLU and tanh": ("relu", "threshold", "clamp_min", "tanh"),
    "bytes to floats": ("aten::mul_", "_to_copy", "uint8"),
    "replay and random shift": ("index", "aten::cat", "gather"),
    "optimisers and targets": ("adam", "lerp"),
}
"""What is in an operation's name, by the kind shown; the first that fits counts."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--channels", type=int, nargs="+", default=list(EncoderConfig().channels))
    parser.add_argument("--sharing", choices=["separate", "shared"], default="separate")
    parser.add_argument("--augmentation", choices=["none", "random-shift"], default="random-shift")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    agent = make_agent(args)
    for _ in range(5):
        agent.update()
    seconds = time_steps(agent, args.steps)
    print(f"torch {torch.__version__}, {args.device}, batch {args.batch_size}, encoders {args.sharing}, "
          f"augmentation {args.augmentation}")  # fmt: skip
    print(f"median of {args.steps} steps: {1e3 * statistics.median(seconds):.1f} ms")
    shares, names = kinds_of_time(agent, args.steps, args.device)
    for kind, share in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"{kind:<26}{share:7.1%}   {', '.join(names[kind][:4])}")
    outside = 1 - shares["convolutions"] - shares["matrix products"]
    print(f"outside of convolutions and matrix products: {outside:.1%} (wanted: under 25 %)")


def make_agent(args: argparse.Namespace) -> RecoveryRLAgent:
    """An agent with offline and online transitions of smooth images."""
    sizes = (args.hidden, args.hidden)
    config = RecoveryRLConfig(batch_size=args.batch_size, replay_capacity=NUM_TRANSITIONS, start_steps=0)
    config.sac.hidden_sizes = config.risk.hidden_sizes = config.recovery.hidden_sizes = sizes
    config.encoder = EncoderConfig(sharing=args.sharing, channels=tuple(args.channels), augmentation=args.augmentation)
    spaces = gym.spaces.Box(0, 255, SHAPE, np.uint8), gym.spaces.Box(-1.0, 1.0, (ACT_DIM,))
    agent = RecoveryRLAgent(*spaces, config, device=args.device)
    data = transitions(NUM_TRANSITIONS)
    agent.add_offline(data[: len(data) // 2])
    agent.observe(data[len(data) // 2 :])
    return agent


def transitions(count: int) -> Transitions:
    """Transitions of episodes between random images, one in fifty a violation."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count + count // EPISODE, int(np.prod(SHAPE))), dtype=np.uint8)
    last = np.arange(1, count + 1) % EPISODE == 0
    start = np.arange(count) + np.arange(count) // EPISODE
    action = rng.uniform(-1, 1, (count, ACT_DIM)).astype(np.float32)
    return Transitions(
        obs=images[start],
        task_action=action,
        action=action,
        reward=rng.normal(size=count).astype(np.float32),
        cost=last.astype(np.float32),
        next_obs=images[start + 1],
        terminated=last,
        truncated=np.zeros(count, dtype=bool),
    )


def time_steps(agent: RecoveryRLAgent, steps: int) -> list[float]:
    """CPU seconds of each of some steps; wall-clock time on a GPU."""
    on_gpu = agent.device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    seconds = []
    for _ in range(steps):
        began = clock()
        agent.update()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(clock() - began)
    return seconds


def kinds_of_time(agent: RecoveryRLAgent, steps: int, device: str) -> tuple[dict[str, float], dict[str, list[str]]]:
    """The share of each kind of operation in the time of all, and the names of its operations, the longest first."""
    activity = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        for _ in range(steps):
            agent.update()
        if device == "cuda":
            torch.cuda.synchronize()
    time_of: dict[str, float] = defaultdict(float)
    parts: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for event in profiler.key_averages():
        own = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        kind = "all else"
        if not event.key.startswith(("_", "autograd::")):  # what Python and autograd do around the operations
            kind = next((kind for kind, words in KINDS.items() if any(w in event.key.lower() for w in words)), kind)
        time_of[kind] += own
        parts[kind].append((own, event.key[:40]))
    total = sum(time_of.values())
    shares = {kind: time_of[kind] / total for kind in [*KINDS, "all else"]}
    return shares, {kind: [name for _, name in sorted(found, reverse=True)] for kind, found in parts.items()} | {
        kind: [] for kind in KINDS if kind not in parts
    }


if __name__ == "__main__":
    main()
