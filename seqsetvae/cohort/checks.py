"""`data.py check`: a report on data before training. Faults become findings of the report and are not raised."""

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from seqsetvae.cohort import sidefiles
from seqsetvae.cohort.bind import SideTables, UnusableStatsError, bind, stats_of, tables_in, vectors_of
from seqsetvae.cohort.compile import compile_cohort
from seqsetvae.cohort.describe import SHOWN, describe, finding_about, label_findings, split_lines
from seqsetvae.cohort.format import Cohort, is_compiled
from seqsetvae.cohort.imported import IMPORT, SKIPPED, FaultyFiles, read_skipped
from seqsetvae.cohort.manifest import damaged
from seqsetvae.cohort.open import open_labelled
from seqsetvae.cohort.report import why_left_out
from seqsetvae.cohort.sources import seqsetvae_layout as layout
from seqsetvae.cohort.sources.opened import Opened
from seqsetvae.cohort.sources.seqsetvae_layout import DEFAULT_LABEL
from seqsetvae.cohort.tidy import SPLITS
from seqsetvae.cohort.variables import NONE
from seqsetvae.system.errors import ERROR, NOTE, WARNING, Finding, InputError, cut, totals
from seqsetvae.system.files import CannotWriteError, scratch_folder

LONGEST_ITEM = 500  # characters of an item, such as a name that is no name
TITLES = {ERROR: "Errors, to correct before training:", WARNING: "Warnings:", NOTE: "Notes:"}
T = TypeVar("T")


@dataclass
class Check:
    """What a check found and what was decided."""

    facts: list[str] = field(default_factory=list)
    decided: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    command: str = ""  # imports what was checked

    def attempt(self, read: Callable[[], T]) -> T | None:
        """What `read` returns; an InputError becomes an error of the check, and None."""
        try:
            return read()
        except InputError as error:
            self.findings.append(Finding(ERROR, str(error)))
            return None

    @property
    def is_ready(self) -> bool:
        """Whether the data can be trained on."""
        return all(finding.level != ERROR for finding in self.findings)

    def text(self) -> str:
        """One page that ends with the number of errors and warnings, and the next command."""
        parts = ["\n".join(self.facts)] if self.facts else []
        parts += [_section("Decided:", self.decided)] if self.decided else []
        for level, title in TITLES.items():
            entries = [_entry(finding) for finding in self.findings if finding.level == level]
            parts += [_section(title, entries)] if entries else []
        ready = f"{totals(self.findings)}: {'ready' if self.is_ready else 'NOT ready'} for training."
        return "\n\n".join([*parts, f"{ready}\nTo import: {self.command}" if self.command else ready])


def _section(title: str, entries: Iterable[str]) -> str:
    return "\n".join([title, *(f"  - {entry}" for entry in entries)])


def _entry(finding: Finding) -> str:
    """A finding with the first of its items, one a line."""
    more = [f"and {len(finding.items) - SHOWN:,} more"] if len(finding.items) > SHOWN else []
    items = [cut(item, LONGEST_ITEM) for item in [*finding.items[:SHOWN], *more]]
    line = finding.line().replace("\n", "\n    ")
    colon = ":" if items and line[-1] not in ".?!" else ""
    return line + colon + "".join(f"\n      {item}" for item in items)


# ------------------------------------------------------------------ what is checked


def check_folder(
    path: str | Path,
    label_name: str | None = None,
    named: layout.SideFiles = layout.NOT_NAMED,
    work_dir: Path | None = None,
) -> Check:
    """Check a compiled cohort or an old layout; whatever is wrong with it is in the findings.

    `work_dir` is where an old layout is compiled for the time of the check; None = the system's temporary folder.

    Raises:
        InputError: labels for a compiled cohort, or a file or folder that was named does not exist.
    """
    path, check = Path(path), Check()
    compiled = is_compiled(path)
    if compiled:
        named.refuse(path)
    named.require()
    with _scratch(check, work_dir) as folder:
        if compiled:
            check.facts.append(f"{path} (compiled cohort)")
            cohort = open_labelled(path, label_name)
            stats, embeddings = tables_in(path)
            _describe(check, cohort, _read_tables(check, named.stats or stats, named.embeddings or embeddings))
            check.findings += [*label_findings(cohort), *_skipped(cohort, WARNING, "left out when it was compiled")]
        else:
            _check_layout(check, path, label_name or DEFAULT_LABEL, named, folder)
    return check


