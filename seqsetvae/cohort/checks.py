"""What a careful person wants to know about data before training on them. Faults are reported here, not raised."""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from seqsetvae.cohort.compile import EVENTS_PER_BLOCK, SKIPPED, compile_cohort, read_skipped
from seqsetvae.cohort.find import DEFAULT_LABEL, locate_layout, open_labelled, refuse_side_files, require_given
from seqsetvae.cohort.format import Cohort, Split, damaged, is_compiled
from seqsetvae.cohort.sidefiles import (
    Embeddings,
    Labels,
    Stats,
    read_embeddings,
    read_labels,
    read_stats,
    unusable_stats,
)
from seqsetvae.cohort.sources.seqsetvae_layout import SeqSetVAELayout, find_patient_ehr
from seqsetvae.cohort.tidy import Stay
from seqsetvae.errors import InputError

EXTREME_Z = 10.0  # a z-score beyond this is looked at: a unit mixed up, a typing error, or a very sick patient
SHOWN = 10  # lines of any one finding
T = TypeVar("T")
GivenFiles = tuple[Path | None, Path | None, Path | None]  # statistics, labels, embeddings; None = the usual place


@dataclass
class Findings:
    """A report in the making: tables and facts, what would stop training, and what deserves a look."""

    facts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def attempt(self, read: Callable[[], T]) -> T | None:
        """What `read` returns; an InputError becomes a problem, and None."""
        try:
            return read()
        except InputError as error:
            self.problems.append(str(error))
            return None

    def text(self) -> str:
        """The report, ending with a verdict line."""
        lines = list(self.facts)
        for title, notes in (("Would stop training:", self.problems), ("Worth a look:", self.remarks)):
            if notes:
                lines += ["", title, *(f"  - {note}" for note in notes)]
        n_problems, n_remarks = len(self.problems), len(self.remarks)
        verdict = f"NOT ready: {n_problems} to mend" if n_problems else "ready for training"
        return "\n".join([*lines, "", f"Verdict: {verdict}, {n_remarks} worth a look."])


def check_folder(
    path: str | Path,
    label_name: str | None = None,
    *,
    stats_path: Path | None = None,
    label_path: Path | None = None,
    embeddings_path: Path | None = None,
    work_dir: Path | None = None,
) -> Findings:
    """Look at a compiled cohort or an old layout; whatever is wrong with it is in the findings.

    `work_dir` is where an old layout is compiled for the time of the check; None = the system's temporary folder.

    Raises:
        InputError: what was asked for cannot be: side files for a compiled cohort, a given file or folder is absent.
    """
    path, findings = Path(path), Findings()
    given = (stats_path, label_path, embeddings_path)
    compiled = is_compiled(path)
    if compiled:
        refuse_side_files(path, *given)
    require_given(*given)
    with _temporary_folder(work_dir) as folder:
        try:
            if compiled:
                findings.facts.append(f"{path} (compiled cohort)")
                cohort = open_labelled(path, label_name)
                _describe(cohort, findings)
                called = "faulty files that were left out when it was compiled"
                _note_skipped(cohort, findings.remarks, called, findings)
            else:
                label_name = DEFAULT_LABEL if label_name is None else label_name
                _check_layout(path, label_name, given, Path(folder), findings)
        except InputError as error:
            findings.problems.append(str(error))
    return findings


def _temporary_folder(work_dir: Path | None) -> "tempfile.TemporaryDirectory[str]":
    try:
        return tempfile.TemporaryDirectory(prefix="seqsetvae-check-", dir=work_dir)
    except OSError as error:
        raise InputError(f"--work_dir {work_dir}: {error}. Name a folder that exists and may be written to.") from None


