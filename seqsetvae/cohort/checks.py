"""What a careful person wants to know about data before training on them. Faults are reported here, not raised."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.compile import EVENTS_PER_BLOCK, SKIPPED, compile_cohort, read_skipped
from seqsetvae.cohort.find import DEFAULT_LABEL, locate_layout, open_labelled, refuse_side_files, require_given
from seqsetvae.cohort.format import Cohort, Split, is_compiled
from seqsetvae.cohort.manifest import damaged
from seqsetvae.cohort.plausibility import LastSeen, Shift, equal_stays, hours, last_seen, shifts
from seqsetvae.cohort.sidefiles import (
    DEFAULT_WIDTH,
    Embeddings,
    Labels,
    Stats,
    UnusableStatsError,
    read_labels,
    unusable_stats,
)
from seqsetvae.cohort.sources.opened import embeddings_of, stats_of
from seqsetvae.cohort.sources.seqsetvae_layout import ORIGIN_NOTE, SeqSetVAELayout, find_patient_ehr
from seqsetvae.cohort.tidy import SPLITS, Stay
from seqsetvae.errors import InputError
from seqsetvae.files import CannotWriteError, scratch_folder

EXTREME_Z = 10.0  # a z-score beyond this is looked at: a unit mixed up, a typing error, or a very sick patient
WILD_Z = 1000.0  # no patient is so sick: the value or its statistics are wrong, and it outweighs all others in a loss
MANY = 0.1  # share of the variables, or of the events, that may keep raw values beyond EXTREME_Z
SHORT_STAY, LONG_STAY = 3.0, 30 * 24.0  # hours; a median outside means that `minute` may be in another unit
FEWEST_STAYS = 5  # below which a median says nothing
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
        for title, notes in (("To correct before training:", self.problems), ("Worth a look:", self.remarks)):
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
                _check_labels(cohort, findings)
                called = "faulty files that were left out when it was compiled"
                _note_skipped(cohort, findings.remarks, called, findings)
            else:
                label_name = DEFAULT_LABEL if label_name is None else label_name
                _check_layout(path, label_name, given, folder, findings)
        except CannotWriteError:  # nothing is wrong with the data
            raise
        except InputError as error:
            findings.problems.append(str(error))
    return findings


@contextlib.contextmanager
def _temporary_folder(work_dir: Path | None) -> Iterator[Path]:
    parent = work_dir or Path(tempfile.gettempdir())
    try:
        with scratch_folder(parent, "seqsetvae-check") as folder:
            yield folder
    except CannotWriteError as error:
        raise InputError(f"--work_dir {parent}: {error}") from None


@dataclass(frozen=True)
class _SideFiles:
    """The tables beside the stays."""

    stats: Stats | None  # None: there are none, they are computed from the training split
    labels: Labels | None  # None: they could not be read, so nothing can be said about them
    embeddings: Embeddings | None


def _check_layout(path: Path, label_name: str, given: GivenFiles, folder: Path, findings: Findings) -> None:
    """Compile what can be compiled into a temporary folder, leaving every fault out and noting it."""
    source = SeqSetVAELayout(find_patient_ehr(path))
    findings.facts.append(f"{source.patient_ehr} (SeqSetVAE layout)")
    _note_unread_files(source.patient_ehr, findings)
    _drop_repeated_stays(source, findings)
    sides = _side_files(path, label_name, given, findings)
    cohort, without_stats = _compile(source, folder / "cohort", label_name, sides, findings)
    _check_side_files(cohort, sides, findings)
    _describe(cohort, findings, known_to_be_bad=without_stats)
    if sides.labels is not None:
        _check_labels(cohort, findings)
        _note_labels_without_a_stay(source, sides.labels, findings)
    _note_skipped(cohort, findings.problems, "faulty files (--skip_bad leaves them out)", findings)


def _compile(
    source: SeqSetVAELayout, out: Path, label_name: str, sides: _SideFiles, findings: Findings
) -> tuple[Cohort, list[str]]:
    """The compiled cohort, and the variables whose statistics cannot be used, which keep their raw values."""
    unusable: list[str] = []
    if sides.stats is not None:
        unusable = list(unusable_stats(sides.stats, sides.stats))
    while True:
        stats = sides.stats
        if stats is not None:
            stats = {name: pair for name, pair in stats.items() if name not in unusable}
        try:
            cohort = compile_cohort(
                source,
                out,
                label_name=label_name,
                labels=sides.labels,
                stats=stats,
                embedding_dim=1,  # those of the names, unused: cached.csv is looked at on its own
                skip_bad=True,
            )
        except UnusableStatsError as error:
            if stats is None:  # computed from the training split: no line of a file can be left out
                raise
            findings.problems.append(str(error).replace("\n", "\n    "))
            unusable += error.lines
        else:
            return cohort, unusable


def _side_files(path: Path, label_name: str, given: GivenFiles, findings: Findings) -> _SideFiles:
    """Statistics, labels and embeddings; what cannot be read is a problem."""
    try:
        files = locate_layout(path, *given)
    except InputError as error:
        findings.problems.append(str(error))
        return _SideFiles(None, None, None)
    if files.stats is None:
        findings.remarks.append(
            "there is no stats.csv: mean and std of each variable are computed from the training split. For a "
            "checkpoint that was trained with other statistics, pass its stats.csv with --stats"
        )
    if files.embeddings is None:
        findings.remarks.append("there is no cached.csv: embeddings will be made from the names of the variables")
    return _SideFiles(
        findings.attempt(lambda: stats_of(files.stats) if files.stats else None),
        findings.attempt(lambda: read_labels(files.labels, label_name) if files.labels else {}),
        findings.attempt(lambda: embeddings_of(files.embeddings, DEFAULT_WIDTH)[0]),
    )


def _note_unread_files(patient_ehr: Path, findings: Findings) -> None:
    """Note files and folders that no part of the program reads. Hidden ones, such as .DS_Store, do not count."""
    known = {*SPLITS, "stats.csv", "oc.csv", "cached.csv", ORIGIN_NOTE}
    unread = [name for name in _visible(patient_ehr) if name not in known]
    for split in SPLITS:
        unread += [f"{split}/{name}" for name in _visible(patient_ehr / split) if not name.endswith(".parquet")]
    if unread:
        what = f"files or folders of {patient_ehr} are not read; stays are <number>.parquet in {', '.join(SPLITS)}"
        findings.remarks.append(_listed(what, unread))


def _visible(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith("."))


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


def _check_side_files(cohort: Cohort, sides: _SideFiles, findings: Findings) -> None:
    bad = {} if sides.stats is None else unusable_stats(sides.stats, cohort.vocabulary)
    if bad:
        lines = [f"{name!r}: {line}" for name, line in bad.items()]
        findings.problems.append(_listed("variables whose mean is not finite or whose std is not above 0", lines))
    embeddings = sides.embeddings
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
        findings.remarks.append(_listed("stays left out because they have too few rows", left_out))


def _describe(cohort: Cohort, findings: Findings, known_to_be_bad: Collection[str] = ()) -> None:
    """Add what the arrays of a cohort tell.

    `known_to_be_bad` are variables whose unusable statistics were reported and which keep raw values for that reason.
    """
    findings.facts += _table(cohort)
    report = cohort.manifest["report"]
    if report["stays_out_of_order"]:
        findings.remarks.append(f"{report['stays_out_of_order']:,} stays have rows out of time order; they are sorted")
    without = report["variables_without_statistics"]
    unknown = [f"{name!r}: {n:,} events" for name, n in without.items() if name not in known_to_be_bad]
    if unknown:
        findings.remarks.append(_listed("variables without statistics, which keep their raw value", unknown))
    _check_values(cohort, findings, known_to_be_bad)
    _check_time_span(cohort, findings)
    _check_last_seen(cohort, findings)
    _check_equal_stays(cohort, findings)


def _table(cohort: Cohort) -> list[str]:
    counts, sizes = ("split", "stays", "sets", "events"), ("sets/stay", "events/stay", "events/set", "hours/stay")
    head = (*counts, *sizes, "unlabelled", "positive")
    under = ("", "", "", "", "median / max", "median / max", "max", "median / max", "", "")
    rows = [head, under, *(_row(name, [split]) for name, split in cohort.splits.items())]
    if len(cohort.splits) > 1:
        rows.append(_row("all", list(cohort.splits.values())))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        row[0].ljust(widths[0]) + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    return [f"label: {cohort.label_name}    variables: {len(cohort.vocabulary)}", "", *lines]


def _row(name: str, splits: list[Split]) -> tuple[str, ...]:
    """One line of the table, over all of these splits."""
    sets = np.concatenate([np.diff(split.stay_offset) for split in splits])
    events = np.concatenate([np.diff(split.set_offset[split.stay_offset]) for split in splits])
    span = np.concatenate([hours(split) for split in splits])
    label = np.concatenate([split.label for split in splits])
    labelled = label[label >= 0]
    share = f" ({labelled.mean():.1%})" if len(labelled) else ""
    return (
        name,
        f"{len(sets):,}",
        f"{sets.sum():,}",
        f"{events.sum():,}",
        f"{np.median(sets):,.0f} / {sets.max():,}",
        f"{np.median(events):,.0f} / {events.max():,}",
        f"{max(np.diff(split.set_offset).max() for split in splits):,}",
        f"{np.median(span):,.1f} / {span.max():,.1f}",
        f"{len(label) - len(labelled):,}",
        f"{labelled.sum():,}{share}",
    )


@dataclass(frozen=True)
class _Extremes:
    """How far the values of each variable go, as stored: z-scores, or raw values without statistics."""

    n_events: NDArray[np.int64]  # [V]
    beyond: NDArray[np.int64]  # [V] events beyond EXTREME_Z
    furthest: NDArray[np.float64]  # [V] the value furthest from 0 among those, 0 if there are none


def _extremes(cohort: Cohort) -> _Extremes:
    n_variables = len(cohort.vocabulary)
    n_events, beyond = np.zeros(n_variables, dtype=np.int64), np.zeros(n_variables, dtype=np.int64)
    low, high = np.zeros(n_variables), np.zeros(n_variables)
    for split in cohort.splits.values():
        for start in range(0, split.n_events, EVENTS_PER_BLOCK):
            block = slice(start, start + EVENTS_PER_BLOCK)
            variable, value = split.variable[block], split.value[block]
            at = np.flatnonzero(np.abs(value) > EXTREME_Z)
            n_events += np.bincount(variable, minlength=n_variables)
            beyond += np.bincount(variable[at], minlength=n_variables)
            np.minimum.at(low, variable[at], value[at])
            np.maximum.at(high, variable[at], value[at])
    return _Extremes(n_events, beyond, np.where(high >= -low, high, low))


def _check_values(cohort: Cohort, findings: Findings, known_to_be_bad: Collection[str]) -> None:
    """Note extreme values; those that no training can use are problems."""
    found = _extremes(cohort)
    has_stats = np.isfinite(cohort.std)
    reported = np.isin(cohort.vocabulary, list(known_to_be_bad))
    by_count = np.argsort(-found.beyond, kind="stable")[: np.count_nonzero(found.beyond)]

    def listed(what: str, chosen: NDArray[np.bool_]) -> str:
        return _listed(what, [_extreme(cohort, found, v) for v in by_count if chosen[v]])

    misfit = has_stats & (found.beyond > found.n_events / 2)
    wild = ~reported & ~misfit & (np.abs(found.furthest) >= WILD_Z)
    raw = ~reported & ~has_stats & (found.beyond > 0)
    if misfit.any():
        what = f"variables with most values beyond {EXTREME_Z:g} standard deviations: their mean and std do not fit"
        findings.problems.append(listed(what, misfit))
    if wild.any():
        what = (
            f"variables with values of {WILD_Z:,.0f} or more after normalisation (mistyped or in another unit; only "
            "models that were trained with value_clip limit them)"
        )
        findings.problems.append(listed(what, wild))
    if max(raw.mean(), found.n_events[raw].sum() / found.n_events.sum()) > MANY:
        what = f"variables without statistics whose raw values go beyond {EXTREME_Z:g}, too many to train on"
        findings.problems.append(listed(what, raw))
    extreme = has_stats & (found.beyond > 0)
    if extreme.any():
        what = f"variables with values beyond {EXTREME_Z:g} standard deviations"
        findings.remarks.append(listed(what, extreme))


def _extreme(cohort: Cohort, found: _Extremes, v: int) -> str:
    """One line on the extreme values of a variable, the furthest in its own unit."""
    name, value = cohort.vocabulary[v], found.furthest[v]
    if not np.isfinite(cohort.std[v]):
        return f"{name!r}: {found.beyond[v]:,} events, furthest {value:g} (no statistics)"
    raw = value * cohort.std[v] + cohort.mean[v]
    return f"{name!r}: {found.beyond[v]:,} events, furthest {raw:g} (z = {value:+.1f})"


def _check_time_span(cohort: Cohort, findings: Findings) -> None:
    span = np.concatenate([hours(split) for split in cohort.splits.values()])
    median = float(np.median(span))
    if len(span) >= FEWEST_STAYS and not SHORT_STAY <= median <= LONG_STAY:
        findings.remarks.append(
            f"half of the stays last less than {median:,.2f} hours from first to last event (the longest "
            f"{span.max():,.2f} hours). Is the column minute in minutes? Hours would look too short, seconds too long"
        )


def _check_last_seen(cohort: Cohort, findings: Findings) -> None:
    """Say when in a stay variables are last seen, and note splits or groups of the source that differ."""
    families = [groups for groups in last_seen(cohort) if groups]
    shown = "; ".join(", ".join(f"{name} {_middle(group)}" for name, group in groups.items()) for groups in families)
    findings.facts.append(f"where in a stay a variable is last seen (0% = start; median of all variables): {shown}")
    findings.remarks += [_shift(cohort, shift) for groups in families for shift in shifts(groups)]


def _middle(group: LastSeen) -> str:
    return f"{np.median(group.mean[group.count > 0]):.1%}" if group.count.any() else "- (no stay lasts)"


def _shift(cohort: Cohort, shift: Shift) -> str:
    lines = [
        f"{cohort.vocabulary[v]!r}: at {early:.1%} of the stay in {shift.earlier}, {late:.1%} in {shift.later}"
        for v, (early, late) in zip(shift.shifted, shift.means, strict=True)
    ]
    return _listed(
        f"of {shift.compared:,} variables are last seen at another time in {shift.earlier} than in {shift.later}, most "
        "of them earlier. Are the last values of stays missing?",
        lines,
    )


def _check_equal_stays(cohort: Cohort, findings: Findings) -> None:
    """The same rows under two stay numbers: a problem if they are in two splits."""
    found = equal_stays(cohort)
    across = [stays for stays in found if len({split for split, _ in stays}) > 1]
    within = [stays for stays in found if stays not in across]
    for notes, what, groups in (
        (
            findings.problems,
            "groups of stays with the same rows in different splits",
            across,
        ),
        (findings.remarks, "groups of stays with the same rows in one split", within),
    ):
        if groups:
            notes.append(_listed(what, [", ".join(f"{split}/{stay}" for split, stay in stays) for stays in groups]))


def _check_labels(cohort: Cohort, findings: Findings) -> None:
    counts = cohort.manifest["splits"]
    if not any(n["labelled"] for n in counts.values()):
        findings.problems.append(
            f"no stay has a label {cohort.label_name}: the data can be predicted or embedded, not trained on"
        )
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