def check_source(
    open_source: Callable[[Path], Opened],
    command: str,
    skip_bad: bool = False,
    work_dir: Path | None = None,
    set_hours: float | None = None,
) -> Check:
    """Check a source of another origin before it is compiled; whatever is wrong with it is in the findings.

    `open_source` opens it for a cohort of the path that it gets, which is in a temporary folder below `work_dir`.
    `command` compiles it; with `skip_bad` it leaves faulty stays out, so that they are no errors. `set_hours` is
    that of compile_cohort.

    Raises:
        InputError: `work_dir` cannot be used.
    """
    check = Check()
    with _scratch(check, work_dir) as folder:
        opened = open_source(folder / "cohort")
        check.facts.append(opened.source.description)
        cohort = compile_cohort(**vars(opened), out=folder / "cohort", skip_bad=True, set_hours=set_hours)
        _describe(check, cohort, SideTables())
        faults = _skipped(cohort, WARNING if skip_bad else ERROR, "which --skip_bad leaves out")
        check.findings += [*label_findings(cohort), *faults]
        check.command = command
    return check


@contextlib.contextmanager
def _scratch(check: Check, work_dir: Path | None) -> Iterator[Path]:
    """A temporary folder; an InputError inside the block becomes an error of the check."""
    parent = work_dir or Path(tempfile.gettempdir())
    try:
        with scratch_folder(parent, "seqsetvae-check") as folder:
            yield folder
    except CannotWriteError as error:  # not a fault of the data
        raise InputError(f"--work_dir {parent}: {error}") from None
    except InputError as error:
        check.findings.append(Finding(ERROR, str(error)))


def _check_layout(check: Check, path: Path, label_name: str, named: layout.SideFiles, folder: Path) -> None:
    """Compile what can be compiled into a temporary folder, leaving every fault out and noting it."""
    source = layout.SeqSetVAELayout(layout.find_patient_ehr(path))
    check.facts.append(f"{source.patient_ehr} (SeqSetVAE layout)")
    check.findings += [*_unread_files(source.patient_ehr), *_repeated_stays(source)]
    files = check.attempt(lambda: layout.locate_layout(path, named))
    given = check.attempt(lambda: sidefiles.read_labels(files.labels, label_name) if files and files.labels else {})
    sides = (None, None) if files is None else (files.stats, files.embeddings)
    tables = _read_tables(check, *sides)
    cohort = compile_cohort(source, folder / "cohort", label_name=label_name, labels=given, skip_bad=True)
    _describe(check, cohort, tables)
    if files is not None and given is not None:
        check.findings += label_findings(cohort)
        stays = np.fromiter((stay.stay_id for of_split in source.stays.values() for stay in of_split), np.int64)
        labelled = np.fromiter(given, np.int64, len(given))
        absent = labelled[~np.isin(labelled, stays)].tolist()
        text = f"(of {len(given):,}) of stays without a file"
        check.findings += finding_about(WARNING, map(str, absent), "label", text)
    check.findings += _skipped(cohort, ERROR, "which --skip_bad leaves out")


# ------------------------------------------------------------------ statistics and embeddings


def _read_tables(check: Check, stats: Path | None, embeddings: Path | None) -> SideTables:
    """Read statistics and embeddings; a file that cannot be read becomes an error of the check."""
    if stats is None:
        text = (
            "there is no stats.csv: mean and std of each variable are computed from the training split, unless a "
            "checkpoint has its own"
        )
        check.findings.append(Finding(NOTE, text, "For an older one pass the stats.csv of its training with --stats"))
    if embeddings is None:
        text = "there is no cached.csv: embeddings are generated from the names of the variables"
        check.findings.append(Finding(NOTE, text))
    return SideTables(
        check.attempt(lambda: stats_of(stats)),
        check.attempt(lambda: vectors_of(embeddings)),
    )


