"""`safe-rl calibrate` as a function: turns a bundle's ``eps_risk`` into a promise, by held-out data."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tyro

from safe_rl import __version__
from safe_rl.data.dataset import OfflineDataset
from safe_rl.errors import UserError
from safe_rl.shield.bundle import DISTRIBUTION, PolicyBundle, arrays_to_bytes, update_bundle
from safe_rl.shield.calibration import Promise, Threshold, choose_threshold, missed_share, require_enough, upper_bound
from safe_rl.shield.distribution import FeatureDistribution, flagging_threshold
from safe_rl.shield.engine import Engine, FloatArray
from safe_rl.shield.engines import load_engine
from safe_rl.shield.held_out import compare_with_training, require_fitting
from safe_rl.shield.outcomes import Curve, Outcomes, Reliability, reliability
from safe_rl.shield.spec import BundleSpec, DistributionSpec
from safe_rl.storage import require_replaceable
from safe_rl.transitions import Transitions

PICTURE = "calibration.png"
ASSUMPTION = (
    "Held-out and future violations are exchangeable: same robot, same environment, same kind of behaviour. "
    "The promise is on violations that the risk critic's threshold misses, not on the recovery policy's success."
)
RISK_TOLERANCE = 1e-5
"""Engines agree on ``Q_risk`` to so much; events count as if their risk were lower by it: the promise holds for all."""
_FIT_SHARE = 0.25
_MOST_FIT_STEPS = 20_000
_BATCH = {"model-free": 4096, "q-sampling": 64}
"""Rows at a time; recovery by sampling evaluates a thousand actions for each."""
_IMAGE_BATCH = 256
"""Images at a time at most; the first convolution's maps take more memory than the networks behind them."""

Progress = Callable[[int, int, str], None]


@dataclass
class CalibrateConfig:
    """Choose a bundle's eps_risk so that the switch misses at most a wanted share of violations, by held-out data."""

    bundle: tyro.conf.Positional[Path]
    """Folder of the bundle; it is updated."""
    dataset: Path
    """Held-out data: a dataset that was not trained on."""
    miss_rate: float = 0.05
    """Largest share of violations that the switch may miss."""
    confidence: float | None = 0.95
    """Probability that this holds, over the draw of the held-out data; None: it holds on average over such draws."""
    horizon: int | None = None
    """Steps before a violation, its own included, within which the switch must take over (default:
    1 / (1 - gamma_risk))."""
    loosen: bool = False
    """Take the new eps_risk even where it is larger than the trained one; else the trained one stays, for which the
    promise holds as well."""
    ood_rate: float = 0.001
    """Largest share of inputs like the held-out ones that may be called out-of-distribution."""
    ood_stop: bool = False
    """STOP on out-of-distribution inputs; else their score is only reported."""
    allow_training_data: bool = False
    """Take data that was trained on all the same; the promise then means little."""
    cost_key: str = "cost"
    """Entry of the step infos that is the constraint, in data that was not collected here."""
    seed: int = 0
    """Draws one violation of each episode, and the episodes that the out-of-distribution score is fitted to."""

    def __post_init__(self) -> None:
        """Validates the values."""
        _ = self.promise
        if self.horizon is not None and self.horizon < 1:
            raise UserError(f"--horizon is {self.horizon}: it must be at least 1")
        if not 0 < self.ood_rate < 1:
            raise UserError(f"--ood-rate is {self.ood_rate}: it must be more than 0 and less than 1")
        if self.seed < 0:
            raise UserError(f"--seed is {self.seed}: it must be at least 0")

    @property
    def promise(self) -> Promise:
        """What is wanted."""
        return Promise(self.miss_rate, self.confidence)


@dataclass(frozen=True)
class Calibration:
    """What was found; the numbers of ``entry`` stand in ``bundle.json``, the rest is for pictures."""

    spec: BundleSpec
    entry: dict[str, Any]
    curve: Curve
    reliability: Reliability
    distribution_scores: FloatArray
    """(M,) of the steps that set the out-of-distribution threshold."""


@dataclass(frozen=True)
class _Evaluated:
    risk: FloatArray
    """(N,) ``Q_risk``."""
    effective_risk: FloatArray
    """(N,) the same; 0 where the switch would not take over whatever the threshold (``recovery_must_help``)."""
    distribution: FeatureDistribution
    scores: FloatArray
    """(N,) out-of-distribution scores."""
    is_fit: npt.NDArray[np.bool_]
    """(N,) which steps the distribution was fitted to."""


