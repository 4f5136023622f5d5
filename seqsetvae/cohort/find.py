"""From the folder that a user names to an open cohort: a compiled one as it is, an old layout compiled into a cache."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from seqsetvae.cohort.bind import SideTables, bind, stats_of, tables_in, vectors_of
from seqsetvae.cohort.compile import COMPILER_VERSION, compile_cohort, in_order
from seqsetvae.cohort.format import Cohort, is_compiled, open_cohort
from seqsetvae.cohort.manifest import FORMAT_VERSION
from seqsetvae.cohort.sidefiles import has_label_column
from seqsetvae.cohort.sources.seqsetvae_layout import (
    DEFAULT_LABEL,
    NOT_NAMED,
    LayoutFiles,
    SideFiles,
    locate_layout,
    open_layout,
    parquet_names,
)
from seqsetvae.cohort.tidy import SPLITS
from seqsetvae.cohort.variables import Variables
from seqsetvae.system.errors import InputError
from seqsetvae.system.files import AlreadyThereError, file_sha256


def open_or_compile(
    data_dir: str | Path,
    *,
    cache_root: str | Path,
    named: SideFiles = NOT_NAMED,
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
        label_name = DEFAULT_LABEL if label_name is None else label_name
        files = locate_layout(data_dir, named)
        files = files if needs_labels else without_other_labels(files, label_name)
        cohort = _from_cache(files, Path(cache_root), label_name, skip_bad, needs_labels, progress)
    return bind(cohort, tables, own, leave_out_unknown=leave_out_unknown)


def side_tables(data_dir: Path, named: SideFiles) -> SideTables:
    """What stats.csv and cached.csv say: those that are named, or lie beside the data. Raises InputError."""
    if is_compiled(data_dir):
        named.refuse(data_dir)
        named.require()
        stats, embeddings = tables_in(data_dir)
        stats, embeddings = named.stats or stats, named.embeddings or embeddings
    else:
        files = locate_layout(data_dir, named)
        stats, embeddings = files.stats, files.embeddings
    by_flag = named.stats is not None or named.embeddings is not None
    return SideTables(stats_of(stats), vectors_of(embeddings), by_flag)


def _from_cache(
    files: LayoutFiles, cache_root: Path, label_name: str, skip_bad: bool, needs_labels: bool, progress: bool
) -> Cohort:
    key = content_key(files, label_name, skip_bad, progress)
    entry = cache_root / key
    if not is_compiled(entry):
        try:
            alone = replace(files, stats=None, embeddings=None)  # they are bound, and may change
            compile_layout(
                alone, entry, label_name=label_name, skip_bad=skip_bad, progress=progress, needs_labels=needs_labels
            )
        except AlreadyThereError:
            if not is_compiled(entry):  # else another process finished the same entry meanwhile: use it
                raise
        if content_key(files, label_name, skip_bad, progress) != key:
            shutil.rmtree(entry)
            raise InputError(f"{files.patient_ehr}: files changed while they were being compiled. Run it again.")
    return open_cohort(entry)


def without_other_labels(files: LayoutFiles, label_name: str) -> LayoutFiles:
    """The files of a layout, without a file of labels that has no column of this name."""
    if files.labels is None or has_label_column(files.labels, label_name):
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
    files: LayoutFiles,
    out: str | Path,
    *,
    label_name: str = DEFAULT_LABEL,
    skip_bad: bool = False,
    jobs: int | None = None,
    progress: bool = True,
    needs_labels: bool = True,
) -> Cohort:
    """Compile an old layout into the new folder `out`; see compile_cohort for the arguments and errors.

    Raises:
        InputError: also for the reasons of open_layout.
    """
    opened = open_layout(files, label_name, needs_labels)
    return compile_cohort(**vars(opened), out=out, skip_bad=skip_bad, jobs=jobs, progress=progress)


def content_key(files: LayoutFiles, label_name: str, skip_bad: bool, progress: bool = False) -> str:
    """A hash of all that the compiled cohort depends on: names and contents, never modification times.

    `progress` shows a bar if stderr is a terminal and it takes more than a second.
    """
    # The JSON of one long list, hashed piece by piece: nothing is kept of a file after it was read.
    options = [FORMAT_VERSION, COMPILER_VERSION, label_name, skip_bad]
    key = hashlib.sha256(f"[{json.dumps(options)}".encode())
    names = {split: parquet_names(files.patient_ehr / split) for split in sorted(SPLITS)}
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
