"""Is the promise of a calibration kept? Many draws of held-out data, and the miss rate that each one's threshold has.

    python -m benchmarks.calibration_coverage
    python -m benchmarks.calibration_coverage --bundle bundles/nav1 --dataset data/nav1-many

The first draws scores from distributions whose true miss rates are known. The second draws whole episodes, with
replacement, from a large dataset: its episodes are then the truth, with the scores that the bundle's critic gives them.
Results: ``docs/results/calibration.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tyro

from safe_rl.data.dataset import OfflineDataset
from safe_rl.shield.bundle import PolicyBundle
from safe_rl.shield.calibrate import RISK_TOLERANCE
from safe_rl.shield.calibration import CalibrationError, Promise, binomial_cdf, choose_threshold
from safe_rl.shield.engines import load_engine
from safe_rl.shield.outcomes import Outcomes

FloatArray = npt.NDArray[np.float32]
Draw = Callable[[np.random.Generator], FloatArray]
PROMISES = (
    Promise(0.05, 0.95),
    Promise(0.05, 0.9),
    Promise(0.01, 0.95),
    Promise(0.2, 0.9),
    Promise(0.05, None),
    Promise(0.2, None),
)
VALUES, WEIGHTS = np.array([0.0625, 0.25, 0.3125, 0.5, 0.875], np.float32), np.array([0.01, 0.03, 0.02, 0.24, 0.7])


@dataclass
class Config:
    """What to measure."""

    draws: int = 10_000
    """Draws of held-out data in each row."""
    bundle: Path | None = None
    """Draw episodes of --dataset with this bundle's critic, instead of simulated scores."""
    dataset: Path | None = None
    """The large dataset."""
    horizon: int = 5
    """Steps of the window."""
    episodes: tuple[int, ...] = (200, 500, 2000)
    """Episodes in a draw from the dataset."""
    seed: int = 0
    """Seed of the draws."""


def main(config: Config) -> None:
    rng = np.random.default_rng(config.seed)
    print(
        "| scores | violations a draw | asked: miss rate, confidence | broken in | allowed | mean miss rate | refused |"
    )
    print("|---|---|---|---|---|---|---|")
    if config.bundle is not None and config.dataset is not None:
        population = _episode_scores(config.bundle, config.dataset, config.horizon)
        scores = population[~np.isnan(population)]
        for num in config.episodes:
            for promise in PROMISES:
                _row("Navigation 1", promise, config.draws, rng, _episodes_from(population, num), scores)
        return
    everything = (np.arange(1, 1_000_001) / 1_000_001).astype(np.float32)
    for num in (59, 100, 300, 1000):
        for promise in PROMISES:
            if promise.allowed_misses(num) >= 0:
                _row("no ties", promise, config.draws, rng, _without_ties(num), everything)
                _row("five values", promise, config.draws, rng, _of_few_values(num), np.repeat(VALUES, _counts()))


def _without_ties(num: int) -> Draw:
    return lambda rng: rng.random(num, dtype=np.float32)


def _of_few_values(num: int) -> Draw:
    return lambda rng: rng.choice(VALUES, num, p=WEIGHTS)


def _counts() -> npt.NDArray[np.int64]:
    return np.rint(WEIGHTS * 100).astype(np.int64)


def _episodes_from(population: FloatArray, num: int) -> Draw:
    def draw(rng: np.random.Generator) -> FloatArray:
        drawn = rng.choice(population, num)
        return drawn[~np.isnan(drawn)]

    return draw


def _row(name: str, promise: Promise, draws: int, rng: np.random.Generator, draw: Draw, truth: FloatArray) -> None:
    """Prints what the thresholds of many draws miss of the truth."""
    truth = np.sort(truth)
    misses, sizes, refused = [], [], 0
    for _ in range(draws):
        scores = draw(rng)
        sizes.append(len(scores))
        try:
            eps_risk = np.float32(choose_threshold(scores, promise).eps_risk)
            misses.append(np.searchsorted(truth, eps_risk, side="right") / len(truth))
        except CalibrationError:
            refused += 1
    least, most = min(sizes), max(sizes)
    size = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    confidence = "on average" if promise.confidence is None else f"{promise.confidence:g}"
    mean, broken, allowed = "", "", ""
    if misses:
        mean = f"{np.mean(misses):.4f}"
        if promise.confidence is None:
            mean += f" +- {np.std(misses) / np.sqrt(len(misses)):.4f}"
        else:
            # A draw that is refused promises nothing, so nothing is broken in it; of all draws, as the theorem counts.
            broken, allowed = f"{np.mean(np.array(misses) > promise.miss_rate) * len(misses) / draws:.1%}", "at most "
            allowed += f"{1 - promise.confidence:.0%}"
            if least == most:  # what the number of violations makes of it, were there no ties
                exact = binomial_cdf(least, promise.miss_rate)[promise.allowed_misses(least)]
                allowed += f", by the binomial tail {exact:.1%}"
    print(f"| {name} | {size} | {promise.miss_rate:g}, {confidence} | {broken} | {allowed} | {mean} | {refused:,} |")


def _episode_scores(bundle_path: Path, dataset_path: Path, horizon: int) -> FloatArray:
    """(E,) the score of a violation of each episode, NaN where it has none."""
    bundle, dataset = PolicyBundle.load(bundle_path), OfflineDataset.open(dataset_path)
    transitions, engine = dataset.transitions(), load_engine(bundle)
    batches = [slice(start, start + 4096) for start in range(0, len(transitions), 4096)]
    risk = np.concatenate(
        [engine.filter(transitions.obs[rows], transitions.action[rows], 0.0).risk for rows in batches]
    )
    outcomes = Outcomes(transitions.cost > 0, transitions.terminated, dataset.episode_lengths)
    events = outcomes.one_event_an_episode(0)
    population = np.full(dataset.num_episodes, np.nan, np.float32)
    scores = outcomes.scores(risk, events, horizon) - np.float32(RISK_TOLERANCE)
    population[outcomes.episode[events]] = np.maximum(scores, np.float32(0))
    return population


if __name__ == "__main__":
    main(tyro.cli(Config))