def _check_layout(path: Path, label_name: str, given: GivenFiles, folder: Path, findings: Findings) -> None:
    """Compile what can be compiled into a temporary folder, leaving every fault out and noting it."""
    source = SeqSetVAELayout(find_patient_ehr(path))
    findings.facts.append(f"{source.patient_ehr} (SeqSetVAE layout)")
    _drop_repeated_stays(source, findings)
    stats, labels, embeddings = _side_files(path, label_name, given, findings)
    cohort = compile_cohort(
        source,
        folder / "cohort",
        label_name=label_name,
        labels=labels,
        stats=None if stats is None else {name: p for name, p in stats.items() if not unusable_stats(stats, [name])},
        embedding_dim=1,  # those of the names, unused: cached.csv is looked at on its own
        skip_bad=True,
    )
    _check_side_files(cohort, stats or {}, embeddings, findings)
    _describe(cohort, findings, known_to_be_bad=unusable_stats(stats or {}, cohort.vocabulary))
    _note_skipped(cohort, findings.problems, "faulty files (--skip_bad leaves them out)", findings)


def _side_files(
    path: Path, label_name: str, given: GivenFiles, findings: Findings
) -> tuple[Stats | None, Labels, Embeddings | None]:
    """Statistics (None without a stats.csv), labels and embeddings; a file that cannot be read counts as empty."""
    try:
        files = locate_layout(path, *given)
    except InputError as error:
        findings.problems.append(str(error))
        return {}, {}, None
    stats_csv = files.stats
    if stats_csv is None:
        findings.remarks.append(
            "there is no stats.csv: mean and std will be computed from the train split; a checkpoint needs the "
            "stats.csv it was trained with"
        )
    if files.embeddings is None:
        findings.remarks.append("there is no cached.csv: embeddings will be made from the names of the variables")
    return (
        None if stats_csv is None else findings.attempt(lambda: read_stats(stats_csv)) or {},
        findings.attempt(lambda: read_labels(files.labels, label_name) if files.labels else {}) or {},
        findings.attempt(lambda: read_embeddings(files.embeddings) if files.embeddings else None),
    )


def _drop_repeated_stays(source: SeqSetVAELayout, findings: Findings) -> None:
    """Keep the first file of every stay, and note the others."""
    first: dict[int, str] = {}
    repeated = []
    for split, stays in source.stays.items():
        kept: list[Stay] = []
        for stay in stays:
            if stay.stay_id in first:
                repeated.append(f"{stay.stay_id}: {first[stay.stay_id]} and {stay.file}")
            else:
                first[stay.stay_id] = stay.file
                kept.append(stay)
        source.stays[split] = kept
    if repeated:
        findings.problems.append(_listed("stays in two splits or files; only the first is counted", repeated))


def _check_side_files(cohort: Cohort, stats: Stats, embeddings: Embeddings | None, findings: Findings) -> None:
    bad = unusable_stats(stats, cohort.vocabulary)
    if bad:
        findings.problems.append(_listed("variables whose mean is not finite or whose std is not above 0", bad))
    if embeddings is None:
        return
    lacking = [repr(name) for name in cohort.vocabulary if name not in embeddings.row]
    if lacking:
        findings.problems.append(_listed("variables without an embedding in cached.csv", lacking))
    there = [name for name in cohort.vocabulary if name in embeddings.row]
    broken = [repr(name) for name in there if not np.isfinite(embeddings.vectors[embeddings.row[name]]).all()]
    if broken:
        findings.problems.append(_listed("variables whose embedding is not finite", broken))


def _note_skipped(cohort: Cohort, faults_are: list[str], called: str, findings: Findings) -> None:
    """Add what the compilation left out; faulty files stop the training of those who have not left them out yet."""
    skips, report = read_skipped(cohort.path), cohort.manifest["report"]
    if len(skips) != report["faulty_files"] + report["left_out"]:
        raise damaged(cohort.path / SKIPPED, f"it lists {len(skips)} files, and the manifest counts others")
    faults = [str(skip) for skip in skips if skip.is_fault]
    left_out = [str(skip) for skip in skips if not skip.is_fault]
    if faults:
        faults_are.append(_listed(called, faults))
    if left_out:
        findings.remarks.append(_listed("stays left out, for want of rows", left_out))


