"""How long does a decision of model-based recovery take, with the paper's search and with smaller ones?

Times beside those of the matrix products alone, in turns within one process:

    python -m benchmarks.planner_speed

The searches are those of ``safe-rl compare --study planner``, which tells what they cost in safety. The results are in
``docs/methods/model_based_recovery.md``.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from benchmarks.learner_speed import cpu_name
from benchmarks.matrix_products import Product, products_runner
from safe_rl.algorithms.recovery_rl import RecoveryRLAgent
from safe_rl.cli.train import parse_arguments
from safe_rl.compare.studies import STUDIES, Variant
from safe_rl.config import RecoveryRLConfig, RunConfig
from safe_rl.envs.factory import make_env
from safe_rl.model_recovery import CHUNK
from safe_rl.planner_budget import describe
from safe_rl.planner_config import PlannerConfig
from safe_rl.planning_recovery import NUM_REMEMBERED, PlanningRecovery

ENV = "safe_rl/Navigation2-v0"
LIMIT_MS = 50.0
"""20 decisions a second."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="turns that each decision gets")
    args = parser.parse_args()
    torch.set_num_threads(1)
    measure(STUDIES["planner"], args.rounds)


def measure(variants: Sequence[Variant], rounds: int) -> None:
    """Prints the time of a decision of each search, and of its products alone."""
    decisions, products, found = {}, {}, {}
    for variant in variants:
        name, agent = variant.label, agent_of(variant)
        decisions[name], found[name] = decision_of(agent), planner_of(agent).search
        products[name] = planner_products(found[name], agent)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    for turn in range(rounds + 1):
        for name in found:
            pair = timed(decisions[name]), timed(products[name])
            if turn > 0:
                times[name].append(pair)
    print(f"{cpu_name()}, torch {torch.__version__}, one thread; CPU time in ms, medians of {rounds} turns")
    print(f"\n{'':40s}{'search':44s}{'precision':>10s}{'decision':>10s}{'products':>10s}{'ratio':>7s}")
    for name in found:
        decision, alone = (statistics.median(column) for column in zip(*times[name], strict=True))
        ratio = statistics.median(d / p for d, p in times[name])
        within = "" if decision > LIMIT_MS else "   20 Hz"
        words = describe(found[name], particles=True)
        print(f"{name:40s}{words:44s}{found[name].precision:>10s}{decision:10.1f}{alone:10.1f}{ratio:7.2f}{within}")


def agent_of(variant: Variant) -> RecoveryRLAgent:
    """An agent as the tuned preset has it, with an untrained model: its time is that of a trained one."""
    flags = ["--env", ENV, "--output", "runs/planner", *variant.flags]
    config = parse_arguments(variant.method, RunConfig, flags, prog="safe-rl train").agent
    if not isinstance(config, RecoveryRLConfig):
        raise TypeError(f"{variant.method} has other settings")
    env = make_env(ENV)
    return RecoveryRLAgent(env.observation_space, env.action_space, config)


def planner_of(agent: RecoveryRLAgent) -> PlanningRecovery:
    if not isinstance(agent.recovery, PlanningRecovery):
        raise TypeError("this agent does not plan")
    return agent.recovery


def decision_of(agent: RecoveryRLAgent) -> Callable[[], object]:
    """One recovery action in one state."""
    state, generator = torch.zeros(1, agent.state_dim), torch.Generator().manual_seed(0)

    @torch.inference_mode()
    def decide() -> object:
        return agent.recovery.act(state, generator, explore=True)

    return decide


def planner_products(search: PlannerConfig, agent: RecoveryRLAgent) -> Callable[[], object]:
    """Exactly the products of a decision: no bias, no activation, no sampling."""
    dtype = torch.bfloat16 if search.precision == "bfloat16" else torch.float32
    members, inputs = search.ensemble_size, agent.state_dim + agent.act_dim
    model = (inputs, *search.hidden_sizes, 2 * agent.state_dim)
    critic = agent.risk_critic.critics
    memory: dict[tuple[object, ...], Product] = {}

    def product(batch: tuple[int, ...], rows: int, fan_in: int, fan_out: int, kind: torch.dtype) -> Product:
        key = batch, rows, fan_in, fan_out, kind
        if key not in memory:
            x, out = (torch.randn(*batch, rows, size).to(kind) for size in (fan_in, fan_out))
            narrow_first = torch.randn(*batch, min(fan_in, fan_out), max(fan_in, fan_out)).to(kind)
            memory[key] = x, narrow_first if fan_in <= fan_out else narrow_first.mT, out
        return memory[key]

    def network(batch: tuple[int, ...], rows: int, sizes: tuple[int, ...]) -> list[Product]:
        last = len(sizes) - 2
        kinds = [dtype if 0 < index < last else torch.float32 for index in range(last + 1)]
        pairs = zip(itertools.pairwise(sizes), kinds, strict=True)
        return [product(batch, rows, fan_in, fan_out, kind) for (fan_in, fan_out), kind in pairs]

    def judged(plans: int) -> list[Product]:
        rows = plans * search.particles // members
        made = critic.num_members * network((), plans, critic.sizes)
        for step in range(1, search.horizon):
            made += network((members,), plans if step == 1 else rows, model)
            for first in range(0, members * rows, CHUNK):
                made += critic.num_members * network((), min(CHUNK, members * rows - first), critic.sizes)
        return made

    return products_runner(judged(1 + NUM_REMEMBERED) + search.iterations * judged(search.population))


def timed(step: Callable[[], object]) -> float:
    started = time.thread_time()
    step()
    return (time.thread_time() - started) * 1e3


if __name__ == "__main__":
    main()
