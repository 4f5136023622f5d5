"""The SeqSetVAE layout: a file for each stay, and the side files stats.csv, oc.csv and cached.csv."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqsetvae.cohort.exports.rows import blocks, has_patients, has_prediction_times, write_csv, write_variables
from seqsetvae.cohort.format import Cohort
from seqsetvae.files import new_folder

HELP = "the SeqSetVAE layout (patient_ehr/<split>/<stay>.parquet, stats.csv, oc.csv, cached.csv)"


@dataclass(frozen=True)
class StayTable:
    """One stay, ready to be written as a parquet file. E events."""

    stay_id: int
    variable: Sequence[str]  # E
    value: NDArray[np.float64]  # [E] in the variable's own unit
    minute: NDArray[np.float64]  # [E]
    set_index: NDArray[np.int64]  # [E]


def write_stay(folder: Path, stay: StayTable) -> Path:
    """Write <folder>/<stay_id>.0.parquet and return its path."""
    columns = {"variable": stay.variable, "value": stay.value, "minute": stay.minute, "set_index": stay.set_index}
    file = folder / f"{stay.stay_id}.0.parquet"
    pq.write_table(pa.table(columns), file)
    return file


def write(cohort: Cohort, out: Path) -> list[str]:
    """Write OUT/{patient_ehr/<split>/<stay>.0.parquet, stats.csv, oc.csv, cached.csv}; returns what it cannot hold.

    Raises:
        InputError: `out` exists already, or cannot be written.
    """
    with new_folder(out) as partial:
        for name in cohort.splits:
            _write_stays(cohort, name, partial / "patient_ehr" / name)
        write_csv(partial / "oc.csv", ("ts_id", cohort.label_name), _labels(cohort))
        write_variables(cohort, partial)
    lost = {"the patient of each stay": has_patients, "the prediction time of each stay": has_prediction_times}
    return [
        f"The SeqSetVAE layout has no place for {what}, so it is not in {out}; --to table keeps it."
        for what, is_there in lost.items()
        if any(map(is_there, cohort.splits.values()))
    ]


def _labels(cohort: Cohort) -> list[tuple[int, int]]:
    """(stay, label) of the stays with a label."""
    pairs = ((split.stay_id, split.label) for split in cohort.splits.values())
    return [
        (int(stay), int(label))
        for stays, labels in pairs
        for stay, label in zip(stays, labels, strict=True)
        if label >= 0
    ]


def _write_stays(cohort: Cohort, name: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    split = cohort.split(name)
    for block in blocks(split):
        rows = np.searchsorted(block.stay, np.arange(block.stays.start, block.stays.stop + 1))
        for stay, start, end in zip(split.stay_id[block.stays], rows[:-1], rows[1:], strict=True):
            names = [cohort.vocabulary[v] for v in block.variable[start:end]]
            columns = (block.value[start:end], block.minute[start:end], block.set_index[start:end])
            write_stay(folder, StayTable(int(stay), names, *columns))
