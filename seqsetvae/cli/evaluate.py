"""Evaluate: metrics with intervals of fine-tuned checkpoints on one split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seqsetvae.settings.declare import argument
from seqsetvae.settings.groups import (
    BaselineSettings,
    DataSettings,
    ExplainSettings,
    FinetunedSettings,
    LoaderSettings,
    OutputSettings,
    RunSettings,
    SplitSettings,
)
from seqsetvae.settings.kinds import Several, choice, existing_path, exists, number, optional

HELP = "metrics of fine-tuned checkpoints on one split, with 95 % intervals"
NEEDS = ("ckpt", "split")
BODY = "seqsetvae.runs.evaluate"


@dataclass(frozen=True, kw_only=True)
class DetailSettings:
    """What is evaluated besides the whole split."""

    subgroups: Path | None = argument(
        optional(existing_path()),
        "evaluate: .csv or .parquet file with a column stay_id and others (age, sex, unit, ...), whose groups are "
        "evaluated too; a numeric column of more than 10 different values is cut into quartiles",
    )
    landmarks: tuple[float, ...] | None = argument(
        Several(number(0, above=True)),
        "evaluate: hours, such as 6 12 24 48; predictions from only the events of the first hours are evaluated too",
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What evaluation reads."""

    finetuned: FinetunedSettings
    split: SplitSettings
    output: OutputSettings
    details: DetailSettings
    explained: ExplainSettings
    format: str = argument(choice("csv", "parquet"), "evaluate: file type of the predictions", default="csv")
    baselines: BaselineSettings
    data: DataSettings
    loader: LoaderSettings
    run: RunSettings


def problems(settings: Settings) -> list[str]:
    """The output must be a folder, new or existing."""
    output = settings.output.output
    if output is None or not exists(output) or output.is_dir():
        return []
    return [f"output: received {str(output)!r}, which is a file; allowed: an existing or new folder"]
