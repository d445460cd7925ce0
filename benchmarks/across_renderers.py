"""Does a policy act on the pictures of another renderer, or of another camera, than it was trained on?

    python -m benchmarks.across_renderers runs/image-maze --episodes 300
    python -m benchmarks.across_renderers runs/image-reach --options noise=5 latency=1 "colours=0.05&light=0.1"

Runs the frozen policy of a finished run, without exploration, in the same episodes on each renderer, and prints how
they end; then, on the run's own renderer, with each of the options of the environment's name given with --options. A
renderer that the machine or the environment cannot offer is left out, with the reason.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from safe_rl.errors import UserError
from safe_rl.evaluation import Evaluation, evaluate
from safe_rl.runs import load_run
from safe_rl.subjects import open_subject
from sim.plane_view import RENDERERS

HEADER = "| pictures | episodes | successes | violations | neither | steps | of which recovery |\n" + "|---" * 7 + "|"


def with_option(env_id: str, option: str) -> str:
    """An environment's name with one more option, ``name=value``; several are joined by ``&``."""
    return f"{env_id}{'&' if '?' in env_id else '?'}{option}"


def act(run: Path, env_id: str, episodes: int, seed: int) -> Evaluation:
    """The run's policy in an environment.

    Raises:
        UserError: The environment cannot be made, or its pictures have another shape.
    """
    subject = open_subject(run, env=env_id)
    try:
        return evaluate(subject.actor, subject.env, episodes, seed=seed)
    finally:
        subject.env.close()


def table_row(name: str, result: Evaluation) -> str:
    """A line of the table."""
    ended = result.episodes
    successes, violations = sum(e.success for e in ended), sum(e.violation for e in ended)
    neither = sum(not (e.success or e.violation) for e in ended)
    steps, recovery = sum(e.steps for e in ended), sum(e.recovery_steps for e in ended)
    return f"| {name} | {len(ended)} | {successes} | {violations} | {neither} | {steps:,} | {recovery:,} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder or a policy bundle that learned from images")
    parser.add_argument("--env", help="the environment, with options or without (default: the run's)")
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--renderers", nargs="*", default=list(RENDERERS))
    parser.add_argument("--options", nargs="*", default=[], help="further rows, as name=value or name=value&name=value")
    args = parser.parse_args()
    torch.set_num_threads(1)
    env_id = args.env or load_run(args.run).env_id
    print(HEADER)
    for option in [*(f"renderer={renderer}" for renderer in args.renderers), *args.options]:
        try:
            result = act(args.run, with_option(env_id, option), args.episodes, args.seed)
        except UserError as error:
            print(f"| {option} | left out: {error} |", flush=True)
        else:
            print(table_row(option, result), flush=True)


if __name__ == "__main__":
    main()
