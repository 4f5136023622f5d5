"""Open the data that the settings name."""

from __future__ import annotations

from pathlib import Path

from seqsetvae.cohort.find import find_cohort
from seqsetvae.cohort.format import Cohort
from seqsetvae.cohort.preview import check_folder
from seqsetvae.cohort.report import notices
from seqsetvae.settings.groups import DataSettings

COHORT_CACHE = "cohorts"  # below output_root_dir: compiled copies of old data folders


def check_data(data: DataSettings, *splits: str, labelled: bool = True) -> int:
    """Check what can be seen without reading a stay, and return the width of the variable embeddings.

    Hashing and compiling a data folder can take minutes, so a wrong label name is found before.
    """
    assert data.data_dir is not None, "settings are checked before a mode runs"
    return check_folder(
        data.data_dir,
        stats_path=data.params_map_path,
        label_path=data.label_path,
        embeddings_path=data.embeddings_path,
        label_name=data.label_name,
        splits=splits,
        labelled=labelled,
    )


def open_data(
    data: DataSettings, output_root_dir: Path, *, leave_out_unknown: bool = False, needs_labels: bool = True
) -> Cohort:
    """The cohort of the settings; a patient_ehr folder is compiled once and later recognized by its content.

    With leave_out_unknown the events of variables without an embedding are left out instead of being an error. Without
    needs_labels a file of labels that lacks the column of the settings counts as no file.
    """
    assert data.data_dir is not None, "settings are checked before a mode runs"
    cohort = find_cohort(
        data.data_dir,
        stats_path=data.params_map_path,
        label_path=data.label_path,
        embeddings_path=data.embeddings_path,
        label_name=data.label_name,
        skip_bad=data.skip_bad,
        leave_out_unknown=leave_out_unknown,
        needs_labels=needs_labels,
        cache_root=output_root_dir / COHORT_CACHE,
    )
    counts = ", ".join(f"{name} {split.n_stays:,}" for name, split in cohort.splits.items())
    print(f"Data: {cohort.path} ({counts} stays; label {cohort.label_name})")
    for line in notices(cohort):
        print(f"  {line}")
    return cohort
