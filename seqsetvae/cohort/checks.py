"""`data.py check`: everything to know about data before training on them. Faults are reported here, not raised."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from seqsetvae.cohort.bind import SideTables, bind, stats_of, tables_in, vectors_of
from seqsetvae.cohort.compile import compile_cohort
from seqsetvae.cohort.describe import SHOWN, Findings, add_list, check_labels, describe
from seqsetvae.cohort.find import DEFAULT_LABEL, open_labelled
from seqsetvae.cohort.format import Cohort, is_compiled
from seqsetvae.cohort.imported import SKIPPED, FaultyFiles, read_skipped
from seqsetvae.cohort.manifest import damaged
from seqsetvae.cohort.report import why_left_out
from seqsetvae.cohort.sidefiles import (
    USABLE_STATS,
    Labels,
    Stats,
    UnusableStatsError,
    embedding_faults,
    read_labels,
    unusable_stats,
)
from seqsetvae.cohort.sources.layout_files import NOT_NAMED, SideFiles, find_patient_ehr, locate_layout
from seqsetvae.cohort.sources.opened import Opened
from seqsetvae.cohort.sources.seqsetvae_layout import ORIGIN_NOTE, SeqSetVAELayout
from seqsetvae.cohort.tidy import SPLITS
from seqsetvae.cohort.variables import NONE
from seqsetvae.errors import InputError
from seqsetvae.files import CannotWriteError, scratch_folder


def check_folder(
    path: str | Path, label_name: str | None = None, named: SideFiles = NOT_NAMED, work_dir: Path | None = None
) -> Findings:
    """Check a compiled cohort or an old layout; whatever is wrong with it is in the findings.

    `work_dir` is where an old layout is compiled for the time of the check; None = the system's temporary folder.

    Raises:
        InputError: labels for a compiled cohort, or a file or folder that was named does not exist.
    """
    path, findings = Path(path), Findings()
    compiled = is_compiled(path)
    if compiled:
        named.refuse(path)
    named.require()
    with _temporary_folder(work_dir) as folder:
        try:
            if compiled:
                _check_compiled(path, label_name, named, findings)
            else:
                _check_layout(path, label_name or DEFAULT_LABEL, named, folder, findings)
        except CannotWriteError:  # not a fault of the data
            raise
        except InputError as error:
            findings.problems.append(str(error).replace("\n", "\n    "))
    return findings


def check_source(
    open_source: Callable[[Path], Opened], command: str, skip_bad: bool = False, work_dir: Path | None = None
) -> Findings:
    """Check a source of another origin before it is compiled; whatever is wrong with it is in the findings.

    `open_source` opens it for a cohort of the path that it gets, which is in a temporary folder below `work_dir`.
    `command` compiles it; with `skip_bad` it leaves faulty stays out, so that they are no errors.

    Raises:
        InputError: `work_dir` cannot be used.
    """
    findings = Findings()
    with _temporary_folder(work_dir) as folder:
        try:
            opened = open_source(folder / "cohort")
            findings.facts.append(opened.source.description)
            cohort = compile_cohort(**vars(opened), out=folder / "cohort", skip_bad=True)
            bound, unusable = _bound(cohort, None, findings)
            describe(bound, findings, reported=unusable)
            check_labels(cohort, findings)
            faults = findings.remarks if skip_bad else findings.problems
            _note_skipped(cohort, faults, "which --skip_bad leaves out", findings)
            findings.next_step = command
        except CannotWriteError:  # not a fault of the data
            raise
        except InputError as error:
            findings.problems.append(str(error).replace("\n", "\n    "))
    return findings


@contextlib.contextmanager
def _temporary_folder(work_dir: Path | None) -> Iterator[Path]:
    parent = work_dir or Path(tempfile.gettempdir())
    try:
        with scratch_folder(parent, "seqsetvae-check") as folder:
            yield folder
    except CannotWriteError as error:
        raise InputError(f"--work_dir {parent}: {error}") from None


def _check_compiled(path: Path, label_name: str | None, named: SideFiles, findings: Findings) -> None:
    findings.facts.append(f"{path} (compiled cohort)")
    cohort = open_labelled(path, label_name)
    stats, embeddings = tables_in(path)
    tables = _read_tables(named.stats or stats, named.embeddings or embeddings, findings)
    _describe(cohort, tables, findings)
    check_labels(cohort, findings)
    _note_skipped(cohort, findings.remarks, "left out when it was compiled", findings)


def _check_layout(path: Path, label_name: str, named: SideFiles, folder: Path, findings: Findings) -> None:
    """Compile what can be compiled into a temporary folder, leaving every fault out and noting it."""
    source = SeqSetVAELayout(find_patient_ehr(path))
    findings.facts.append(f"{source.patient_ehr} (SeqSetVAE layout)")
    _note_unread_files(source.patient_ehr, findings)
    _drop_repeated_stays(source, findings)
    files = findings.attempt(lambda: locate_layout(path, named))
    labels = findings.attempt(lambda: read_labels(files.labels, label_name) if files and files.labels else {})
    sides = (None, None) if files is None else (files.stats, files.embeddings)
    tables = _read_tables(*sides, findings)
    cohort = compile_cohort(source, folder / "cohort", label_name=label_name, labels=labels, skip_bad=True)
    _describe(cohort, tables, findings)
    if files is not None and labels is not None:
        check_labels(cohort, findings)
        _note_labels_without_a_stay(source, labels, findings)
    _note_skipped(cohort, findings.problems, "which --skip_bad leaves out", findings)


def _read_tables(stats: Path | None, embeddings: Path | None, findings: Findings) -> SideTables:
    """Statistics and embeddings; what cannot be read is a problem."""
    if stats is None:
        findings.remarks.append(
            "there is no stats.csv: mean and std of each variable are computed from the training split, unless a "
            "checkpoint has its own. For an older one pass the stats.csv of its training with --stats"
        )
    if embeddings is None:
        findings.remarks.append("there is no cached.csv: embeddings will be generated from the names of the variables")
    return SideTables(
        findings.attempt(lambda: stats_of(stats) if stats else None),
        findings.attempt(lambda: vectors_of(embeddings) if embeddings else None),
    )


def _describe(cohort: Cohort, tables: SideTables, findings: Findings) -> None:
    """Add what the cohort shows, by the mean and std of these tables."""
    bound, unusable = _bound(cohort, tables.stats, findings)
    bad = unusable_stats(tables.stats or {}, cohort.vocabulary)
    lines = [f"{name!r}: {line}" for name, line in bad.items()]
    add_list(findings.problems, f"variables whose statistics cannot be used ({USABLE_STATS})", lines)
    if tables.embeddings is not None:
        missing, broken = embedding_faults(tables.embeddings, cohort.vocabulary)
        add_list(findings.problems, "variables without an embedding in cached.csv", map(repr, missing))
        add_list(findings.problems, "variables whose embedding has numbers that float32 cannot hold", map(repr, broken))
    describe(bound, findings, reported=unusable)


def _bound(cohort: Cohort, stats: Stats | None, findings: Findings) -> tuple[Cohort, list[str]]:
    """The cohort with these statistics, and the variables whose statistics cannot be used, which have none."""
    if stats is None and cohort.variables.statistics == NONE:
        return cohort, []
    unusable = list(unusable_stats(stats or {}, stats or {}))
    while True:
        if stats is not None:
            stats = {name: pair for name, pair in stats.items() if name not in unusable}
        try:
            return bind(cohort, SideTables(stats)), unusable
        except UnusableStatsError as error:
            if stats is None:  # of the training split: no line of a file can be left out
                raise
            findings.problems.append(str(error).replace("\n", "\n    "))
            unusable += error.lines


def _note_unread_files(patient_ehr: Path, findings: Findings) -> None:
    """Note files and folders that no part of the program reads. Hidden ones, such as .DS_Store, do not count."""
    known = {*SPLITS, "stats.csv", "oc.csv", "cached.csv", ORIGIN_NOTE}
    unread = [name for name in _visible(patient_ehr) if name not in known]
    for split in SPLITS:
        unread += [f"{split}/{name}" for name in _visible(patient_ehr / split) if not name.endswith(".parquet")]
    what = f"files or folders of {patient_ehr} are not read; stays are <number>.parquet in {', '.join(SPLITS)}"
    add_list(findings.remarks, what, unread)


def _visible(folder: Path) -> list[str]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(name for name in names if not name.startswith("."))


def _note_labels_without_a_stay(source: SeqSetVAELayout, labels: Labels, findings: Findings) -> None:
    stays = np.fromiter((stay.stay_id for of_split in source.stays.values() for stay in of_split), np.int64)
    labelled = np.fromiter(labels, np.int64, len(labels))
    absent = labelled[~np.isin(labelled, stays)]
    if len(absent):
        first = ", ".join(map(str, absent[:SHOWN].tolist())) + (", ..." if len(absent) > SHOWN else "")
        findings.remarks.append(
            f"{len(absent):,} of {len(labels):,} labels are of stays that have no file, such as {first}"
        )


def _drop_repeated_stays(source: SeqSetVAELayout, findings: Findings) -> None:
    """Keep the first file of every stay, and note the others."""
    first: dict[int, str] = {}
    repeated = []
    for split, stays in source.stays.items():
        source.stays[split] = [stay for stay in stays if first.setdefault(stay.stay_id, stay.file) == stay.file]
        others = (stay for stay in stays if first[stay.stay_id] != stay.file)
        repeated += [f"{stay.stay_id}: {first[stay.stay_id]} and {stay.file}" for stay in others]
    add_list(findings.problems, "stays in two splits or files; only the first is counted", repeated)


def _note_skipped(cohort: Cohort, notes_of_faults: list[str], called: str, findings: Findings) -> None:
    """Add what the compilation left out; faulty files are a problem unless they were left out on purpose."""
    skips, report = read_skipped(cohort.path), cohort.manifest["report"]
    faulty = FaultyFiles(**report.get("faults", {}))  # cohorts compiled before these were counted have no such entry
    if len(skips) != report["faulty_files"] + report["left_out"] + faulty.without_stay:
        raise damaged(cohort.path / SKIPPED, f"it lists {len(skips)} files, and the manifest counts others")
    if faulty.kinds:
        notes_of_faults.append(f"{faulty.total}, {called}:" + "".join(f"\n      {line}" for line in faulty.lines()))
    else:
        add_list(notes_of_faults, called, (str(skip) for skip in skips if skip.is_fault))
    without_rows = (str(skip) for skip in skips if not skip.is_fault)
    add_list(findings.remarks, f"stays left out {why_left_out(cohort)}", without_rows)