def calibrate(config: CalibrateConfig, progress: Progress | None = None) -> Calibration:
    """Calibrates a bundle and writes it again: threshold, record, out-of-distribution score, picture.

    Args:
        config: What is wanted, of which bundle, by which data.
        progress: Told how many transitions were evaluated.

    Raises:
        UserError: The bundle or the data cannot be used, the data was trained on, or it cannot support the promise; the
            bundle is as before.
    """
    from safe_rl.shield.calibration_plots import draw_calibration  # matplotlib takes a second to import

    require_replaceable(config.bundle)  # before minutes are spent
    bundle = PolicyBundle.load(config.bundle)
    dataset = OfflineDataset.open(config.dataset, cost_key=config.cost_key)
    require_fitting(bundle, dataset)
    held_out = compare_with_training(bundle, dataset, allow=config.allow_training_data)
    found = _calibrate(config, bundle, dataset, held_out, load_engine(bundle), progress)
    calibration, distribution = found
    files = {PICTURE: draw_calibration(calibration), DISTRIBUTION: arrays_to_bytes(distribution.to_arrays())}
    update_bundle(bundle, calibration.spec, files)
    return calibration


def _calibrate(
    config: CalibrateConfig,
    bundle: PolicyBundle,
    dataset: OfflineDataset,
    held_out: str,
    engine: Engine,
    progress: Progress | None,
) -> tuple[Calibration, FeatureDistribution]:
    spec, transitions = bundle.spec, dataset.transitions()
    horizon = config.horizon or _default_horizon(spec.gamma_risk)
    outcomes = Outcomes(transitions.cost > 0, transitions.terminated, dataset.episode_lengths)
    safe = outcomes.known_safe(horizon)
    if not safe.any():
        raise UserError(
            f"no step of dataset {dataset.path} is known to be safe for {horizon} steps, so needless interventions "
            "cannot be counted: its episodes are too short or all violate; collect longer ones, or give a smaller "
            "--horizon"
        )
    events = outcomes.one_event_an_episode(config.seed)
    require_enough(len(events), config.promise)
    evaluated = _evaluate(engine, spec, transitions, outcomes, config.seed, progress)
    scores = np.maximum(
        outcomes.scores(evaluated.effective_risk, events, horizon) - np.float32(RISK_TOLERANCE), np.float32(0)
    )
    threshold = choose_threshold(scores, config.promise)
    safe_risk = evaluated.effective_risk[safe]
    rest = ~evaluated.is_fit
    ood_threshold, ood_kept = flagging_threshold(evaluated.scores[rest], outcomes.episode[rest], config.ood_rate)
    ood_threshold = max(ood_threshold, 1e-6)
    entry = _entry(config, spec, threshold, scores, safe_risk) | {
        "horizon_steps": horizon,
        "num_violations": len(outcomes.events),
        "num_episodes": dataset.num_episodes,
        "num_transitions": len(transitions),
        "dataset": dataset.path.resolve().name,
        "dataset_sha256": dataset.sha256,
        "dataset_env": dataset.env_id,
        "held_out": held_out,
        "engine": engine.name,
        "out_of_distribution": {
            "rate": config.ood_rate,
            "rate_kept": ood_kept,
            "num_episodes": len(np.unique(outcomes.episode[rest])),
            "flagged_share": float(np.mean(evaluated.scores[rest] > np.float32(ood_threshold))),
        },
    }
    entry["promise"] = promise_text(entry)
    calibration = Calibration(
        _new_spec(spec, entry, DistributionSpec(ood_threshold, config.ood_stop)),
        entry,
        Curve.of(scores, safe_risk),
        reliability(evaluated.risk, outcomes, spec.gamma_risk, horizon),
        evaluated.scores[rest],
    )
    return calibration, evaluated.distribution


def promise_text(entry: dict[str, Any]) -> str:
    """The promise of a calibration's record, in words."""
    confidence, horizon = entry["confidence"], entry["horizon_steps"]
    how = "On average" if confidence is None else f"With confidence {confidence * 100:.4g} %"
    steps = "step" if horizon == 1 else f"{horizon} steps"
    return (
        f"{how} over draws of held-out data, at most {entry['miss_rate'] * 100:.4g} % of violations come without the "
        f"switch's cue, Q_risk > {entry['eps_risk']:.4g}, in their last {steps}."
    )


