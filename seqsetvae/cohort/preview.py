"""Quick checks of a data folder, made before a checkpoint is read and before the data are hashed or compiled."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from seqsetvae.cohort.compile import DEFAULT_WIDTH
from seqsetvae.cohort.find import (
    DEFAULT_LABEL,
    LayoutFiles,
    locate_layout,
    open_labelled,
    refuse_side_files,
    without_other_labels,
)
from seqsetvae.cohort.format import is_compiled
from seqsetvae.cohort.sidefiles import Labels, read_labels
from seqsetvae.cohort.sources.opened import embeddings_of, stats_of
from seqsetvae.cohort.sources.seqsetvae_layout import SeqSetVAELayout
from seqsetvae.cohort.tidy import Stay
from seqsetvae.errors import InputError


def check_folder(
    data_dir: str | Path,
    *,
    stats_path: str | Path | None = None,
    label_path: str | Path | None = None,
    embeddings_path: str | Path | None = None,
    label_name: str | None = None,
    splits: Sequence[str] = (),
    labelled: bool = True,
) -> int:
    """Check splits, side files and, with `labelled`, that every one of `splits` has labels of both classes.

    No stay is read: `find_cohort` checks their content.

    Returns:
        Width of the variable embeddings.

    Raises:
        InputError: as `find_cohort` and `require_classes`, for what can be seen without reading a stay.
    """
    data_dir = Path(data_dir)
    if not is_compiled(data_dir):
        files = locate_layout(data_dir, stats_path, label_path, embeddings_path)
        label_name = label_name or DEFAULT_LABEL
        files = files if labelled else without_other_labels(files, label_name)
        return _check_layout(files, label_name, splits, labelled)
    refuse_side_files(data_dir, stats_path, label_path, embeddings_path)
    cohort = open_labelled(data_dir, label_name, verify=False)
    for name in splits:
        label = cohort.split(name).label
        if labelled:
            counts = {value: int((label == value).sum()) for value in (0, 1, -1)}
            require_classes(f"{data_dir}", name, cohort.label_name, counts)
    return cohort.embeddings.shape[1]


def _check_layout(files: LayoutFiles, label_name: str, splits: Sequence[str], labelled: bool) -> int:
    layout = SeqSetVAELayout(files.patient_ehr)
    missing = [name for name in splits if name not in layout.stays]
    if missing:
        raise InputError(
            f"{files.patient_ehr}: no split {missing[0]!r}; it has {', '.join(layout.stays)}. A split is a folder such "
            f"as {missing[0]}/ with parquet files."
        )
    if files.stats is not None:
        stats_of(files.stats)
    labels = None if files.labels is None else read_labels(files.labels, label_name)
    if labelled:
        _check_labels(files, layout, label_name, splits, labels)
    embeddings, width = embeddings_of(files.embeddings, DEFAULT_WIDTH)
    return width if embeddings is None else embeddings.vectors.shape[1]


def _check_labels(
    files: LayoutFiles, layout: SeqSetVAELayout, label_name: str, splits: Sequence[str], labels: Labels | None
) -> None:
    if labels is None:
        raise InputError(
            f"{files.patient_ehr}: no oc.csv beside it or in it, so its stays have no labels. Pass the file with "
            f"--label_path (columns ts_id and {label_name})."
        )
    for name in splits:
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
            f"without a label; training and evaluation need stays of both classes. Check the column {label_name!r} of "
            "oc.csv (--label_name, --label_path) and its stay ids (ts_id)."
        )
