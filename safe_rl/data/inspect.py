"""What a dataset holds, and what in it would make a bad risk critic."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from safe_rl.data.dataset import OfflineDataset
from safe_rl.data.episodes import leaf_spaces
from safe_rl.envs.spaces import image_shape
from safe_rl.transitions import Transitions

FEW_TRANSITIONS = 5_000
FEW_VIOLATIONS = 0.01
MANY_VIOLATIONS = 0.5
MANY_DUPLICATES = 0.05
MANY_SELF_LOOPS = 0.01
NARROW_ACTIONS = 0.5
_LARGEST_LISTED_LEAF = 16
"""A larger part of an observation (an image, a scan) is summarised in one row."""


@dataclass(frozen=True)
class DimensionStatistics:
    """One number of the observations or actions, or a large array of them taken together."""

    name: str
    count: int
    """Numbers taken together."""
    minimum: float
    maximum: float
    mean: float
    std: float
    constant: int
    """How many of them never change."""


@dataclass(frozen=True)
class DatasetSummary:
    """What ``safe-rl inspect`` prints."""

    env_id: str
    observation_space: str
    action_space: str
    sha256: str
    num_transitions: int
    num_episodes: int
    shortest: int
    median: float
    longest: int
    num_violations: int
    """Transitions that violate the constraint."""
    num_ending_violations: int
    """Those after which the episode is over."""
    num_successes: int
    """Episodes whose task was done."""
    num_not_finite: int
    """Transitions with NaN or infinity somewhere."""
    num_duplicates: int
    """Transitions that equal an earlier one."""
    num_self_loops: int
    """Violating transitions that change nothing."""
    num_relabelled: int
    """Transitions whose executed action is not the proposed one."""
    return_mean: float
    """Mean of the episodes' sums of rewards."""
    observations: list[DimensionStatistics]
    actions: list[DimensionStatistics]
    warnings: list[str]
    """What makes a bad risk critic, each with a cure."""

    @property
    def violation_share(self) -> float:
        """Share of the transitions that violate the constraint."""
        return self.num_violations / self.num_transitions


def inspect_dataset(dataset: OfflineDataset) -> DatasetSummary:
    """Summarises a dataset.

    Raises:
        UserError: It is damaged.
    """
    transitions = dataset.transitions()
    lengths = dataset.episode_lengths
    starts = np.cumsum(lengths) - lengths
    violating = transitions.cost > 0
    still = (transitions.obs == transitions.next_obs).all(axis=1)
    episode_ends = transitions.terminated | transitions.truncated
    observations = _observation_statistics(dataset, transitions)
    actions = [_statistics(f"action[{i}]", transitions.action[:, i]) for i in range(transitions.action.shape[1])]
    counts = {
        "num_violations": int(violating.sum()),
        "num_not_finite": int((~finite_rows(transitions)).sum()),
        "num_duplicates": count_duplicates(transitions),
        "num_self_loops": int((violating & still).sum()),
    }
    return DatasetSummary(
        env_id=dataset.env_id,
        observation_space=str(dataset.observation_space),
        action_space=str(dataset.action_space),
        sha256=dataset.sha256,
        num_transitions=len(transitions),
        num_episodes=len(lengths),
        shortest=int(lengths.min()),
        median=float(np.median(lengths)),
        longest=int(lengths.max()),
        num_ending_violations=int((violating & episode_ends).sum()),
        num_successes=int(dataset.episode_successes.sum()),
        num_relabelled=int((transitions.action != transitions.task_action).any(axis=1).sum()),
        return_mean=float(np.add.reduceat(transitions.reward.astype(np.float64), starts).mean()),
        observations=observations,
        actions=actions,
        warnings=_warnings(dataset, transitions, observations, counts),
        **counts,
    )


def finite_rows(transitions: Transitions) -> npt.NDArray[np.bool_]:
    """Tells for each transition whether all its numbers are finite."""
    arrays = (getattr(transitions, field.name) for field in fields(transitions))
    return np.all([np.isfinite(a).reshape(len(a), -1).all(axis=1) for a in arrays if a.dtype.kind == "f"], axis=0)


def count_duplicates(transitions: Transitions) -> int:
    """Counts the transitions that equal an earlier one, bit by bit."""
    columns = (transitions.obs, transitions.action, transitions.next_obs, transitions.reward[:, None])
    arrays = [np.ascontiguousarray(column) for column in (*columns, transitions.cost[:, None])]
    if transitions.obs.dtype == np.uint8:  # images as they are would be sorted byte by byte, in a copy
        rows = {b"".join(hashlib.sha256(array[i].data).digest() for array in arrays) for i in range(len(transitions))}
        return len(transitions) - len(rows)
    joined = np.ascontiguousarray(np.concatenate(arrays, axis=1))
    as_bytes = joined.view(np.dtype((np.void, joined.dtype.itemsize * joined.shape[1])))
    return len(joined) - len(np.unique(as_bytes))


