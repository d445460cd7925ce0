"""`safe-rl calibrate BUNDLE --dataset DATA`."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from safe_rl.cli.console import progress_bar, show
from safe_rl.shield.calibrate import PICTURE, CalibrateConfig, Calibration, calibrate

__all__ = ["CalibrateConfig", "run_calibrate"]


def run_calibrate(config: CalibrateConfig) -> None:
    """Calibrates a bundle, and says what is promised, under which assumption, and what it costs."""
    with progress_bar("evaluating", "transitions") as bar:
        calibration = calibrate(config, bar)
    entry = calibration.entry
    show(_thresholds(entry))
    show(_facts(calibration))
    for warning in _warnings(entry):
        show(Text(f"warning: {warning}", style="yellow"))
    show(Text(entry["promise"], style="bold"))
    show(f"Assumed: {entry['assumption']}\npicture in {config.bundle / PICTURE}")


def _thresholds(entry: dict[str, Any]) -> Table:
    table = Table("", "eps_risk", "missed violations", "needless interventions")
    for column in table.columns[1:]:
        column.justify = "right"
    num = entry["num_events"]
    for name, key in (("now", ""), ("before", "former_")):
        missed = entry[f"{key}missed"]
        table.add_row(
            name,
            f"{entry[f'{key}eps_risk']:.4g}",
            f"{missed:,} of {num:,} ({missed / num:.1%})",
            f"{entry[f'{key}needless_share']:.2%} of the safe steps",
        )
    return table


def _facts(calibration: Calibration) -> Table:
    entry, distribution = calibration.entry, calibration.spec.distribution
    table = Table(show_header=False)
    table.add_row("window", f"{entry['horizon_steps']} steps up to a violation, its own included")
    table.add_row(
        "held-out data",
        f"{entry['dataset']}: {entry['num_violations']:,} violations in {entry['num_events']:,} of "
        f"{entry['num_episodes']:,} episodes; one an episode counts",
    )
    table.add_row("method", f"{entry['method']}, {entry['allowed_misses']:,} misses allowed")
    if distribution is not None:
        outside = entry["out_of_distribution"]
        table.add_row(
            "out of distribution",
            f"score above {distribution.threshold:.3g}: at most {outside['rate_kept']:.2%} of an episode's steps on "
            f"average, {'STOP' if distribution.stop else 'only reported'}",
        )
    return table


def _warnings(entry: dict[str, Any]) -> list[str]:
    trained, found, eps_risk = (entry[name] for name in ("trained_eps_risk", "found_eps_risk", "eps_risk"))
    outside = entry["out_of_distribution"]
    warnings = []
    if found > trained and eps_risk == found:
        warnings.append(
            f"eps_risk is LOOSER than the trained {trained:.4g}: the promise allows more risk than the training did"
        )
    elif found > trained:
        warnings.append(
            f"the promise allows eps_risk {found:.4g}; the trained {trained:.4g} keeps it too and stays: take the "
            "larger one with --loosen"
        )
    if entry["held_out"] == "not known":
        warnings.append(
            "the training data is no longer where it was: make sure yourself that none of it is in this data"
        )
    elif entry["held_out"] != "none of it was trained on":
        warnings.append(f"{entry['held_out']}: the promise means little")
    if outside["rate_kept"] > outside["rate"]:
        warnings.append(
            f"{outside['num_episodes']:,} episodes support an --ood-rate of {outside['rate_kept']:.2%} at best, not "
            f"{outside['rate']:.2%}"
        )
    return warnings
