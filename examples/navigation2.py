"""Recovery RL around a block that stands in the way.

python examples/navigation2.py --episodes 300 --output runs/examples/navigation2
"""

from example import run_example

if __name__ == "__main__":
    run_example("safe_rl/Navigation2-v0", transitions=20_000)