def _describe(cohort: Cohort, findings: Findings, known_to_be_bad: Iterable[str] = ()) -> None:
    """Add what the arrays of a cohort tell, without variables whose statistics were said to be unusable."""
    findings.facts += _table(cohort)
    report = cohort.manifest["report"]
    if report["stays_out_of_order"]:
        findings.remarks.append(f"{report['stays_out_of_order']:,} stays have rows out of time order; they are sorted")
    without = report["variables_without_statistics"]
    unknown = [f"{name!r}: {n:,} events" for name, n in without.items() if name not in known_to_be_bad]
    if unknown:
        findings.remarks.append(_listed("variables without statistics, which keep their raw value", unknown))
    extremes = _extremes(cohort)
    if extremes:
        findings.remarks.append(_listed(f"variables with values beyond {EXTREME_Z:g} standard deviations", extremes))
    _check_labels(cohort, findings)


def _table(cohort: Cohort) -> list[str]:
    head = ("split", "stays", "sets", "events", "sets/stay", "events/stay", "events/set", "unlabelled", "positive")
    under = ("", "", "", "", "median / max", "median / max", "max", "", "")
    rows = [head, under, *(_row(split) for split in cohort.splits.values())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        row[0].ljust(widths[0]) + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    return [f"label: {cohort.label_name}    variables: {len(cohort.vocabulary)}", "", *lines]


def _row(split: Split) -> tuple[str, ...]:
    sets, events = np.diff(split.stay_offset), np.diff(split.set_offset[split.stay_offset])
    labelled = split.label[split.label >= 0]
    share = f" ({labelled.mean():.1%})" if len(labelled) else ""
    return (
        split.name,
        f"{split.n_stays:,}",
        f"{split.n_sets:,}",
        f"{split.n_events:,}",
        f"{np.median(sets):,.0f} / {sets.max():,}",
        f"{np.median(events):,.0f} / {events.max():,}",
        f"{np.diff(split.set_offset).max():,}",
        f"{split.n_stays - len(labelled):,}",
        f"{labelled.sum():,}{share}",
    )


def _extremes(cohort: Cohort) -> list[str]:
    """One line for each variable with a z-score beyond EXTREME_Z: how many, and the furthest in its own unit."""
    n_variables, known = len(cohort.vocabulary), np.isfinite(cohort.std)
    count, low, high = np.zeros(n_variables, dtype=np.int64), np.zeros(n_variables), np.zeros(n_variables)
    for split in cohort.splits.values():
        for start in range(0, split.n_events, EVENTS_PER_BLOCK):
            block = slice(start, start + EVENTS_PER_BLOCK)
            variable, z = split.variable[block], split.value[block]
            at = np.flatnonzero(known[variable] & (np.abs(z) > EXTREME_Z))
            count += np.bincount(variable[at], minlength=n_variables)
            np.minimum.at(low, variable[at], z[at])
            np.maximum.at(high, variable[at], z[at])
    furthest = np.where(high >= -low, high, low)
    by_count = np.argsort(-count, kind="stable")[: np.count_nonzero(count)]
    raw = furthest * cohort.std + cohort.mean
    return [
        f"{cohort.vocabulary[v]!r}: {count[v]:,} events, furthest {raw[v]:g} (z = {furthest[v]:+.1f})" for v in by_count
    ]


def _check_labels(cohort: Cohort, findings: Findings) -> None:
    counts = cohort.manifest["splits"]
    if not any(n["labelled"] for n in counts.values()):
        findings.problems.append(f"no stay has a label {cohort.label_name}: the data can be embedded, not trained on")
        return
    for needed in ("train", "valid"):
        if needed not in counts:
            findings.problems.append(f"there is no {needed} split")
    for name, n in counts.items():
        if n["labelled"] < n["stays"]:
            findings.remarks.append(f"{name}: {n['stays'] - n['labelled']:,} stays without a label, which are not 0")
        if n["positives"] in (0, n["labelled"]):
            one_class = f"{name}: {n['positives']:,} positive among {n['labelled']:,} labelled; AUC needs both"
            (findings.remarks if name == "test" else findings.problems).append(one_class)


def _listed(what: str, items: Iterable[str]) -> str:
    """`12 what:` and the first of the items, one a line."""
    items = list(items)
    shown = "".join(f"\n      {item}" for item in items[:SHOWN])
    more = f"\n      and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""
    return f"{len(items):,} {what}:{shown}{more}"
