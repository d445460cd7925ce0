"""Measures of Object Extraction, and where its episodes start: plain numbers, no physics.

Lengths in metres. x points into the shelf, y along the row of bricks, z up; the shelf's board is at ``z = 0``.
The gripper's point is the middle between its fingertips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Triple = tuple[float, float, float]
Range = tuple[float, float]

BRICK_HALF: Triple = (0.03, 0.015, 0.12)
"""Half the lengths of a box, here and below."""
BRICK_MASS = 0.5
"""In kilograms."""
BRICK_SPACING = 0.05
"""Along y, from middle to middle."""
TARGET = 1
"""The brick in the middle of the row."""

FINGER_HALF: Triple = (0.035, 0.003, 0.01)
PALM_HALF: Triple = (0.02, 0.05, 0.025)
FOREARM_HALF: Triple = (0.11, 0.02, 0.02)
PALM_X = -2 * FINGER_HALF[0] - PALM_HALF[0]
"""Middle of the palm from the fingertips."""
FOREARM_X = PALM_X - PALM_HALF[0] - FOREARM_HALF[0]
ROD_RADIUS = 0.01
ROD_LENGTH = 0.5

MAX_MOVE = 0.02
"""Largest move along an axis in a step."""
MAX_JAW_MOVE = 0.01
"""The same for each jaw."""
STEP_SEC = 0.1

GRIPPER_RANGE: tuple[Range, Range, Range] = ((-0.20, 0.06), (-0.12, 0.12), (0.03, 0.30))
"""Where the fingertips may go along x, y and z; the motors stop there."""
JAW_RANGE: Range = (0.0, 0.026)
"""Distance of each pad from the middle."""
OPEN_JAW = 0.022

HOME: Triple = (-0.17, 0.0, 0.13)
HOME_SPREAD: Triple = (0.01, 0.02, 0.015)
ROW_X: Range = (-0.015, 0.015)
ROW_Y: Range = (-0.03, 0.03)
BRICK_TURN_RAD = 0.06
"""Bricks are turned about the vertical by at most this."""

GRASP_X = 0.012
"""Fingertips beyond the middle of the target where the jaws best close."""
GRASP_Z: Range = (0.06, 0.20)
"""Heights above the shelf at which they may."""
CLOSED_JAW = 0.006
"""Jaws that are told to open less than this hold the target."""
LIFT = 0.03
"""Height of the target above the shelf that is a success."""

SWEEP_X: Range = (-0.125, -0.105)
SWEEP_Z: Range = (0.05, 0.12)
SWEEP_START: Range = (0.06, 0.16)
"""Distance to the side at which the second arm starts, on either side."""
SWEEP_END = 0.16
"""It stops this far to the other side."""
SWEEP_SPEED_MPS = (SWEEP_START[1] + SWEEP_END) / (15 * STEP_SEC)
"""The longest sweep takes 15 steps."""
SWEEP_DRIFT_MPS = 0.01
"""Largest speed of a sweep along x and z."""

POSES = slice(6, 27)
"""Of an observation's numbers: (x, y, z, quaternion) of each brick; before them the gripper's six."""
MOTIONS = slice(27, 45)
"""Velocity and angular velocity of each brick, (6,) each."""
ROD = slice(45, 51)
"""Point and velocity of the second arm, where there is one."""

Vector = npt.NDArray[np.float64]


def random_state(rng: np.random.Generator, *, with_rod: bool) -> Vector:
    """Returns the observation, (45,) or (51,) with the second arm, of an episode's start."""
    gripper = np.array(HOME) + rng.uniform(-1.0, 1.0, 3) * HOME_SPREAD
    state = standing_state(gripper, OPEN_JAW, *random_row(rng))
    return np.concatenate((state, random_sweep(rng))) if with_rod else state


