from __future__ import annotations

from pathlib import Path

from safe_rl.report.report import ReportConfig, write_report


def test_smoke(make_run, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        make_run(tmp_path / f"runs/rrl{seed}", "recovery-rl", seed, "tts" + "s" * 30 + "v" * seed + "s" * 20)
        make_run(tmp_path / f"runs/sac{seed}", "unconstrained", seed, "ttv" + "v" * 40 + "s" * (seed + 1))
    path = write_report(ReportConfig((tmp_path / "runs",), tmp_path / "report.html"))
    assert path.stat().st_size > 1000
