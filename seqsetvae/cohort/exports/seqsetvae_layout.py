"""The SeqSetVAE layout: a file for each stay, and the side files stats.csv, oc.csv and cached.csv."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seqsetvae.cohort.exports.table import blocks, write_csv
from seqsetvae.cohort.format import Cohort
from seqsetvae.system.files import new_folder

HELP = "the SeqSetVAE layout (patient_ehr/<split>/<stay>.parquet, stats.csv, oc.csv, cached.csv)"
COLUMNS = ("variable", "value", "minute", "set_index")


def write_stay(folder: Path, stay_id: int, events: pa.Table) -> Path:
    """Write COLUMNS of the events of a stay to <folder>/<stay_id>.0.parquet and return its path."""
    file = folder / f"{stay_id}.0.parquet"
    pq.write_table(events.select(COLUMNS), file)
    return file


def write(cohort: Cohort, out: Path) -> list[str]:
    """Write OUT/{patient_ehr/<split>/<stay>.0.parquet, stats.csv, oc.csv, cached.csv}; returns what it cannot hold.

    Raises:
        InputError: `out` exists already, or cannot be written.
    """
    splits = cohort.splits.values()
    with new_folder(out) as partial:
        for name in cohort.splits:
            _write_stays(cohort, name, partial / "patient_ehr" / name)
        pairs = ((stay, label) for split in splits for stay, label in zip(split.stay_id, split.label, strict=True))
        labels = ((int(stay), int(label)) for stay, label in pairs if label >= 0)
        write_csv(partial / "oc.csv", ("ts_id", cohort.label_name), labels)
        _write_variables(cohort, partial)
    lost = {
        "the patient of each stay": any((split.subject_id != split.stay_id).any() for split in splits),
        "the prediction time of each stay": any(not np.isnan(split.prediction_minute).all() for split in splits),
    }
    return [
        f"The SeqSetVAE layout has no place for {what}, so it is not in {out}; --to table keeps it."
        for what, is_there in lost.items()
        if is_there
    ]


def _write_stays(cohort: Cohort, name: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    for rows in blocks(cohort, name):
        stay = rows["stay_id"].to_numpy()
        start = np.flatnonzero(np.append(True, stay[1:] != stay[:-1]))
        for first, n_rows in zip(start.tolist(), np.diff(start, append=len(stay)).tolist(), strict=True):
            write_stay(folder, int(stay[first]), rows.slice(first, n_rows))


def _write_variables(cohort: Cohort, folder: Path) -> None:
    """Write stats.csv and cached.csv: mean, std and embedding of each variable that has them."""
    known = np.flatnonzero(~np.isnan(cohort.mean))
    stats = ((cohort.vocabulary[v], float(cohort.mean[v]), float(cohort.std[v])) for v in known)
    write_csv(folder / "stats.csv", ("variable", "mean", "std"), stats)
    pairs = zip(cohort.vocabulary, cohort.embeddings.tolist(), strict=True)
    vectors = ((name, *vector) for name, vector in pairs if vector[0] == vector[0])
    write_csv(folder / "cached.csv", ("Key", *range(cohort.embeddings.shape[1])), vectors)
