"""From the folder a user names to an open cohort: a compiled one as it stands, an old layout through the cache."""

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

from seqsetvae.cohort.compile import COMPILER_VERSION, compile_cohort, in_order
from seqsetvae.cohort.format import Cohort, is_compiled, open_cohort
from seqsetvae.cohort.manifest import FORMAT_VERSION, MANIFEST
from seqsetvae.cohort.sidefiles import has_label_column
from seqsetvae.cohort.sources.seqsetvae_layout import (
    DEFAULT_LABEL,
    LayoutFiles,
    locate_layout,
    open_layout,
    parquet_names,
    side_file,
)
from seqsetvae.cohort.tidy import SPLITS
from seqsetvae.errors import InputError
from seqsetvae.files import AlreadyThereError, file_sha256


def find_cohort(
    data_dir: str | Path,
    *,
    stats_path: str | Path | None = None,
    label_path: str | Path | None = None,
    embeddings_path: str | Path | None = None,
    label_name: str | None = None,
    cache_root: str | Path,
    skip_bad: bool = False,
    leave_out_unknown: bool = False,
    needs_labels: bool = True,
    progress: bool = True,
) -> Cohort:
    """Open the cohort of `data_dir`: a compiled folder, a patient_ehr folder, or the folder that holds patient_ehr.

    An old layout is compiled into cache_root/<key>, where key is a hash of the content of every file that matters: it
    is found again as long as nothing has changed, and compiled afresh when anything has.

    Without needs_labels a file of labels that lacks the column label_name counts as no file.

    With leave_out_unknown the events of variables without an embedding are left out instead of being an error.

    label_name None is the label that a compiled cohort has, and in_hospital_mortality of an old layout.

    Raises:
        InputError: no data there, a side file is missing, the data have a fault, or a compiled cohort has another label
            than label_name, or is given side files.
    """
    data_dir = Path(data_dir)
    if is_compiled(data_dir):
        refuse_side_files(data_dir, stats_path, label_path, embeddings_path)
        return open_labelled(data_dir, label_name)
    label_name = DEFAULT_LABEL if label_name is None else label_name
    files = locate_layout(data_dir, stats_path, label_path, embeddings_path)
    if not needs_labels:
        files = without_other_labels(files, label_name)
    key = content_key(files, label_name, skip_bad, progress, leave_out_unknown)
    entry = Path(cache_root) / key
    if not is_compiled(entry):
        try:
            compile_layout(
                files,
                entry,
                label_name=label_name,
                skip_bad=skip_bad,
                leave_out_unknown=leave_out_unknown,
                progress=progress,
            )
        except AlreadyThereError:
            if not is_compiled(entry):  # a finished entry is the work of another process meanwhile: use it
                raise
        # Else the entry would answer to a name not its own:
        if content_key(files, label_name, skip_bad, progress, leave_out_unknown) != key:
            shutil.rmtree(entry)
            raise InputError(f"{files.patient_ehr}: files changed while they were being compiled. Run it again.")
    return open_cohort(entry)


def without_other_labels(files: LayoutFiles, label_name: str) -> LayoutFiles:
    """The files of an old layout, without a file of labels that has no column of this name."""
    if files.labels is None or has_label_column(files.labels, label_name):
        return files
    return replace(files, labels=None)


def refuse_side_files(
    cohort: Path, stats_path: str | Path | None, label_path: str | Path | None, embeddings_path: str | Path | None
) -> None:
    """Raises InputError if any of these, which belong to an old layout, is given for a compiled cohort."""
    given = {"--params_map_path": stats_path, "--label_path": label_path, "--embeddings_path": embeddings_path}
    surplus = [f"{flag} {path}" for flag, path in given.items() if path is not None]
    if surplus:
        raise InputError(
            f"{cohort} is a compiled cohort, which holds its statistics, labels and embeddings already. "
            f"Leave out {', '.join(surplus)}, or pass the patient_ehr folder that it was compiled from."
        )


def open_labelled(path: Path, label_name: str | None, verify: bool = True) -> Cohort:
    """Open a compiled cohort. Raises InputError if a label is named and the cohort was compiled with another one."""
    cohort = open_cohort(path, verify)
    if label_name is not None and label_name != cohort.label_name:
        raise InputError(
            f"--label_name {label_name}: {path} was compiled with the label {cohort.label_name}. Leave --label_name "
            f"out, or compile the patient_ehr folder again with --label_name {label_name}."
        )
    return cohort


def require_given(
    stats_path: str | Path | None, label_path: str | Path | None, embeddings_path: str | Path | None
) -> None:
    """Raises InputError if a side file that was given does not exist."""
    side_file(Path(), "stats.csv", "--params_map_path", stats_path)
    side_file(Path(), "oc.csv", "--label_path", label_path)
    side_file(Path(), "cached.csv", "--embeddings_path", embeddings_path)


def compile_layout(
    files: LayoutFiles,
    out: str | Path,
    *,
    label_name: str = DEFAULT_LABEL,
    embedding_dim: int | None = None,
    skip_bad: bool = False,
    leave_out_unknown: bool = False,
    jobs: int | None = None,
    progress: bool = True,
) -> Cohort:
    """Compile an old layout into the new folder `out`; see compile_cohort for the arguments and errors.

    Raises:
        InputError: also if embedding_dim is given beside a cached.csv, which has a width of its own.
    """
    opened = open_layout(files, label_name, embedding_dim)
    return compile_cohort(
        **vars(opened), out=out, skip_bad=skip_bad, leave_out_unknown=leave_out_unknown, jobs=jobs, progress=progress
    )


def content_key(
    files: LayoutFiles, label_name: str, skip_bad: bool, progress: bool = False, leave_out_unknown: bool = False
) -> str:
    """A hash of all that the compiled cohort depends on: names and contents, never modification times.

    `progress` shows a bar if stderr is a terminal and the files are so many that it takes a while.
    """
    # Hashed piece by piece, as the JSON of one long list: nothing is kept of a file once it has been read.
    options = [FORMAT_VERSION, COMPILER_VERSION, label_name, skip_bad] + ["known variables only"] * leave_out_unknown
    key = hashlib.sha256(f"[{json.dumps(options)}".encode())
    names = {split: parquet_names(files.patient_ehr / split) for split in sorted(SPLITS)}
    sides = {"stats.csv": files.stats, "oc.csv": files.labels, "cached.csv": files.embeddings}
    named_sides = [
        # The manifest of a compiled cohort has the checksums of all that is in it.
        (f"side:{name}", str(path / MANIFEST if is_compiled(path) else path))
        for name, path in sides.items()
        if path is not None
    ]
    n_files = sum(map(len, names.values())) + len(named_sides)
    bar = tqdm(total=n_files, desc="Checking files", unit="file", delay=1, disable=None if progress else True)
    named = chain(_named_stays(files.patient_ehr, names), named_sides)
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for name, checksum in in_order(pool, _with_checksum, named, ahead=64):
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


def _with_checksum(named: tuple[str, str]) -> tuple[str, str]:
    name, path = named
    return name, file_sha256(path)