def _describe(check: Check, cohort: Cohort, tables: SideTables) -> None:
    """Add what the cohort shows, by the mean and std of these tables."""
    bound, unusable = _bound(check, cohort, tables.stats)
    faults = sidefiles.unusable_stats(tables.stats or {}, cohort.vocabulary)
    bad = [f"{name!r}: {line}" for name, line in faults.items()]
    text = f"with statistics that cannot be used ({sidefiles.USABLE_STATS})"
    check.findings += finding_about(ERROR, bad, "variable", text)
    if tables.embeddings is not None:
        missing, broken = (
            map(repr, names) for names in sidefiles.embedding_faults(tables.embeddings, cohort.vocabulary)
        )
        check.findings += finding_about(ERROR, missing, "variable", "without an embedding in cached.csv")
        what = "with numbers in the embedding that float32 cannot hold"
        check.findings += finding_about(ERROR, broken, "variable", what)
    said = cohort.manifest.get(IMPORT, {})
    check.facts += [*(f"  {line}" for line in said.get("found", ())), *split_lines(bound)]
    check.decided += said.get("decided", ())
    check.findings += describe(bound, reported=unusable)


def _bound(check: Check, cohort: Cohort, stats: sidefiles.Stats | None) -> tuple[Cohort, list[str]]:
    """The cohort with these statistics, and the variables whose statistics cannot be used, which have none."""
    if stats is None and cohort.variables.statistics == NONE:
        return cohort, []
    unusable = list(sidefiles.unusable_stats(stats or {}, stats or {}))
    while True:
        if stats is not None:
            stats = {name: pair for name, pair in stats.items() if name not in unusable}
        try:
            return bind(cohort, SideTables(stats)), unusable
        except UnusableStatsError as error:
            if stats is None:  # of the training split: no line of a file can be left out
                raise
            check.findings.append(Finding(ERROR, str(error)))
            unusable += error.lines


# ------------------------------------------------------------------ files, stays and rows that are not used


def _unread_files(patient_ehr: Path) -> list[Finding]:
    """Files and folders that the program never reads, without hidden ones such as .DS_Store."""
    known = {*SPLITS, "stats.csv", "oc.csv", "cached.csv", layout.ORIGIN_NOTE}
    unread = [name for name in _visible(patient_ehr) if name not in known]
    for split in SPLITS:
        unread += [f"{split}/{name}" for name in _visible(patient_ehr / split) if not name.endswith(".parquet")]
    action = f"Stays are <number>.parquet in {', '.join(SPLITS)}"
    return finding_about(WARNING, unread, "unread file", f"(or folder) in {patient_ehr}", action)


def _visible(folder: Path) -> list[str]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(name for name in names if not name.startswith("."))


def _repeated_stays(source: layout.SeqSetVAELayout) -> list[Finding]:
    """Keep the first file of every stay, and name the others."""
    first: dict[int, str] = {}
    repeated = []
    for split, stays in source.stays.items():
        source.stays[split] = [stay for stay in stays if first.setdefault(stay.stay_id, stay.file) == stay.file]
        others = (stay for stay in stays if first[stay.stay_id] != stay.file)
        repeated += [f"{stay.stay_id}: {first[stay.stay_id]} and {stay.file}" for stay in others]
    return finding_about(ERROR, repeated, "stay", "in two splits or files; only the first is counted")


def _skipped(cohort: Cohort, level: str, called: str) -> Iterator[Finding]:
    """What the compilation left out; `level` is that of faulty files, which may have been left out on purpose."""
    skips, report = read_skipped(cohort.path), cohort.manifest["report"]
    faulty = FaultyFiles(**report["faults"])
    if len(skips) != report["faulty_files"] + report["left_out"] + faulty.without_stay:
        raise damaged(cohort.path / SKIPPED, f"it lists {len(skips)} files, and the manifest counts others")
    if faulty.kinds:
        yield Finding(level, "\n  ".join([f"{faulty.total}, {called}:", *faulty.lines()]))
    else:
        yield from finding_about(level, (str(skip) for skip in skips if skip.is_fault), "fault", called)
    without_rows = (str(skip) for skip in skips if not skip.is_fault)
    yield from finding_about(WARNING, without_rows, "stay", f"left out {why_left_out(cohort)}")
