"""Numbers as a reader wants them."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup, escape

from safe_rl.report.groups import Quantity


def short(env_id: str) -> str:
    """``Maze-v0`` of ``safe_rl/Maze-v0``."""
    return env_id.rpartition("/")[2]


def count(value: float) -> str:
    """A number of things, or a mean of such numbers."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def quantity(value: Quantity) -> Markup:
    """``296.4 ± 0.8``; the mean alone for a single seed."""
    return _with_error(count(value.mean), value.error, 1)


def ratio(value: Quantity | float) -> Markup:
    """Successes per violation, to about three digits over the whole range from 0.001 to 1,000."""
    known = value if isinstance(value, Quantity) else Quantity(value, float("nan"))
    digits = next((digits for bound, digits in ((100, 0), (10, 1), (0.1, 2)) if known.mean >= bound), 4)
    return _with_error(f"{known.mean:,.{digits}f}", known.error, digits)


def percent(value: float) -> str:
    """A share that says 0 or 100 only where it is."""
    return f"{value:.0f}" if value in (0.0, 100.0) or 1.0 <= value <= 99.0 else f"{np.clip(value, 0.1, 99.9):.1f}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _with_error(mean: str, error: float, digits: int) -> Markup:
    return escape(mean) if np.isnan(error) else Markup("{} <small>± {}</small>").format(mean, f"{error:,.{digits}f}")
