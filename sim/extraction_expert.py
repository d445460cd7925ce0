"""Object Extraction's scripted expert and its offline data."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from safe_rl.envs.protocols import OfflineSegment, Policy
from sim.extraction_scene import (
    BRICK_HALF,
    CLOSED_JAW,
    FINGER_HALF,
    GRASP_X,
    MAX_JAW_MOVE,
    MAX_MOVE,
    OPEN_JAW,
    PALM_HALF,
    ROD,
    ROD_RADIUS,
    STEP_SEC,
    TARGET,
    is_free,
    random_row,
    random_state,
    random_sweep,
    standing_state,
)

FloatArray = npt.NDArray[np.float32]

LIMIT = np.array((MAX_MOVE, MAX_MOVE, MAX_MOVE, MAX_JAW_MOVE))

GRASP_HEIGHT = 0.13
ALIGNED = 0.004
"""How far beside the target's middle the gripper may go in, and close."""
STAND_OFF = 0.02
"""Distance of the fingertips to the row until the gripper is aligned."""

PUSH_STEPS, CARRY_STEPS, EXPERT_STEPS = 8, 10, 15
CARRY_SEGMENTS = 0.3
"""Share of segments that grasp the target and then push: most bricks that fall, fall while one is carried."""
PUSH_SEGMENTS = 0.7
"""Share of the others that push."""
NEAR = 0.01
"""Pushes among the bricks start at most this far from touching one."""
NEAR_ROD = 0.4
"""Share of the pushes, where there is a second arm, that start in front of the shelf with it close by."""


def expert_action(obs: npt.NDArray[Any]) -> FloatArray:
    """Returns the action (4,) for an observation (45,), or (51,) with the second arm."""
    tip_x, tip_y, tip_z = (float(value) for value in obs[:3])
    jaw = float(obs[5])
    x, y = _axis_at(obs[6 + 7 * TARGET : 13 + 7 * TARGET], tip_z)
    beside = y - tip_y
    to_go = x + GRASP_X - tip_x
    if jaw <= CLOSED_JAW and to_go < 0.03:
        return _clipped(0.0, 0.0, MAX_MOVE, -MAX_JAW_MOVE)
    if to_go < 0.008 and abs(beside) < ALIGNED:
        return _clipped(to_go, beside, 0.0, -MAX_JAW_MOVE)
    if jaw < OPEN_JAW - 0.004 and to_go < GRASP_X + BRICK_HALF[0]:
        return _clipped(0.0, beside, 0.0, OPEN_JAW - jaw)  # among the bricks with jaws that no longer fit around one
    if abs(beside) > ALIGNED:
        to_go = min(to_go, max(x - BRICK_HALF[0] - STAND_OFF - tip_x, 0.0))
    if len(obs) >= ROD.stop:
        to_go = min(to_go, _room_before_rod(obs))
    return _clipped(to_go, beside, GRASP_HEIGHT - tip_z, OPEN_JAW - jaw)


def _axis_at(brick: npt.NDArray[Any], z: float) -> tuple[float, float]:
    """Returns where the long axis of a brick (7,), which may lean, is at a height."""
    turn_x, turn_y, turn_z, turn_w = (float(value) for value in brick[3:])
    axis_x = 2 * (turn_x * turn_z + turn_w * turn_y)
    axis_y = 2 * (turn_y * turn_z - turn_w * turn_x)
    axis_z = max(1 - 2 * (turn_x**2 + turn_y**2), 0.5)
    height = (z - float(brick[2])) / axis_z
    return float(brick[0]) + axis_x * height, float(brick[1]) + axis_y * height


def _room_before_rod(obs: npt.NDArray[Any]) -> float:
    """Returns how far along x the gripper may go before the second arm has passed."""
    rod_x, rod_y, _, _, speed, _ = (float(value) for value in obs[ROD])
    tip_x, tip_y = float(obs[0]), float(obs[1])
    room = rod_x - ROD_RADIUS - 0.012 - tip_x
    if room < -0.04 or speed == 0.0:
        return MAX_MOVE  # past it already, or it has stopped at the side
    passed = float(np.sign(speed)) * (rod_y - tip_y) + abs(speed) * STEP_SEC * max(room, 0.0) / MAX_MOVE
    fingers = OPEN_JAW + 2 * FINGER_HALF[1]
    if passed > fingers + ROD_RADIUS + 0.012:
        return MAX_MOVE
    return max(room, -MAX_MOVE) if abs(rod_y - tip_y) < PALM_HALF[1] + 0.1 or room < MAX_MOVE else MAX_MOVE


