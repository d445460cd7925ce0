"""Recovery RL through a maze in PyBullet: its contacts are the constraint.

python examples/maze.py --episodes 300 --output runs/examples/maze
"""

from example import run_example

if __name__ == "__main__":
    run_example("safe_rl/Maze-v0", transitions=10_000)
