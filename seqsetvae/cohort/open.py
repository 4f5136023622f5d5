"""From the data that the settings name to an open cohort: a quick check, before a checkpoint is read, then the data.

A compiled cohort is opened as it is, an old layout is compiled into a cache, where it is found again by its content.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from seqsetvae.cohort.bind import SideTables, bind, stats_of, tables_in, vectors_of
from seqsetvae.cohort.compile import COMPILER_VERSION, compile_cohort, in_order
from seqsetvae.cohort.format import Cohort, is_compiled, open_cohort
from seqsetvae.cohort.manifest import FORMAT_VERSION
from seqsetvae.cohort.names import trimmed
from seqsetvae.cohort.report import notices
from seqsetvae.cohort.sidefiles import LabelTable, read_labels
from seqsetvae.cohort.sources import seqsetvae_layout as layout
from seqsetvae.cohort.tables.read import column_names
from seqsetvae.cohort.tidy import SPLITS, Stays
from seqsetvae.cohort.variables import DEFAULT_WIDTH, Variables
from seqsetvae.settings.groups import DataSettings
from seqsetvae.system.errors import InputError
from seqsetvae.system.files import AlreadyThereError, file_sha256

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


def _named(data: DataSettings) -> layout.SideFiles:
    return layout.SideFiles(data.params_map_path, data.label_path, data.embeddings_path)


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
        files, label_name = layout.locate_layout(data.data_dir, _named(data)), data.label_name or layout.DEFAULT_LABEL
        files = files if labelled else without_other_labels(files, label_name)
        _check_layout(files, label_name, splits, labelled)
    else:
        cohort = open_labelled(data.data_dir, data.label_name, verify=False)
        width = cohort.variables.width
        of_splits = {name: cohort.split(name).label for name in splits}
        for name, label in of_splits.items() if labelled else ():
            require_classes(f"{data.data_dir}", name, cohort.label_name, label)
    return width if tables.embeddings is None else tables.embeddings.vectors.shape[1]


def _check_layout(files: layout.LayoutFiles, label_name: str, splits: Sequence[str], labelled: bool) -> None:
    source = layout.SeqSetVAELayout(files.patient_ehr)
    missing = [name for name in splits if name not in source.stays]
    if missing:
        raise InputError(
            f"{files.patient_ehr}: no split {missing[0]!r}; it has {', '.join(source.stays)}. A split is a folder such "
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
        label = LabelTable.from_dict(labels).lookup(Stays.from_list(source.stays[name]).stay_id)
        require_classes(f"{files.patient_ehr}", name, label_name, label)


def require_classes(data: str, split: str, label_name: str, label: NDArray[np.int8]) -> None:
    """Raises InputError unless there are stays of both classes: label [N] 0, 1, or -1 without one."""
    negative, positive, unlabelled = (int((label == value).sum()) for value in (0, 1, -1))
    if not negative or not positive:
        raise InputError(
            f"{data}: split {split!r} has {negative:,} stays of class 0, {positive:,} of class 1 and {unlabelled:,} "
            f"without a label; training and evaluation need stays of both classes. See the label {label_name!r}: of an "
            "import its rule and the splits (--fractions, --seed); of a folder its column in oc.csv (--label_name, "
            "--label_path) and the stay ids (ts_id)."
        )


def open_or_compile(
    data_dir: str | Path,
    *,
    cache_root: str | Path,
    named: layout.SideFiles = layout.NOT_NAMED,
    own: Variables | None = None,
    label_name: str | None = None,
    skip_bad: bool = False,
    leave_out_unknown: bool = False,
    needs_labels: bool = True,
    progress: bool = True,
) -> Cohort:
    """Open the cohort of `data_dir`: a compiled folder, a patient_ehr folder, or the folder that holds patient_ehr.

    An old layout is compiled into cache_root/<key>, which may take minutes. The key is a hash of the content of every
    file that matters: the entry is found again as long as nothing has changed, and compiled anew when anything has.

    The cohort is bound to `own`, the variables of a checkpoint, and to the stats.csv and cached.csv that are named, or
    lie beside the data. With leave_out_unknown the events of variables without an embedding are left out instead of
    being an error. Without needs_labels a file of labels that lacks the column label_name counts as no file, and labels
    may be of other stays.

    label_name None is the label that a compiled cohort has, and in_hospital_mortality of an old layout.

    Raises:
        InputError: no data there, a side file is missing, the data have a fault, or a compiled cohort has another label
            than label_name, or is given labels.
    """
    data_dir = Path(data_dir)
    tables = side_tables(data_dir, named)
    if is_compiled(data_dir):
        cohort = open_labelled(data_dir, label_name)
    else:
        label_name = layout.DEFAULT_LABEL if label_name is None else label_name
        files = layout.locate_layout(data_dir, named)
        files = files if needs_labels else without_other_labels(files, label_name)
        key = content_key(files, label_name, skip_bad, progress)
        entry = Path(cache_root) / key
        if not is_compiled(entry):
            alone = replace(files, stats=None, embeddings=None)  # they are bound, and may change
            try:
                compile_layout(
                    alone, entry, label_name=label_name, needs_labels=needs_labels, skip_bad=skip_bad, progress=progress
                )
            except AlreadyThereError:
                if not is_compiled(entry):  # else another process finished the same entry meanwhile: use it
                    raise
            if content_key(files, label_name, skip_bad, progress) != key:
                shutil.rmtree(entry)
                raise InputError(f"{files.patient_ehr}: files changed while they were being compiled. Run it again.")
        cohort = open_cohort(entry)
    return bind(cohort, tables, own, leave_out_unknown=leave_out_unknown)


def side_tables(data_dir: Path, named: layout.SideFiles) -> SideTables:
    """What stats.csv and cached.csv say: those that are named, or lie beside the data. Raises InputError."""
    if is_compiled(data_dir):
        named.refuse(data_dir)
        named.require()
        stats, embeddings = tables_in(data_dir)
        stats, embeddings = named.stats or stats, named.embeddings or embeddings
    else:
        files = layout.locate_layout(data_dir, named)
        stats, embeddings = files.stats, files.embeddings
    by_flag = named.stats is not None or named.embeddings is not None
    return SideTables(stats_of(stats), vectors_of(embeddings), by_flag)


def without_other_labels(files: layout.LayoutFiles, label_name: str) -> layout.LayoutFiles:
    """The files of a layout, without a file of labels that has no column of this name."""
    if files.labels is None or trimmed(label_name) in map(trimmed, column_names(files.labels)):
        return files
    return replace(files, labels=None)


def open_labelled(path: Path, label_name: str | None, verify: bool = True) -> Cohort:
    """Open a compiled cohort. Raises InputError if a label is named and the cohort was compiled with another one."""
    cohort = open_cohort(path, verify)
    if label_name is not None and label_name != cohort.label_name:
        raise InputError(
            f"--label_name {label_name}: {path} was compiled with the label {cohort.label_name}. Leave --label_name "
            f"out, or compile the patient_ehr folder again with --label_name {label_name}."
        )
    return cohort


def compile_layout(
    files: layout.LayoutFiles,
    out: str | Path,
    *,
    label_name: str = layout.DEFAULT_LABEL,
    needs_labels: bool = True,
    **options: Any,
) -> Cohort:
    """Compile an old layout into the new folder `out`; see compile_cohort for the arguments and errors.

    Raises:
        InputError: also for the reasons of open_layout.
    """
    opened = layout.open_layout(files, label_name, needs_labels)
    return compile_cohort(**vars(opened), out=out, **options)


def content_key(files: layout.LayoutFiles, label_name: str, skip_bad: bool, progress: bool = False) -> str:
    """A hash of all that the compiled cohort depends on: names and contents, never modification times.

    `progress` shows a bar if stderr is a terminal and it takes more than a second.
    """
    # The JSON of one long list, hashed piece by piece: nothing is kept of a file after it was read.
    options = [FORMAT_VERSION, COMPILER_VERSION, label_name, skip_bad]
    key = hashlib.sha256(f"[{json.dumps(options)}".encode())
    names = {split: layout.parquet_names(files.patient_ehr / split) for split in sorted(SPLITS)}
    named_sides = [] if files.labels is None else [("side:oc.csv", str(files.labels))]
    n_files = sum(map(len, names.values())) + len(named_sides)
    bar = tqdm(total=n_files, desc="Checking files", unit="file", delay=1, disable=None if progress else True)
    named = chain(_named_stays(files.patient_ehr, names), named_sides)
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for name, checksum in in_order(pool, lambda file: (file[0], file_sha256(file[1])), named, ahead=64):
                key.update(f", {json.dumps([name, checksum])}".encode())
                bar.update()
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from None
    key.update(b"]")
    return key.hexdigest()[:32]


def _named_stays(patient_ehr: Path, names: dict[str, NDArray[np.bytes_]]) -> Iterator[tuple[str, str]]:
    """(name below patient_ehr, path) of every parquet file."""
    for split, of_split in names.items():
        folder = f"{patient_ehr / split}{os.sep}"
        for name in map(os.fsdecode, of_split):
            yield f"{split}/{name}", folder + name
