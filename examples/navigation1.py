"""Recovery RL through a corridor: collect, pretrain and train in a few lines.

python examples/navigation1.py --episodes 300 --output runs/examples/navigation1
"""

from example import run_example

if __name__ == "__main__":
    run_example("safe_rl/Navigation1-v0", transitions=20_000)
