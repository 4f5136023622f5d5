"""Reproduce: run a run again from its config.json, and say which metrics are the same to the last bit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seqsetvae.cli.report import not_folders
from seqsetvae.settings.declare import argument, setting
from seqsetvae.settings.kinds import Several, existing_path, path

HELP = "train a run again and compare its metrics"
NEEDS = ("runs",)
BODY = "seqsetvae.runs.reproduce"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The run, and where the new one goes."""

    runs: tuple[Path, ...] | None = argument(Several(existing_path()), "reproduce: folder of the run")
    output_root_dir: Path = setting(path())


def problems(settings: Settings) -> list[str]:
    """One run folder."""
    runs = settings.runs or ()
    several = [f"runs: received {len(runs)} runs; allowed: one with --mode reproduce"] * (len(runs) > 1)
    return several + not_folders(runs)
