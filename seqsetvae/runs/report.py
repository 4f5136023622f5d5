"""Report: report.html of a run, or of several runs side by side."""

from __future__ import annotations

from pathlib import Path

from seqsetvae.cli.report import Settings
from seqsetvae.report import write_comparison, write_report


def run(settings: Settings) -> Path:
    """Write the page and print where it is."""
    assert settings.runs, "settings are checked before a mode runs"
    one = len(settings.runs) == 1
    page = write_report(settings.runs[0]) if one else write_comparison(settings.runs, settings.output_root_dir)
    print(f"Wrote {page}")
    if settings.tripod:
        from seqsetvae.report.run_files import read_run
        from seqsetvae.report.tripod import write_tripod

        print(f"Wrote {write_tripod(read_run(settings.runs[0]))}")
    return page