def _entry(
    config: CalibrateConfig, spec: BundleSpec, threshold: Threshold, scores: FloatArray, safe_risk: FloatArray
) -> dict[str, Any]:
    former, trained = spec.switch.eps_risk, (spec.calibration or {}).get("trained_eps_risk", spec.switch.eps_risk)
    found = threshold.eps_risk
    eps_risk = found if config.loosen else min(found, float(trained))
    num = len(scores)
    missed, former_missed = (int(np.rint(missed_share(scores, eps) * num)) for eps in (eps_risk, former))
    needless, former_needless = (1 - float(missed_share(safe_risk, eps)) for eps in (eps_risk, former))
    return {
        "miss_rate": config.miss_rate,
        "confidence": config.confidence,
        "method": "conformal risk control" if config.confidence is None else "learn-then-test",
        "eps_risk": eps_risk,
        "found_eps_risk": found,
        "former_eps_risk": former,
        "trained_eps_risk": trained,
        "num_events": num,
        "allowed_misses": threshold.allowed_misses,
        "missed": missed,
        "former_missed": former_missed,
        "former_miss_rate_bound": upper_bound(former_missed, num, config.confidence or 0.95),
        "needless_share": needless,
        "former_needless_share": former_needless,
        "num_safe_steps": len(safe_risk),
        "risk_tolerance": RISK_TOLERANCE,
        "seed": config.seed,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "safe_rl": __version__,
        "assumption": ASSUMPTION,
    }


def _new_spec(spec: BundleSpec, entry: dict[str, Any], distribution: DistributionSpec) -> BundleSpec:
    release = spec.switch.release_risk
    switch = dataclasses.replace(
        spec.switch,
        eps_risk=entry["eps_risk"],
        release_risk=None if release is None else min(release, entry["eps_risk"]),
    )
    return dataclasses.replace(spec, switch=switch, calibration=entry, distribution=distribution)


def _default_horizon(gamma_risk: float) -> int:
    """How far ahead ``Q_risk`` looks: the mean of ``k`` where ``k`` steps count ``gamma^k``."""
    if gamma_risk >= 1:
        raise UserError("the bundle's gamma_risk is 1, so Q_risk looks ahead without end: give --horizon in steps")
    return max(1, round(1 / (1 - gamma_risk)))


def _evaluate(
    engine: Engine,
    spec: BundleSpec,
    transitions: Transitions,
    outcomes: Outcomes,
    seed: int,
    progress: Progress | None,
) -> _Evaluated:
    """Runs the engine over the executed actions, twice over the part that the distribution is fitted to."""
    size, num_steps = _BATCH[spec.recovery], len(transitions)
    if transitions.obs.dtype == np.uint8:
        size = min(size, _IMAGE_BATCH)
    is_fit = _fit_steps(outcomes, seed)
    fit = np.flatnonzero(is_fit)
    features = [
        _filter(engine, transitions, fit[start : start + size])[2] for start in range(0, len(fit), size)
    ]  # a million steps' would not fit into memory
    distribution = FeatureDistribution.fit(np.concatenate(features))
    risk, effective, scores = (np.empty(num_steps, dtype=np.float32) for _ in range(3))
    for start in range(0, num_steps, size):
        rows = slice(start, start + size)
        risk[rows], hands_over, batch = _filter(engine, transitions, rows)
        effective[rows] = np.where(hands_over, risk[rows], 0)
        scores[rows] = distribution.score(batch)
        if progress is not None:
            progress(min(start + size, num_steps), num_steps, "")
    return _Evaluated(risk, effective, distribution, scores, is_fit)


def _filter(
    engine: Engine, transitions: Transitions, rows: slice | npt.NDArray[np.int64]
) -> tuple[FloatArray, npt.NDArray[np.bool_], FloatArray]:
    """Risk, whether the switch could take over at all (its answer at eps_risk = 0), and features."""
    obs, action = np.ascontiguousarray(transitions.obs[rows]), np.ascontiguousarray(transitions.action[rows])
    answer = engine.filter(obs, action, 0.0)
    if not np.isfinite(answer.risk).all() or not np.isfinite(answer.features).all():
        raise UserError(
            "the bundle's risk critic gives NaN or infinity on the held-out data: export another checkpoint"
        )
    return answer.risk, answer.hands_over, answer.features


def _fit_steps(outcomes: Outcomes, seed: int) -> npt.NDArray[np.bool_]:
    """(N,) the steps of some whole episodes, drawn at random; the others set the threshold."""
    num_episodes = len(outcomes.lengths)
    if num_episodes < 2:
        raise UserError("the held-out data is a single episode: what is known and what is not takes two or more")
    order = np.random.default_rng([seed, 1]).permutation(num_episodes)
    wanted = max(1, round(_FIT_SHARE * num_episodes))
    fits = int(np.searchsorted(np.cumsum(outcomes.lengths[order]), _MOST_FIT_STEPS, side="right"))
    chosen = np.zeros(num_episodes, dtype=np.bool_)
    chosen[order[: max(1, min(wanted, fits))]] = True
    return chosen[outcomes.episode]