def _clipped(*action: float) -> FloatArray:
    return np.clip(action, -LIMIT, LIMIT).astype(np.float32)


# Offline data


def sample_segment(rng: np.random.Generator, *, with_rod: bool) -> OfflineSegment:
    """Returns pushes among the bricks, with the target in hand or near the second arm, or the expert with noise."""
    if rng.random() < CARRY_SEGMENTS:
        return OfflineSegment(_about_target(rng, with_rod=with_rod), _carrying_policy(rng), CARRY_STEPS)
    push = rng.random() < PUSH_SEGMENTS
    near_rod = push and with_rod and rng.random() < NEAR_ROD
    if not push and rng.random() < 0.5:
        state = random_state(rng, with_rod=with_rod)
    else:
        state = _random_place(rng, with_rod=with_rod, near_rod=near_rod, near_brick=push and not near_rod)
    if push:
        return OfflineSegment(state, _pushing_policy(rng), PUSH_STEPS)
    return OfflineSegment(state, _noisy_expert(rng.uniform(0.0, 0.35)), EXPERT_STEPS)


def _random_place(
    rng: np.random.Generator, *, with_rod: bool, near_rod: bool, near_brick: bool
) -> npt.NDArray[np.float64]:
    """Returns a state whose gripper is in front of the bricks or has its fingers among them, touching nothing."""
    while True:
        row, turns = random_row(rng)
        jaw = rng.uniform(0.0, 0.026) if rng.random() < 0.3 else rng.uniform(0.018, 0.026)
        x = rng.uniform(-0.16, -0.06) if near_rod else rng.uniform(-0.06, 0.03)
        gripper = np.array((x, row[1] + rng.uniform(-0.06, 0.06), rng.uniform(0.06, 0.22)))
        state = standing_state(gripper, jaw, row, turns)
        if with_rod:
            state = np.concatenate((state, _sweep_beside(rng, gripper[1] if near_rod else None)))
        if is_free(state) and (not near_brick or not is_free(state, NEAR)):
            return state


def _about_target(rng: np.random.Generator, *, with_rod: bool) -> npt.NDArray[np.float64]:
    """Returns a state whose jaws are open about the target."""
    while True:
        row, turns = random_row(rng)
        gripper = np.array((*row, 0.0)) + rng.uniform((GRASP_X - 0.015, -0.004, 0.08), (GRASP_X + 0.01, 0.004, 0.18))
        state = standing_state(gripper, rng.uniform(0.018, 0.024), row, turns)
        if with_rod:
            state = np.concatenate((state, _sweep_beside(rng, None)))
        if is_free(state):
            return state


def _sweep_beside(rng: np.random.Generator, y: float | None) -> npt.NDArray[np.float64]:
    """Returns the second arm's point and velocity (6,), close to ``y``, or anywhere and sometimes at its end."""
    sweep = random_sweep(rng)
    sweep[1] = rng.uniform(-0.15, 0.15) if y is None else y + rng.uniform(-0.1, 0.1)
    if y is None and rng.random() < 0.4:
        sweep[1], sweep[3:] = np.sign(sweep[4]) * 0.165, 0.0
    return sweep


def _pushing_policy(rng: np.random.Generator) -> Policy:
    """Returns random actions around a push, as fast as can be, that the whole segment shares."""
    push = rng.uniform(-1.0, 1.0, 4)
    push *= LIMIT / np.abs(push[:2]).max()

    def policy(obs: npt.NDArray[Any], rng: np.random.Generator) -> FloatArray:
        return np.clip(push + rng.uniform(-LIMIT, LIMIT) / 2, -LIMIT, LIMIT).astype(np.float32)

    return policy


def _carrying_policy(rng: np.random.Generator) -> Policy:
    """Returns a push that begins once the jaws are closed; in most segments they stay so."""
    push = _pushing_policy(rng)
    holds = rng.random() < 0.75

    def policy(obs: npt.NDArray[Any], rng: np.random.Generator) -> FloatArray:
        if obs[5] > BRICK_HALF[1]:
            return _clipped(0.0, 0.0, 0.0, -MAX_JAW_MOVE)
        action = push(obs, rng)
        if holds:
            action[3] = -MAX_JAW_MOVE
        return action

    return policy


def _noisy_expert(share: float) -> Policy:
    """Returns the expert with noise of a standard deviation that is a share of the action range."""

    def policy(obs: npt.NDArray[Any], rng: np.random.Generator) -> FloatArray:
        action = expert_action(obs) + 2 * share * LIMIT * rng.standard_normal(4)
        return np.clip(action, -LIMIT, LIMIT).astype(np.float32)

    return policy
