"""Advantages and value targets of fragments: GAE, V-trace, and V-trace with GAE's lambda.

All arrays have the time first. ``values`` has one row more than the rest: ``values[t + 1]`` is the value of what
followed step ``t``, also where that step ended an episode (there it is the final observation's, not the next episode's
first). The two kinds of end are kept apart: after ``terminated`` nothing follows, so no value is bootstrapped; after
``truncated`` the final observation's value is; past either the sums do not reach.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class Returns(NamedTuple):
    """What a policy gradient needs."""

    advantages: Floats
    """(T, N)"""
    targets: Floats
    """(T, N) what the value function should learn."""


def gae(
    reward: Floats, values: Floats, terminated: Bools, truncated: Bools, *, gamma: float, gae_lambda: float
) -> Returns:
    """Generalised advantage estimation (arXiv 1506.02438).

    ``delta_t = r_t + gamma V_{t+1} - V_t`` and ``A_t = sum_k (gamma lambda)^k delta_{t+k}`` up to the end of the
    episode or of the fragment; the targets are ``A_t + V_t``.

    Args:
        reward: (T, N)
        values: (T + 1, N)
        terminated: (T, N)
        truncated: (T, N)
        gamma: discount.
        gae_lambda: 0 for one-step advantages, 1 for Monte Carlo ones.
    """
    delta = _one_step_errors(reward, values, terminated, gamma)
    advantages = _discounted_sums(delta, np.where(terminated | truncated, 0.0, gamma * gae_lambda))
    return Returns(advantages, advantages + values[:-1])


def vtrace(
    log_ratio: Floats,
    reward: Floats,
    values: Floats,
    terminated: Bools,
    truncated: Bools,
    *,
    gamma: float,
    gae_lambda: float = 1.0,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
) -> Returns:
    """V-trace (arXiv 1802.01561), with ``lambda`` in its GAE form (V-GAE, the appendix of arXiv 1912.00167).

    With the importance weight ``w_t = pi(a_t | s_t) / mu(a_t | s_t)`` of the policy ``pi`` that is evaluated against
    ``mu`` that acted, ``rho_t = min(rho_bar, w_t)``, ``c_t = lambda min(c_bar, w_t)`` and
    ``delta_t = rho_t (r_t + gamma V_{t+1} - V_t)``::

        v_s = V_s + sum_{t >= s} gamma^(t - s) (prod_{s <= i < t} c_i) delta_t
        A_s = rho_s (r_s + gamma (V_{s+1} + lambda (v_{s+1} - V_{s+1})) - V_s)

    With lambda = 1 that is IMPALA's ``A_s = rho_s (r_s + gamma v_{s+1} - V_s)``; on-policy (all weights 1) it is GAE,
    and with both IMPALA's n-step returns. No weight exceeds ``rho_bar``, so ``|A_s|`` is bounded whatever the policies;
    the price is that ``rho_bar`` decides which policy is valued: for infinity ``pi``, near zero ``mu``.

    Args:
        log_ratio: (T, N) ``log w_t``.
        reward: (T, N)
        values: (T + 1, N)
        terminated: (T, N)
        truncated: (T, N)
        gamma: discount.
        gae_lambda: decay of the traces.
        rho_bar: bound of the weight of an error.
        c_bar: bound of the weight of what follows.

    Returns:
        ``A_s`` and ``v_s``.
    """
    ratio = np.exp(np.minimum(log_ratio, math.log(max(rho_bar, c_bar))))  # larger ones are cut anyway, and may overflow
    rho = np.minimum(ratio, rho_bar)
    delta = rho * _one_step_errors(reward, values, terminated, gamma)
    decay = np.where(terminated | truncated, 0.0, gamma * gae_lambda)
    corrections = _discounted_sums(delta, decay * np.minimum(ratio, c_bar))  # v_s - V_s
    advantages = delta.copy()
    advantages[:-1] += rho[:-1] * decay[:-1] * corrections[1:]
    return Returns(advantages, corrections + values[:-1])


def _one_step_errors(reward: Floats, values: Floats, terminated: Bools, gamma: float) -> Floats:
    follows = np.where(terminated, np.float32(0.0), values[1:])
    return reward + np.float32(gamma) * follows - values[:-1]


def _discounted_sums(terms: Floats, decay: npt.NDArray[np.floating]) -> Floats:
    """``y_t = terms_t + decay_t y_{t+1}``, backwards from ``y_T = 0``."""
    sums = terms.copy()
    decay = decay.astype(np.float32, copy=False)
    step = np.empty_like(sums[0])
    for row, after, factor in zip(sums[-2::-1], sums[:0:-1], decay[-2::-1], strict=True):
        np.multiply(factor, after, out=step)
        row += step
    return sums