def action_coverage(space: spaces.Space[Any], action: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """How much of each action's range the data covers, from 0 to 1.

    Args:
        space: The action space.
        action: (N, act_dim).

    Returns:
        (act_dim,) length of the central 95 % of the values over the length of the range; the share of the actions that
        occur where they are Discrete; NaN where a component has no bounds.
    """
    if isinstance(space, spaces.Discrete):
        return np.array([len(np.unique(action)) / space.n])
    if not isinstance(space, spaces.Box):
        return np.full(action.shape[1], np.nan)
    low, high = np.nanquantile(action, [0.025, 0.975], axis=0)
    span = (space.high - space.low).reshape(-1).astype(np.float64)
    span[~np.isfinite(span) | (span == 0)] = np.nan
    return (high - low) / span


def _observation_statistics(dataset: OfflineDataset, transitions: Transitions) -> list[DimensionStatistics]:
    statistics, first = [], 0
    for path, space in leaf_spaces(dataset.observation_space).items():
        name, size = path or "obs", int(np.prod(space.shape, dtype=int))
        columns = transitions.obs[:, first : first + size]
        if size > _LARGEST_LISTED_LEAF:
            statistics.append(_statistics(f"{name} {space.shape}", columns))
        else:
            indices = [f"[{', '.join(map(str, i))}]" if i else "" for i in np.ndindex(space.shape)]
            statistics += [_statistics(name + index, columns[:, i]) for i, index in enumerate(indices)]
        first += size
    return statistics


def _statistics(name: str, values: npt.NDArray[Any]) -> DimensionStatistics:
    """Of the finite numbers; NaN where there are none."""
    if values.dtype == np.uint8:
        return _byte_statistics(name, values)
    columns = values.reshape(len(values), -1).astype(np.float64)
    finite = columns[np.isfinite(columns)]
    low, high, mean, std = (f(finite) for f in (np.min, np.max, np.mean, np.std)) if finite.size else (np.nan,) * 4
    constant = int((columns == columns[0]).all(axis=0).sum())
    return DimensionStatistics(name, columns.shape[1], float(low), float(high), float(mean), float(std), constant)


def _byte_statistics(name: str, values: npt.NDArray[np.uint8]) -> DimensionStatistics:
    """The same of many bytes, by counting them: as floats they would take eight times the memory."""
    values = values.reshape(len(values), -1)
    counts = np.sum([np.bincount(row, minlength=256) for row in values], axis=0)
    levels = np.arange(256)
    mean = float((counts * levels).sum() / counts.sum())
    std = float(np.sqrt((counts * (levels - mean) ** 2).sum() / counts.sum()))
    seen = np.flatnonzero(counts)
    constant = int((values == values[0]).all(axis=0).sum())
    return DimensionStatistics(name, values.shape[1], float(seen[0]), float(seen[-1]), mean, std, constant)


def _warnings(
    dataset: OfflineDataset,
    transitions: Transitions,
    observations: list[DimensionStatistics],
    counts: dict[str, int],
) -> list[str]:
    total = len(transitions)
    share = counts["num_violations"] / total
    found = []
    if counts["num_not_finite"]:
        found.append(
            f"{counts['num_not_finite']:,} transitions hold NaN or infinity: training refuses them; mend their source"
        )
    if total < FEW_TRANSITIONS:
        found.append(f"{total:,} transitions are few: 10,000 to 20,000 are usual; add some with --append")
    if share == 0:
        found.append("nothing violates the constraint, so there is no risk to learn: collect nearer to the boundary")
    elif share < FEW_VIOLATIONS:
        found.append(
            f"only {share:.2%} of the transitions violate the constraint: collect nearer to the boundary, "
            "or train with --risk.positive-fraction 0.3"
        )
    elif share > MANY_VIOLATIONS:
        found.append(f"{share:.0%} of the transitions violate the constraint: add safer behaviour (--policy expert)")
    if (loops := counts["num_self_loops"]) > MANY_SELF_LOOPS * counts["num_violations"]:
        found.append(
            f"{loops:,} violating transitions change nothing: the environment stands still after a violation; "
            "end the episode there"
        )
    if counts["num_duplicates"] > MANY_DUPLICATES * total:
        found.append(
            f"{counts['num_duplicates'] / total:.0%} of the transitions repeat earlier ones: vary starts or seed"
        )
    if image_shape(dataset.observation_space) is not None:
        observations = []  # most of a picture never changes
    constant = [s.name if s.count == 1 else f"{s.constant:,} numbers of {s.name}" for s in observations if s.constant]
    if constant:
        found.append(f"{', '.join(constant)} never change: a critic learns nothing from them; leave them out")
    for dimension, covered in enumerate(action_coverage(dataset.action_space, transitions.action)):
        if covered < NARROW_ACTIONS:
            found.append(
                f"action[{dimension}] covers only {covered:.0%} of its range: the critic must guess the risk of the "
                "rest; add --policy random"
            )
    return found
