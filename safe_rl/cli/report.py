"""`safe-rl report`: one page to look at, from one or more runs."""

from __future__ import annotations

from safe_rl.cli.console import show
from safe_rl.report.report import ReportConfig, write_report


def run_report(config: ReportConfig) -> None:
    """Writes the page and says where it is."""
    path = write_report(config)
    show(f"{path} ({path.stat().st_size / 1e6:.1f} MB): open it in a browser, it needs no network")
