"""How long does a gradient step of the whole learner take, beside its matrix products and beside other learners?

Everything is measured in one process on one thread, in turns, so that what else happens on the machine hits all alike:

    python -m benchmarks.learner_speed                  # CPU
    python -m benchmarks.learner_speed --device cuda    # steps a second, as a CUDA graph

The results and how they came about are in ``docs/results/learner_speed.md``.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

from benchmarks.matrix_products import learner_products, square_products
from benchmarks.straightforward_learner import StraightforwardLearner
from safe_rl.algorithms.recovery_rl import RecoveryRLAgent
from safe_rl.algorithms.sac import SACAgent
from safe_rl.config import RecoveryRLConfig, UnconstrainedConfig
from safe_rl.transitions import Transitions

OBS_DIM, ACT_DIM, BATCH_SIZE, HIDDEN = 2, 2, 256, 256
NUM_PRODUCTS = 35
NUM_TRANSITIONS = 20_000

PRODUCTS, LOW_PRODUCTS = "its products, float32", "its products, bfloat16"
STRAIGHT, OURS, LOW = "straightforward PyTorch", "this project, float32", "this project, bfloat16"
OUR_SAC, SB3 = "SAC alone: this project, float32", "SAC alone: Stable-Baselines3"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=30, help="turns that each candidate gets")
    parser.add_argument("--steps", type=int, default=10, help="steps in a turn")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.device == "cuda":
        measure_cuda(args.rounds * args.steps)
        return
    print(
        f"{cpu_name()}, torch {torch.__version__}, one thread; CPU time, median of {args.rounds} x {args.steps} steps"
    )
    report(measure_in_turns(candidates(), args.rounds, args.steps))


def candidates() -> dict[str, Callable[[], object]]:
    """Everything that is compared, by name; each call is one step."""
    data = transitions(NUM_TRANSITIONS)
    sizes = OBS_DIM, ACT_DIM, BATCH_SIZE, HIDDEN
    fields = "obs", "task_action", "action", "next_obs", "reward", "cost"
    arrays = {name: getattr(data, name) for name in fields} | {"terminated": data.terminated.astype(np.float32)}
    steps: dict[str, Callable[[], object]] = {
        f"{NUM_PRODUCTS} products, float32": square_products(NUM_PRODUCTS, HIDDEN, torch.float32),
        f"{NUM_PRODUCTS} products, bfloat16": square_products(NUM_PRODUCTS, HIDDEN, torch.bfloat16),
        PRODUCTS: learner_products(*sizes, torch.float32),
        LOW_PRODUCTS: learner_products(*sizes, torch.bfloat16),
        STRAIGHT: StraightforwardLearner(arrays, BATCH_SIZE, HIDDEN).update,
        OURS: recovery_rl(data, RecoveryRLConfig()).update,
        LOW: recovery_rl(data, RecoveryRLConfig(precision="bfloat16")).update,
        OUR_SAC: sac(data).update,
    }
    if importlib.util.find_spec("stable_baselines3"):
        steps[SB3] = stable_baselines(data)
    else:
        print("Stable-Baselines3 is not installed: left out")
    return steps


def transitions(count: int) -> Transitions:
    """Random transitions of which one in twenty violates the constraint."""
    rng = np.random.default_rng(0)
    cost = (rng.random(count) < 0.05).astype(np.float32)
    action = rng.uniform(-1, 1, (count, ACT_DIM)).astype(np.float32)
    return Transitions(
        obs=rng.normal(size=(count, OBS_DIM)).astype(np.float32),
        task_action=action,
        action=action,
        reward=rng.normal(size=count).astype(np.float32),
        cost=cost,
        next_obs=rng.normal(size=(count, OBS_DIM)).astype(np.float32),
        terminated=cost > 0,
        truncated=np.zeros(count, dtype=bool),
    )


def spaces() -> tuple[gym.spaces.Box, gym.spaces.Box]:
    return gym.spaces.Box(-np.inf, np.inf, (OBS_DIM,)), gym.spaces.Box(-1.0, 1.0, (ACT_DIM,))


def recovery_rl(data: Transitions, config: RecoveryRLConfig, device: str = "cpu") -> RecoveryRLAgent:
    """The agent as training has it: half of the transitions offline, half online."""
    agent = RecoveryRLAgent(*spaces(), config, device=device)
    agent.add_offline(data[: len(data) // 2])
    agent.observe(data[len(data) // 2 :])
    return agent


def sac(data: Transitions) -> SACAgent:
    agent = SACAgent(*spaces(), UnconstrainedConfig())
    agent.observe(data)
    return agent


def stable_baselines(data: Transitions) -> Callable[[], object]:
    """SAC of Stable-Baselines3 at equal sizes: about half of the work, since it knows no risk."""
    from stable_baselines3 import SAC
    from stable_baselines3.common.logger import Logger

    class Blank(gym.Env[np.ndarray, np.ndarray]):
        observation_space, action_space = spaces()

    model = SAC(
        "MlpPolicy",
        Blank(),
        batch_size=BATCH_SIZE,
        buffer_size=len(data),
        ent_coef=0.2,
        policy_kwargs={"net_arch": [HIDDEN, HIDDEN]},
        device="cpu",
    )
    model.set_logger(Logger(folder=None, output_formats=[]))
    for row in data:
        model.replay_buffer.add(row.obs, row.next_obs, row.action, row.reward, row.terminated, [{}])
    return lambda: model.train(gradient_steps=1, batch_size=BATCH_SIZE)


def measure_in_turns(steps: dict[str, Callable[[], object]], rounds: int, count: int) -> dict[str, list[float]]:
    """CPU times in ms of ``rounds`` x ``count`` steps of each candidate."""
    for step in steps.values():
        for _ in range(20):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            for _ in range(count):
                started = time.thread_time()
                step()
                times[name].append((time.thread_time() - started) * 1e3)
    return times


def report(times: dict[str, list[float]]) -> None:
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"\n{'':36s}{'median ms':>10s}{'10 % below':>12s}{'10 % above':>12s}")
    for name, values in times.items():
        deciles = statistics.quantiles(values, n=10)
        print(f"{name:36s}{medians[name]:10.2f}{deciles[0]:12.2f}{deciles[-1]:12.2f}")
    square = f"{NUM_PRODUCTS} products, float32"
    print()
    print_ratio("this project / its products, float32", medians[OURS] / medians[PRODUCTS], 1.3)
    print_ratio(f"this project / {square}, in the cache", medians[OURS] / medians[square], None)
    print_ratio("this project, bfloat16 / straightforward", medians[LOW] / medians[STRAIGHT], 0.45)
    print_ratio("this project, float32 / straightforward", medians[OURS] / medians[STRAIGHT], None)
    if SB3 in medians:
        print_ratio("SAC: this project / Stable-Baselines3", medians[OUR_SAC] / medians[SB3], None)


def print_ratio(name: str, ratio: float, limit: float | None) -> None:
    verdict = "" if limit is None else f"   limit {limit}: {'met' if ratio <= limit else 'MISSED'}"
    print(f"{name:48s}{ratio:6.3f}{verdict}")


def measure_cuda(count: int) -> None:
    """Learner steps a second, batch sampling included."""
    agent = recovery_rl(transitions(NUM_TRANSITIONS), RecoveryRLConfig(), device="cuda")
    for _ in range(20):
        agent.update()
    rates = []
    for _ in range(5):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(count):
            agent.update()
        torch.cuda.synchronize()
        rates.append(count / (time.perf_counter() - started))
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA graph, 5 x {count} steps")
    print(
        f"learner steps a second: median {statistics.median(rates):.0f}, least {min(rates):.0f} (at least 1,500 wanted)"
    )


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