def random_row(rng: np.random.Generator) -> tuple[Vector, Vector]:
    """Returns the row's middle (2,) and the turn of each brick (3,)."""
    row = rng.uniform((ROW_X[0], ROW_Y[0]), (ROW_X[1], ROW_Y[1]))
    return row, rng.uniform(-BRICK_TURN_RAD, BRICK_TURN_RAD, 3)


def random_sweep(rng: np.random.Generator) -> Vector:
    """Returns the second arm's point and velocity (6,) at the start of a sweep."""
    side = rng.choice((-1.0, 1.0))
    point = (rng.uniform(*SWEEP_X), -side * rng.uniform(*SWEEP_START), rng.uniform(*SWEEP_Z))
    drift_x, drift_z = rng.uniform(-SWEEP_DRIFT_MPS, SWEEP_DRIFT_MPS, 2)
    return np.array((*point, drift_x, side * SWEEP_SPEED_MPS, drift_z))


def standing_state(gripper: Vector, jaw: float, row: Vector, turns_rad: Vector) -> Vector:
    """Returns the observation (45,) of bricks that stand.

    Args:
        gripper: Point (3,).
        jaw: Both jaws' opening, which they are told to keep.
        row: Middle of the row (2,).
        turns_rad: Of each brick (3,) about the vertical.
    """
    state = np.zeros(MOTIONS.stop)
    state[:6] = (*gripper, jaw, jaw, jaw)
    bricks = state[POSES].reshape(3, 7)
    bricks[:, 0], bricks[:, 1] = row[0], row[1] + BRICK_SPACING * np.arange(-1, 2)
    bricks[:, 2] = BRICK_HALF[2]
    bricks[:, 5], bricks[:, 6] = np.sin(turns_rad / 2), np.cos(turns_rad / 2)
    return state


def progress(tips: Sequence[float], jaw: float, target: Sequence[float]) -> float:
    """Returns how far a task is done, from 0 to below 1: fingertips about the target, jaws closed there, target lifted.

    Args:
        tips: The gripper's point (3,).
        jaw: The opening that the jaws are told to take.
        target: The target's point (3,).
    """
    lifted = min(max((target[2] - BRICK_HALF[2]) / LIFT, 0.0), 1.0)
    low, high = (height + lifted * LIFT for height in GRASP_Z)
    distance = math.hypot(target[0] + GRASP_X - tips[0], target[1] - tips[1], max(low - tips[2], 0.0, tips[2] - high))
    closed = min(max((OPEN_JAW - jaw) / (OPEN_JAW - CLOSED_JAW), 0.0), 1.0) if distance < 0.015 else 0.0
    return 0.4 * (1.0 - math.tanh(distance / 0.1)) + 0.2 * closed + 0.4 * lifted


def is_free(state: Vector, margin: float = 0.002) -> bool:
    """Tells whether the gripper keeps off the bricks, which stand, and off the second arm where there is one."""
    jaw = state[3] + FINGER_HALF[1]
    parts = [
        (np.add(state[:3], offset), half)
        for offset, half in (
            ((-FINGER_HALF[0], jaw, 0.0), FINGER_HALF),
            ((-FINGER_HALF[0], -jaw, 0.0), FINGER_HALF),
            ((PALM_X, 0.0, 0.0), PALM_HALF),
            ((FOREARM_X, 0.0, 0.0), FOREARM_HALF),
        )
    ]
    turn = np.sin(BRICK_TURN_RAD)  # a turned brick reaches a little further
    brick_half = (BRICK_HALF[0] + turn * BRICK_HALF[1], BRICK_HALF[1] + turn * BRICK_HALF[0], BRICK_HALF[2])
    others = [(brick[:3], brick_half) for brick in state[POSES].reshape(3, 7)]
    if len(state) >= ROD.stop:
        end = state[ROD][:3]
        others.append((np.add(end, (0.0, 0.0, ROD_LENGTH / 2)), (ROD_RADIUS, ROD_RADIUS, ROD_LENGTH / 2)))
    return not any(
        (np.abs(centre - other) < np.add(half, other_half) + margin).all()
        for centre, half in parts
        for other, other_half in others
    )
