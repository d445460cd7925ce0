"""What a trained shield knew before each violation, and whether there was still a way out.

    python -m benchmarks.before_violations runs/extraction --episodes 600

Drives the policy of a run as in training, with exploration. For the last steps before each violation it prints who
acted, ``Q_risk`` of the proposal, and the share of constant actions, drawn uniformly and held for some steps, that
violate nothing in the simulator: where that is 0, recovery came too late; where it is not and ``Q_risk`` is low, the
risk critic did not see it coming. Works with environments that have get_state and set_state.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from safe_rl.envs.factory import CostEnv
from safe_rl.envs.spaces import flatten_observation
from safe_rl.runs import load_run
from safe_rl.switch import Mode


@dataclass
class Moment:
    """A step of an episode before it is taken."""

    state: Any
    """As get_state gives it."""
    risk: float
    """``Q_risk`` of the proposal."""
    recovers: bool


def drive(agent: Any, env: CostEnv, seed: int) -> tuple[list[Moment], dict[str, Any]]:
    """One episode: its steps, and the info of the last."""
    obs, _ = env.reset(seed=seed)
    moments = []
    while True:
        row = flatten_observation(env.observation_space, obs)[None]
        decision = agent.act(row, explore=True)
        recovers = bool(decision.mode[0] == Mode.RECOVERY)
        moments.append(Moment(env.unwrapped.get_state(), float(decision.risk[0]), recovers))  # type: ignore[attr-defined]
        obs, _, terminated, truncated, info = env.step(decision.action[0])
        if terminated or truncated:
            return moments, info


def way_out(env: CostEnv, state: Any, actions: npt.NDArray[np.float32], steps: int) -> float:
    """Share of constant actions (N, act_dim) that keep clear of a violation for so many steps."""
    clear = 0
    for action in actions:
        env.reset(seed=0)
        env.unwrapped.set_state(state)  # type: ignore[attr-defined]
        info: dict[str, Any] = {"cost": 0.0}
        for _ in range(steps):
            _, _, terminated, truncated, info = env.step(action)
            if terminated or truncated:
                break
        clear += info["cost"] == 0
    return clear / len(actions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--seed", type=int, default=10_000, help="of the first episode")
    parser.add_argument("--back", type=int, default=5, help="steps before a violation that are looked at")
    parser.add_argument("--actions", type=int, default=40, help="constant actions that are tried in each state")
    parser.add_argument("--hold", type=int, default=5, help="steps for which each is held")
    args = parser.parse_args()
    torch.set_num_threads(1)
    run = load_run(args.run)
    agent, env = run.make_agent(), run.make_env()
    low, high = env.action_space.low, env.action_space.high  # type: ignore[attr-defined]
    actions = np.random.default_rng(0).uniform(low, high, (args.actions, len(low))).astype(np.float32)
    successes, table = 0, []
    for episode in range(args.episodes):
        moments, info = drive(agent, env, args.seed + episode)
        successes += bool(info["success"])
        if info["cost"]:
            last = moments[: -args.back - 1 : -1]
            table.append([(m.risk, m.recovers, way_out(env, m.state, actions, args.hold)) for m in last])
    env.close()
    print(f"{args.episodes} episodes: {successes} successes, {len(table)} violations, with exploration\n")
    print("| steps before | episodes | Q_risk, mean | above eps_risk | recovery acts | way out, mean | none |")
    print("|---" * 7 + "|")
    eps_risk = agent.config.risk.eps_risk
    for back in range(args.back):
        cells = [episode[back] for episode in table if len(episode) > back]
        if cells:
            risks, recovers, outs = zip(*cells, strict=True)
            print(
                f"| {back + 1} | {len(cells)} | {mean(risks):.2f} | {sum(risk > eps_risk for risk in risks)} | "
                f"{sum(recovers)} | {mean(outs):.2f} | {sum(out == 0 for out in outs)} |"
            )


if __name__ == "__main__":
    main()
