"""Report: report.html of a run, or of several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seqsetvae.settings.declare import argument, setting
from seqsetvae.settings.kinds import BOOLEAN, Several, existing_path, path

HELP = "write report.html for a run, or one page that compares several"
NEEDS = ("runs",)
BODY = "seqsetvae.runs.report"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a report reads."""

    runs: tuple[Path, ...] | None = argument(
        Several(existing_path()),
        "report: run folders; one gets report.html, several are compared on a page in a new folder in output_root_dir",
    )
    tripod: bool = argument(
        BOOLEAN,
        "report: write tripod.html beside the report of one run: the checklist TRIPOD+AI, filled in as far as the run "
        "knows, for a browser or Word",
        default=False,
    )
    output_root_dir: Path = setting(path())


def not_folders(runs: Sequence[Path]) -> list[str]:
    """A line for each run that is no folder."""
    files = [str(run) for run in runs if not run.is_dir()]
    return [f"runs: received {file!r}, which is not a folder; allowed: run folders" for file in files]


def problems(settings: Settings) -> list[str]:
    """Every run is a folder, and none is named twice."""
    runs = settings.runs or ()
    broken_rules = not_folders(runs)
    if len({run.resolve() for run in runs}) < len(runs):
        broken_rules.append("runs: received a folder twice; allowed: each run once")
    if settings.tripod and len(runs) > 1:
        broken_rules.append(f"tripod: received {len(runs)} runs; allowed: one with --tripod")
    return broken_rules
