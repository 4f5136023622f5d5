"""The data that the settings name: a quick check, before a checkpoint is read, and then the open cohort."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from seqsetvae.cohort.find import (
    DEFAULT_LABEL,
    LayoutFiles,
    SideFiles,
    locate_layout,
    open_labelled,
    open_or_compile,
    side_tables,
    without_other_labels,
)
from seqsetvae.cohort.format import Cohort, is_compiled
from seqsetvae.cohort.report import notices
from seqsetvae.cohort.sidefiles import Labels, read_labels
from seqsetvae.cohort.sources.seqsetvae_layout import SeqSetVAELayout
from seqsetvae.cohort.tidy import Stay
from seqsetvae.cohort.variables import DEFAULT_WIDTH, Variables
from seqsetvae.settings.groups import DataSettings
from seqsetvae.system.errors import InputError

COHORT_CACHE = "cohorts"  # below output_root_dir: compiled copies of data folders


def open_data(
    data: DataSettings,
    output_root_dir: Path,
    *,
    own: Variables | None = None,
    leave_out_unknown: bool = False,
    needs_labels: bool = True,
) -> Cohort:
    """The cohort of the settings as a model reads it; a patient_ehr folder is compiled once and recognized by content.

    `own` are the variables of a checkpoint. With leave_out_unknown the events of variables without an embedding are
    left out instead of being an error. Without needs_labels a file of labels that lacks the column of the settings
    counts as no file.
    """
    assert data.data_dir is not None, "settings are checked before a mode runs"
    cohort = open_or_compile(
        data.data_dir,
        named=_named(data),
        own=own,
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


def _named(data: DataSettings) -> SideFiles:
    return SideFiles(data.params_map_path, data.label_path, data.embeddings_path)


def check_data(data: DataSettings, *splits: str, labelled: bool = True) -> int:
    """Check splits, side files and, with `labelled`, that each of `splits` has labels of both classes.

    No stay is read: hashing and compiling a data folder can take minutes, and a wrong label name is found before.

    Returns:
        Width of the variable embeddings that the data come with.

    Raises:
        InputError: as `open_or_compile` and `require_classes`, for what can be seen without reading a stay.
    """
    assert data.data_dir is not None, "settings are checked before a mode runs"
    tables, width = side_tables(data.data_dir, _named(data)), DEFAULT_WIDTH
    if not is_compiled(data.data_dir):
        files, label_name = locate_layout(data.data_dir, _named(data)), data.label_name or DEFAULT_LABEL
        files = files if labelled else without_other_labels(files, label_name)
        _check_layout(files, label_name, splits, labelled)
    else:
        cohort = open_labelled(data.data_dir, data.label_name, verify=False)
        width = cohort.variables.width
        for name in splits:
            label = cohort.split(name).label
            if labelled:
                counts = {value: int((label == value).sum()) for value in (0, 1, -1)}
                require_classes(f"{data.data_dir}", name, cohort.label_name, counts)
    return width if tables.embeddings is None else tables.embeddings.vectors.shape[1]


def _check_layout(files: LayoutFiles, label_name: str, splits: Sequence[str], labelled: bool) -> None:
    layout = SeqSetVAELayout(files.patient_ehr)
    missing = [name for name in splits if name not in layout.stays]
    if missing:
        raise InputError(
            f"{files.patient_ehr}: no split {missing[0]!r}; it has {', '.join(layout.stays)}. A split is a folder such "
            f"as {missing[0]}/ with parquet files."
        )
    labels = None if files.labels is None else read_labels(files.labels, label_name)
    if labelled and labels is None:
        raise InputError(
            f"{files.patient_ehr}: no oc.csv beside it or in it, so its stays have no labels. Pass the file with "
            f"--label_path (columns ts_id and {label_name})."
        )
    for name in splits if labelled else ():
        assert labels is not None
        if not _has_both_classes(layout.stays[name], labels):
            counts = Counter(labels.get(stay.stay_id, -1) for stay in layout.stays[name])
            require_classes(f"{files.patient_ehr}", name, label_name, counts)


def _has_both_classes(stays: Sequence[Stay], labels: Labels) -> bool:
    """Stops at the first two that differ, since there may be a million stays."""
    found = set()
    for stay in stays:
        found.add(labels.get(stay.stay_id))
        if found >= {0, 1}:
            return True
    return False


def require_classes(data: str, split: str, label_name: str, counts: dict[int, int]) -> None:
    """Raises InputError unless `counts` (stays by label; -1: without a label) has stays of both classes."""
    negative, positive, unlabelled = (counts.get(value, 0) for value in (0, 1, -1))
    if not negative or not positive:
        raise InputError(
            f"{data}: split {split!r} has {negative:,} stays of class 0, {positive:,} of class 1 and {unlabelled:,} "
            f"without a label; training and evaluation need stays of both classes. See the label {label_name!r}: of an "
            "import its rule and the splits (--fractions, --seed); of a folder its column in oc.csv (--label_name, "
            "--label_path) and the stay ids (ts_id)."
        )
